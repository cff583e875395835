"""Metrics of benchmarks, by worked examples and against plain loops over the published rules."""

from __future__ import annotations

import math
import random

import pytest

from renaissance.evaluation.metrics import consistency


@pytest.mark.parametrize(
    ("groups", "right", "expected"),
    [
        ("aab", [1, 1, 1], 1.0),
        ("aab", [1, 0, 1], 0.5),
        ("aab", [0, 1, 0], 0.0),
        ("abac", [1, 1, 0, 1], 2 / 3),  # a group need not stand together
        ("a", [1], 1.0),
        ("abcd", [1, 0, 0, 0], 0.25),  # groups of one: the accuracy
    ],
)
def test_a_group_counts_when_all_of_it_is_right(groups: str, right: list[int], expected: float):
    assert consistency(groups, right) == pytest.approx(expected)


def test_no_example_has_no_consistency():
    assert math.isnan(consistency([], []))


def test_the_order_of_examples_is_nothing_to_it():
    draw = random.Random(0)
    examples = [(draw.randrange(40), draw.random() < 0.8) for _ in range(150)]
    by_group: dict[int, list[bool]] = {}
    for group, right in examples:
        by_group.setdefault(group, []).append(right)
    expected = sum(all(rights) for rights in by_group.values()) / len(by_group)
    assert 0.1 < expected < 0.9
    for _ in range(5):
        draw.shuffle(examples)
        assert consistency(*zip(*examples, strict=True)) == expected
