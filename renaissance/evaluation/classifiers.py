"""What frozen features know of classes: a linear probe and nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from renaissance.core.errors import require, shortened

# Of the weights, in units of the mean loss; the strongest first.
DECAYS = tuple(10.0**power for power in range(1, -7, -1))
TEMPERATURE = 0.07  # DINO's (Caron et al., ICCV 2021)
HELD_OUT = 0.1  # share of the training examples of each class that choose where there is no validation split
_STEPS = 500  # of L-BFGS, at most
_ROWS = 1024  # features that are numbers of 64 bits at once
_MOST_COSINES = 1 << 25  # of examples with all training examples, at once: 128 MiB


class LabelledFeatures(NamedTuple):
    """Attributes: vectors (n,F), of 32 bits, as there may be many; labels (n,) int64."""

    vectors: Tensor
    labels: Tensor

    def select(self, index: np.ndarray) -> LabelledFeatures:
        if len(index) == len(self.labels):  # all of them, which need no second place
            return self
        place = torch.from_numpy(index).to(self.labels.device)
        return LabelledFeatures(self.vectors[place], self.labels[place])


class LogisticRegression(NamedTuple):
    """Multinomial logistic regression on standardized features, in 64 bits.

    Attributes:
        weight: (classes,F). bias: (classes,). mean, deviation: (F,) of the features that it learned from.
        converged: whether L-BFGS ended before its limit of steps.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    deviation: Tensor
    converged: bool = True

    @classmethod
    def untrained(cls, vectors: Tensor, classes: int) -> LogisticRegression:
        """Zeros, with the scale of these features (n,F): so one grid of decays serves those of any model."""
        parts = vectors.split(_ROWS)
        mean = sum(part.double().sum(0) for part in parts) / len(vectors)
        variance = sum((part.double() - mean).square().sum(0) for part in parts) / len(vectors)
        return cls(mean.new_zeros(classes, len(mean)), mean.new_zeros(classes), mean, variance.sqrt().clamp(min=1e-6))

    def on_features(self) -> tuple[Tensor, Tensor]:
        """Weight and bias for features as they are."""
        weight = self.weight / self.deviation
        return weight, self.bias - weight @ self.mean

    def logits(self, vectors: Tensor) -> Tensor:
        """(n,F) -> (n,classes)."""
        weight, bias = self.on_features()
        return torch.cat([part.double() @ weight.T + bias for part in vectors.split(_ROWS)])


def fit(features: LabelledFeatures, decay: float, start: LogisticRegression) -> LogisticRegression:
    """The minimum of mean cross-entropy + decay / 2 x the squared weights, by L-BFGS; the bias has no decay.

    On standardized features scikit-learn's `LogisticRegression(C=1 / (n * decay))` is the same.

    Args:
        start: untrained, or of another decay, from which fewer steps lead there; its scale stays.
    """
    probe = start._replace(weight=start.weight.clone().requires_grad_(), bias=start.bias.clone().requires_grad_())
    optimizer = torch.optim.LBFGS(
        [probe.weight, probe.bias],
        max_iter=_STEPS,
        max_eval=2 * _STEPS,
        history_size=20,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = decay / 2 * probe.weight.square().sum()
        loss.backward()
        used = probe.on_features()
        weight, bias = (each.detach().requires_grad_() for each in used)
        for vectors, labels in zip(features.vectors.split(_ROWS), features.labels.split(_ROWS), strict=True):
            part = F.cross_entropy(vectors.double() @ weight.T + bias, labels, reduction="sum") / len(features.labels)
            part.backward()
            loss = loss.detach() + part.detach()
        torch.autograd.backward(used, (weight.grad, bias.grad))
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    state = optimizer.state[probe.weight]
    converged = state["n_iter"] < _STEPS and state["func_evals"] < 2 * _STEPS
    return probe._replace(weight=probe.weight.detach(), bias=probe.bias.detach(), converged=converged)


class Chosen(NamedTuple):
    """Attributes: decay, of DECAYS; unfinished, decays at which L-BFGS ended at its limit of steps."""

    decay: float
    unfinished: tuple[float, ...]


def choose_decay(train: LabelledFeatures, val: LabelledFeatures, start: LogisticRegression) -> Chosen:
    """The decay of DECAYS with the highest accuracy on `val`; of equal ones the strongest."""
    best, chosen, unfinished = -1.0, DECAYS[0], []
    for decay in DECAYS:
        start = fit(train, decay, start)
        unfinished += [] if start.converged else [decay]
        right = float((start.logits(val.vectors).argmax(-1) == val.labels).double().mean())
        if right > best:
            best, chosen = right, decay
    return Chosen(chosen, tuple(unfinished))


def unfinished_note(decays: Sequence[float], chosen: Set[float]) -> str:
    """One line about the fits that ended at the limit of steps."""
    named = ", ".join(f"{decay:g}{' (chosen)' if decay in chosen else ''}" for decay in sorted({*decays})[::-1])
    return f"logistic regression with weight decay {named} ended at {_STEPS} steps of L-BFGS, before its minimum"


def neighbour_logits(train: LabelledFeatures, vectors: Tensor, classes: int, count: int) -> Tensor:
    """(n,classes) log of the votes of the nearest training examples by cosine, each with the weight exp(cosine / .07)."""
    known = F.normalize(train.vectors, dim=-1)
    votes = vectors.new_zeros(len(vectors), classes, dtype=torch.float64)
    for place in torch.arange(len(vectors), device=vectors.device).split(max(1, _MOST_COSINES // len(known))):
        cosines, nearest = (F.normalize(vectors[place], dim=-1) @ known.T).topk(min(count, len(known)))
        votes[place] = votes[place].scatter_add(1, train.labels[nearest], (cosines.double() / TEMPERATURE).exp())
    return votes.log()


def drawn(labels: np.ndarray, share: float, seed: Sequence[int]) -> np.ndarray:
    """Ascending places of examples drawn of each class: so many where `share` is at least 1, else that share, at least one."""
    chosen = []
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        count = int(share) if share >= 1 else max(1, round(share * len(places)))
        chosen.append(np.random.default_rng([*seed, int(label)]).permutation(places)[:count])
    return np.sort(np.concatenate(chosen))


class Drawn(NamedTuple):
    """Training examples. Attributes: pool, places of those that classifiers learn from; held_out, of those that choose."""

    pool: np.ndarray
    held_out: np.ndarray


def draw_examples(
    labels: np.ndarray, names: Sequence[str], shots: int | None, seed: int, draw: int, *, holds: bool
) -> Drawn:
    """The training examples of a draw, the same for each model.

    Args:
        labels: (n,) of all training examples. names: of the classes.
        shots: examples of each class; None = all. holds: whether some choose in the place of a validation split.

    Raises:
        UserError: a class has fewer examples than `shots`.
    """
    every = np.arange(len(labels))
    held = drawn(labels, HELD_OUT, [seed, 0]) if holds else every[:0]
    pool = np.setdiff1d(every, held)
    counts = np.bincount(labels[pool], minlength=len(names)).tolist()
    few = [f"{name} ({count:,})" for name, count in zip(names, counts, strict=True) if count < (shots or 0)]
    require(
        not few,
        f"shots_per_class={shots}: there are fewer training examples of {shortened(few)}; give a smaller number.",
    )
    return Drawn(pool[drawn(labels[pool], shots, [seed, 1, draw])] if shots else pool, held)
