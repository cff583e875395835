"""The numbers of runs side by side: metrics with their intervals and baselines, a blind run, and curves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from renaissance.core.errors import UserError
from renaissance.evaluation.compare import paired_differences
from renaissance.evaluation.intervals import paired_bootstrap
from renaissance.evaluation.metrics import SELECTING
from renaissance.evaluation.runs import FinishedRun, read_blind_run, read_run
from renaissance.evaluation.score_report import BASELINES
from renaissance.runs.identity import differing

from .charts import Chart, chart
from .facts import task_names

MOST_CANDIDATES = 500  # run folders that are looked at for a blind run
_ENDS = ("max_steps", "max_epoch", "early_stopping")  # how long a run trains, which is not part of its identity
_MOST_LINES = 7  # of a chart: so many colours there are


class MetricCell(NamedTuple):
    """A number of a run. Attributes: value; between, its 95 % interval, ""; star, whether it is not exact, or of a part."""

    value: str
    between: str = ""
    star: bool = False


class MetricRow(NamedTuple):
    """A metric. Attributes: name; cells, one a run; baseline: (value, what it is); examples."""

    name: str
    cells: list[MetricCell]
    baseline: tuple[str, str]
    examples: str


class Metrics(NamedTuple):
    """The metrics of a task on a split. Attributes: title; names, of the runs that have some; rows."""

    title: str
    names: list[str]
    rows: list[MetricRow]


class Headline(NamedTuple):
    """The number that a task is measured by. Attributes: name; cell; beside, what to compare it with: (what, value)."""

    name: str
    cell: MetricCell
    beside: list[tuple[str, str]]


def metric_tables(runs: Mapping[str, FinishedRun]) -> list[Metrics]:
    """The metrics of each task and split, a cell for each run that has it."""
    places = [(split, task) for run in runs.values() for split, tasks in (run.results or {}).items() for task in tasks]
    return [_metrics(runs, split, task) for split, task in dict.fromkeys(places)]


def _metrics(runs: Mapping[str, FinishedRun], split: str, task: str) -> Metrics:
    values = {
        name: run.results[split][task] for name, run in runs.items() if task in (run.results or {}).get(split, {})
    }
    details = {name: runs[name].details.get(split, {}).get(task, {}) for name in values}
    rows = []
    for metric in dict.fromkeys(metric for of in values.values() for metric in of):
        known = {name: details[name].get(metric, {}) for name in values}
        cells = [_cell(of[metric], known[name]) if metric in of else MetricCell("") for name, of in values.items()]
        baseline = next((each["baseline"] for each in known.values() if each.get("baseline")), {})
        told = next(((_number(value), BASELINES.get(name, name)) for name, value in baseline.items()), ("", ""))
        examples = next((f"{each['examples']:,}" for each in known.values() if each.get("examples")), "")
        rows.append(MetricRow(metric.replace("_", " "), cells, told, examples))
    return Metrics(f"{task}, {split}", [*values], rows)


def difference_rows(runs: Mapping[str, FinishedRun]) -> tuple[list[tuple[str, ...]], list[str]]:
    """Each run against the first, and those of other tasks among themselves, on the same examples.

    Returns:
        Rows of cells, and sentences on what cannot be compared.
    """
    finished = {name: run for name, run in runs.items() if run.results is not None}
    if len(finished) < 2:
        return [], []
    (first, compared), rows = next(iter(finished.items())), []
    differences, problems = paired_differences(finished)
    for run, what, paired in differences:
        told = (f"{paired.difference:+.4f}", f"{paired.low:+.4f} to {paired.high:+.4f}", f"{paired.p:.4f}")
        rows.append((f"{run} against {first}", what.replace("/", ", "), *told, f"{paired.examples:,}"))
    others = {name: run for name, run in finished.items() if not {*tasks_of(run)} & {*tasks_of(compared)}}
    more, why = difference_rows(others)
    return rows + more, problems + why


def tasks_of(run: FinishedRun) -> list[str]:
    """The tasks that a run has results of."""
    return list(dict.fromkeys(task for tasks in (run.results or {}).values() for task in tasks))


def _cell(value: float | None, detail: Mapping[str, Any]) -> MetricCell:
    bounds = detail.get("interval") or ()
    between = " to ".join(map(_number, bounds))
    return MetricCell(_number(value), between, detail.get("exact") is False or bool(detail.get("eval_limit")))


def _number(value: float | None) -> str:
    if value is None:
        return "not a number"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) > 1 else f"{value:.4f}"


def headline(run: FinishedRun, task: str, split: str, blind: FinishedRun | None) -> Headline | None:
    """The first metric of a task that has a baseline, else the first but the loss, beside its baseline and the blind run."""
    values, details = run.results[split].get(task, {}), run.details.get(split, {}).get(task, {})
    names = [name for name in values if name != "loss"]
    based = [name for name in names if details.get(name, {}).get("baseline")]
    if not names:
        return None
    metric = (based or names)[0]
    detail = details.get(metric, {})
    beside = [(BASELINES.get(key, key), _number(value)) for key, value in (detail.get("baseline") or {}).items()]
    if blind is not None and (value := blind.value(task, split, metric)) is not None:
        beside.append(("a model that sees no image", _number(value)))
        frames = [each.predictions(task, split) for each in (blind, run)]
        with contextlib.suppress(UserError):
            if all(frame is not None for frame in frames):
                gain = paired_bootstrap(*frames)
                between = f"{gain.low:+.4f} to {gain.high:+.4f}"
                beside.append(("gain over it, paired", f"{gain.difference:+.4f} ({between})"))
    return Headline(f"{task}, {split}: {metric.replace('_', ' ')}", _cell(values[metric], detail), beside)


def find_blind_run(run: FinishedRun) -> FinishedRun | None:
    """The blind run to compare with: the one that `blind_run` names, or the newest of log_dir that differs in `blind` alone."""
    if run.settings.get("blind") or run.results is None:
        return None
    if run.settings.get("blind_run"):
        with contextlib.suppress(UserError):
            return read_blind_run(run.settings["blind_run"], next(iter(task_names(run)), ""))
    for folder in _runs_beside(run.path):
        with contextlib.suppress(UserError):
            blind = read_run(folder, "log_dir")
            alike = blind.settings.get("blind") is True and blind.results is not None
            alike = alike and all(blind.settings.get(key) == run.settings.get(key) for key in _ENDS)
            alike = alike and not any(blind.unlike_run(run, split) for split in {**run.data, **run.results})
            if alike and differing(run.settings, blind.settings) == {"blind"}:
                return blind
    return None


def _runs_beside(folder: Path) -> Iterator[Path]:
    """The run folders of the same log_dir, the newest first."""
    found = folder.resolve().parent.parent.glob("*/version_*/settings.json")
    newest = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)[:MOST_CANDIDATES]
    return (path.parent for path in newest if path.parent != folder.resolve())


def curves(rows: Mapping[str, Sequence[Mapping[str, str]]]) -> list[Chart]:
    """Losses, metrics on val, learning rate and the wait for data over the steps.

    Args:
        rows: of metrics.csv, by the name of the run. Of several runs each task and metric has a chart of its own.
    """
    one = len(rows) == 1
    groups: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for name, table in rows.items():
        columns = list(dict.fromkeys(column for row in table for column in row))
        for column in columns:
            points = np.array([(int(row["step"]), float(row[column])) for row in table if row.get(column)], float)
            if not len(points) or (place := _place(column, points, one)) is None:
                continue
            title, axis, label = place
            label = label if one else ", ".join(filter(None, (name, label)))
            groups.setdefault((title, axis), {})[label] = points
    order = {"loss": 0, "value": 1, "learning rate": 2, "share": 3}
    drawn = []
    for (title, axis), lines in sorted(groups.items(), key=lambda item: order[item[0][1]]):
        shown = dict([*lines.items()][:_MOST_LINES])
        more = f" (the first {_MOST_LINES} of {len(lines)})" if len(lines) > _MOST_LINES else ""
        drawn.append(chart(title + more, ("step", axis), shown))
    return [each for each in drawn if each is not None]


def _place(column: str, points: np.ndarray, one: bool) -> tuple[str, str, str] | None:
    """Title and axis of the chart that a column of metrics.csv belongs to, and its label there; None of other columns."""
    if column == "learning_rate":
        return "Learning rate", "learning rate", "learning rate" if one else ""
    if column == "data_wait_share":
        return "Time spent waiting for data", "share", "share of the time" if one else ""
    task, _, rest = column.partition("/")
    split, _, metric = rest.partition("/")
    if metric == "loss":
        on = "" if split == "train" else f"on {split}"
        return ("Loss", "loss", f"{task} {on}".strip()) if one else (f"Loss of {task}", "loss", on)
    known = points[np.isfinite(points).all(1), 1]
    if split != "val" or metric == SELECTING or not len(known) or np.abs(known).max() > 1:
        return None  # a number of pairs, say
    name = metric.replace("_", " ")
    return (f"{task} on val", "value", name) if one else (f"{task} on val: {name}", "value", "")
