"""Contact sheets: a grid of pictures with their texts, labels and boxes, because the eye finds what no rule names."""

from __future__ import annotations

import contextlib
import io
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from renaissance.core.atomic import write_whole
from renaissance.data import dataset_specs
from renaissance.data.arrow import schema_metadata
from renaissance.data.pixels import open_image, rgb

from .files import Found, Report
from .scan import batches, pictures_of

_COLUMNS, _ROWS = 4, 4
_WIDTH, _HEIGHT, _GAP = 320, 240, 16  # pixels of a cell's picture, and between cells
_LINES, _LINE, _SIZE = 6, 19, 14  # lines of text under a picture; their height and that of the letters, pixels
_PAPER, _INK, _PALE, _FAULT, _RIGHT, _OTHER = "#ffffff", "#1f2328", "#8b949e", "#ffd7d5", "#1a9f4b", "#f0883e"
_OUTSIDE = 10  # pixels by which a box that is larger than its picture is drawn outside it: its edge is not seen
_LETTERS, _MOST_TEXTS = 42, 4  # letters of a line, and texts of a picture, that are shown


def write_sheet(dataset: str, reports: Sequence[Report], folder: Path) -> Path:
    """Draw some rows of a data set, spread evenly over its files, and write them as PNG; the same rows at every call.

    Args:
        dataset: its name.
        reports: its files, whole and checked.
        folder: takes `check_data_<dataset>.png`; made if there is none.

    Raises:
        UserError: the sheet cannot be written.
    """
    total = sum(report.rows for report in reports)
    places = np.unique(np.linspace(0, total - 1, _COLUMNS * _ROWS).round().astype(np.int64))
    width, height = _WIDTH + _GAP, _HEIGHT + (_LINES + 1) * _LINE + _GAP  # of a cell
    size = (_COLUMNS * width + _GAP, -(-len(places) // _COLUMNS) * height + 3 * _GAP + _LINE)
    sheet = Image.new("RGB", size, _PAPER)
    colours = ", the right box in green" if reports[0].found.row.sample_kind == dataset_specs.BOXES else ""
    title = f"{dataset}: {len(places):,} of {total:,} rows{colours}"
    ImageDraw.Draw(sheet).text((_GAP, _GAP), title, _INK, _font(_SIZE + 4))
    for number, (where, row, found) in enumerate(_rows_at(reports, places)):
        cell = Image.new("RGB", (_WIDTH, height), _PAPER)  # what is too wide for it is cut
        _draw_pictures(cell, row, found)
        draw = ImageDraw.Draw(cell)
        draw.text((0, _HEIGHT + 4), where, _PALE, _font(_SIZE - 3))
        draw.multiline_text((0, _HEIGHT + 2 + _LINE), _wrapped(_texts(row, found)), _INK, _font(_SIZE), spacing=4)
        sheet.paste(cell, (_GAP + number % _COLUMNS * width, 2 * _GAP + _LINE + number // _COLUMNS * height))
    file = io.BytesIO()
    sheet.save(file, "PNG", compress_level=1)  # a third of the time for a fifth more bytes
    target = folder / f"check_data_{dataset}.png"
    with contextlib.suppress(OSError):  # said, with the setting's name, by what writes into it
        folder.mkdir(parents=True, exist_ok=True)
    write_whole(target, file.getvalue(), "sheet_folder")
    return target


def _rows_at(reports: Sequence[Report], places: np.ndarray) -> Iterator[tuple[str, dict[str, Any], Found]]:
    """Yield the rows at places that are counted through all files: where it is, column -> value, its file."""
    start = 0
    for report in reports:
        if np.isin(np.arange(start, start + report.rows), places).any():
            for first, batch in batches(report.found):
                for row in np.flatnonzero(np.isin(np.arange(batch.num_rows) + start + first, places)).tolist():
                    values = {name: batch[name][row].as_py() for name in batch.schema.names}
                    yield f"{report.found.path.name} row {first + row}", values, report.found
        start += report.rows


def _draw_pictures(cell: Image.Image, row: dict[str, Any], found: Found) -> None:
    """Draw the picture of a row, or its two pictures side by side, in the middle of the place for them."""
    names = pictures_of(found)
    width = (_WIDTH - (len(names) - 1) * _GAP // 2) // len(names)
    for number, name in enumerate(names):
        picture = _decoded(row[name])
        if picture is None:
            picture = Image.new("RGB", (width, _HEIGHT), _FAULT)
            ImageDraw.Draw(picture).text((8, 8), "unreadable", _INK, _font(_SIZE))
        else:
            whole = picture.width
            scale = min(width / picture.width, _HEIGHT / picture.height)
            picture = picture.resize([max(1, round(side * scale)) for side in picture.size])
            if found.row.sample_kind == dataset_specs.BOXES:
                _draw_boxes(picture, row, picture.width / whole)
        left = number * (width + _GAP // 2) + (width - picture.width) // 2
        cell.paste(picture, (left, (_HEIGHT - picture.height) // 2))


def _decoded(encoded: bytes) -> Image.Image | None:
    """A picture as training sees it, None where it cannot be decoded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # oddities of a file
        try:
            return Image.fromarray(rgb(open_image(encoded)))
        except Exception:  # foreign bytes make Pillow fail in any way they like
            return None


def _draw_boxes(picture: Image.Image, row: dict[str, Any], scale: float) -> None:
    """Draw every box, the right one last and in another colour."""
    draw, right = ImageDraw.Draw(picture), row["labels"]
    for number, box in sorted(enumerate(row["bboxes"] or ()), key=lambda item: item[0] == right):
        x, y, width, height = np.nan_to_num([*box, 0, 0, 0, 0][:4], posinf=0, neginf=0) * scale
        # Pillow draws every pixel of a line, also those outside the picture.
        x, right_x = np.clip([x, x + max(width, 1)], -_OUTSIDE, picture.width + _OUTSIDE)
        y, lower_y = np.clip([y, y + max(height, 1)], -_OUTSIDE, picture.height + _OUTSIDE)
        colour, line = (_RIGHT, 4) if number == right else (_OTHER, 2)
        draw.rectangle((x, y, right_x, lower_y), outline=colour, width=line)


def _texts(row: dict[str, Any], found: Found) -> list[str]:
    """Return what is said of a picture, with its labels."""
    if found.row.sample_kind == dataset_specs.CLASSES:
        names = dict(enumerate(schema_metadata(str(found.path)).get("labels") or ()))
        return [f"label {row['label']} {names.get(row['label'], '')}"]
    texts = [" ⇒ ".join(map(str, _several(text))) for text in _several(row[found.row.samples])]
    answers: list[Any] = []
    if found.row.sample_kind == dataset_specs.ENTAILMENT:
        names = {label: name for name, label in dataset_specs.SNLI_LABELS.items()}
        answers = [names.get(label) for label in _several(row["labels"])]
    elif found.row.sample_kind == dataset_specs.IMAGE_PAIRS:
        answers = _several(row["answers"])
    elif found.row.sample_kind == dataset_specs.QUESTIONS:
        scored = zip(row["answers"] or (), row["answer_scores"] or (), strict=False)
        answers = [", ".join(f"{a} ({score or 0:g})" for a, score in zip(*each, strict=False)) for each in scored]
    return [f"{text} → {answer}" if answer else text for text, answer in zip_longest(texts, answers[: len(texts)])]


def _several(value: Any) -> list[Any]:
    """Return a list; of one value where a list is expected, a list of it."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _wrapped(texts: list[str]) -> str:
    """Break texts into the lines of a cell; where there is more, the last line says so."""
    mark = "· " if len(texts) > 1 else ""
    printable = ("".join(each if each.isprintable() else " " for each in text) for text in texts[:_MOST_TEXTS])
    lines = [line for text in printable for line in textwrap.wrap(mark + text, _LETTERS) or [mark]]
    if len(texts) > _MOST_TEXTS or len(lines) > _LINES:
        lines = [*lines[: _LINES - 1], f"… ({len(texts)} texts)" if mark else "…"]
    return "\n".join(lines)


def _font(size: int) -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)  # more letters than Pillow's own, where it is installed
    except OSError:
        return ImageFont.load_default(size)
