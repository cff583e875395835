"""Metrics of a downstream task on a split, each with how it was measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from .intervals import GROUP, interval

SELECTING = "the_metric"  # sum of the tasks' selecting metrics; on "val" it selects the best checkpoint


class MetricDetails(NamedTuple):
    """A metric on a split.

    Attributes:
        value: NaN without an example.
        frames: the metric is the mean of the column "score", examples of one `group` drawn together; of several frames the mean
            of their means, where groups that they share are drawn. () = no interval.
        statistic: of the one frame, where the metric is not a mean.
        baseline: of a model that sees no input: ("majority", "chance" or "random", value). None for the selecting metric
            means `Downstream.baseline`, which may take seconds.
        method: how it was measured. exact: whether that is the benchmark's way.
        candidates: mean number of candidates; None where the task has none.
        ties: examples that equal scores decide, wrong as they are; None where no scores are compared.
    """

    value: float
    frames: tuple[pd.DataFrame, ...] = ()
    statistic: Callable[[pd.DataFrame], float] | None = None
    baseline: tuple[str, float] | None = None
    method: str = "each example once"
    candidates: float | None = None
    exact: bool = True
    ties: int | None = None

    def record(self) -> dict[str, Any]:
        """Its entry in results_details.json; "examples" counts those with an answer, None where it has no interval."""
        return {
            "candidates": self.candidates,
            "baseline": dict([self.baseline]) if self.baseline else None,
            "interval": interval(self.frames, self.statistic) if self.frames else None,
            "method": self.method,
            "exact": self.exact,
            "ties": self.ties,
            "examples": int(self.frames[0]["score"].notna().sum()) if self.frames else None,
        }


def mean_score(frame: pd.DataFrame, score: Any = None, **details: Any) -> MetricDetails:
    """The mean of the column "score", or of other scores of the rows; NaN is left out. details: further fields."""
    scores = frame["score"] if score is None else pd.Series(score, frame.index).astype(float)
    groups = {GROUP: frame[GROUP]} if GROUP in frame else {}
    return MetricDetails(float(scores.mean()), (pd.DataFrame({"score": scores, **groups}),), **details)


def mean_recall(frame: pd.DataFrame, **details: Any) -> MetricDetails:
    """The mean over the classes that occur of the mean score of their examples. details: further fields."""
    codes = frame.loc[frame["score"].notna(), [column for column in ("score", GROUP) if column in frame]]
    codes = codes.assign(code=pd.factorize(frame.loc[codes.index, "target"])[0])
    return MetricDetails(_mean_recall(codes), (codes,), _mean_recall, **details)


def _mean_recall(frame: pd.DataFrame) -> float:
    codes = frame["code"].to_numpy()
    hits, counts = np.bincount(codes, frame["score"]), np.bincount(codes)
    return float((hits[counts > 0] / counts[counts > 0]).mean()) if len(codes) else math.nan
