"""How far the probabilities of a model can be trusted: calibration error and Brier score, from its predictions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from .metrics import MetricDetails, mean_score

BINS = 15  # of confidences, of one width


class Calibration(NamedTuple):
    """Confidences against scores.

    Attributes:
        bins: (b,3) mean confidence, mean score and share of the examples, of each bin that has some.
        error: the expected calibration error, the mean of |confidence - score| over the bins by their shares.
            Source: Guo et al., ICML 2017.
        confidence, score: means. left_out: how many examples have no confidence.
    """

    bins: np.ndarray
    error: float
    confidence: float
    score: float
    left_out: int


def calibration(frame: pd.DataFrame) -> Calibration | None:
    """The calibration of the predictions that have a score; None where they have no confidence in 0..1."""
    if "confidence" not in frame:
        return None
    score = frame["score"].astype(float)
    sure = pd.to_numeric(frame["confidence"], errors="coerce")  # of a task of others it may be anything
    known = score.notna() & sure.between(0, 1)
    if not known.any():
        return None
    sure, right = sure[known].to_numpy(float), score[known].to_numpy()
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    sums = [np.bincount(bins, weights, BINS) for weights in (sure, right, np.ones(len(sure)))]
    filled = sums[2] > 0
    confidence, hits, count = (each[filled] for each in sums)
    table = np.column_stack([confidence / count, hits / count, count / len(sure)])
    error = float((np.abs(table[:, 0] - table[:, 1]) * table[:, 2]).sum())
    return Calibration(table, error, sure.mean(), right.mean(), int(score.notna().sum()) - len(sure))


def calibration_metrics(frame: pd.DataFrame) -> dict[str, MetricDetails]:
    """The metrics "ece" and "brier" of a labelled split; none where its rows have no confidence.

    The calibration error has no interval: it is never below 0, so resampled ones are larger than that of the examples.
    """
    found = calibration(frame)
    if found is None:
        return {}
    if "brier" in frame:
        brier, method = frame["brier"], "squared errors of the probabilities, summed over the classes"
    else:
        sure = pd.to_numeric(frame["confidence"], errors="coerce")
        brier, method = (
            (sure - frame["score"].astype(float)) ** 2,
            "squared error of the prediction's probability alone",
        )
    ece = MetricDetails(found.error, method=f"{BINS} bins of one width of the prediction's probability")
    return {"ece": ece, "brier": mean_score(frame, brier, method=method)}
