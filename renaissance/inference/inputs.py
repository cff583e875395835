"""What `encode` reads: the samples of a split, or a folder of images and a text file.

Each side is numbered through: images once each, texts, and pairs of a text with each of its images.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, NoReturn

from renaissance.core.errors import UserError, first_line, require, shortened
from renaissance.core.types import Example
from renaissance.core.untrusted import read_bytes, short
from renaissance.data.arrow import open_file
from renaissance.data.dataset_specs import BOXES, CAPTIONS, CLASSES, ENTAILMENT, IMAGE_PAIRS, OWN_FILE, QUESTIONS
from renaissance.data.datasets import named_specs, open_pairs, open_samples, own_layout, splits_of
from renaissance.data.identity import content_key
from renaissance.data.prepare.image_pool import Fault, fault_of
from renaissance.data.prepare.names import IMAGE_SUFFIXES, is_system_file
from renaissance.data.saved_datasets import is_saved

from .pictures import MOST_BYTES

TEXT, IMAGE, FUSED = "text", "image", "fused"
# Errors of the system that are the file's, and not the machine's of this moment; decoders raise OSError without a number.
_LASTING = {
    None, errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG
}  # fmt: skip
_MOST_TEXT = 1 << 30  # bytes of a file of texts, which are held in memory
# The column of a sample's text, by kind.
_TEXTS = {QUESTIONS: "questions", IMAGE_PAIRS: "questions", ENTAILMENT: "sentences", BOXES: "sentences", CLASSES: ""}


class SplitInputs:
    """The samples of a split of data sets; picklable.

    Args:
        names: of data sets, one, or several of captions. split, data_root, image_column, caption_column: as for a run.

    Attributes:
        slots: whether the second image of a sample is fused as a second one (NLVR2).
        notes: sentences about what is not read.

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
            if self.dataset is None:
                place = "" if all(map(is_saved, names)) else f" in data_root='{data_root}'"
                there = {each: ", ".join(splits_of(each, data_root, sample_kind=CAPTIONS)) or "none" for each in names}
                splits = "; ".join(f"{each}: {found}" for each, found in there.items())
                raise UserError(f"datasets={names} have no split '{split}'{place}; those there are: {splits}.")
        else:
            alone = f"datasets={names}: {kind} are read of one data set at a time; give one."
            require(len(names) == 1, alone)
            known = kind in _TEXTS
            require(known, f"datasets={names}: {kind} cannot be encoded; give their texts as a file, texts=<file>.")
            self.dataset = open_samples(names[0], split, data_root, sample_kind=kind)
        self.notes = getattr(self.dataset, "notes", ())
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


