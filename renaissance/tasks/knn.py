"""Nearest neighbours among frozen features: votes by cosine, as DINO counts them (Caron et al., ICCV 2021)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from renaissance.evaluation.classifiers import TEMPERATURE, LabelledFeatures, neighbour_logits

from .frozen_features import FrozenFeatures


class Knn(FrozenFeatures):
    """The class with the most votes of the `knn_neighbours` nearest training examples, or of all where there are fewer."""

    _count = 0  # of them

    def learn(
        self, pool: LabelledFeatures, every: LabelledFeatures, held_out: LabelledFeatures | None
    ) -> Callable[[Tensor], Tensor]:
        self._count = min(self.settings.objectives.knn_neighbours, len(pool.labels))
        return partial(neighbour_logits, pool, classes=len(self.labels), count=self._count)

    @property
    def method(self) -> str:
        count, every = self._count, self._count < self.settings.objectives.knn_neighbours
        return f"{count:,} nearest neighbours{' (all)' * every} by cosine, temperature {TEMPERATURE}, on features of {self.side}"
