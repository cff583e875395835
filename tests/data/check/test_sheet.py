"""Contact sheets: what is in a file can be seen, whatever its texts hold, and the same at every call."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from arrow_files import files_of, write_columns
from PIL import Image

from renaissance.core.errors import UserError
from renaissance.data.check.files import CheckedFile
from renaissance.data.check.sheet import write_sheet
from renaissance.data.dataset_specs import DATASETS

COLOURS = [(250, 0, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250), (250, 0, 250)]


def flat(colour: tuple[int, int, int], size: tuple[int, int] = (64, 48)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def sheet_of(dataset: str, columns: dict, folder: Path) -> np.ndarray:
    name = next(iter(files_of(dataset)))
    write_columns(folder / name, columns)
    files = [CheckedFile(dataset, "train", folder / name, DATASETS[dataset], rows=len(columns["image"]))]
    target = write_sheet(dataset, files, folder / "sheets")
    first = target.read_bytes()
    assert write_sheet(dataset, files, folder / "sheets").read_bytes() == first
    return np.asarray(Image.open(io.BytesIO(first))).astype(int)


def places(sheet: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """(n, 2) row and column of the pixels of a colour, up to a few levels."""
    return np.argwhere((abs(sheet - colour) < 12).all(axis=-1))


def test_every_picture_is_in_the_grid_and_texts_of_every_kind_are_drawn(tmp_path: Path):
    texts = ["", "\x00\x1b[31m \u202e\ufffe 😀 草地 قطة", "x" * 3000, "word " * 500, "a\nb"]
    columns = {"image": [flat(colour) for colour in COLOURS], "caption": [texts[: 1 + row] for row in range(5)]}
    sheet = sheet_of("coco", columns, tmp_path)
    corners = [tuple(places(sheet, colour).min(axis=0)) for colour in COLOURS]
    assert len({x for _, x in corners[:4]}) == 4 and len({y for y, _ in corners[:4]}) == 1
    assert corners[4][1] == corners[0][1] and corners[4][0] > corners[0][0]  # the fifth begins the second line
    below = sheet[corners[0][0] + 250 : corners[4][0]]
    assert (below.max(axis=-1) < 90).any()  # ink


def test_sheets_of_two_data_sets_are_two_files(tmp_path: Path):
    path = tmp_path / next(iter(files_of("coco")))
    write_columns(path, {"image": [flat(COLOURS[0])], "caption": [["a"]]})
    names = ("./a/b_c", "./a_b/c", f"x{'m' * 60}", f"y{'m' * 60}")
    sheets = {
        write_sheet(name, [CheckedFile(name, "train", path, DATASETS["coco"], rows=1)], tmp_path) for name in names
    }
    assert len(sheets) == 4 and all(sheet.is_file() for sheet in sheets)


def test_boxes_lie_where_they_are_said_to_be(tmp_path: Path):
    box, wrong = [16.0, 12.0, 32.0, 24.0], [0.0, 0.0, -1e9, 1e9]
    columns = {
        "image": [flat((0, 0, 0))],
        "sentences": [["the middle"]],
        "bboxes": [[wrong, box]],
        "labels": [1],
    }
    sheet = sheet_of("refcoco", columns, tmp_path)
    picture, right = places(sheet, (0, 0, 0)), places(sheet, (0x1A, 0x9F, 0x4B))
    scale = 320 / 64  # of a cell's width to the image's
    top, left = picture.min(axis=0)
    drawn = np.array([right.min(axis=0), right.max(axis=0)]) - (top, left)
    assert abs(drawn - scale * np.array([(12, 16), (36, 48)])).max() <= 2


def test_a_picture_is_shown_as_training_sees_it(tmp_path: Path):
    """Over white where it is transparent, whatever colour is hidden there; 16 bits scaled; small and large alike."""
    hidden, deep, columns = [], np.full((48, 64), 40_000, np.uint16), {"caption": [["a"]] * 5}
    for size in ((64, 48), (640, 480)):
        file = io.BytesIO()
        Image.new("RGBA", size, (250, 0, 0, 0)).save(file, "PNG")
        hidden.append(file.getvalue())
    palette = Image.new("P", (64, 48))
    palette.putpalette([0, 0, 250] * 256)
    for picture, options in ((palette, {"transparency": 0}), (Image.fromarray(deep), {})):
        file = io.BytesIO()
        picture.save(file, "PNG", **options)
        hidden.append(file.getvalue())
    sheet = sheet_of("coco", columns | {"image": [*hidden, flat((0, 250, 0))]}, tmp_path)
    assert not len(places(sheet, (250, 0, 0))) and not len(places(sheet, (0, 0, 250)))
    assert len(places(sheet, (156, 156, 156))) > 10_000 and len(places(sheet, (0, 250, 0))) > 10_000


def test_unwritable_folder(tmp_path: Path):
    (tmp_path / "sheets").write_text("a file")
    with pytest.raises(UserError, match="sheet_folder"):
        sheet_of("coco", {"image": [flat((9, 9, 9))], "caption": [["a"]]}, tmp_path)
