"""Intervals and tests over seeds and examples, against naive versions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from renaissance.studies.statistics import Scores, asked_others, holm, interval, p_value


def scores(matrix: np.ndarray, groups: list[int] | None = None) -> Scores:
    """One metric of runs whose examples have the scores (seeds, examples)."""
    columns = {} if groups is None else {"group": groups}
    frames = {
        seed: pd.DataFrame({"id": [f"e{place}" for place in range(len(row))], "score": row, **columns})
        for seed, row in enumerate(matrix)
    }
    return Scores({seed: float(np.mean(row)) for seed, row in enumerate(matrix)}, frames)


def naive(matrix: np.ndarray, groups: list[int], draws: int = 4000) -> np.ndarray:
    random, seeds, names = np.random.default_rng(1), len(matrix), np.unique(groups)
    means = []
    for _ in range(draws):
        drawn = np.concatenate([np.flatnonzero(np.array(groups) == name) for name in random.choice(names, len(names))])
        means.append(np.mean([matrix[seed][drawn].mean() for seed in random.integers(seeds, size=seeds)]))
    return np.array(means)


@pytest.mark.parametrize("grouped", [False, True])
def test_the_interval_draws_seeds_and_examples(grouped):
    random = np.random.default_rng(0)
    matrix = (random.random((3, 60)) < [[0.5], [0.6], [0.75]]).astype(float)
    groups = [place // 4 for place in range(60)] if grouped else [*range(60)]
    wanted = np.quantile(naive(matrix, groups), [0.025, 0.975])
    assert np.allclose(interval(scores(matrix, groups if grouped else None)), wanted, atol=0.015)
    narrow = interval(scores(matrix[:1], groups if grouped else None))
    assert narrow[1] - narrow[0] < wanted[1] - wanted[0]  # seeds add to it


def test_a_difference_is_paired_by_seed_and_example():
    random = np.random.default_rng(0)
    first = (random.random((3, 200)) < 0.6).astype(float)
    second = first.copy()
    second[:, :14] = 1 - first[:, :14] * 0  # fourteen examples become right in every seed
    difference = second - first
    draws = naive(difference, [*range(200)])
    wanted = 2 * min((draws <= 0).mean(), (draws >= 0).mean())
    assert p_value(scores(second), scores(first)) == pytest.approx(wanted, abs=0.005)
    shuffled = scores(second)
    shuffled = shuffled._replace(
        frames={seed: frame.sample(frac=1, random_state=seed) for seed, frame in shuffled.frames.items()}
    )
    assert p_value(shuffled, scores(first)) == pytest.approx(p_value(scores(second), scores(first)), abs=0.01)
    assert p_value(scores(first), scores(first)) == 1.0
    few = first.copy()
    few[:, np.flatnonzero(first.min(0) == 0)[:5]] = 1.0  # five examples differ, all in one direction
    assert p_value(scores(few), scores(first)) >= 2.0**-4  # as a sign test has it


def test_where_all_are_right_the_interval_is_the_binomial_one():
    low, high = interval(scores(np.ones((3, 50))))
    assert high == 1 and low == pytest.approx(0.025 ** (1 / 50))


def test_without_predictions_seeds_alone_decide():
    values = {0: 0.5, 1: 0.6, 2: 0.7}
    better = {seed: value + 0.1 for seed, value in values.items()}
    assert p_value(Scores(better, {}), Scores(values, {})) == 0.25  # two of eight signs
    assert p_value(Scores({5: 1.0}, {}), Scores(values, {})) is None
    low, high = interval(Scores(values, {}))
    assert 0.5 <= low < 0.6 < high <= 0.7
    assert interval(Scores({0: 0.5}, {})) is None
    many = {seed: 0.01 if seed < 16 else -0.5 for seed in range(30)}
    assert p_value(Scores(many, {}), Scores(dict.fromkeys(many, 0.0), {})) < 0.01
    mixed = {seed: (-1) ** seed for seed in range(30)}
    assert p_value(Scores(mixed, {}), Scores(dict.fromkeys(mixed, 0.0), {})) == 1.0
    one = scores(np.ones((2, 5)))
    assert p_value(one, Scores({0: 1.0, 1: 0.5}, {})) == 1.0  # frames of one side only: two of two signs


def test_holm_multiplies_the_smallest_by_the_number_of_tests():
    found = holm([0.01, None, 0.04, 0.03, 0.005])
    assert found == [pytest.approx(value) if value is not None else None for value in (0.03, None, 0.06, 0.06, 0.02)]
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_variants_that_were_asked_otherwise_are_compared_by_seeds_alone():
    random = np.random.default_rng(0)
    first = (random.random((3, 200)) < 0.5).astype(float)
    sides = [scores(np.maximum(first, each)) for each in (0, np.arange(200) < 40)]
    assert p_value(*sides) < 0.05
    for side, answer in zip(sides, "ab", strict=True):
        for frame in side.frames.values():
            frame["target"] = ["a"] * 199 + [answer]
    assert "1 of 200 examples with the same id have another target" in asked_others(*sides)
    assert p_value(*sides) == 0.25  # two of eight signs
