"""What frozen features know of classes: a linear probe and nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# Of the weights, in units of the mean loss; the strongest first.
DECAYS = tuple(10.0**power for power in range(1, -7, -1))
NEIGHBOURS, TEMPERATURE = 20, 0.07  # DINO's (Caron et al., ICCV 2021)
HELD_OUT = 0.1  # share of the training examples of each class that choose where there is no validation split
_STEPS = 500  # of L-BFGS, at most
_MOST_COSINES = 1 << 25  # of examples with all training examples, at once: 256 MiB


class LabelledFeatures(NamedTuple):
    """Attributes: vectors (n,F) float64; labels (n,) int64."""

    vectors: Tensor
    labels: Tensor

    def select(self, index: np.ndarray) -> LabelledFeatures:
        place = torch.from_numpy(index).to(self.labels.device)
        return LabelledFeatures(self.vectors[place], self.labels[place])

    def standardized(self, mean: Tensor, deviation: Tensor) -> LabelledFeatures:
        return self._replace(vectors=(self.vectors - mean) / deviation)


class LinearProbe(NamedTuple):
    """Multinomial logistic regression. Attributes: weight (classes,F); bias (classes,)."""

    weight: Tensor
    bias: Tensor

    def logits(self, vectors: Tensor) -> Tensor:
        return vectors @ self.weight.T + self.bias


def fit(features: LabelledFeatures, classes: int, decay: float, start: LinearProbe | None = None) -> LinearProbe:
    """The minimum of mean cross-entropy + decay / 2 x the squared weights, by L-BFGS; the bias has no decay.

    scikit-learn's `LogisticRegression(C=1 / (n * decay))` is the same.

    Args:
        start: of another decay, from which fewer steps lead there; None starts from 0.
    """
    vectors, labels = features
    weight, bias = start or (vectors.new_zeros(classes, vectors.shape[1]), vectors.new_zeros(classes))
    probe = LinearProbe(*(each.clone().requires_grad_() for each in (weight, bias)))
    optimizer = torch.optim.LBFGS(
        probe,
        max_iter=_STEPS,
        history_size=20,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(probe.logits(vectors), labels) + decay / 2 * probe.weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return LinearProbe(*(each.detach() for each in probe))


def choose_decay(train: LabelledFeatures, val: LabelledFeatures, classes: int) -> float:
    """The decay of DECAYS with the highest accuracy on `val`; of equal ones the strongest."""
    probe, best, chosen = None, -1.0, DECAYS[0]
    for decay in DECAYS:
        probe = fit(train, classes, decay, probe)
        right = float((probe.logits(val.vectors).argmax(-1) == val.labels).double().mean())
        if right > best:
            best, chosen = right, decay
    return chosen


def neighbour_logits(train: LabelledFeatures, vectors: Tensor, classes: int, count: int = NEIGHBOURS) -> Tensor:
    """(n,classes) log of the votes of the nearest training examples by cosine, each with the weight exp(cosine / .07)."""
    known = F.normalize(train.vectors, dim=-1)
    votes = vectors.new_zeros(len(vectors), classes)
    for place in torch.arange(len(vectors), device=vectors.device).split(max(1, _MOST_COSINES // len(known))):
        cosines, nearest = (F.normalize(vectors[place], dim=-1) @ known.T).topk(min(count, len(known)))
        votes[place] = votes[place].scatter_add(1, train.labels[nearest], (cosines / TEMPERATURE).exp())
    return votes.log()


def drawn(labels: np.ndarray, share: float, seed: Sequence[int]) -> np.ndarray:
    """Ascending places of examples drawn of each class: so many where `share` is at least 1, else that share, at least one."""
    chosen = []
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        count = int(share) if share >= 1 else max(1, round(share * len(places)))
        chosen.append(np.random.default_rng([*seed, int(label)]).permutation(places)[:count])
    return np.sort(np.concatenate(chosen))
