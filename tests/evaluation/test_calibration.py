"""Calibration error and Brier score: against plain loops, torchmetrics and scikit-learn, and on what predictions may hold."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from renaissance.core.types import IGNORED
from renaissance.evaluation.calibration import BINS, calibration, calibration_metrics
from renaissance.models.heads import brier_scores, confidences

EXAMPLES, CLASSES = 400, 5


@pytest.fixture(scope="module")
def case() -> tuple[torch.Tensor, torch.Tensor, pd.DataFrame]:
    """Logits (n,5) that are too sure, labels, and the rows that a task makes of them."""
    draw = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(EXAMPLES, CLASSES, generator=draw)
    labels = torch.distributions.Categorical(logits=logits / 3).sample()
    scores = (logits.argmax(-1) == labels).double().tolist()
    columns = {"score": scores, "confidence": confidences(logits), "brier": brier_scores(logits, labels)}
    return logits, labels, pd.DataFrame(columns)


def test_the_calibration_error_is_that_of_a_loop_and_of_torchmetrics(case):
    logits, labels, frame = case
    bins: dict[int, list[tuple[float, float]]] = {}
    for confidence, score in zip(frame["confidence"], frame["score"], strict=True):
        bins.setdefault(min(int(confidence * 15), 14), []).append((confidence, score))
    error = sum(abs(sum(c - s for c, s in each)) for each in bins.values()) / EXAMPLES
    found = calibration(frame)
    assert found.error == pytest.approx(error) and len(found.bins) == len(bins)
    theirs = multiclass_calibration_error(logits.softmax(-1), labels, CLASSES, n_bins=BINS)
    assert found.error == pytest.approx(float(theirs), abs=1e-5) and found.error > 0.1
    for row, (_, each) in zip(found.bins, sorted(bins.items()), strict=True):
        assert row == pytest.approx([*np.mean(each, axis=0), len(each) / EXAMPLES])


def test_the_brier_score_is_that_of_a_loop_and_of_scikit_learn(case):
    logits, labels, frame = case
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        exponents = [math.exp(value) for value in row]
        total += sum((e / sum(exponents) - (k == label)) ** 2 for k, e in enumerate(exponents))
    found = calibration_metrics(frame)["brier"]
    assert found.value == pytest.approx(total / EXAMPLES, abs=1e-6) and "over the classes" in found.method
    low, high = found.record()["interval"]
    assert low < found.value < high and high - low < 0.2
    pytest.importorskip("sklearn", minversion="1.7")  # before, it was of two classes
    from sklearn import metrics

    theirs = metrics.brier_score_loss(labels.numpy(), logits.softmax(-1).numpy(), labels=[*range(CLASSES)])
    assert found.value == pytest.approx(theirs, abs=1e-6)


def test_both_are_known_where_the_model_is_sure_or_knows_nothing():
    sure, labels = torch.tensor([[100.0, 0.0], [100.0, 0.0], [0.0, -math.inf]]), torch.tensor([0, 1, 0])
    assert brier_scores(sure, labels) == pytest.approx([0, 2, 0])
    assert brier_scores(torch.zeros(2, 4), torch.tensor([3, IGNORED])) == [pytest.approx(0.75), None]
    half = pd.DataFrame({"score": [1.0, 0.0], "confidence": [1.0, 1.0]})
    assert calibration(half).error == 0.5 and calibration(half.assign(confidence=0.5)).error == 0


def test_without_all_probabilities_it_is_of_the_prediction_alone():
    """As in VQAv2, whose answers have a probability each, and in predictions of earlier versions."""
    frame = pd.DataFrame({"score": [1.0, 0.3, None], "confidence": [0.8, 0.5, 0.9]})
    found = calibration_metrics(frame)
    assert found["brier"].value == pytest.approx((0.04 + 0.04) / 2) and "alone" in found["brier"].method
    assert found["ece"].record()["interval"] is None


def test_what_is_no_confidence_is_left_out():
    frame = pd.DataFrame({"score": [1.0, 0.0, 1.0, None], "confidence": ["high", 0.5, math.inf, 0.5]})
    assert calibration(frame).left_out == 2 and calibration(frame).error == 0.5
    assert calibration_metrics(frame.assign(confidence="high")) == {} == calibration_metrics(frame[["score"]])
