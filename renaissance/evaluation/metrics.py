"""The metrics of a downstream task on a split, each with how it was found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd

from .intervals import GROUP, interval

SELECTING = "the_metric"  # sum of the tasks' selecting metrics; on "val" it selects the best checkpoint


class MetricDetails(NamedTuple):
    """A metric on a split.

    Attributes:
        value: NaN where no example counts.
        frames: whose mean of the column "score" it is, examples of one `group` drawn together; of several frames the mean of
            their means, drawn by groups that they share; () where it has no interval.
        statistic: of the one frame, where it is no mean.
        baseline: what a model that sees nothing gets: ("majority", "chance" or "random", value). None of the selecting metric
            means `Downstream.baseline`, which may take seconds.
        method: how it was found. exact: whether that is what the benchmark asks for.
        candidates: among how many the right one is to be found, on average; None where it is no matter of candidates.
    """

    value: float
    frames: tuple[pd.DataFrame, ...] = ()
    statistic: Callable[[pd.DataFrame], float] | None = None
    baseline: tuple[str, float] | None = None
    method: str = "each example once"
    candidates: float | None = None
    exact: bool = True

    def record(self) -> dict[str, Any]:
        """What results_details.json keeps of it; "examples" are those that have an answer, None where it has no interval."""
        return {
            "candidates": self.candidates,
            "baseline": dict([self.baseline]) if self.baseline else None,
            "interval": interval(self.frames, self.statistic) if self.frames else None,
            "method": self.method,
            "exact": self.exact,
            "examples": int(self.frames[0]["score"].notna().sum()) if self.frames else None,
        }


def mean_score(frame: pd.DataFrame, score: Any = None, **details: Any) -> MetricDetails:
    """The mean of the column "score", or of other scores of the rows, NaN where they do not count; details: fields."""
    scores = frame["score"] if score is None else pd.Series(score, frame.index).astype(float)
    groups = {GROUP: frame[GROUP]} if GROUP in frame else {}
    return MetricDetails(float(scores.mean()), (pd.DataFrame({"score": scores, **groups}),), **details)
