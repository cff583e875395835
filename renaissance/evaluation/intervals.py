"""Percentile intervals by bootstrap, and the paired bootstrap of two runs on the same examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from renaissance.core.errors import UserError

GROUP = "group"
SHOWN_POSITION = "shown_position"  # the sample whose picture was shown, where that need not be the example's own
ASKED = ("target", SHOWN_POSITION)  # in which runs agree that were asked the same
COVERED = (0.025, 0.975)
FEWEST_RESAMPLES = 200
MOST_KINDS = 4096  # different scores that are distinguished
_MOST_COUNTS = 5_000_000  # counts of kinds that the interval of a mean draws: under a second
_MOST_ROWS = 10_000_000  # rows that the interval of any other statistic draws: a few seconds


class Paired(NamedTuple):
    """How much better the second of two runs is on the same examples.

    Attributes:
        difference: of the mean scores, second minus first.
        low, high: its 95 % interval.
        p: two-sided; below .05 about where the interval leaves out 0.
        examples: how many.
    """

    difference: float
    low: float
    high: float
    p: float
    examples: int


def bootstrap(
    frame: pd.DataFrame,
    statistic: Callable[[pd.DataFrame], float] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic over examples, or over groups where the frame has the column `group`.

    A mean depends only on how often each score was drawn, so these counts are drawn: the same distribution at no cost. More
    than 4,096 different scores are merged into as many levels. Any other statistic is computed on drawn frames, of 10
    million rows in all, but at least 200 frames.

    Args:
        frame: labelled.
        statistic: of a frame; None = the mean of the column "score" where that is known.
        resamples: how often examples are drawn with replacement.
        seed: of the draws.

    Returns:
        (low, high); NaN where the statistic is.
        Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    draw = np.random.default_rng(seed)
    if statistic is None:
        known = frame[frame["score"].notna()]
        return _interval(_means(known["score"].to_numpy(float), known.get(GROUP), resamples, draw))
    return _interval(_statistics(frame, statistic, _affordable(resamples, len(frame), _MOST_ROWS), draw))


def interval(
    frames: Sequence[pd.DataFrame], statistic: Callable[[pd.DataFrame], float] | None = None
) -> tuple[float, float] | None:
    """`bootstrap` of a metric; None for NaN or less than two examples or groups.

    Where all are right, or all wrong, no resample differs: then it is the exact interval of a binomial proportion (Clopper and
    Pearson 1934), of examples or groups.

    Args:
        frames: one, or several whose means of "score" the metric is the mean of; then groups that they share are drawn.
        statistic: of the one frame, where the metric is no mean.
    """
    if min(_units(frame) for frame in frames) < 2:
        return None
    if len(frames) == 1 and statistic is None:
        known = frames[0].dropna(subset="score")
        scores = known.groupby(GROUP)["score"].mean() if GROUP in known else known["score"]
        if (exact := exact_interval(scores.to_numpy(float)[None])) is not None:
            return exact
    low, high = bootstrap(frames[0], statistic) if len(frames) == 1 else _joint(frames, np.random.default_rng(0))
    return None if math.isnan(low) else (low, high)


def exact_interval(scores: np.ndarray) -> tuple[float, float] | None:
    """The 95 % interval where all scores (runs, units) are 1, or all 0 (Clopper and Pearson 1934); None of others."""
    if scores.size == 0 or scores.flat[0] not in (0, 1) or (scores != scores.flat[0]).any():
        return None
    bound = float(COVERED[0] ** (1 / scores.shape[1]))
    return (bound, 1.0) if scores.flat[0] else (0.0, 1 - bound)


def _units(frame: pd.DataFrame) -> int:
    """Number of examples, or groups, with a score."""
    known = frame[frame["score"].notna()]
    return known[GROUP].nunique() if GROUP in frame else len(known)


def _joint(frames: Sequence[pd.DataFrame], draw: np.random.Generator) -> tuple[float, float]:
    """The interval of the mean of several means; a drawn group adds its scores in each frame."""
    grouped = [frame.groupby(GROUP)["score"].agg(["sum", "count"]) for frame in frames]
    sums, sizes = (
        pd.concat([each[name] for each in grouped], axis=1).fillna(0).to_numpy(float) for name in ("sum", "count")
    )
    resamples = _affordable(1000, len(sums), _MOST_COUNTS)
    counts = draw.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), resamples)
    with np.errstate(invalid="ignore"):
        return _interval(((counts @ sums) / (counts @ sizes)).mean(1))


def paired_bootstrap(first: pd.DataFrame, second: pd.DataFrame, *, resamples: int = 10_000, seed: int = 0) -> Paired:
    """The difference of the mean scores of two runs on the same examples, matched by id; groups as in `bootstrap`.

    p is twice the smaller share of resampled differences on either side of 0, including the observed one; but at least the p
    of a sign test in which all examples (or groups) that differ agree.

    Raises:
        UserError: an id occurs twice, the runs have different ids or were asked otherwise, all answers are hidden, or there is
            one example alone.
    """
    # A file may hold ids as text that were numbers.
    first, second = (
        frame.assign(id=frame["id"].astype(str), score=frame["score"].astype(float)) for frame in (first, second)
    )
    for frame in (first, second):
        if twice := frame["id"][frame["id"].duplicated()].tolist():
            raise UserError(f"The id {twice[0]} occurs twice in the predictions, so examples cannot be matched.")
    if other := set(first["id"]) ^ set(second["id"]):
        raise UserError(
            f"The predictions are of different examples ({len(first):,} and {len(second):,}; {len(other):,} of them "
            "only in one); compare runs that were evaluated on the same files."
        )
    if why := asked_otherwise(first, second):
        raise UserError(f"The predictions cannot be paired: {why}; compare runs that were shown the same.")
    first, second = (frame.set_index("id") for frame in (first, second))
    differences = (second["score"] - first["score"].reindex(second.index)).dropna().sort_index()
    if differences.empty:
        raise UserError("The predictions have no score where the answers are hidden, so they cannot be compared.")
    groups = second.loc[differences.index].get(GROUP)
    units = differences if groups is None else differences.groupby(groups.to_numpy()).sum()
    if len(units) < 2:
        raise UserError("The predictions are of one example, or one group of them: no difference can be measured.")
    # The same draws for either order of the runs: swapping them only changes the sign.
    leading = differences[differences != 0].head(1)
    sign = np.sign(leading.iloc[0]) if len(leading) else 1.0
    means = _means(sign * differences.to_numpy(), groups, resamples, np.random.default_rng(seed))
    means = sign * means + 0.0  # no -0.0
    tail = min((means <= 0).sum(), (means >= 0).sum())
    p = min(1.0, max(2 * (1 + tail) / (1 + len(means)), 2.0 ** (1 - int((units != 0).sum()))))
    return Paired(float(differences.mean()), *_interval(means), float(p), len(differences))


def asked_otherwise(first: pd.DataFrame, second: pd.DataFrame) -> str | None:
    """Why two runs were not asked the same under ids that both have; None where they were.

    Image-text matching draws by seed and `negative_group` which picture is shown with a text.
    """
    one, two = (
        frame.assign(id=frame["id"].astype(str)).drop_duplicates("id").set_index("id") for frame in (first, second)
    )
    two = two.loc[two.index.intersection(one[one["score"].notna()].index)]
    one = one.loc[two.index]
    for column in one.columns.intersection(two.columns).intersection(ASKED):
        pairs = zip(map(_plain, one[column]), map(_plain, two[column]), strict=True)
        if other := sum(a != b and str(a) != str(b) for a, b in pairs):  # a file may hold as text what were numbers
            return f"{other:,} of {len(one):,} examples with the same id have another {column}"
    return None


def _plain(value: Any) -> Any:
    return [*value] if isinstance(value, list | tuple | np.ndarray) else value


def _affordable(resamples: int, size: int, most: int) -> int:
    return min(resamples, max(FEWEST_RESAMPLES, most // max(size, 1)))


def _interval(draws: np.ndarray) -> tuple[float, float]:
    defined = draws[~np.isnan(draws)]  # a correlation has no value on a resample of equal answers
    low, high = np.quantile(defined, COVERED) if defined.size else (math.nan, math.nan)
    return float(low), float(high)


def _means(scores: np.ndarray, groups: pd.Series | None, resamples: int, draw: np.random.Generator) -> np.ndarray:
    """(resamples,) means of `scores` (n,) over drawn examples or groups; a group adds its sum and its size."""
    if not scores.size:
        return np.full(1, math.nan)
    units = pd.DataFrame({"sum": scores, "size": 1.0})
    if groups is not None:
        units = units.groupby(pd.factorize(groups)[0]).sum()
    kinds = units.value_counts(sort=False).reset_index(name="count")
    if len(kinds) > MOST_KINDS:
        kinds = _merged(kinds)
    counts = draw.multinomial(len(units), kinds["count"] / len(units), _affordable(resamples, len(kinds), _MOST_COUNTS))
    return (counts @ kinds["sum"].to_numpy()) / (counts @ kinds["size"].to_numpy())


def _merged(kinds: pd.DataFrame) -> pd.DataFrame:
    """Merges kinds with a similar effect on the mean into `MOST_KINDS` levels of one width, each with its own mean."""
    weights = kinds["count"]
    totals = kinds[["sum", "size"]].mul(weights, axis=0)
    pull = kinds["sum"] - kinds["size"] * (totals["sum"].sum() / totals["size"].sum())
    level = pd.cut(pull, MOST_KINDS, labels=False)
    merged = totals.assign(count=weights).groupby(level).sum()
    return merged.assign(sum=merged["sum"] / merged["count"], size=merged["size"] / merged["count"])


def _statistics(
    frame: pd.DataFrame, statistic: Callable[[pd.DataFrame], float], resamples: int, draw: np.random.Generator
) -> np.ndarray:
    """(resamples,) values of a statistic; a group that is drawn twice is two groups."""
    groups = list(frame.groupby(GROUP, sort=False).indices.values()) if GROUP in frame else None
    values = np.empty(resamples)
    for number in range(resamples):
        if groups is None:
            drawn = frame.take(draw.integers(len(frame), size=len(frame)))
        else:
            chosen = [groups[place] for place in draw.integers(len(groups), size=len(groups))]
            names = np.repeat(np.arange(len(chosen)), [len(rows) for rows in chosen])
            drawn = frame.take(np.concatenate(chosen)).assign(**{GROUP: names})
        values[number] = statistic(drawn.reset_index(drop=True))
    return values


def is_mean(frame: pd.DataFrame, value: float) -> bool:
    """Whether a metric is the mean score of its frame, such as accuracy."""
    return bool(len(frame)) and math.isclose(frame["score"].mean(), value, abs_tol=1e-9)
