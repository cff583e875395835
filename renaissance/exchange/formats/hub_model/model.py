"""An exported model without heads."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from .config import RenaissanceConfig, RenaissanceOutput
from .fusion import FusionStack, Pooler, join, pool, split
from .towers import ImageTower, TextTower, build_one_tower


class RenaissancePreTrainedModel(PreTrainedModel):
    config_class = RenaissanceConfig
    base_model_prefix = "renaissance"
    main_input_name = "input_ids"
    _supports_sdpa = True
    _keys_to_ignore_on_load_unexpected = [
        r"^(mlm|itm|irtr)_head\.",
        r"^classifier\.",
        r"^pooler\.",
    ]  # other classes' heads

    def _init_weights(self, module: nn.Module) -> None:
        getattr(module, "initialize_buffers", super()._init_weights)(module)


class Contrast(nn.Module):
    """Projections of pooled tokens to a common space, in which cosines are scaled by exp(log_scale)."""

    def __init__(self, width: int, size: int):
        super().__init__()
        self.text, self.image = nn.Linear(width, size, bias=False), nn.Linear(width, size, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))


class RenaissanceModel(RenaissancePreTrainedModel):
    """Text, images or both to hidden states and pooled vectors."""

    def __init__(self, config: RenaissanceConfig):
        super().__init__(config)
        width, towers = config.hidden_size, config.towers
        if config.model_kind == "two-tower":
            self.text_tower, self.image_tower = TextTower(towers["text"]), ImageTower(towers["image"])
            self.text_projection = nn.Linear(towers["text"]["width"], width)
            self.image_projection = nn.Linear(towers["image"]["width"], width)
            self.fusion = FusionStack(width, **config.fusion)
        else:
            parts = build_one_tower(towers["blocks"], config.embeddings, width)
            self.blocks, self.text_embeddings, self.image_embeddings = parts
        self.token_types = nn.ModuleDict({"embedding": nn.Embedding(3, width)})  # text, image, second image
        self.text_pooler = Pooler(width, config.pooling[0])
        self.image_pooler = Pooler(width, config.pooling[1]) if config.pools_image else None
        self.itc = Contrast(width, config.contrast_size) if config.contrast_size else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The embeddings of word pieces."""
        if self.config.model_kind == "two-tower":
            return self.text_tower.model.get_input_embeddings()
        own = self.text_embeddings
        return getattr(own, "word", None) or own.front[0].word_embeddings

    def embed_text(self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None) -> Any:
        """(B,L) -> what is fused (B,L,D), and its mask (B,L)."""
        if self.config.model_kind == "two-tower":
            hidden, mask = self.encoder_output("text", input_ids, attention_mask, token_type_ids)
            return self.text_projection(hidden), mask
        mask, types = self._whole(input_ids, attention_mask, token_type_ids)
        return self.text_embeddings(input_ids, types), mask

    def embed_image(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """(B,3,H,W), mask (B,H,W) 1 inside of each image -> what is fused (B,P,D), and its mask (B,P) or None."""
        if self.config.model_kind == "two-tower":
            return self.image_projection(self.image_tower(pixel_values)), None
        sizes = None
        if pixel_mask is not None and not bool(pixel_mask.bool().all()):
            heights, widths = (pixel_mask.bool().any(side).sum(1).tolist() for side in (2, 1))
            sizes = list(zip(heights, widths, strict=True))
        return self.image_embeddings(pixel_values, sizes)

    def fuse(self, text: Any = None, image: Any = None, slot: int = 0) -> RenaissanceOutput:
        """Fuses what `embed_text` and `embed_image` gave. slot: 1 for the second image of a pair."""
        types = self.token_types["embedding"].weight
        (text, text_mask), (image, image_mask) = text or (None, None), image or (None, None)
        text = None if text is None else text + types[0]
        image = None if image is None else image + types[1 + slot]
        if self.config.model_kind == "two-tower":
            text_hidden, image_hidden = self.fusion(text, text_mask, image)
        else:
            text_hidden, image_hidden = split(self.blocks(*join(text, text_mask, image, image_mask)), text, image)
        pooled = self.pooled(text_hidden, text_mask, image_hidden, image_mask)
        return RenaissanceOutput(pooled, text_hidden, image_hidden)

    def pooled(self, text: Tensor | None, text_mask: Any, image: Tensor | None, image_mask: Any) -> Tensor:
        """The poolers' vectors side by side; zeros for a modality that is absent."""
        if text is None and self.image_pooler is None and self.config.model_kind == "one-tower":
            return self.text_pooler(image, image_mask)
        halves = [None if text is None else self.text_pooler(text, text_mask)]
        if self.image_pooler is not None:
            halves.append(None if image is None else self.image_pooler(image, image_mask))
        like = image if text is None else text
        zeros = like.new_zeros(len(like), self.config.hidden_size)
        return torch.cat([zeros if half is None else half for half in halves], dim=-1)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> RenaissanceOutput:
        """Texts (B,L), images (B,3,H,W), or both."""
        text = None if input_ids is None else self.embed_text(input_ids, attention_mask, token_type_ids)
        image = None if pixel_values is None else self.embed_image(pixel_values, pixel_mask)
        return self.fuse(text, image)

    def alone(self, tokens: Any, side: str) -> tuple[Tensor, Tensor | None]:
        """The tokens of one modality, as its encoder alone gives them: (B,N,D), and their mask."""
        if self.config.model_kind == "two-tower":
            return tokens
        hidden = self.fuse(**{side: tokens})
        return (hidden.text_hidden_state if side == "text" else hidden.image_hidden_state), tokens[1]

    def encoder_output(self, side: str, *inputs: Any) -> tuple[Tensor, Tensor | None]:
        """As `alone`, before the projection of a two-tower: (B,N,H). inputs: as of `embed_text` or `embed_image`."""
        if self.config.model_kind == "one-tower":
            return self.alone(self.embed_text(*inputs) if side == "text" else self.embed_image(*inputs), side)
        if side == "image":
            return self.image_tower(inputs[0]), None
        mask, types = self._whole(*inputs)
        return self.text_tower(inputs[0], mask, types), mask

    @staticmethod
    def _whole(ids: Tensor, mask: Tensor | None, types: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mask and token types (B,L), where they were left out those of texts without padding and of one sentence."""
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        return mask, torch.zeros_like(ids) if types is None else types

    def _features(self, tokens: Any, side: str) -> BaseModelOutputWithPooling:
        hidden, mask = self.alone(tokens, side)
        vector = pool(hidden, mask, self.config.pooling[side == "image"])
        return BaseModelOutputWithPooling(hidden, vector if self.itc is None else getattr(self.itc, side)(vector))

    def get_text_features(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Texts alone: pooler_output (B,256) in the common space of contrastive learning, not normalised; without it (B,D)."""
        return self._features(self.embed_text(input_ids, attention_mask, token_type_ids), "text")

    def get_image_features(
        self, pixel_values: Tensor, pixel_mask: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Images alone, as `get_text_features`."""
        return self._features(self.embed_image(pixel_values, pixel_mask), "image")
