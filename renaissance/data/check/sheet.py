"""Contact sheets: a grid of images with their texts, labels and boxes, because the eye finds what no rule names."""

from __future__ import annotations

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
from renaissance.core.errors import printable
from renaissance.data.arrow import ArrowFile, open_file, schema_metadata
from renaissance.data.dataset_specs import BBOXES, CLASSES, CORRECT, ENTAILMENT, PROBES, SNLI_LABELS, TEXTS, DatasetSpec
from renaissance.data.identity import content_key
from renaissance.data.pixels import open_image, rgb

from .files import CheckedFile

_COLUMNS, _ROWS = 4, 4
_WIDTH, _HEIGHT, _GAP = 320, 240, 16  # pixels of a cell's image, and between cells
_LINES, _LINE, _SIZE = 6, 19, 14  # lines of text under an image; their height and that of the letters, pixels
_PAPER, _INK, _PALE, _FAULT, _RIGHT, _OTHER = "#ffffff", "#1f2328", "#8b949e", "#ffd7d5", "#1a9f4b", "#f0883e"
_OUTSIDE = 10  # pixels by which a box that is larger than its image is drawn outside it: its edge is not seen
_LONGEST_NAME = 60  # characters of a data set's that the name of its sheet has
_LETTERS, _MOST_TEXTS = 42, 3  # letters of a line, and texts of a row, that are shown


