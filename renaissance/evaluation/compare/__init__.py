"""Runs side by side: `python run.py compare with runs='result/a/*,result/b/version_3'`.

    patterns -> run folders -> settings that differ, parameters, steps, metrics      -> one table, a column a run
             -> predictions of the same split by two runs -> paired bootstrap         -> differences from the first run

Printed in 120 columns, and written as Markdown; as CSV with a row a run, for programs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from renaissance.core.atomic import write_whole
from renaissance.core.console import markdown_table, say
from renaissance.core.errors import UserError, printable, require
from renaissance.evaluation.intervals import Paired, paired_bootstrap
from renaissance.evaluation.metrics import SELECTING
from renaissance.evaluation.runs import FinishedRun

from .folders import find, logged
from .screen import tables, wrapped

FILE = "compare"  # the name of what is written, without its ending
# Settings that change no number. Whether the data are the same is checked by their fingerprints.
_NOISE = (
    *("exp_name", "log_dir", "data_root", "log_every_n_steps", "num_workers", "resume_from", "allow_download"),
    *("trust_remote_code", "blind_run", "save_every_steps", "save_every_minutes", "keep_last", "max_time"),
    *("logger", "tags"),
)
# Predictions of a split: the ending of their files' names, and what they are.
_PREDICTIONS = {"": "", "_image_to_text": ", image to text"}
_Runs = Mapping[str, FinishedRun]  # by name
_Entries = dict[str, tuple[Any, str | None]]  # of a run: key -> its value in the CSV file, and its cell in the table


class Difference(NamedTuple):
    """A run against the first on one split. Attributes: run, its name; what, "<task>/<split>"; paired."""

    run: str
    what: str
    paired: Paired


def compare(
    runs: Sequence[str] | str | None, output: str | None = None, tags: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Compare finished runs: print one table, and write it.

    Args:
        runs: run folders or patterns of them, with commas between or as a list.
        tags: only the runs that have all of these.
        output: folder for compare.md and compare.csv; None = none.

    Returns:
        A dictionary a run, the rows of the CSV file.

    Raises:
        UserError: a pattern without a match, a folder of no run, damaged files, or no finished run.
    """
    require(
        output is None or (isinstance(output, str) and output.strip()),
        f"output={output!r} is not allowed: give a folder, or None.",
    )
    named, notes = find(runs, tags or ())
    differing = differing_settings(named)
    entries: dict[str, _Entries] = {}
    for name, run in named.items():
        rows, problem = logged(run.path)
        notes += [f"{name}: {problem}"] if problem else []
        own = {"tags": ", ".join(run.tags)} if run.tags else {}
        own |= {key: values[name] for key, values in differing.items() if name in values}
        entries[name] = {key: (value, str(value)) for key, value in {"run": name, **own}.items()}
        entries[name] |= _training(run, rows) | _metrics(run)
    differences, problems = paired_differences(named)
    notes += [*remarks(named), *problems]
    records = {name: {key: value for key, (value, _) in own.items()} for name, own in entries.items()}
    tagged = ["tags"] if any(run.tags for run in named.values()) else []
    cells = [{key: cell for key, (_, cell) in own.items() if cell is not None} for own in entries.values()]
    keys = dict.fromkeys(["run", *tagged, *differing, *(key for own in cells for key in own)])
    lines = [(key, *(own.get(key, "") for own in cells)) for key in keys]
    title = f"mean score minus that of {next(iter(named))}, on the same examples (paired bootstrap)"
    say(tables(lines))
    if differences:
        say(f"\n{wrapped(title)}\n{tables(_difference_lines(differences), indent='  ')}")
    for note in notes:
        say(wrapped(f"note: {note}"))
    for run, what, paired in differences:
        records[run] |= {f"{what}/{key}": getattr(paired, key) for key in ("difference", "low", "high", "p")}
    if output is not None:
        folder = Path(output.strip()).expanduser()
        table = pd.DataFrame(records.values(), dtype=object).to_csv(index=False, lineterminator="\r\n")
        for ending, text in ((".md", _markdown(lines, differences, title, notes)), (".csv", table)):
            write_whole(folder / f"{FILE}{ending}", text.encode(), "output")
        say(f"written to the folder {folder}: {FILE}.md, {FILE}.csv")
    return list(records.values())


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by key; entries of dictionaries as <key>.<entry>, without those that are 0."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{entry}": each for entry, each in value.items() if each}
        elif key not in _NOISE:
            flat[key] = value
    return flat


def differing_settings(named: _Runs) -> dict[str, dict[str, Any]]:
    """The settings that differ between runs, or that some do not have: {key: {name of a run that has it: value}}."""
    settings = {name: _flat(run.settings) for name, run in named.items()}
    values = {
        key: {name: each[key] for name, each in settings.items() if key in each}
        for key in dict.fromkeys(key for each in settings.values() for key in each)
    }
    return {
        key: of
        for key, of in values.items()
        if len(of) < len(named) or any(value != next(iter(of.values())) for value in of.values())
    }


