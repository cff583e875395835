"""Arrow files checked to the last pixel.

`python run.py check_data with data_root=...`:

    folder -> files of which data set -> each file: format, values, images   -> tables
                                      -> all files: images in two splits     -> sentences
                                      -> each data set: a contact sheet

A run checks what could end it; this checks what could make it learn or measure the wrong thing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from renaissance.core.console import say, table
from renaissance.core.errors import UserError, printable
from renaissance.data.dataset_specs import caption_columns
from renaissance.data.datasets import own_columns
from renaissance.data.prepare.skipped import Skipped
from renaissance.data.saved_datasets import is_saved

from .files import CheckedFile, find
from .leaks import find_shared_images
from .lengths import QUANTILES, Lengths, pieces, words
from .scan import compare_saved, scan_file
from .sheet import write_sheet

_NAMED = 3  # of what is wrong in the same way


def check_data(
    data_root: str | os.PathLike | None,
    datasets: Sequence[str] | str | None = None,
    max_text_len: int = 50,
    tokenizer: str | None = None,
    workers: int | None = None,
    sheet_folder: str | os.PathLike | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
    load_tokenizer: Callable[[str], Any] | None = None,
) -> list[CheckedFile]:
    """Checks arrow files and prints what was found; a damaged file does not keep the others from being checked.

    Args:
        data_root: the folder of the arrow files; None = the current one, where all `datasets` are folders or names of the Hub.
        datasets: names as for a run; None = every file in the folder.
        max_text_len: what a run cuts texts to, in tokens.
        tokenizer: Hub id or folder of the tokenizer that measures texts; None = words and punctuation marks.
        workers: processes that decode images, None = one a core.
        sheet_folder: takes the contact sheets, None = data_root.
        image_column, caption_column: what own captions call these columns; None = image, caption.
        load_tokenizer: gives the tokenizer that `tokenizer` names.

    Returns:
        What was found in each file.

    Raises:
        UserError: a setting that cannot be; or, at the end, a sentence for everything that is wrong.
    """
    datasets = [datasets] if isinstance(datasets, str) else datasets
    if data_root is None and datasets and all(map(is_saved, datasets)):
        data_root = os.curdir
    if not isinstance(data_root, str | os.PathLike):
        raise UserError(f"check_data needs data_root=<folder of arrow files>, not {data_root!r}.")
    files, notes = find(Path(data_root), datasets, caption_columns(image_column, caption_column))
    own_columns(list(dict.fromkeys(file.dataset for file in files)), image_column, caption_column)
    measure = words if tokenizer is None else pieces(load_tokenizer(tokenizer))
    lengths = {file.dataset: Lengths(measure) for file in files}
    for file in files:
        scan_file(file, workers, lengths[file.dataset])
    compare_saved(files)
    find_shared_images(files)
    say(_files_table(files))
    if measured := _lengths_table(lengths, max_text_len, tokenizer):
        say(measured)
    problems = []
    for file in files:
        problems += [*_counted(file, file.problems), *filter(None, [file.damage])]
        notes += _counted(file, file.notes)
    for dataset in lengths:
        usable = [file for file in files if file.dataset == dataset and file.damage is None]
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
    return files


def _files_table(files: Sequence[CheckedFile]) -> str:
    """Returns what is in each file, beside what the official download gives."""
    rows = [("file", "split", "rows", "expected", "images", "texts", "expected", "empty", "left out", "problems")]
    for file in files:
        official, empty = file.expected, sum(kinds.count("empty texts") for kinds in (file.notes, file.problems))
        counts = (file.rows, official.rows, file.images, file.texts, official.texts, empty, file.left_out)
        shown = ["" if count is None else f"{count:,}" for count in counts]
        wrong = sum(each["count"] for each in file.problems.as_dict().values()) + (file.damage is not None)
        rows.append((printable(file.name), file.split or "-", *shown, f"{wrong or 'none'}"))
    return table(rows)


def _lengths_table(lengths: dict[str, Lengths], limit: int, tokenizer: str | None) -> str:
    estimate = "words, punctuation marks and two special tokens (an estimate: give tokenizer=)"
    unit = f"word pieces of {tokenizer}, special ones included" if tokenizer else estimate
    head = ("data set", "texts", *(f"{quantile:.0%}" for quantile in QUANTILES), "longest", f"longer than {limit}")
    rows = [(printable(dataset), *each.row(limit)) for dataset, each in lengths.items() if each.counts.sum()]
    title = f"text lengths in {unit}; max_text_len={limit}"
    return f"\n{title}\n{table([head, *rows])}\n" if rows else ""


def _counted(file: CheckedFile, kinds: Skipped) -> list[str]:
    return [
        f"{file.name}: {kind}: {each['count']:,} ({'; '.join(each['first'][:_NAMED])}"
        f"{'; ...' if each['count'] > _NAMED else ''})."
        for kind, each in kinds.as_dict().items()
    ]
