"""Classifiers of frozen features: against scikit-learn, a loop, the gradient at the minimum; memory; draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression as TheirRegression
from torch.nn import functional as F

from renaissance.core.errors import UserError
from renaissance.evaluation import classifiers
from renaissance.evaluation.classifiers import (
    DECAYS,
    LabelledFeatures,
    LogisticRegression,
    choose_decay,
    draw_examples,
    drawn,
    fit,
    neighbour_logits,
    unfinished_note,
)

CLASSES = 3


def features(count: int, seed: int, noise: float = 1.5, shift: float = 0.0) -> LabelledFeatures:
    """Vectors around a point for each class, each feature on a scale of its own."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, CLASSES, count)
    points = np.random.default_rng(0).normal(size=(CLASSES, 6))
    vectors = (points[labels] + noise * draw.normal(size=(count, 6))) * [1, 5, 0.2, 1, 3, 1] + shift
    return LabelledFeatures(torch.from_numpy(vectors).float(), torch.from_numpy(labels))


def untrained(train: LabelledFeatures) -> LogisticRegression:
    return LogisticRegression.untrained(train.vectors, CLASSES)


@pytest.fixture(params=[7, 1024])
def small_parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """However features are cut, the numbers are the same."""
    monkeypatch.setattr(classifiers, "_ROWS", request.param)


@pytest.mark.parametrize("decay", [1.0, 1e-2, 1e-4])
@pytest.mark.usefixtures("small_parts")
def test_logistic_regression_is_scikit_learns_on_standardized_features(decay: float):
    train, other = features(90, 1, shift=4.0), features(40, 2, shift=4.0)
    known, shown = train.vectors.double().numpy(), other.vectors.double().numpy()
    scale = known.mean(0), known.std(0)
    theirs = TheirRegression(C=1 / (len(train.labels) * decay), tol=1e-9, max_iter=10_000)
    theirs.fit((known - scale[0]) / scale[1], train.labels.numpy())
    expected = theirs.predict_proba((shown - scale[0]) / scale[1])
    probe = fit(train, decay, untrained(train))
    found = probe.logits(other.vectors).softmax(-1)
    assert found.numpy() == pytest.approx(expected, abs=1e-4) and expected.std() > 0.05 and probe.converged
    warm = fit(train, decay, fit(train, 1.0, untrained(train))).logits(other.vectors).softmax(-1)
    assert warm.numpy() == pytest.approx(expected, abs=1e-4)


@pytest.mark.usefixtures("small_parts")
def test_the_gradient_is_zero_at_the_minimum():
    train = features(200, 3)
    probe = fit(train, 1e-3, untrained(train))
    weight, bias = probe.weight.clone().requires_grad_(), probe.bias.clone().requires_grad_()
    scaled = (train.vectors.double() - probe.mean) / probe.deviation
    loss = F.cross_entropy(scaled @ weight.T + bias, train.labels) + 1e-3 / 2 * weight.square().sum()
    loss.backward()
    assert max(float(weight.grad.abs().max()), float(bias.grad.abs().max())) < 1e-6
    assert float(scaled.mean(0).abs().max()) < 1e-9 and scaled.std(0, correction=0).numpy() == pytest.approx(1)


def test_a_fit_that_ends_at_its_limit_says_so(monkeypatch: pytest.MonkeyPatch):
    train = features(60, 4)
    assert fit(train, 1e-3, untrained(train)).converged
    monkeypatch.setattr(classifiers, "_STEPS", 2)
    assert not fit(train, 1e-3, untrained(train)).converged
    chosen = choose_decay(train, features(60, 5), untrained(train))
    assert 1e-6 in chosen.unfinished
    assert unfinished_note((1e-3, 1e-6, 1e-6), {1e-3}) == (
        "logistic regression with weight decay 0.001 (chosen), 1e-06 ended at 2 steps of L-BFGS, before its minimum"
    )


def test_the_decay_is_that_of_the_best_accuracy_on_validation():
    train, val = features(30, 3, noise=3), features(200, 4, noise=3)
    accuracy = {
        decay: (fit(train, decay, untrained(train)).logits(val.vectors).argmax(-1) == val.labels).double().mean().item()
        for decay in DECAYS
    }
    chosen = choose_decay(train, val, untrained(train)).decay
    assert chosen == max(accuracy, key=lambda decay: (accuracy[decay], decay))
    assert len(set(accuracy.values())) > 2


@pytest.mark.parametrize("cosines", [60, 1 << 25])
def test_neighbours_vote_as_in_a_loop(cosines: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(classifiers, "_MOST_COSINES", cosines)
    train, other = features(50, 5), features(20, 6)
    found = neighbour_logits(train, other.vectors, CLASSES, 7).softmax(-1)
    for row, vector in enumerate(other.vectors.double().numpy()):
        cosines = [
            (float(vector @ known / np.linalg.norm(vector) / np.linalg.norm(known)), int(label))
            for known, label in zip(train.vectors.double().numpy(), train.labels, strict=True)
        ]
        votes = np.zeros(CLASSES)
        for cosine, label in sorted(cosines, reverse=True)[:7]:
            votes[label] += np.exp(cosine / 0.07)
        assert found[row].numpy() == pytest.approx(votes / votes.sum(), abs=1e-5)
    assert neighbour_logits(train, other.vectors, CLASSES, 1000).isfinite().all()  # fewer are there


def test_draws_depend_on_seed_and_class_alone():
    labels = np.array([0, 1] * 10 + [2] * 4)
    first = drawn(labels, 3, [0, 1, 0])
    assert np.bincount(labels[first]).tolist() == [3, 3, 3] and (np.diff(first) > 0).all()
    assert drawn(labels, 3, [0, 1, 0]).tolist() == first.tolist() != drawn(labels, 3, [0, 1, 1]).tolist()
    assert np.bincount(labels[drawn(labels, 0.2, [0])]).tolist() == [2, 2, 1]
    more = np.append(labels, [3, 3, 3])
    assert drawn(more, 3, [0, 1, 0])[:9].tolist() == first.tolist()


def test_those_that_choose_are_none_of_those_that_learn():
    labels, names = np.array([0, 1] * 20), ("no", "yes")
    pool, held_out = draw_examples(labels, names, None, 0, 0, holds=True)
    assert len(held_out) == 4 and not {*pool} & {*held_out} and {*pool} | {*held_out} == {*range(40)}
    few = draw_examples(labels, names, 5, 0, 1, holds=True)
    assert few.held_out.tolist() == held_out.tolist() and len(few.pool) == 10 and {*few.pool} <= {*pool}
    with pytest.raises(UserError, match=r"fewer training examples of no \(18\), yes \(18\)"):
        draw_examples(labels, names, 19, 0, 0, holds=True)
    assert len(draw_examples(labels, names, 19, 0, 0, holds=False).pool) == 38
