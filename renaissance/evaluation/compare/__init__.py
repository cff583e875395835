"""Runs side by side: `python run.py compare with runs='result/a/*,result/b/version_3'`.

    patterns -> run folders -> settings that differ, parameters, steps, metrics      -> one table, a column a run
             -> predictions of the same split by two runs -> paired bootstrap         -> differences from the first run

Printed in 120 columns, and written as Markdown; as CSV with a row a run, for programs.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from renaissance.core.atomic import write_whole
from renaissance.core.console import say
from renaissance.core.errors import UserError, printable
from renaissance.evaluation import SELECTING, Paired, paired_bootstrap

from .folders import Named, find, logged
from .screen import screen

FILE = "compare"  # the name of what is written, without its ending
# Where a run and its data lie and how it is watched changes no number; whether the data are the same is looked at.
_NOISE = (
    *("exp_name", "log_dir", "data_root", "log_every_n_steps", "num_workers", "resume_from", "allow_download"),
    *("trust_remote_code", "blind_run", "save_every_steps", "save_every_minutes", "keep_last", "max_time"),
)
# Predictions that a run may have of a split: what their names end with, and what they are.
_PREDICTIONS = {"": "", "_image_to_text": ", image to text"}


class Difference(NamedTuple):
    """A run against the first on one split. Attributes: run, its name; what, "<task>/<split>"; paired."""

    run: str
    what: str
    paired: Paired


def compare(runs: Sequence[str] | str | None, output: str | None = None) -> list[dict[str, Any]]:
    """Compare finished runs: print one table, and write it.

    Args:
        runs: run folders or patterns of them, with commas between or as a list.
        output: folder for compare.md and compare.csv; None = none.

    Returns:
        A dictionary a run, the rows of the CSV file.

    Raises:
        UserError: a pattern that nothing matches, a folder that is none of a run, damaged files, or no finished run.
    """
    if output is not None and not (isinstance(output, str) and output.strip()):
        raise UserError(f"output={output!r} is not allowed: give a folder, or None.")
    named, notes = find(runs)
    differing = _differing({run.name: _flat(run.run.settings) for run in named})
    records = [
        {"run": run.name} | {key: of[run.name] for key, of in differing.items() if run.name in of} | _row(run, notes)
        for run in named
    ]
    differences, problems = _differences(named)
    notes += [*_marks(named), *_other_tasks(named), *_other_data(named), *problems]
    lines = _lines(named, records, differing)
    say(screen(lines))
    if differences:
        say(f"\n{screen([_title(named)])}\n{screen(_difference_lines(differences), indent='  ')}")
    for note in notes:
        say(screen([f"note: {note}"]))
    for each in differences:
        record = next(record for record in records if record["run"] == each.run)
        record |= {f"{each.what}/{key}": value for key, value in _named_difference(each.paired).items()}
    if output is not None:
        _write(Path(output.strip()).expanduser(), _markdown(lines, differences, _title(named), notes), _csv(records))
    return records


def _row(run: Named, notes: list[str]) -> dict[str, Any]:
    """Parameters, steps and metrics of a run, with what results_details.json says of them."""
    counts = run.run.record.get("parameters", {}).get("all", {})
    row: dict[str, Any] = {f"parameters, {kind}": counts[kind] for kind in ("total", "trainable") if kind in counts}
    rows, problem = logged(run.run.path)
    notes += [f"{run.name}: {problem}"] if problem else []
    row |= {"steps": int(rows[-1]["step"])} if rows else {}
    row |= {"best step": best} if (best := _best_step(rows)) is not None else {}
    for split, tasks in run.run.results.items():
        for task, metrics in tasks.items():
            details = run.run.details.get(split, {}).get(task, {})
            for metric, value in metrics.items():
                row[f"{task}/{split}/{metric}"] = value
                bounds = details.get(metric, {}).get("interval") or ()
                row |= dict(
                    zip((f"{task}/{split}/{metric}/low", f"{task}/{split}/{metric}/high"), bounds, strict=False)
                )
            for key in ("examples", "method"):
                if (found := next((each.get(key) for each in details.values()), None)) is not None:
                    row[f"{task}/{split}/{key}"] = found
    return row


def _best_step(rows: Sequence[Mapping[str, str]]) -> int | None:
    """The first step at which the selecting metric is best, which is that of best.ckpt; None without validation."""
    found: list[tuple[float, int]] = []
    for row in rows:
        with contextlib.suppress(ValueError):  # what is no number is none
            found.append((float(row.get(f"val/{SELECTING}") or "nan"), -int(row["step"])))
    defined = [each for each in found if not math.isnan(each[0])]
    return -max(defined)[1] if defined else None


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by key; entries of dictionaries as <key>.<entry>, those that are 0 left out as those that are not there."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{entry}": each for entry, each in value.items() if each}
        elif key not in _NOISE:
            flat[key] = value
    return flat


def _differing(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The settings that are not the same in all runs, {key: {run: value}}, without the runs that have none."""
    keys = dict.fromkeys(key for each in settings.values() for key in each)
    by_key = {key: {run: each[key] for run, each in settings.items() if key in each} for key in keys}
    return {
        key: of
        for key, of in by_key.items()
        if len(of) < len(settings) or any(value != next(iter(of.values())) for value in of.values())
    }


