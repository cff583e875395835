"""Charts: round ticks around the points, points where they belong, and nothing drawn of what is no number."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from renaissance.reports import charts
from renaissance.reports.charts import chart


@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9))
def test_ticks_are_few_round_and_around_the_points(low: float, width: float):
    high = low + width
    ticks = charts._ticks(low, high)
    steps = np.diff(ticks)
    slack = 1e-6 * max(abs(low), abs(high), width)
    assert ticks[0] <= low + slack and ticks[-1] >= high - slack and 2 <= len(ticks) <= 8
    assert np.allclose(steps, steps[0], atol=slack) and steps[0] > 0


def test_points_are_placed_between_the_ticks():
    drawn = chart("Loss", ("step", "loss"), {"itm": np.array([[0, 1.0], [50, np.nan], [100, 0.0]])})
    assert [label for _, label in drawn.x_ticks] == ["0", "20", "40", "60", "80", "100"]
    assert [label for _, label in drawn.y_ticks] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]
    left, right = charts.LEFT, charts.WIDTH - charts.RIGHT
    top, bottom = charts.TOP, charts.HEIGHT - charts.BOTTOM
    assert drawn.lines[0].points == f"{left},{top} {right},{bottom}"
    assert drawn.alt == "Loss, loss by step: itm from 1 to 0." and len(drawn.lines[0].dots) == 2


def test_long_lines_are_means_of_neighbours_and_nothing_is_no_chart():
    points = np.column_stack([np.arange(10_000), np.tile([0.0, 1.0], 5_000)])
    (line,) = chart("Loss", ("step", "loss"), {"itm": points}).lines
    assert len(line.points.split()) == charts.MOST_POINTS and not line.dots
    assert np.abs(charts._thinned(points)[:, 1] - 0.5).max() < 0.02
    assert chart("Loss", ("step", "loss"), {"itm": np.array([[1, math.nan]])}) is None
    assert chart("Loss", ("step", "loss"), {}) is None


@pytest.mark.parametrize("value", [0.0, 3e-7, -5.0, 1e12])
def test_a_single_value_has_an_axis(value: float):
    drawn = chart("Rate", ("step", "rate"), {"": np.array([[10, value]])})
    places = [place for place, _ in drawn.y_ticks]
    assert len(places) >= 2 and min(places) <= drawn.lines[0].dots[0].y <= max(places)
    assert value < 0 or not any(label.startswith("-") for _, label in (*drawn.x_ticks, *drawn.y_ticks))