def _training(run: FinishedRun, rows: Sequence[Mapping[str, str]]) -> _Entries:
    """Parameters, the last step, and the first one at which the selecting metric is best, which is that of best.ckpt."""
    counts = run.record.get("parameters", {}).get("all", {})
    found = {f"parameters, {kind}": counts[kind] for kind in ("total", "trainable") if kind in counts}
    values = pd.to_numeric(pd.Series([row.get(f"val/{SELECTING}") for row in rows], dtype=object), errors="coerce")
    found |= {"steps": int(rows[-1]["step"])} if rows else {}
    found |= {"stopped early": run.stopped_early} if run.stopped_early else {}
    found |= {"best step": int(rows[values.idxmax()]["step"])} if values.notna().any() else {}
    return {key: (number, f"{number:,}") for key, number in found.items()}


def _splits(run: FinishedRun) -> Iterator[tuple[str, str, dict[str, Any], dict[str, dict[str, Any]]]]:
    """Each split and task, with the values of the metrics and their details."""
    for split, tasks in run.results.items():
        for task, values in tasks.items():
            yield split, task, values, run.details.get(split, {}).get(task, {})


def _metrics(run: FinishedRun) -> _Entries:
    """Metrics of a run with their details; those that are not exact, or of a part of a split, have a star."""
    found: _Entries = {}
    for split, task, values, details in _splits(run):
        for metric, value in values.items():
            key, detail = f"{task}/{split}/{metric}", details.get(metric, {})
            text = "nan" if value is None else f"{value:.4f}"  # JSON has no number for what is none
            text += "*" if detail.get("exact") is False or detail.get("eval_limit") else ""
            bounds = dict(zip(("low", "high"), detail.get("interval") or (), strict=False))
            between = f" [{', '.join(f'{bound:.4f}' for bound in bounds.values())}]" if bounds else ""
            found |= {key: (value, text + between), **{f"{key}/{end}": (bounds[end], None) for end in bounds}}
        for key in ("examples", "method"):
            known = [each[key] for each in details.values() if each.get(key) is not None]
            found |= (
                {f"{task}/{split}/{key}": (known[0], f"{known[0]:,}" if key == "examples" else None)} if known else {}
            )
    return found


def remarks(named: _Runs) -> list[str]:
    """Sentences on what does not show in the numbers of finished runs side by side."""
    return [*_marks(named), *_other_tasks(named), *_other_data(named)]


def _marks(named: _Runs) -> list[str]:
    """What the stars of the table mean: a sentence for each split whose metrics are not exact, or of a part of it."""
    said = []
    for name, run in named.items():
        for split, task, _, details in _splits(run):
            why = [str(each.get("method")) for each in details.values() if each.get("exact") is False]
            why += [
                f"eval_limit={limit.get('limit')}, not the whole split of {limit.get('of'):,} samples"
                for each in details.values()
                if (limit := each.get("eval_limit"))
            ]
            said += [f"* {name}, {task}/{split}: {'; '.join(dict.fromkeys(why))}"] if why else []
    if without := [name for name, run in named.items() if not run.details]:
        said.append(f"{', '.join(without)}: no results_details.json, so methods, intervals and examples are not known.")
    return said


def _tasks(run: FinishedRun) -> set[str]:
    return {task for _, task, *_ in _splits(run)}


def _other_tasks(named: _Runs) -> list[str]:
    """A sentence where a run has no task in common with the first."""
    first, *others = map(_tasks, named.values())
    if all(first & other for other in others):
        return []
    by_run = "; ".join(f"{name}: {', '.join(sorted(_tasks(run)))}" for name, run in named.items())
    return [f"the runs are of different tasks ({by_run})."]


def _other_data(named: _Runs) -> list[str]:
    """A sentence for each split whose data are not those of the first run."""
    (name, first), *others = named.items()
    return [
        f"the {split} data of {other} are not those of {name} ({', '.join(files)})."
        for other, run in others
        if _tasks(run) & _tasks(first)
        for split, files in run.data.items()
        if files != first.data.get(split, files)
    ]


def paired_differences(named: _Runs) -> tuple[list[Difference], list[str]]:
    """Each run against the first on every split with predictions of both; and sentences on those that cannot be compared."""
    found, problems = [], []
    (name, first), *others = named.items()
    for other, run in others:
        for split, task, *_ in _splits(first):
            for ending, what in _PREDICTIONS.items():
                frames = [each.predictions(task, split + ending) for each in (first, run)]
                if any(frame is None for frame in frames):
                    continue
                if why := run.unlike_run(first, split):
                    problems.append(f"{other}, {task}/{split}{what}: it {why}, so it is not compared with {name}.")
                    continue
                try:
                    found.append(Difference(other, f"{task}/{split}{what}", paired_bootstrap(*frames)))
                except UserError as error:
                    problems.append(f"{name} and {other}, {task}/{split}{what}: {error}")
    return found, problems


def _difference_lines(differences: Sequence[Difference]) -> list[tuple[str, ...]]:
    lines = [("run", "predictions", "examples", "difference", "95 % interval", "p")]
    for run, what, paired in differences:
        between = f"{paired.low:+.4f} to {paired.high:+.4f}"
        lines.append((run, what, f"{paired.examples:,}", f"{paired.difference:+.4f}", between, f"{paired.p:.4f}"))
    return lines


def _markdown(
    lines: Sequence[tuple[str, ...]], differences: Sequence[Difference], title: str, notes: Sequence[str]
) -> str:
    parts = [markdown_table(lines, "---:")]
    if differences:
        parts += [f"{title[0].upper()}{title[1:]}:", markdown_table(_difference_lines(differences), "---:")]
    return "\n\n".join([*parts, *(f"Note: {note}" for note in notes)]) + "\n"
