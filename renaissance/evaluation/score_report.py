"""What is printed of a score: its data, its interval, the baseline and the blind run to compare it with; and how a run closes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from renaissance.core.console import table
from renaissance.core.errors import UserError

from .intervals import GROUP, bootstrap, is_mean, paired_bootstrap
from .runs import FinishedRun

BASELINES = {
    "majority": "the most frequent answer, always",
    "chance": "a guess among the candidates",
    "random": "an answer drawn at random, on average",
}


def score_lines(
    task_name: str,
    split: str,
    files: Sequence[str],
    frame: pd.DataFrame,
    values: Mapping[str, float],
    selecting: str,
    details: Mapping[str, Mapping[str, Any]],
    blind: FinishedRun | None = None,
    notes: Sequence[str] = (),
) -> list[str]:
    """Lines to print after the evaluation of a split.

    Args:
        task_name, split, files: what was evaluated.
        frame: its rows.
        values: metrics by plain name; empty where the answers are hidden.
        selecting: the metric that comes first.
        details: of each metric its "interval" of 95 %, its "baseline", {"majority": value}, and its "ties".
        blind: the run that `blind_run` names.
        notes: sentences to print below.
    """
    said = [f"{task_name}, {split}: {len(frame):,} examples of {', '.join(files)}"]
    notes = list(notes)
    hidden = int(frame["score"].isna().sum())
    bounds = {name: each.get("interval") for name, each in details.items()}
    if not values:
        told = "target" in frame and frame["target"].notna().any()
        why = "no metric is of such scores" if told else "this split has no public labels"
        notes.insert(0, f"{why}: predictions are written, no metrics")
    else:
        if 0 < hidden < len(frame):
            notes.insert(0, f"{hidden:,} examples have no answer and are left out of the mean score")
        ties = {name: f"{each['ties']:,} ties" if each.get("ties") else "" for name, each in details.items()}
        sure = _joined(_between(bounds.get(selecting), frame), ties.get(selecting))
        rows = [(selecting, f"{values[selecting]:.4f}", sure)]
        baseline = details.get(selecting, {}).get("baseline") or {}
        rows += [(name, f"{value:.4f}", BASELINES[name]) for name, value in baseline.items()]
        if blind is not None:
            more, problems = _blind_rows(blind, task_name, split, frame, values, selecting)
            rows, notes = rows + more, notes + problems
        others = [name for name in values if name != selecting]
        rows += [(name, f"{values[name]:.4f}", _joined(_span(bounds.get(name)), ties.get(name))) for name in others]
        width = max(len(row[2]) for row in rows)
        said += table([(name, value, remark.ljust(width)) for name, value, remark in rows]).splitlines()
    return [*said, *(f"  note: {note}" for note in notes)]


def _between(bounds: tuple[float, float] | None, frame: pd.DataFrame, sign: str = "") -> str:
    if bounds is None:
        return ""
    over = f" over {frame[GROUP].nunique():,} groups" if GROUP in frame else ""
    return f"95 % interval {_span(bounds, sign)} (bootstrap{over})"


def _joined(*parts: str | None) -> str:
    return ", ".join(filter(None, parts))


def _span(bounds: tuple[float, float] | None, sign: str = "") -> str:
    return "" if bounds is None else f"{bounds[0]:{sign}.4f} to {bounds[1]:{sign}.4f}"


def _blind_rows(
    blind: FinishedRun, task: str, split: str, frame: pd.DataFrame, values: Mapping[str, float], selecting: str
) -> tuple[list[tuple[str, str, str]], list[str]]:
    """The blind run's value and the gain over it, with intervals where its predictions exist; and notes."""
    value = blind.value(task, split, selecting)
    if value is None:
        return [], [f"the blind run {blind.path} has no {selecting} on {split}"]
    theirs = blind.predictions(task, split)
    if theirs is None or not (is_mean(theirs, value) and is_mean(frame, values[selecting])):
        return [("blind run", f"{value:.4f}", str(blind.path))], []
    rows = [("blind run", f"{value:.4f}", f"{_between(bootstrap(theirs), theirs)}, {blind.path}")]
    try:
        gain = paired_bootstrap(theirs, frame)
    except UserError as error:
        return rows, [f"beside the blind run {blind.path}: {error}"]
    over = f"{_between((gain.low, gain.high), frame, '+')}, paired"
    return [*rows, ("gain over it", f"{gain.difference:+.4f}", over)], []


def nan_sentence(task: str, split: str, values: Mapping[str, float]) -> list[str]:
    """A sentence for each metric that is NaN, with the usual cause.

    Args:
        values: metrics by plain name or by "<task>/<split>/<metric>".
    """
    names = [name.rpartition("/")[2] for name, value in values.items() if math.isnan(value)]
    return [f"{task}, {split}: {name} is not a number; {_why(name)}." for name in names]


def _why(metric: str) -> str:
    if "loss" in metric:
        return "the training has diverged: give a smaller learning_rate, or precision=32 instead of 16-mixed"
    if any(word in metric for word in ("pearson", "spearman", "matthews", "corr")):
        return "the predictions are all the same, or no numbers, so they correlate with nothing"
    return "no example of the split counts for it, or the model's outputs are no numbers any more"


def closing(results: Mapping[str, float], printed: Iterable[str], path: Path | None) -> str:
    """The results as aligned columns, and where they are; those of the tasks in `printed` are on the screen already.

    Without a folder it was a fast_dev_run.
    """
    rows = [
        (name, f"{value:.4f}")
        for name, value in results.items()
        if name.count("/") == 2 and name.partition("/")[0] not in printed
    ]
    lines = [table([("result", "value"), *rows], indent="")] if rows else []
    tried = "fast_dev_run: all numbers are of a few batches and no results; nothing is kept"
    return "\n".join([*lines, f"run folder: {path}" if path else tried])


def summaries(
    heads: Mapping[str, Any],
    results: Mapping[str, Mapping[str, Mapping[str, float | None]]],
    details: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]],
) -> dict[str, str]:
    """The files of the run folder about all splits that its tasks write, by name.

    Args:
        heads: the tasks by name. results, details: the contents of results.json and results_details.json.
    """
    by_task: dict[str, dict[str, Any]] = {}
    for split, tasks in results.items():
        for task, values in tasks.items():
            told = details[split][task]
            by_task.setdefault(task, {})[split] = {
                name: {**told[name], "value": value} for name, value in values.items()
            }
    downstream = {heads[task]: splits for task, splits in by_task.items() if heads[task].has_dataset}
    return {name: text for head, splits in downstream.items() for name, text in head.summary(splits).items()}
