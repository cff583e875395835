"""The demo's figures as tables of words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from renaissance.core.console import table

from .finetune import APART, BESIDE, TASKS
from .probes import KINDS


def pretraining_table(figures: Mapping[str, Any]) -> str:
    """ITM and masked words by kind, of both models beside chance or the best guess from the text."""
    models = figures.values()
    text_only = next(iter(models))["mlm_text_only"]
    rows: list[tuple[Any, ...]] = [("held-out scenes", *figures, "chance or text alone")]
    for key, label in (("itm", "ITM accuracy"), ("itm_matched", "  matched"), ("itm_mismatched", "  mismatched")):
        rows.append((label, *(of[key] for of in models), 0.5))
    for key, label in (("mlm", "MLM, right image"), ("mlm_wrong_picture", "MLM, wrong image")):
        columns = [*(of[key] for of in models), text_only]
        rows.append((label, *("" for _ in columns)))
        rows += [(f"  {kind}", *(column[kind] for column in columns)) for kind in KINDS]
        rows.append(("  mean without relation", *map(mean_of_kinds, columns)))
    return _aligned(rows)


def heat_map_table(figures: Mapping[str, Any]) -> str:
    """Of both models, how often the heat map of a word is highest on the object it names, and what share of it lies there."""
    columns = [f"{model} {figure}" for model in figures for figure in ("peak", "share")]
    rows: list[tuple[Any, ...]] = [("heat maps on the object named", *columns, "chance")]
    for method in next(iter(figures.values()))["heat_maps"]:
        for prefix, label in (("", method), ("random_", "  random weights")):
            values = (of["heat_maps"][method][f"{prefix}{key}"] for of in figures.values() for key in ("peak", "share"))
            rows.append((label, *values, 1 / 9))
    return _aligned(rows)


def mean_of_kinds(accuracies: Mapping[str, float]) -> float:
    """Mean over the kinds of words, without relations."""
    kinds = [kind for kind in KINDS if kind != "relation"]
    return sum(accuracies[kind] for kind in kinds) / len(kinds)


def finetuning_table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """One row a metric; one column a kind of run, and one for chance or the most frequent answer. Without probes."""
    columns = {"two_tower": "two-tower", "one_tower": "one-tower", "blind": "blind", "scratch": "from scratch"}
    trained = {name: each for name, each in figures.items() if TASKS[name].task != "probe"}
    return _metrics_table(trained, columns | {"baseline": "chance or majority"})


def probe_table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """One row a metric of the probes; of both models also blind and by the texts alone, and chance."""
    models = {"two_tower": "two-tower", "one_tower": "one-tower"}
    columns = {
        f"{model}{end}": end[1:].replace("_", " ") or name for model, name in models.items() for end in ("", *BESIDE)
    }
    probes = {name: each for name, each in figures.items() if TASKS[name].task == "probe"}
    return _metrics_table(probes, columns | {"baseline": "chance"})


def _metrics_table(figures: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Rows of the metrics of tasks; columns: of the figures of a task, with their titles. Nothing without a task."""
    rows: list[tuple[Any, ...]] = [("held-out scenes", "examples", *columns.values())]
    for name, of_task in figures.items():
        for metric in TASKS[name].metrics:
            label = f"  {metric.replace('_', ' ')}" if metric in APART else f"{name} {metric}"
            examples = f"{of_task['examples']:,}" if metric == TASKS[name].metrics[0] else ""
            rows.append((label, examples, *(of_task.get(column, {}).get(metric, "") for column in columns)))
    return _aligned(rows) if figures else ""


def _aligned(rows: Iterable[tuple[Any, ...]]) -> str:
    """Rows as an aligned table, floats with three decimals."""
    return table([tuple(f"{cell:.3f}" if isinstance(cell, float) else cell for cell in row) for row in rows], indent="")
