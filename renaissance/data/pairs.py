"""(picture, caption) pairs for pretraining: samples whose repeated and empty captions are left out of training."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from renaissance.core.errors import UserError

from .arrow import ArrowFile, check_file
from .columns import Entries
from .dataset_specs import CAPTION, CAPTION_COLUMNS, IMAGE, IMAGE_ID
from .file_cache import Stamp, cached
from .identity import image_key, text_key
from .samples import ArrowSamples, RawSample, Unwanted

# What `str.split` takes for white space but the blank, as characters of an RE2 class (whose \s is ASCII only).
_OTHER_SPACE = r"\t-\r\x1c-\x1f\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"


class PairDataset(ArrowSamples):
    """Pairs of several files, one after the other. A map-style data set.

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
        self._training = training
        super().__init__(folder, files, CAPTION_COLUMNS, CAPTION.name)

    def __getitem__(self, index: int) -> RawSample:
        """Read one pair. Raises IndexError outside 0 <= index < len."""
        file, number, row, where = self._find(index)
        captions, image = file.entries[CAPTION.name], file.value(IMAGE.name, row)
        texts = frozenset(map(text_key, captions.of_row(row)))
        metadata = {"id": int(index)}
        return RawSample(int(index), (image,), captions[number], texts, image_key(image), where, metadata=metadata)

    def text(self, index: int) -> str:
        """Read a caption without its picture."""
        file, number, _, _ = self._find(index)
        return file.entries[CAPTION.name][number]

    def image_names(self, indices: Sequence[int]) -> list[str]:
        """Return what the files call the pictures of these samples; "file.arrow row 12" where a file has no names."""
        names: dict[int, ArrowFile | None] = {}
        return [self._image_name(int(index), names) for index in indices]

    def _image_name(self, index: int, names: dict[int, ArrowFile | None]) -> str:
        place = self._find(index)
        number = int(np.searchsorted(self._ends, index, side="right"))
        if number not in names:
            path = os.path.join(self._folder, self._files[number])
            try:  # a column that nobody needs: what is wrong with it is no fault of the file
                names[number] = ArrowFile(path, [IMAGE_ID]) if check_file(path, [IMAGE_ID])[1].columns else None
            except UserError:
                names[number] = None
        return (names[number] and names[number].value(IMAGE_ID.name, place.row)) or place.where

    @property
    def labelled(self) -> bool:
        """Captions are their own labels."""
        return True

    def _unwanted(self, path: str, now: Stamp) -> Unwanted:
        return unwanted(path, now) if self._training else Unwanted()


def unwanted(path: str, now: Stamp) -> Unwanted:
    """Find the captions of a checked file that training leaves out, or look them up in the cache.

    Returns:
        (repeated, empty, gaps): how many are left out because they repeat, how many because they are empty, and where:
        gaps[j] is the number of kept captions before the j-th one left out, so kept caption k stands at position
        k + searchsorted(gaps, k, "right") of the file. None where all are kept.
    """
    hints = {"repeated": int, "empty": int, "gaps": list[int]}
    repeated, empty, gaps = cached(path, now, "repeats", hints, lambda: _find_unwanted(path)._asdict()).values()
    return Unwanted(repeated, empty, np.array(gaps, np.int64) if gaps else None)


def _find_unwanted(path: str) -> Unwanted:
    repeated, empty = find_unwanted(ArrowFile(path, CAPTION_COLUMNS).entries[CAPTION.name])
    left_out = np.sort(np.concatenate([repeated, empty]))
    return Unwanted(len(repeated), len(empty), (left_out - np.arange(len(left_out))).tolist())


def find_unwanted(texts: Entries) -> tuple[np.ndarray, np.ndarray]:
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
    """Do what `columns.clean` does to one text to every string of an array; null becomes empty."""
    strings = pc.fill_null(strings.cast(pa.large_string()), "")
    # Most captions are clean already, and finding that out is ten times quicker than replacing.
    unclean = pc.match_substring_regex(strings, f"^ | $|  |[{_OTHER_SPACE}]")
    cleaned = pc.replace_substring_regex(strings.filter(unclean), f"[ {_OTHER_SPACE}]+", " ")
    return pc.replace_with_mask(strings, unclean, pc.utf8_trim(cleaned, " "))
