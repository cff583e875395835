"""Image-text contrastive learning: vectors of matching texts and images are close, without fusion.

The output of each encoder is pooled and projected, as in CLIP (Radford et al., ICML 2021). The vectors select the candidates
of `rerank_top_k`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from renaissance.core.types import ItcTargets, TaskOutput, Tokens
from renaissance.data.negatives import ContrastiveGroups
from renaissance.models.heads import pool
from renaissance.settings.sections import Settings

from .base import Context, Encodings, Task

SIZE = 256  # of the common space
FIRST_SCALE, LARGEST_SCALE = 1 / 0.07, 100.0  # of the cosines, CLIP's


class Itc(Task):
    """Mean of the cross-entropies of texts over the images of their group and of images over the texts."""

    mean_metrics = ("accuracy", "accuracy_text_to_image", "accuracy_image_to_text")

    def __init__(self, model: nn.Module, context: Context):
        super().__init__(model, context)
        self.pooling = model.unimodal_pooling
        self.text, self.image = nn.Linear(model.width, SIZE, bias=False), nn.Linear(model.width, SIZE, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))

    @property
    def trained(self) -> bool:
        """Whether it was trained: the first step changes the scale."""
        return bool(self.log_scale != self.log_scale.new_tensor(math.log(FIRST_SCALE)))

    @staticmethod
    def target_builder(settings: Settings, tokenizer: PreTrainedTokenizerBase) -> Callable[[Any], ItcTargets]:
        return ContrastiveGroups(settings.objectives.negative_group)

    def vectors(self, tokens: Tokens, side: str) -> Tensor:
        """Unimodal tokens (n,N,D) of one side as vectors of length 1 in the common space: (n,256)."""
        return F.normalize(getattr(self, side)(pool(tokens, self.pooling[side])), dim=-1)

    def count(self, targets: ItcTargets) -> Tensor:
        return targets.compared.new_full((), len(targets.compared), dtype=torch.float)

    def forward(self, encodings: Encodings, targets: ItcTargets) -> TaskOutput:
        texts, images = (self.vectors(encodings.unimodal(side), side) for side in ("text", "image"))
        if self.training:
            with torch.no_grad():  # as in CLIP; clamping in the graph would leave no gradient
                self.log_scale.clamp_(max=math.log(LARGEST_SCALE))
        logits = (self.log_scale.exp() * texts @ images.T).masked_fill(~targets.compared, -math.inf)
        labels = torch.arange(len(logits), device=logits.device)
        both = [F.cross_entropy(side, labels, reduction="sum") for side in (logits, logits.T)]
        return TaskOutput(sum(both) / 2, self.count(targets), logits, labels)

    def measure(self, output: TaskOutput, targets: ItcTargets) -> dict[str, tuple[Tensor, Tensor]]:
        compared = targets.compared.sum(1) > 1  # with any other; a group of one cannot be wrong
        sides = (side.argmax(-1) == output.labels for side in (output.logits, output.logits.T))
        texts, images = ((right & compared).sum() for right in sides)
        count = compared.sum()
        return dict(zip(self.mean_metrics, ((texts + images, 2 * count), (texts, count), (images, count)), strict=True))
