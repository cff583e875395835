"""Arrow files checked to their last pixel: `python run.py check_data with data_root=...`.

    folder -> files of which data set -> each file: format, values, pictures -> tables
                                      -> all files: pictures in two splits   -> sentences
                                      -> each data set: a contact sheet

A run checks what could end it; this checks what could make it learn or measure the wrong thing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from renaissance.core.console import say
from renaissance.core.errors import UserError, printable
from renaissance.data.prepare.skipped import Skipped
from renaissance.runs.report import table

from .files import Report, find
from .leaks import shared_pictures
from .lengths import QUANTILES, Lengths, pieces, words
from .scan import scan_file
from .sheet import write_sheet

_NAMED = 3  # of what is wrong in the same way


def check_data(
    data_root: str | os.PathLike | None,
    datasets: Sequence[str] | str | None = None,
    max_text_len: int = 50,
    tokenizer: str | None = None,
    workers: int | None = None,
    sheet_folder: str | os.PathLike | None = None,
) -> list[Report]:
    """Check arrow files and print what was found; a damaged file does not keep the others from being checked.

    Args:
        data_root: the folder of the arrow files.
        datasets: names as for a run; None = every file in the folder.
        max_text_len: what a run cuts texts to, in tokens.
        tokenizer: Hub id or folder of the tokenizer that measures texts; None = words and punctuation marks.
        workers: processes that decode pictures, None = one a core.
        sheet_folder: takes the contact sheets, None = data_root.

    Returns:
        What was found in each file.

    Raises:
        UserError: a setting that cannot be; or, at the end, a sentence for everything that is wrong.
    """
    datasets = [datasets] if isinstance(datasets, str) else datasets
    if not isinstance(data_root, str | os.PathLike):
        raise UserError(f"check_data needs data_root=<folder of arrow files>, not {data_root!r}.")
    files, problems, notes = find(Path(data_root), datasets)
    measure = words if tokenizer is None else pieces(str(tokenizer))
    lengths = {file.dataset: Lengths() for file in files}
    reports = [scan_file(file, workers, measure, lengths[file.dataset]) for file in files]
    say(_files_table(reports))
    if measured := _lengths_table(lengths, max_text_len, tokenizer):
        say(measured)
    for sentences, more in zip((problems, notes), shared_pictures(reports), strict=True):
        sentences += more
    for report in reports:
        problems += [*_counted(report, report.problems), *filter(None, [report.damage])]
        notes += [*_counted(report, report.notes), *_differences(report)]
    for dataset in lengths:
        usable = [report for report in reports if report.found.dataset == dataset and report.damage is None]
        try:
            if usable:
                sheet = write_sheet(dataset, usable, Path(sheet_folder or data_root))
                say(f"contact sheet: {printable(str(sheet))}")
        except UserError as error:
            problems.append(str(error))
    for note in notes:
        say(f"note: {printable(note)}")
    if problems:
        problems = [printable(problem) for problem in problems]
        several = "\n".join([f"{len(problems)} things are wrong:", *(f"  - {problem}" for problem in problems)])
        raise UserError(problems[0] if len(problems) == 1 else several)
    say("nothing is wrong")
    return reports


def _files_table(reports: Sequence[Report]) -> str:
    """Return what is in each file, beside what the official download gives."""
    rows = [("file", "split", "rows", "expected", "pictures", "texts", "expected", "empty", "left out", "problems")]
    for report in reports:
        official = ["" if count is None else f"{count:,}" for count in report.found.expected]
        counts = [
            f"{count:,}" for count in (report.rows, report.pictures, report.texts, report.notes.count("empty texts"))
        ]
        left_out = "" if report.left_out is None else f"{report.left_out:,}"
        wrong = sum(each["count"] for each in report.problems.as_dict().values()) + (report.damage is not None)
        name, split = printable(report.found.path.name), report.found.split or "-"
        rows.append(
            (name, split, counts[0], official[0], *counts[1:3], official[1], counts[3], left_out, f"{wrong or 'none'}")
        )
    return table(rows)


def _lengths_table(lengths: dict[str, Lengths], limit: int, tokenizer: str | None) -> str:
    estimate = "words, punctuation marks and two special tokens (an estimate: give tokenizer=)"
    unit = f"word pieces of {tokenizer}, special ones included" if tokenizer else estimate
    head = ("data set", "texts", *(f"{quantile:.0%}" for quantile in QUANTILES), "longest", f"longer than {limit}")
    rows = [(printable(dataset), *each.row(limit)) for dataset, each in lengths.items() if each.counts.sum()]
    title = f"text lengths in {unit}; max_text_len={limit}"
    return f"\n{title}\n{table([head, *rows])}\n" if rows else ""


def _counted(report: Report, kinds: Skipped) -> list[str]:
    return [
        f"{report.found.path.name}: {kind}: {each['count']:,} ({'; '.join(each['first'][:_NAMED])}"
        f"{'; ...' if each['count'] > _NAMED else ''})."
        for kind, each in kinds.as_dict().items()
    ]


def _differences(report: Report) -> list[str]:
    """Say where a whole file differs from the official download and its manifest does not tell why."""
    counts = zip(("rows", "texts"), (report.rows, report.texts), report.found.expected, strict=True)
    return [
        f"{report.found.path.name} has {here:,} {what} where the official download has {official:,}."
        for what, here, official in counts
        if official is not None and report.damage is None and not here <= official <= here + (report.left_out or 0)
    ]
