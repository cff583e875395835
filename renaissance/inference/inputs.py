"""What `encode` reads: the samples of a split, or a folder of images and a text file.

Each side is numbered through: images once each, texts, and pairs of a text with each of its images.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from renaissance.core.errors import UserError, require
from renaissance.core.types import Example
from renaissance.core.untrusted import read_bytes
from renaissance.data.arrow import open_file
from renaissance.data.dataset_specs import BOXES, CAPTIONS, CLASSES, ENTAILMENT, IMAGE_PAIRS, OWN_FILE, QUESTIONS
from renaissance.data.datasets import named_specs, open_pairs, open_samples, own_layout
from renaissance.data.identity import content_key
from renaissance.data.prepare.names import IMAGE_SUFFIXES, is_system_file

from .loaded import MOST_BYTES

TEXT, IMAGE, FUSED = "text", "image", "fused"
_MOST_TEXT = 1 << 30  # bytes of a file of texts, which are held in memory
# The column of a sample's text, by kind.
_TEXTS = {QUESTIONS: "questions", IMAGE_PAIRS: "questions", ENTAILMENT: "sentences", BOXES: "sentences", CLASSES: ""}


class SplitInputs:
    """The samples of a split of data sets; picklable.

    Args:
        names: of data sets, one, or several of captions. split, data_root, image_column, caption_column: as for a run.

    Attributes:
        slots: whether the second image of a sample is fused as a second one (NLVR2).

    Raises:
        UserError: no such data set or split, or a file cannot be used.
    """

    def __init__(
        self,
        names: list[str],
        split: str,
        data_root: str,
        image_column: str | None = None,
        caption_column: str | None = None,
    ):
        columns = {"image_column": image_column, "caption_column": caption_column}
        kind = _kind(names[0], split, data_root, columns)
        if kind == CAPTIONS:
            self.dataset = open_pairs(names, split, data_root, **columns)
            where = f"datasets={names} have no split '{split}' in data_root='{data_root}'"
            require(self.dataset is not None, f"{where}; give another split.")
        else:
            alone = f"datasets={names}: {kind} are read of one data set at a time; give one."
            require(len(names) == 1, alone)
            known = kind in _TEXTS
            require(known, f"datasets={names}: {kind} cannot be encoded; give their texts as a file, texts=<file>.")
            self.dataset = open_samples(names[0], split, data_root, sample_kind=kind)
        self.text = _TEXTS.get(kind)
        self.slots = kind == IMAGE_PAIRS
        counts = (len(self.dataset.image_counts(number)) for number in range(len(self.dataset.paths())))
        self._images = list(accumulate(counts, initial=0))  # those of rows without a text, too

    def count(self, side: str) -> int:
        """How many images there are, or samples."""
        if side == IMAGE:
            return self._images[-1]
        return 0 if self.text == "" else len(self.dataset)

    def example(self, side: str, index: int) -> Example:
        """An image with its boxes, a text, or a text with its images."""
        if side == IMAGE:
            number = next(file for file, end in enumerate(self._images[1:]) if index < end)
            return self.dataset.image(number, index - self._images[number])
        stored = self.dataset[index]
        if not isinstance(stored, Example):
            values = stored.values
            first = stored.images[0] if stored.images else b""
            key, boxes, text = content_key(first), values.get("bboxes"), values[self.text]
            # Of [premise, hypothesis] the one that is about the image.
            text = text if isinstance(text, str) else text[-1]
            stored = Example(stored.id, stored.images, text, image_key=key, where=stored.where, boxes=boxes)
        return stored if side == FUSED else stored._replace(images=(), boxes=None)

    def fingerprint(self) -> dict[str, Any]:
        """What the files are known by, in their order, which is that of the rows."""
        prints = self.dataset.fingerprint().items()
        return {"files": [[file, {name: each[name] for name in each if name != "mtime_ns"}] for file, each in prints]}


def _kind(name: str, split: str, data_root: str, columns: Mapping[str, str | None]) -> str:
    """What the samples of a data set are; own data are told by their columns, and of other names are captions alone."""
    if name in named_specs():
        return named_specs()[name].sample_kind
    if any(columns.values()):
        return CAPTIONS
    paths = (os.path.join(data_root, file) for file in (OWN_FILE.format(name=name, split=split), f"{name}.arrow"))
    path = next(filter(os.path.isfile, paths), None)
    layout = None if path is None else own_layout(open_file(path, ())[0].schema.names)
    return CAPTIONS if layout is None else layout.sample_kind


class FileInputs:
    """The images of a folder, by name, and the lines of a text file; picklable.

    Args:
        images: a folder, in which folders are read, too; None for none. texts: a file, one text a line; None for none.

    Raises:
        UserError: the folder has no images, the file no text, or one of them cannot be read.
    """

    slots = False
    dataset = None

    def __init__(self, images: str | None, texts: str | None):
        self.folder, self.names, self.lines, self._given = images, [], [], (images, texts)
        if images is not None:
            require(os.path.isdir(images), f"images={images} is no folder; give one that holds images.")
            found = (path for path in Path(images).rglob("*") if path.suffix[1:].lower() in IMAGE_SUFFIXES)
            named = (path.relative_to(images) for path in found if path.is_file())
            self.names = sorted(str(path) for path in named if not any(map(is_system_file, path.parts)))
            require(self.names, f"images={images} holds no images ({', '.join(IMAGE_SUFFIXES)}).")
        if texts is not None:
            try:
                content = read_bytes(texts, f"texts={texts}", most=_MOST_TEXT).decode("utf-8-sig")
                self.lines = [line.removesuffix("\r") for line in content.removesuffix("\n").split("\n")]
            except UnicodeDecodeError as error:
                raise UserError(f"texts={texts} is no text in UTF-8; save it as one.") from error
            empty = [number for number, line in enumerate(self.lines, 1) if not line.strip()]
            require(
                self.lines and not empty, f"texts={texts} has an empty line ({(empty or [1])[0]}); each line is a text."
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process reads the files itself: of a million lines it would take a while to be told."""
        return FileInputs, self._given

    def count(self, side: str) -> int:
        """How many images, texts, or pairs there are; pairs where there are as many of both, in order."""
        if side == FUSED:
            return len(self.names) if len(self.names) == len(self.lines) else 0
        return len(self.names) if side == IMAGE else len(self.lines)

    def example(self, side: str, index: int) -> Example:
        """As of `SplitInputs`."""
        images, key, where = (), 0, f"line {index + 1}"
        if side != TEXT:
            path = os.path.join(self.folder, self.names[index])
            where = os.fsencode(self.names[index]).decode("utf-8", "replace")
            images = (read_bytes(path, f"image={path}", most=MOST_BYTES),)
            key = content_key(images[0])
        return Example(index, images, "" if side == IMAGE else self.lines[index], image_key=key, where=where)

    def fingerprint(self) -> dict[str, Any]:
        """What the files are known by: names, sizes and times of images, and the texts."""
        found = ((name, os.stat(os.path.join(self.folder, name))) for name in self.names)
        files = [f"{name} {status.st_size} {status.st_mtime_ns}" for name, status in found]
        texts = "\n".join([*files, *self.lines]).encode("utf-8", "surrogateescape")
        return {"images": len(self.names), "texts": len(self.lines), "content": f"{content_key(texts):016x}"}
