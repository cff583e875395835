"""Raw downloads as tests need them: Karpathy's file, real photographs, images that are wrong in every known way."""

from __future__ import annotations

import functools
import io
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from skimage import data as skimage_data

from renaissance.core.errors import UserError

SPLIT_FOLDERS = {"train": "train2014", "restval": "val2014", "val": "val2014", "test": "val2014"}


def photograph(number: int = 0) -> bytes:
    """A real photograph, encoded as JPEG; another crop for each number up to 50."""
    return _crop(number % 50)


@functools.cache
def _crop(top: int) -> bytes:
    crop = skimage_data.astronaut()[top : top + 96, 150:278]
    return encode(Image.fromarray(crop), "JPEG", quality=90)


def encode(picture: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def odd_pictures() -> dict[str, bytes]:
    """Images that look wrong and are fine."""
    grey = Image.fromarray(skimage_data.camera()[:64, :64])
    colour = Image.fromarray(skimage_data.astronaut()[:64, :64])
    deep = Image.fromarray(np.linspace(0, 65535, 4096, dtype=np.uint16).reshape(64, 64))
    return {
        "grey.jpg": encode(grey, "JPEG"),
        "cmyk.jpg": encode(colour.convert("CMYK"), "JPEG"),
        "palette.png": encode(colour.convert("P"), "PNG"),
        "deep.png": encode(deep, "PNG"),
        "alpha.png": encode(colour.convert("RGBA"), "PNG"),
        "progressive.jpg": encode(colour, "JPEG", progressive=True),
        "lying.png": encode(colour, "JPEG"),
        "without-extension": encode(colour, "WEBP"),
        "photo.tiff": encode(colour, "TIFF"),
        "large.png": encode(Image.new("L", (6000, 5000)), "PNG"),  # 30 megapixels
    }


def bad_pictures() -> dict[str, tuple[bytes | None, str]]:
    """name -> (content, how it is counted); None stands for a file that is not there."""
    whole = photograph()
    bomb = bytearray(encode(Image.new("L", (64, 64)), "PNG"))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height in the header
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    return {
        "missing.jpg": (None, "missing"),
        "empty.jpg": (b"", "unreadable"),
        "cut.jpg": (whole[: len(whole) // 2], "unreadable"),
        "cut.png": (odd_pictures()["alpha.png"][:-3000], "unreadable"),
        "page.jpg": (b"<html>404 Not Found</html>", "unreadable"),
        "drawing.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "unreadable"),
        "bomb.png": (bytes(bomb), "too large"),
    }


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, place: Path):
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


def refused(make_arrow: Callable, root: Path, **options) -> str:
    """The sentence with which the download in `root` is refused; nothing has been written by then."""
    with pytest.raises(UserError) as error:
        make_arrow(root, root / "arrow", **options)
    assert not (root / "arrow").exists()
    return str(error.value)


def write_pictures(folder: Path, pictures: dict[str, bytes | None]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in pictures.items():
        if content is not None:
            (folder / name).write_bytes(content)


def write_karpathy(root: Path, counts: dict[str, int] | None = None, **changes) -> list[dict]:
    """Write COCO in miniature and return the entries of its "images"; `changes` are set in the first entry."""
    counts = counts or {"train": 5, "restval": 2, "val": 2, "test": 2}
    splits = [split for place in range(max(counts.values())) for split, count in counts.items() if place < count]
    entries = []
    for number, split in enumerate(splits):  # splits are mixed, as in the real file
        folder, name = SPLIT_FOLDERS[split], f"COCO_{SPLIT_FOLDERS[split]}_{number:012d}.jpg"
        write_pictures(root / folder, {name: photograph(number)})
        sentences = [
            {"raw": f"caption {n} of {number}", "tokens": ["x"], "sentid": 1000 - 10 * number - n}
            for n in range(5 + number % 2)
        ]
        entries.append({"filepath": folder, "filename": name, "split": split, "cocoid": number, "sentences": sentences})
    entries[0].update(changes)
    (root / "karpathy").mkdir(parents=True, exist_ok=True)
    (root / "karpathy" / "dataset_coco.json").write_text(json.dumps({"images": entries, "dataset": "coco"}))
    return entries


def read_rows(path: Path) -> list[dict]:
    """All rows of an arrow file, by pyarrow alone."""
    with pa.OSFile(str(path), "rb") as file:
        return pa.ipc.open_file(file).read_all().to_pylist()
