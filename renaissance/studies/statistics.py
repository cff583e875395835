"""Means over seeds with intervals, and tests of two variants: what a table of a study is made of.

Where the predictions of the runs are there, seeds and examples are drawn, both with replacement; else only what seeds say counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from renaissance.evaluation.intervals import COVERED, GROUP, asked_otherwise, exact_interval

_RESAMPLES = 2000
_MOST_COUNTS = 4_000_000  # counts of units that are held at once
_MOST_FLIPS = 16  # seeds of which all 2^n signs are tried


class Scores(NamedTuple):
    """One metric of one variant.

    Attributes:
        values: by seed. frames: ids, scores, groups of examples and what was asked by seed; {} where the metric is no
            mean of scores, or a run has written none.
    """

    values: dict[int, float]
    frames: dict[int, pd.DataFrame]

    @property
    def mean(self) -> float:
        return float(np.mean([*self.values.values()]))

    @property
    def deviation(self) -> float | None:
        """The standard deviation over seeds, None of one seed."""
        return float(np.std([*self.values.values()], ddof=1)) if len(self.values) > 1 else None


class Units(NamedTuple):
    """Examples, or groups of them, that are drawn as one. Attributes: sums (n,u) of scores of n seeds; sizes (u,)."""

    sums: np.ndarray
    sizes: np.ndarray


def interval(scores: Scores) -> tuple[float, float] | None:
    """The 95 % percentile interval of the mean over seeds; None where nothing varies that could be drawn.

    Where all examples of all seeds are right, or all wrong, it is that of a binomial proportion, as of one run.
    """
    units = _units([scores.frames], scores.values)
    if units is None:
        if len(scores.values) < 2:
            return None
        values, random = np.array([*scores.values.values()]), np.random.default_rng(0)
        draws = values[random.integers(len(values), size=(_RESAMPLES, len(values)))].mean(1)
    else:
        if (exact := exact_interval(units.sums / units.sizes)) is not None:
            return exact
        draws = _means(units)
    low, high = np.quantile(draws, COVERED)
    return float(low), float(high)


def p_value(scores: Scores, other: Scores) -> float | None:
    """Two-sided p of the difference of two variants on the same seeds and examples; None where they share no seed.

    With predictions of the same: twice the smaller share of drawn differences on either side of 0, and at least the p of a sign
    test in which all examples that differ agree. Without: the sign-flip test over seeds (Fisher 1935), whose p is
    at least 2^(1 - seeds); of more than 16 seeds the signs are drawn.
    """
    shared = [seed for seed in scores.values if seed in other.values]
    if not shared:
        return None
    units = None if asked_others(scores, other) else _units([scores.frames, other.frames], shared)
    if units is None:
        return _sign_flips(np.array([scores.values[seed] - other.values[seed] for seed in shared]))
    draws = _means(units)
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    floor = 2.0 ** (1 - int((units.sums != 0).any(0).sum()))
    return float(min(1.0, max(2 * (1 + tail) / (1 + len(draws)), floor)))


def asked_others(scores: Scores, other: Scores) -> str | None:
    """Why the examples of two variants are not paired: under a shared seed they were asked otherwise; None where they are."""
    shared = scores.frames.keys() & other.frames.keys()
    return next(
        filter(None, (asked_otherwise(scores.frames[seed], other.frames[seed]) for seed in sorted(shared))), None
    )


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p values corrected for their number (Holm 1979); None stays."""
    known = sorted((value, place) for place, value in enumerate(values) if value is not None)
    corrected: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (value, place) in enumerate(known):
        largest = max(largest, min(1.0, value * (len(known) - rank)))
        corrected[place] = largest
    return corrected


def _units(sides: Sequence[Mapping[int, pd.DataFrame]], seeds: Sequence[int] | Mapping[int, float]) -> Units | None:
    """The scores of one variant, or the differences of two, by seed and example; None where some are not known."""
    rows = []
    groups: pd.Series | None = None
    for seed in seeds:
        if any(seed not in frames for frames in sides):
            return None
        frames = [each[seed].set_index("id") for each in sides]
        scores = [frame["score"] for frame in frames]
        if any(not each.index.is_unique for each in scores) or any(
            {*each.index} != {*scores[0].index} for each in scores
        ):
            return None
        rows.append(scores[0] if len(scores) == 1 else scores[0] - scores[1].reindex(scores[0].index))
        groups = frames[0].get(GROUP) if groups is None else groups
    if any({*row.index} != {*rows[0].index} for row in rows):
        return None
    table = pd.concat([row.reindex(rows[0].index) for row in rows], axis=1).dropna()
    if len(table) < 2:
        return None
    sizes = pd.Series(1.0, table.index)
    if groups is not None:
        names = groups.reindex(table.index).to_numpy()
        table, sizes = table.groupby(names).sum(), sizes.groupby(names).sum()
    return Units(table.to_numpy(float).T, sizes.to_numpy(float))


def _means(units: Units) -> np.ndarray:
    """Means of drawn examples over drawn seeds; of examples with equal scores it is drawn how many there are."""
    random, seeds = np.random.default_rng(0), len(units.sums)
    kinds, numbers = np.unique(np.vstack([units.sums, units.sizes]), axis=1, return_counts=True)
    sums, sizes, shares = kinds[:-1], kinds[-1], numbers / numbers.sum()
    draws: list[np.ndarray] = []
    for first in range(0, _RESAMPLES, step := max(1, _MOST_COUNTS // len(shares))):
        size = min(step, _RESAMPLES - first)
        counts = random.multinomial(numbers.sum(), shares, size)
        means = (counts @ sums.T) / (counts @ sizes)[:, None]
        chosen = random.integers(seeds, size=(size, seeds))
        draws.append(np.take_along_axis(means, chosen, axis=1).mean(1))
    return np.concatenate(draws)


def _sign_flips(differences: np.ndarray) -> float:
    count, observed = len(differences), abs(differences.mean()) - 1e-12
    if count > _MOST_FLIPS:
        signs = np.random.default_rng(0).choice([-1, 1], size=(2**_MOST_FLIPS, count))
        return float((1 + (np.abs((signs * differences).mean(1)) >= observed).sum()) / (1 + len(signs)))
    signs = 1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
    return float((np.abs((signs * differences).mean(1)) >= observed).mean())
