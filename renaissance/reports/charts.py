"""Charts of lines, as the places of what is drawn; page.html draws them as SVG in the colours of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT = 480, 270  # of a chart, in its own units
LEFT, RIGHT, TOP, BOTTOM = 58, 28, 10, 42  # margins around what is drawn
MOST_POINTS = 300  # of a line; more are means of as many neighbours
TICKS = 5  # about as many on an axis
FEW = 20  # points of a line that get a dot each


class Dot(NamedTuple):
    """A point of a line. Attributes: x, y, radius; told, its values in words."""

    x: float
    y: float
    radius: float
    told: str


class ChartLine(NamedTuple):
    """A line of a chart. Attributes: label; points, of an SVG polyline; dots, where they are few."""

    label: str
    points: str
    dots: Sequence[Dot]


class Chart(NamedTuple):
    """A chart.

    Attributes:
        title, x_label, y_label: in words. alt: what it shows, for those who do not see it.
        x_ticks, y_ticks: (place, label) of each.
        lines: in the order of colours.
        diagonal: whether y = x is drawn.
    """

    title: str
    x_label: str
    y_label: str
    alt: str
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    lines: Sequence[ChartLine]
    diagonal: bool = False


def chart(
    title: str,
    labels: tuple[str, str],
    series: Mapping[str, np.ndarray],
    *,
    bounds: tuple[float, float] | None = None,
    sizes: Mapping[str, np.ndarray] | None = None,
) -> Chart | None:
    """A chart of lines.

    Args:
        title: in words. labels: of both axes.
        series: label -> (n,2) points in the order of x; those that are no numbers are left out.
        bounds: of both axes, with the diagonal between them; None = those of the points.
        sizes: of each line the radii of its points, in units of the chart.

    Returns:
        None where there is no point.
    """
    known = {label: points[np.isfinite(points).all(1)] for label, points in series.items()}
    known = {label: _thinned(points) for label, points in known.items() if len(points)}
    if not known:
        return None
    every = np.concatenate([*known.values()])
    x_ticks, y_ticks = (_ticks(*(bounds or (column.min(), column.max()))) for column in every.T)
    # A place on paper: y grows downwards.
    spans = ((x_ticks, LEFT, WIDTH - RIGHT), (y_ticks, HEIGHT - BOTTOM, TOP))

    def place(value: float, axis: int) -> float:
        ticks, start, end = spans[axis]
        return round(float(start + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (end - start)), 1)

    lines, told = [], []
    for label, points in known.items():
        radii = sizes[label] if sizes else np.full(len(points), 2.6)
        dots = [
            Dot(place(x, 0), place(y, 1), float(radius), f"{label}: {y:.4g} at {x:,.4g}")
            for (x, y), radius in zip(points, radii, strict=True)
        ]
        few = sizes is not None or len(points) <= FEW
        lines.append(ChartLine(label, " ".join(f"{dot.x:g},{dot.y:g}" for dot in dots), dots if few else ()))
        told.append(f"{label} from {points[0, 1]:.3g} to {points[-1, 1]:.3g}")
    alt = f"{title}, {labels[1]} by {labels[0]}: {'; '.join(told)}."
    marks = [[(place(tick, axis), f"{tick:,.10g}") for tick in ticks] for axis, ticks in enumerate((x_ticks, y_ticks))]
    return Chart(title, *labels, alt, *marks, lines, bounds is not None)


def _thinned(points: np.ndarray) -> np.ndarray:
    if len(points) <= MOST_POINTS:
        return points
    return np.array([part.mean(0) for part in np.array_split(points, MOST_POINTS)])


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from at most `low` to at least `high`."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        around = abs(low) * 0.1 or 1
        below = max(low - around, 0) if low >= 0 else low - around  # shares and steps are never below 0
        low, high = below, high + around
    rough = (high - low) / TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * each for each in (1, 2, 2.5, 5, 10) if power * each >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]
