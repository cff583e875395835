"""A linear probe: logistic regression on frozen features, by L-BFGS, its weight decay chosen on validation."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from renaissance.evaluation.classifiers import (
    Chosen,
    LabelledFeatures,
    LogisticRegression,
    choose_decay,
    fit,
    unfinished_note,
)

from .base import Context
from .frozen_features import FrozenFeatures


class LinearProbe(FrozenFeatures):
    """Where there is no validation split, a tenth of the training examples of each class choose, and then learn too."""

    chooses = True

    def __init__(self, model: nn.Module, context: Context):
        super().__init__(model, context)
        self._found: list[Chosen] = []
        self._chose = ""

    def learn(
        self, pool: LabelledFeatures, every: LabelledFeatures, held_out: LabelledFeatures
    ) -> Callable[[Tensor], Tensor]:
        start = LogisticRegression.untrained(pool.vectors, len(self.labels))
        chosen = choose_decay(pool, held_out, start)
        probe = fit(pool if self.settings.objectives.shots_per_class else every, chosen.decay, start)
        unfinished = chosen.unfinished if probe.converged else (*chosen.unfinished, chosen.decay)
        self._found.append(chosen._replace(unfinished=unfinished))
        self._chose = "val" if self.chosen_on_val else f"{len(held_out.labels):,} training examples"
        return probe.logits

    @property
    def method(self) -> str:
        decays = {chosen.decay for chosen in self._found}
        span = " to ".join(f"{decay:g}" for decay in sorted({min(decays), max(decays)}))
        return f"logistic regression, weight decay {span} chosen on {self._chose}, on features of {self.side}"

    def remarks(self) -> list[str]:
        unfinished = [decay for chosen in self._found for decay in chosen.unfinished]
        return [unfinished_note(unfinished, {chosen.decay for chosen in self._found})] if unfinished else []
