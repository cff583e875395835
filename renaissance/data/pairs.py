"""(picture, caption) pairs, read from any number of arrow files by position.

Position -> file -> caption -> row is searched for in cumulative counts and in the files' own offsets: no Python object
is kept per row or caption, so a hundred million captions cost what the file names cost.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from renaissance.data.arrow import ArrowFile, TextColumn, check_file
from renaissance.data.identity import picture_key, text_key
from renaissance.data.remembered import Stamp, recall, recall_array, remember, stamp
from renaissance.errors import UserError
from renaissance.formats import CAPTION, CAPTION_COLUMNS, IMAGE

_REPEATS = "repeats"
# What `str.split` takes for white space but the blank, as characters of an RE2 class (whose \s is ASCII only).
_OTHER_SPACE = r"\t-\r\x1c-\x1f\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"


class RawPair(NamedTuple):
    """One picture with one of its captions, as stored.

    Attributes:
        id: position in the data set.
        image: the encoded picture.
        text: the caption, white space normalised.
        texts: hashes of all captions of the picture.
        picture: hash of the encoded picture.
        where: "file.arrow row 12", for messages.
    """

    id: int
    image: bytes
    text: str
    texts: frozenset[int]
    picture: int
    where: str


class FileSummary(NamedTuple):
    """What a file gives to a data set.

    Attributes:
        dataset: the data set's name.
        file: the file's name.
        pictures: rows of the file.
        pairs: captions that are used.
        repeated: captions left out because the same picture has the same caption already (0 in evaluation).
        empty: captions left out because they hold nothing but white space (0 in evaluation).
    """

    dataset: str
    file: str
    pictures: int
    pairs: int
    repeated: int
    empty: int


class PairDataset:
    """Pairs of several files, one after the other. A map-style data set that pickles small and opens files when asked.

    In training, identical captions of one picture (one row) count once and empty ones not at all; the order is kept. In
    evaluation all count. Captions are compared as they are read: with white space normalised, case kept.

    Args:
        folder: where the files are.
        files: (data set's name, file name) of each file, in order.
        training: whether repeated and empty captions are left out.

    Raises:
        UserError: a file cannot be used, or no caption is left.
    """

    def __init__(self, folder: str, files: Sequence[tuple[str, str]], *, training: bool):
        self._folder = str(folder)
        self._datasets = [dataset for dataset, _ in files]
        self._files = [file for _, file in files]
        self._training = training
        # One row a file: size, mtime_ns, pictures, pairs, repeated, empty.
        self._counts = np.array([self._count(file) for file in self._files], np.int64).reshape(-1, 6)
        self._ends = np.cumsum(self._counts[:, 3])
        self._open: dict[int, tuple[ArrowFile, np.ndarray | None]] = {}
        if not len(self):
            raise UserError(
                f"No caption in {', '.join(self._files) or 'no file'} of '{folder}' can be used: all are empty."
            )

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> RawPair:
        """Read one pair. Raises IndexError outside 0 <= index < len."""
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        file, gaps = self._opened(number)
        place = int(index - (self._ends[number] - self._counts[number, 3]))
        if gaps is not None:
            place += int(np.searchsorted(gaps, place, side="right"))
        captions = file.texts[CAPTION.name]
        row, text = captions.locate(place)
        image = file.picture(IMAGE.name, row)
        texts = frozenset(map(text_key, captions.of_row(row)))
        return RawPair(int(index), image, text, texts, picture_key(image), f"{self._files[number]} row {row}")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def describe(self) -> list[FileSummary]:
        """Return what each file gives, in order."""
        rows = zip(self._datasets, self._files, self._counts[:, 2:].tolist(), strict=True)
        return [FileSummary(dataset, file, *counts) for dataset, file, counts in rows]

    def fingerprint(self) -> dict[str, dict[str, Any]]:
        """Return, by file name, by what a later run can tell that its data are the same.

        `bytes`, `pictures`, `pairs` and `ends` (a hash of the first and the last picture and their captions) depend on
        the content alone; `mtime_ns` also on when the file was written.
        """
        prints = {}
        for number, (file, counts) in enumerate(zip(self._files, self._counts.tolist(), strict=True)):
            size, mtime_ns, pictures, pairs, *_ = counts
            ends = picture_key(b"".join(self._row_bytes(number, row) for row in (0, pictures - 1)))
            prints[file] = {
                "bytes": size,
                "mtime_ns": mtime_ns,
                "pictures": pictures,
                "pairs": pairs,
                "ends": f"{ends:016x}",
            }
        return prints

    def _count(self, file: str) -> tuple[int, ...]:
        path = os.path.join(self._folder, file)
        now, facts = check_file(path, CAPTION_COLUMNS)
        repeated = empty = 0
        if self._training:
            repeated, empty, _ = unwanted(path, now)
        return (*now, facts.rows, facts.texts - repeated - empty, repeated, empty)

    def _opened(self, number: int) -> tuple[ArrowFile, np.ndarray | None]:
        if number not in self._open:
            path = os.path.join(self._folder, self._files[number])
            now = stamp(path)
            if list(now) != self._counts[number, :2].tolist():
                raise UserError(f"'{path}' was changed since this run began; start the run again.")
            gaps = unwanted(path, now)[2] if self._counts[number, 4:].any() else None
            self._open[number] = ArrowFile(path, CAPTION_COLUMNS), gaps
        return self._open[number]

    def _row_bytes(self, number: int, row: int) -> bytes:
        file, _ = self._opened(number)
        captions = "\n".join(file.texts[CAPTION.name].of_row(row))
        return file.picture(IMAGE.name, row) + captions.encode("utf-8", "surrogatepass")


def unwanted(path: str, now: Stamp) -> tuple[int, int, np.ndarray | None]:
    """Find the captions of a checked file that training leaves out, or recall them.

    Returns:
        (repeated, empty, gaps): how many are left out because they repeat, how many because they are empty, and where:
        gaps[j] is the number of kept captions before the j-th one left out, so kept caption k stands at position
        k + searchsorted(gaps, k, "right") of the file. None where all are kept.
    """
    known = recall(path, now, _REPEATS)
    if known is not None:
        if not known["repeated"] + known["empty"]:
            return 0, 0, None
        gaps = recall_array(path, _REPEATS)
        if gaps is not None and len(gaps) == known["repeated"] + known["empty"]:
            return known["repeated"], known["empty"], gaps
    repeated, empty = find_unwanted(ArrowFile(path, CAPTION_COLUMNS).texts[CAPTION.name])
    left_out = np.sort(np.concatenate([repeated, empty]))
    gaps = left_out - np.arange(len(left_out)) if len(left_out) else None
    remember(path, now, _REPEATS, {"repeated": len(repeated), "empty": len(empty)}, gaps)
    return len(repeated), len(empty), gaps


def find_unwanted(texts: TextColumn) -> tuple[np.ndarray, np.ndarray]:
    """Return the ascending numbers of repeated and of empty texts; of equal texts of a row the first is kept."""
    repeated, empty = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for first, rows, strings in texts.blocks():
        strings = clean_all(strings)
        is_empty = np.asarray(pc.equal(pc.binary_length(strings), 0))
        is_repeated = ~is_empty
        if len(rows) > 1 and (np.diff(rows) == 0).any():
            codes = strings.dictionary_encode().indices.to_numpy().astype(np.int64)
            _, firsts = np.unique((rows - rows[0]) * (codes.max() + 1) + codes, return_index=True)
            is_repeated[firsts] = False
        else:
            is_repeated[:] = False
        empty.append(first + np.flatnonzero(is_empty))
        repeated.append(first + np.flatnonzero(is_repeated))
    return np.concatenate(repeated), np.concatenate(empty)


def clean_all(strings: pa.Array) -> pa.Array:
    """Do what `arrow.clean` does to one text to every string of an array; null becomes empty."""
    strings = pc.fill_null(strings.cast(pa.large_string()), "")
    # Most captions are clean already, and finding that out is ten times quicker than replacing.
    unclean = pc.match_substring_regex(strings, f"^ | $|  |[{_OTHER_SPACE}]")
    cleaned = pc.replace_substring_regex(strings.filter(unclean), f"[ {_OTHER_SPACE}]+", " ")
    return pc.replace_with_mask(strings, unclean, pc.utf8_trim(cleaned, " "))