def write_sheet(dataset: str, files: Sequence[CheckedFile], folder: Path) -> Path:
    """Draws some rows of a data set, spread evenly over its files, and writes them as PNG; the same rows at every call.

    Args:
        dataset: its name.
        files: its files, whole and checked.
        folder: takes `check_data_<dataset>.png`, of a folder or a long name its end, and six digits of its hash; made if
            there is none.

    Raises:
        UserError: the sheet cannot be written.
    """
    total = sum(file.rows for file in files)
    places = np.unique(np.linspace(0, total - 1, _COLUMNS * _ROWS).round().astype(np.int64))
    width, height = _WIDTH + _GAP, _HEIGHT + (_LINES + 1) * _LINE + _GAP  # of a cell
    size = (_COLUMNS * width + _GAP, -(-len(places) // _COLUMNS) * height + 3 * _GAP + _LINE)
    sheet = Image.new("RGB", size, _PAPER)
    boxed = any(column.name == BBOXES.name for column in files[0].spec.columns)
    colours = ", the right box in green" if boxed else ""
    title = f"{dataset}: {len(places):,} of {total:,} rows{colours}"
    ImageDraw.Draw(sheet).text((_GAP, _GAP), title, _INK, _font(_SIZE + 4))
    for number, (file, place, row) in enumerate(_rows_at(files, places)):
        cell = Image.new("RGB", (_WIDTH, height), _PAPER)  # what is too wide for it is cut
        _draw_images(cell, row, file.spec)
        draw = ImageDraw.Draw(cell)
        draw.text((0, _HEIGHT + 4), f"{file.name} row {place}", _PALE, _font(_SIZE - 3))
        draw.multiline_text((0, _HEIGHT + 2 + _LINE), _wrapped(_texts(row, file)), _INK, _font(_SIZE), spacing=4)
        sheet.paste(cell, (_GAP + number % _COLUMNS * width, 2 * _GAP + _LINE + number // _COLUMNS * height))
    content = io.BytesIO()
    sheet.save(content, "PNG", compress_level=1)  # a third of the time for a fifth more bytes
    short = dataset.strip("/").replace("/", "_")[-_LONGEST_NAME:]
    if short != dataset:  # others may be as short
        short += f"_{content_key(dataset.encode('utf-8', 'surrogateescape')):016x}"[:7]
    target = folder / f"check_data_{short}.png"
    write_whole(target, content.getvalue(), "sheet_folder")
    return target


def _rows_at(files: Sequence[CheckedFile], places: np.ndarray) -> Iterator[tuple[CheckedFile, int, dict[str, Any]]]:
    """Yields the rows at places that are counted through all files: the file, the row in it, column -> value."""
    start = 0
    for file in files:
        _, _, columns = open_file(str(file.path), file.spec.columns)
        opened = ArrowFile(str(file.path), columns)
        for row in places[(places >= start) & (places < start + file.rows)] - start:
            yield file, row, {column.name: opened.value(column.name, row) for column in columns}
        start += file.rows


def _draw_images(cell: Image.Image, row: dict[str, Any], spec: DatasetSpec) -> None:
    """Draws the images of a row side by side, each in the middle of the place for it."""
    names = spec.image_columns
    width = (_WIDTH - (len(names) - 1) * _GAP // 2) // len(names)
    for number, name in enumerate(names):
        image = _decoded(row[name])
        scale = min(width / image.width, _HEIGHT / image.height)
        shown = image.resize([max(1, round(side * scale)) for side in image.size])
        if BBOXES.name in row:
            _draw_boxes(shown, row, shown.width / image.width)
        left = number * (width + _GAP // 2) + (width - shown.width) // 2
        cell.paste(shown, (left, (_HEIGHT - shown.height) // 2))


def _decoded(encoded: bytes) -> Image.Image:
    """Returns an image as training sees it; a plain one where it cannot be decoded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # oddities of a file
        try:
            return Image.fromarray(rgb(open_image(encoded)))
        except Exception:  # foreign bytes make Pillow fail in any way they like
            return Image.new("RGB", (_WIDTH, _HEIGHT), _FAULT)


def _draw_boxes(image: Image.Image, row: dict[str, Any], scale: float) -> None:
    """Draws every box, the right one last and in another colour."""
    draw, right = ImageDraw.Draw(image), row.get("labels", 0)  # the only one of a benchmark's
    for number, box in sorted(enumerate(row["bboxes"]), key=lambda item: item[0] == right):
        x, y, width, height = np.array(box) * scale
        # Pillow draws every pixel of a line, also those outside the image.
        x, right_x = np.clip([x, x + max(width, 1)], -_OUTSIDE, image.width + _OUTSIDE)
        y, lower_y = np.clip([y, y + max(height, 1)], -_OUTSIDE, image.height + _OUTSIDE)
        colour, line = (_RIGHT, 4) if number == right else (_OTHER, 2)
        draw.rectangle((x, y, right_x, lower_y), outline=colour, width=line)


def _texts(row: dict[str, Any], file: CheckedFile) -> list[str]:
    """Returns the texts of a row, each with its label."""
    if file.spec.sample_kind == CLASSES:
        names = dict(enumerate(schema_metadata(str(file.path)).get("labels") or ()))
        return [f"label {row['label']} {names.get(row['label'], '')}"]
    if file.spec.sample_kind == PROBES:
        marks = (", ".join(map(str, each)) for each in zip(*row[CORRECT.name], strict=False))
        return [f"{text} → {mark}" for text, mark in zip_longest(row[TEXTS.name], marks)]
    if not file.spec.samples:
        return [f"{name} {value}" for name, value in row.items() if not isinstance(value, bytes)]
    labels = row.get("answers") or []
    if file.spec.sample_kind == ENTAILMENT:
        labels = [[*SNLI_LABELS][label] for label in row["labels"]]
    pairs = zip_longest(row[file.spec.samples], labels)
    return [
        f"{_joined(text, ' ⇒ ')} → {_joined(label, ', ')}" if label else _joined(text, " ⇒ ") for text, label in pairs
    ]


def _joined(texts: Any, by: str) -> str:
    return by.join(texts) if isinstance(texts, list) else str(texts)


def _wrapped(texts: list[str]) -> str:
    """Breaks the first texts into the lines of a cell; each has the same share of them."""
    shown = [("· " if len(texts) > 1 else "") + printable(text) for text in texts[:_MOST_TEXTS]]
    most = _LINES // max(len(shown), 1)
    return "\n".join(line for text in shown for line in textwrap.wrap(text, _LETTERS, max_lines=most, placeholder=" …"))


def _font(size: int) -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)  # more letters than Pillow's own, where it is installed
    except OSError:
        return ImageFont.load_default(size)
