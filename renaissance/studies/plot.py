"""Figures of a study: scores against what they cost, and learning curves with a band over seeds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from renaissance.core.errors import printable
from renaissance.core.figures import DASHES, MARKERS, write_figure
from renaissance.evaluation.runs import FinishedRun
from renaissance.runs.metrics_table import read_rows

from .spec import METRIC, Study
from .state import RunState
from .table import MeasuredVariant, differing, measured_variants, value_of

COSTS = ("parameters", "trainable", "steps", "samples", "hours", "flops")
_TITLES = {"parameters": "parameters", "trainable": "trained parameters", "steps": "optimizer steps",
           "samples": "samples seen", "hours": "hours", "flops": "training FLOPs"}  # fmt: skip


def plot(
    study: Study, states: Iterable[RunState], folder: Path, cost: str, flops: Mapping[str, int | None]
) -> tuple[list[str], list[str]]:
    """Writes two figures of each metric, as PNG and SVG: its score against a cost, and its learning curves on val.

    Args:
        cost: one of COSTS; of hours those that the attempts at a run took.
        flops: of a training step by the run's name, with cost="flops".

    Returns:
        The names of the files; and of the runs that have a score and no known cost, which the first figure is without.

    Raises:
        UserError: as of `measured_variants`.
    """
    written: list[str] = []
    left_out: dict[str, None] = {}
    for metric, variants in measured_variants(study, states).items():
        keys, name = differing(each.variant for each in variants), re.sub(r"[^\w.-]+", "_", metric)
        labelled = {_label(keys, each): each for each in variants}
        points = {label: _points(each, metric, cost, flops, left_out) for label, each in labelled.items()}
        if any(map(len, points.values())):
            draw = f"{name}_by_{cost}", lambda axes, p=points, m=metric: _scatter(axes, p, m, cost)
            written += write_figure(folder, "log_dir", *draw)
        curves = {label: curve for label, each in labelled.items() if (curve := _curve(each, metric)) is not None}
        if curves:
            draw = f"{name}_curves", lambda axes, c=curves, m=metric: _lines(axes, c, m)
            written += write_figure(folder, "log_dir", *draw)
    return written, [*left_out]


def _label(keys: Sequence[str], variant: MeasuredVariant) -> str:
    return printable(", ".join(f"{key}={variant.variant.get(key)}" for key in keys)) or "all"


def _points(
    variant: MeasuredVariant, metric: str, cost: str, flops: Mapping[str, int | None], left_out: dict[str, None]
) -> np.ndarray:
    """(n,2) costs and scores of the runs whose cost is known; the names of others are added to `left_out`."""
    found = []
    for seed, run in variant.runs.items():
        state = variant.states[seed]
        if (x := _cost(run, state, cost, flops)) is None:
            left_out[state.run.name] = None
        else:
            found.append((x, value_of(run, metric)))
    return np.array(found, float).reshape(-1, 2)


def _cost(run: FinishedRun, state: RunState, cost: str, flops: Mapping[str, int | None]) -> float | None:
    if cost == "hours":
        return None if state.attempt is None else state.attempt["seconds"] / 3600
    if cost in ("parameters", "trainable"):
        counts = run.record.get("parameters", {}).get("all", {})
        return counts.get({"parameters": "total"}.get(cost, cost))
    steps = state.step()
    each = {"steps": 1, "samples": run.settings.get("batch_size", 1)}.get(cost, flops.get(state.run.name))
    return None if steps is None or each is None else steps * each


def _curve(variant: MeasuredVariant, metric: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps (t), and scores on val (seeds,t) at the steps that all runs have; None where there are none."""
    named = METRIC.fullmatch(metric)
    column, curves = f"{named['task']}/val/{named['metric']}", []
    for run in variant.runs.values():
        _, rows, _ = read_rows(run.path / "metrics.csv")
        curves.append({int(row["step"]): float(row[column]) for row in rows if row.get(column)})
    steps = sorted(set.intersection(*map(set, curves)))
    return (np.array(steps), np.array([[curve[step] for step in steps] for curve in curves])) if steps else None


def _scatter(axes: Any, points: dict[str, np.ndarray], metric: str, cost: str) -> None:
    """A marker for each run, and a larger one with its standard deviation for each variant."""
    for place, (label, found) in enumerate(points.items()):
        if not len(found):
            continue
        marker, (x, y) = MARKERS[place % len(MARKERS)], found.mean(0)
        drawn = axes.errorbar(
            x,
            y,
            yerr=found[:, 1].std(ddof=1) if len(found) > 1 else None,
            marker=marker,
            ms=9,
            capsize=4,
            ls="",
            label=label,
        )
        axes.plot(*found.T, marker=marker, ms=4, alpha=0.5, ls="", color=drawn[0].get_color())
    axes.set(xlabel=_TITLES[cost], ylabel=metric)
    every = {x for found in points.values() for x in found[:, 0]}
    if len(every) == 1:  # room for one tick, where matplotlib would show digits that no run differs in
        (x,) = every
        axes.set_xlim(x - (abs(x) or 1) / 10, x + (abs(x) or 1) / 10)
        axes.set_xticks([x])
    if cost != "hours":
        from matplotlib.ticker import EngFormatter

        axes.xaxis.set_major_formatter(EngFormatter())


def _lines(axes: Any, curves: dict[str, tuple[np.ndarray, np.ndarray]], metric: str) -> None:
    """A line for the mean of each variant's seeds, in a band from the lowest to the highest."""
    for place, (label, (steps, scores)) in enumerate(curves.items()):
        style = {"ls": DASHES[place % len(DASHES)], "marker": MARKERS[place % len(MARKERS)], "ms": 5}
        (line,) = axes.plot(steps, scores.mean(0), label=label, **style)
        axes.fill_between(steps, scores.min(0), scores.max(0), alpha=0.2, color=line.get_color(), lw=0)
    axes.set(xlabel=_TITLES["steps"], ylabel=f"{metric.partition(':')[2] or metric} on val")