def _marks(named: Sequence[Named]) -> list[str]:
    """What the stars of the table stand for: a sentence for each split with numbers that are not exact, or of a part of it."""
    said = []
    for run in named:
        for split, tasks in run.run.results.items():
            for task in tasks:
                details = run.run.details.get(split, {}).get(task, {}).values()
                methods = dict.fromkeys(each["method"] for each in details if each.get("exact") is False)
                parts = [
                    f"eval_limit={limit.get('limit')}, not the whole split of {limit.get('of'):,} samples"
                    for limit in (each["eval_limit"] for each in details if each.get("eval_limit"))
                ][:1]
                if why := [*map(str, methods), *parts]:
                    said.append(f"* {run.name}, {task}/{split}: {'; '.join(why)}")
    if without := [run.name for run in named if not run.run.details]:
        said.append(f"{', '.join(without)}: no results_details.json, so methods, intervals and examples are not known.")
    return said


def _tasks(run: Named) -> set[str]:
    return {task for tasks in run.run.results.values() for task in tasks}


def _other_tasks(named: Sequence[Named]) -> list[str]:
    """A sentence where a run has no task in common with the first."""
    if all(_tasks(run) & _tasks(named[0]) for run in named[1:]):
        return []
    told = "; ".join(f"{run.name}: {', '.join(sorted(_tasks(run)))}" for run in named)
    return [f"the runs are of different tasks ({told})."]


def _other_data(named: Sequence[Named]) -> list[str]:
    """A sentence for each split whose files are not those of the first run; when they were written does not matter."""
    first, *others = named
    others = [other for other in others if _tasks(other) & _tasks(first)]
    return [
        f"the {split} data of {other.name} are not those of {first.name} ({', '.join(files)})."
        for other in others
        for split, files in other.run.data.items()
        if files != first.run.data.get(split, files)
    ]


def _differences(named: Sequence[Named]) -> tuple[list[Difference], list[str]]:
    """Each run against the first, on every split of which both have predictions; and why not, where that cannot be."""
    found, problems = [], []
    first, *others = named
    for other in others:
        for split, tasks in first.run.results.items():
            for task, (ending, what) in ((task, each) for task in tasks for each in _PREDICTIONS.items()):
                frames = [run.run.predictions(task, split + ending) for run in (first, other)]
                if any(frame is None for frame in frames):
                    continue
                try:
                    found.append(Difference(other.name, f"{task}/{split}{what}", paired_bootstrap(*frames)))
                except UserError as error:
                    problems.append(f"{first.name} and {other.name}, {task}/{split}{what}: {error}")
    return found, problems


def _title(named: Sequence[Named]) -> str:
    return f"mean score minus that of {named[0].name}, on the same examples (paired bootstrap)"


def _named_difference(paired: Paired) -> dict[str, float | int]:
    return {"difference": paired.difference, "low": paired.low, "high": paired.high, "p": paired.p}


def _difference_lines(differences: Sequence[Difference]) -> list[tuple[str, ...]]:
    lines = [("run", "predictions", "examples", "difference", "95 % interval", "p")]
    for run, what, paired in differences:
        between = f"{paired.low:+.4f} to {paired.high:+.4f}"
        lines.append((run, what, f"{paired.examples:,}", f"{paired.difference:+.4f}", between, f"{paired.p:.4f}"))
    return lines


def _lines(
    named: Sequence[Named], records: Sequence[Mapping[str, Any]], settings: Collection[str]
) -> list[tuple[str, ...]]:
    """The table with a column a run; settings as they are written, numbers as they are read, with their intervals."""
    beside = ("low", "high", "method")
    keys = dict.fromkeys(("run", *settings, *(key for record in records for key in record)))
    return [
        (key, *(_cell(run, record, key, key in settings) for run, record in zip(named, records, strict=True)))
        for key in keys
        if key in settings or key.count("/") < 2 or key.rpartition("/")[2] not in beside
    ]


def _cell(run: Named, record: Mapping[str, Any], key: str, as_written: bool) -> str:
    value = record.get(key, "")
    if as_written:
        return str(value)
    if value is None:  # JSON has no number for what is none
        return "nan"
    text = f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    if key.count("/") != 2 or not text:
        return text
    task, split, metric = key.split("/")
    detail = run.run.details.get(split, {}).get(task, {}).get(metric, {})
    mark = "*" if detail.get("exact") is False or detail.get("eval_limit") else ""
    low, high = (record.get(f"{key}/{end}") for end in ("low", "high"))
    return f"{text}{mark}" + ("" if low is None else f" [{low:.4f}, {high:.4f}]")


def _markdown(
    lines: Sequence[tuple[str, ...]], differences: Sequence[Difference], title: str, notes: Sequence[str]
) -> str:
    parts = [_markdown_table(lines)]
    if differences:
        parts += [f"{title[0].upper()}{title[1:]}:", _markdown_table(_difference_lines(differences))]
    return "\n\n".join([*parts, *(f"Note: {note}" for note in notes)]) + "\n"


def _markdown_table(lines: Sequence[tuple[str, ...]]) -> str:
    head, *rest = [f"| {' | '.join(printable(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines]
    return "\n".join([head, f"| --- |{' ---: |' * (len(lines[0]) - 1)}", *rest])


def _csv(records: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, dict.fromkeys(key for record in records for key in record), restval="")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _write(folder: Path, markdown: str, rows: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={folder} cannot be written ({error.strerror}); give another folder.") from None
    for ending, text in ((".md", markdown), (".csv", rows)):
        write_whole(folder / f"{FILE}{ending}", text.encode(), "output")
    say(f"written to the folder {folder}: {FILE}.md, {FILE}.csv")
