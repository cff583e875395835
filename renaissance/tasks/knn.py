"""Nearest neighbours among frozen features: votes by cosine, as DINO counts them (Caron et al., ICCV 2021)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from renaissance.evaluation.classifiers import TEMPERATURE, LabelledFeatures, neighbour_logits

from .frozen_features import FrozenFeatures


class Knn(FrozenFeatures):
    """The class with the most votes of the `knn_neighbours` nearest training examples."""

    def learn(
        self, pool: LabelledFeatures, every: LabelledFeatures, held_out: LabelledFeatures | None
    ) -> Callable[[Tensor], Tensor]:
        return partial(neighbour_logits, pool, classes=len(self.labels), count=self.settings.objectives.knn_neighbours)

    @property
    def method(self) -> str:
        count = self.settings.objectives.knn_neighbours
        return f"{count} nearest neighbours by cosine, temperature {TEMPERATURE}, on features of {self.side}"