def lasting_fault(error: Exception, name: str) -> Fault:
    """What is wrong with an image, by the error of reading or decoding it. name: what the sentence calls it.

    Raises:
        UserError: the error may pass, as that of a disk or of want of memory; the image may be sound.
    """
    cause = error.__cause__ or error
    passing = isinstance(cause, OSError) and cause.errno not in _LASTING
    # torch's own error of memory is a RuntimeError.
    passing = passing or isinstance(cause, MemoryError) or "can't allocate memory" in str(cause)
    again = "that may pass: give the same command again, and it goes on"
    require(not passing, f"{shortened([name])} cannot be read now ({first_line(cause)}); {again}.")
    return fault_of(cause)


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
        key: of the names and lines that another process has found there. It pickles small: they are read when first asked for.

    Attributes:
        notes: sentences about folders that are linked there.

    Raises:
        UserError: the folder has no images, the file no text, one of them cannot be read, or they are others than `key` says.
    """

    slots = False
    dataset = None

    def __init__(self, images: str | None, texts: str | None, key: int | None = None):
        self.folder, self._texts, self._key = images, texts, key
        if key is None:
            self._key = self._key_of(*self._listed)

    @cached_property
    def _listed(self) -> tuple[list[str], list[str]]:
        names, self.notes = ([], []) if self.folder is None else _names_in(self.folder)
        lines = [] if self._texts is None else _lines_of(self._texts)
        same = self._key is None or self._key == self._key_of(names, lines)
        given = [
            f"{key}={value}" for key, value in (("images", self.folder), ("texts", self._texts)) if value is not None
        ]
        require(same, f"{' or '.join(given)} has changed since this command began; give the command again.")
        return names, lines

    def _key_of(self, *names: list[str]) -> int:
        return content_key("\0".join(map("\n".join, names)).encode("utf-8", "surrogateescape"))

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process reads the files itself: of a million lines it would take a while to be told."""
        return FileInputs, (self.folder, self._texts, self._key)

    def count(self, side: str) -> int:
        """How many images, texts, or pairs there are; pairs where there are as many of both, in order."""
        images, texts = map(len, self._listed)
        if side == FUSED:
            return images if images == texts else 0
        return images if side == IMAGE else texts

    def pair(self, index: int) -> str:
        """A pair in words; both in short."""
        names, lines = self._listed
        return f"{short(_readable(names[index]))} with {short(lines[index])}"

    def example(self, side: str, index: int) -> Example:
        """As of `SplitInputs`; a `Fault` in the place of an image that cannot be read."""
        names, lines = self._listed
        images, key, where = (), 0, f"line {index + 1}"
        if side != TEXT:
            where, path = _readable(names[index]), os.path.join(self.folder, names[index])
            try:
                images = (read_bytes(path, "it", most=MOST_BYTES),)
                key = content_key(images[0])
            except (UserError, MemoryError) as error:
                images = (lasting_fault(error, where),)
                gone = f"images={self.folder} is empty, or is not there any more; give the command again when it is."
                require(os.path.isdir(self.folder) and os.listdir(self.folder), gone)
        return Example(index, images, "" if side == IMAGE else lines[index], image_key=key, where=where)

    def fingerprint(self) -> dict[str, Any]:
        """What the files are known by: names, sizes and times of images, and the texts."""
        names, lines = self._listed
        files = [f"{name} {_state(os.path.join(self.folder, name))}" for name in names]
        texts = "\n".join([*files, *lines]).encode("utf-8", "surrogateescape")
        return {"images": len(names), "texts": len(lines), "content": f"{content_key(texts):016x}"}


def _names_in(images: str) -> tuple[list[str], list[str]]:
    """The paths of all images below a folder, sorted, and sentences about the folders that are linked there.

    A linked folder is read once, and not where the folder itself lies in it: a link to / would be the whole disk.
    """
    require(os.path.isdir(images), f"images={images} is no folder; give one that holds images.")
    root = Path(os.path.realpath(images))
    names, seen, linked = [], {*map(str, (root, *root.parents))}, {True: [], False: []}
    try:
        for place, folders, files in os.walk(images, onerror=_raise, followlinks=True):
            read = []
            for path in (os.path.join(place, each) for each in sorted(folders) if not is_system_file(each)):
                real = os.path.realpath(path)
                if os.path.islink(path):
                    linked[real not in seen].append(os.path.relpath(path, images))
                if real not in seen:
                    seen.add(real)
                    read.append(os.path.basename(path))
            folders[:] = read
            found = [
                each for each in files if not is_system_file(each) and Path(each).suffix[1:].lower() in IMAGE_SUFFIXES
            ]
            names += [os.path.relpath(os.path.join(place, each), images) for each in found]
    except OSError as error:
        raise UserError(f"images={images}: {error.filename} cannot be read ({error.strerror}).") from error
    require(names, f"images={images} holds no images ({', '.join(IMAGE_SUFFIXES)}).")
    left = "are not read, as they lead to what is read already, or to what holds this folder"
    words = {True: "are read, too", False: left}
    notes = [f"images={images}: linked folders {words[key]}: {shortened(each)}" for key, each in linked.items() if each]
    return sorted(names), notes


def _raise(error: OSError) -> NoReturn:
    raise error


def _lines_of(texts: str) -> list[str]:
    try:
        content = read_bytes(texts, f"texts={texts}", most=_MOST_TEXT).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"texts={texts} is no text in UTF-8; save it as one.") from error
    require(content, f"texts={texts} is empty; give a file with one text a line.")
    lines = [line.removesuffix("\r") for line in content.removesuffix("\n").split("\n")]
    empty = next((number for number, line in enumerate(lines, 1) if not line.strip()), None)
    require(empty is None, f"texts={texts} has an empty line ({empty}); each line is a text.")
    return lines


def _readable(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "replace")


def _state(path: str) -> str:
    """Size and time of a file; of one that is not there neither."""
    try:
        status = os.stat(path)
    except OSError:
        return "-"
    return f"{status.st_size} {status.st_mtime_ns}"
