"""The heads of an exported model: one class for each kind of task."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import can_return_tuple

from .config import RenaissanceConfig, RenaissanceLogits
from .fusion import Pooler, pool
from .model import RenaissanceModel, RenaissancePreTrainedModel


class MlmHead(nn.Module):
    def __init__(self, width: int, vocab_size: int):
        super().__init__()
        self.transform, self.norm = nn.Linear(width, width), nn.LayerNorm(width, eps=1e-12)
        self.decoder = nn.Linear(width, vocab_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.decoder(self.norm(F.gelu(self.transform(hidden))))


class WithHead(RenaissancePreTrainedModel):
    """Base class: the model, and what a checkpoint has for the task of the class.

    Inputs are those of the processor; `labels` give a loss.
    """

    tasks: tuple[str, ...] = ()  # those of the program that a class may be for

    def __init__(self, config: RenaissanceConfig):
        super().__init__(config)
        heads = config.heads or {}
        self.task = next((task for task in self.tasks if task in heads), None)
        if self.task is None:
            there = ", ".join(heads) or "none"
            raise ValueError(f"This model has no head for {type(self).__name__} (its heads: {there}).")
        self.facts, self.renaissance = heads[self.task], RenaissanceModel(config)
        self.add_head(config)
        self.post_init()

    def add_head(self, config: RenaissanceConfig) -> None:
        """Adds the modules of the head."""
        size = self.facts["size"]
        inner, classes = 2 * config.hidden_size, self.facts["classes"]
        layers = (nn.Linear(size, inner), nn.LayerNorm(inner), nn.GELU(), nn.Linear(inner, classes))
        self.classifier = nn.Sequential(*layers) if self.facts["deep"] else nn.Linear(size, classes)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """() of (B,classes) logits."""
        return F.cross_entropy(logits, labels)

    def logits(self, text: Any, pixel_values: Tensor | None, pixel_mask: Tensor | None) -> Tensor:
        """(B,classes), of the pooled vectors of the text with each of n images, side by side."""
        if pixel_values is None or pixel_values.ndim == 4:
            image = None if pixel_values is None else self.renaissance.embed_image(pixel_values, pixel_mask)
            return self.classifier(self.renaissance.fuse(text, image).pooler_output)
        pooled = []
        for slot in range(pixel_values.shape[1]):
            mask = None if pixel_mask is None else pixel_mask[:, slot]
            image = self.renaissance.embed_image(pixel_values[:, slot], mask)
            pooled.append(self.renaissance.fuse(text, image, slot).pooler_output)
        return self.classifier(torch.cat(pooled, dim=-1))

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> RenaissanceLogits:
        """Texts (B,L) and images (B,3,H,W) or (B,n,3,H,W); labels as `loss` takes them."""
        if self.facts.get("reads") in ("text", "image"):
            inputs = {"text": (input_ids, attention_mask, token_type_ids), "image": (pixel_values, pixel_mask)}
            logits = self.unimodal_logits(*self.renaissance.encoder_output(side := self.facts["reads"], *inputs[side]))
        else:
            given = input_ids is not None
            text = self.renaissance.embed_text(input_ids, attention_mask, token_type_ids) if given else None
            logits = self.logits(text, pixel_values, pixel_mask)
        return RenaissanceLogits(None if labels is None else self.loss(logits, labels), logits)


class RenaissanceForMaskedLM(WithHead):
    """logits (B,L,V); labels (B,L), -100 where no piece is asked for."""

    tasks = ("mlm",)

    def add_head(self, config: RenaissanceConfig) -> None:
        self.mlm_head = MlmHead(config.hidden_size, config.vocab_size)

    def logits(self, text: Any, pixel_values: Tensor | None, pixel_mask: Tensor | None) -> Tensor:
        image = None if pixel_values is None else self.renaissance.embed_image(pixel_values, pixel_mask)
        return self.mlm_head(self.renaissance.fuse(text, image).text_hidden_state)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


class RenaissanceForSequenceClassification(WithHead):
    """NLVR2 (two images), SNLI-VE, GLUE; labels (B,) classes, or scores where there is one output."""

    tasks = ("nlvr2", "snli", "glue")

    def add_head(self, config: RenaissanceConfig) -> None:
        super().add_head(config)
        self.dropout = nn.Dropout(self.facts["drop_rate"])
        self.pooler = None
        if self.facts["reads"] == "text":
            self.pooler = Pooler(self.facts["size"], config.pooling[0])

    def unimodal_logits(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """(B,classes) of the text alone."""
        return self.classifier(self.dropout(self.pooler(hidden, mask)))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels) if logits.shape[1] > 1 else F.mse_loss(logits[:, 0], labels.float())


class RenaissanceForVisualQuestionAnswering(WithHead):
    """logits of each answer of `config.id2label`; labels (B,classes), scores in 0..1."""

    tasks = ("vqa",)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="sum") / len(logits)


class RenaissanceForImageClassification(WithHead):
    """Classes of images; labels (B,)."""

    tasks = ("images",)

    def unimodal_logits(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """(B,classes) of the image alone."""
        return self.classifier(pool(hidden, mask, self.renaissance.config.pooling[1]))


class RenaissanceForImageTextRetrieval(WithHead):
    """Does a text belong to an image? logits (B,2), the second for yes; labels (B,)."""

    tasks = ("irtr", "itm")

    def add_head(self, config: RenaissanceConfig) -> None:
        setattr(self, f"{self.task}_head", nn.ModuleDict({"classifier": nn.Linear(self.facts["size"], 2)}))
        self.classifier = getattr(self, f"{self.task}_head")["classifier"]


class RenaissanceForReferringExpression(WithHead):
    """Which of n boxes is meant? pixel_values (B,n,3,H,W), a crop of each; logits (B,n); labels (B,)."""

    tasks = ("ref",)

    def logits(self, text: Any, pixel_values: Tensor, pixel_mask: Tensor | None) -> Tensor:
        count = pixel_values.shape[1]
        mask = None if pixel_mask is None else pixel_mask.flatten(0, 1)
        image = self.renaissance.embed_image(pixel_values.flatten(0, 1), mask)
        text = tuple(None if each is None else each.repeat_interleave(count, 0) for each in text)
        return self.classifier(self.renaissance.fuse(text, image).pooler_output).view(-1, count)
