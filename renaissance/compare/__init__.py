"""Runs side by side: `python run.py compare with runs='result/a/*,result/b/version_3'`.

    patterns -> run folders -> settings that differ, parameters, best step, metrics    -> one table, a column a run
             -> predictions of the same split by two runs -> paired bootstrap         -> differences from the first run

Printed, and written as Markdown; as CSV with a row a run, for programs.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from renaissance.atomic import write_whole
from renaissance.compare.folders import Named, find
from renaissance.errors import UserError
from renaissance.evaluation import Paired, paired_bootstrap
from renaissance.report import read_rows, table

SELECTING = "val/the_metric"
# Where a run and its data lie and how it is watched changes no number; whether the data are the same is looked at.
_NOISE = (
    "exp_name",
    "log_dir",
    "data_root",
    "log_every_n_steps",
    "num_workers",
    "resume_from",
    "allow_download",
    "trust_remote_code",
    "blind_run",
)


class Difference(NamedTuple):
    """A run against the first on one split. Attributes: run, its name; what, "<task>/<split>"; paired."""

    run: str
    what: str
    paired: Paired


def compare(runs: Sequence[str] | str | None, output: str | None = None) -> list[dict[str, Any]]:
    """Compare finished runs: print one table, and write it.

    Args:
        runs: run folders or patterns of them, with commas between or as a list.
        output: path without its ending, for Markdown and CSV; None = none.

    Returns:
        A dictionary a run, the rows of the CSV file.

    Raises:
        UserError: a pattern that nothing matches, a folder that is none of a run, damaged files, or no finished run.
    """
    if output is not None and not (isinstance(output, str) and Path(output.strip()).name not in ("", "..")):
        raise UserError(f"output={output!r} is not allowed: give a path without its ending, or None.")
    named, notes = find(runs)
    differing = _differing({run.name: _flat(run.run.settings) for run in named})
    records = [{"run": run.name} | {key: of[run.name] for key, of in differing.items()} | _row(run) for run in named]
    differences, problems = _differences(named)
    notes += [*_other_data(named), *problems]
    lines = _lines(records, differing)
    print(table(lines, indent=""))
    if differences:
        print(f"\n{_title(named)}\n{table(_difference_lines(differences))}")
    print("".join(f"note: {note}\n" for note in notes), end="")
    for each in differences:
        record = next(record for record in records if record["run"] == each.run)
        record |= {f"{each.what}/{key}": value for key, value in _named_difference(each.paired).items()}
    if output is not None:
        _write(Path(output), _markdown(lines, differences, _title(named), notes), _csv(records))
    return records


def _row(run: Named) -> dict[str, Any]:
    """Parameters, best step and metrics of a run."""
    counts = run.run.record.get("parameters", {}).get("all", {})
    row: dict[str, Any] = {f"parameters, {kind}": counts[kind] for kind in ("total", "trainable") if kind in counts}
    if (best := _best_step(run.run.path)) is not None:
        row["best step"] = best
    for split, tasks in run.run.results.items():
        for task, metrics in tasks.items():
            row |= {f"{task}/{split}/{metric}": value for metric, value in metrics.items()}
    return row


def _best_step(folder: Path) -> int | None:
    """The first step at which the selecting metric is best, which is that of best.ckpt; None without validation."""
    steps = [
        (float(row[SELECTING]), -int(row["step"])) for row in read_rows(folder / "metrics.csv") if row.get(SELECTING)
    ]
    defined = [each for each in steps if each[0] == each[0]]
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
    """The settings that are not the same in all runs: {key: {run: value}}."""
    keys = dict.fromkeys(key for each in settings.values() for key in each)
    by_key = {key: {run: each.get(key) for run, each in settings.items()} for key in keys}
    return {key: of for key, of in by_key.items() if any(value != next(iter(of.values())) for value in of.values())}


def _other_data(named: Sequence[Named]) -> list[str]:
    """A sentence for each split whose files are not those of the first run; when they were written does not matter."""
    first, *others = named
    return [
        f"the {split} data of {other.name} are not those of {first.name} ({', '.join(files)})."
        for other in others
        for split, files in _data(other).items()
        if files != _data(first).get(split, files)
    ]


def _data(run: Named) -> dict[str, dict[str, Any]]:
    return {
        split: {
            file: {key: value for key, value in facts.items() if key != "mtime_ns"} for file, facts in files.items()
        }
        for split, files in run.run.record.get("data", {}).items()
    }


def _differences(named: Sequence[Named]) -> tuple[list[Difference], list[str]]:
    """Each run against the first, on every split of which both have predictions; and why not, where that cannot be."""
    found, problems = [], []
    first, *others = named
    for other in others:
        for split, tasks in first.run.results.items():
            for task in tasks:
                frames = [run.run.predictions(task, split) for run in (first, other)]
                if any(frame is None for frame in frames):
                    continue
                try:
                    found.append(Difference(other.name, f"{task}/{split}", paired_bootstrap(*frames)))
                except UserError as error:
                    problems.append(f"{first.name} and {other.name}, {task}/{split}: {error}")
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


def _lines(records: Sequence[Mapping[str, Any]], settings: Collection[str]) -> list[tuple[str, ...]]:
    """The table with a column a run; settings as they are written, numbers as they are read."""
    keys = dict.fromkeys(key for record in records for key in record)
    return [
        (key, *((str if key in settings else _cell)(record[key]) if key in record else "" for record in records))
        for key in keys
    ]


def _cell(value: Any) -> str:
    if value is None:  # JSON has no number for what is none
        return "nan"
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value


def _markdown(
    lines: Sequence[tuple[str, ...]], differences: Sequence[Difference], title: str, notes: Sequence[str]
) -> str:
    parts = [_markdown_table(lines)]
    if differences:
        parts += [f"{title[0].upper()}{title[1:]}:", _markdown_table(_difference_lines(differences))]
    return "\n\n".join([*parts, *(f"Note: {note}" for note in notes)]) + "\n"


def _markdown_table(lines: Sequence[tuple[str, ...]]) -> str:
    head, *rest = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]
    return "\n".join([head, f"| --- |{' ---: |' * (len(lines[0]) - 1)}", *rest])


def _csv(records: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, dict.fromkeys(key for record in records for key in record), restval="")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _write(output: Path, markdown: str, rows: str) -> None:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={output} cannot be written ({error.strerror}); give another path.") from None
    for ending, text in ((".md", markdown), (".csv", rows)):
        write_whole(output.with_name(output.name + ending), text.encode(), "output")
    print(f"written: {output}.md, {output}.csv")
