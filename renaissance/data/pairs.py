"""(image, caption) pairs for pretraining: samples whose repeated and empty captions are left out of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from renaissance.core.errors import UserError
from renaissance.core.types import Example

from .arrow import ArrowFile, check_file
from .columns import Flat
from .dataset_specs import CAPTION, CAPTION_COLUMNS, CAPTION_IDS, IMAGE_ID, Column
from .file_cache import Stamp, cached
from .identity import content_key, text_key
from .samples import SampleDataset


class PairDataset(SampleDataset):
    """Pairs of several files, one after the other. A map-style data set.

    In training, identical captions of one image (one row) count once and empty ones not at all; the order is kept. In
    evaluation all count. Captions are compared as they are read: with white space normalised, case kept.

    Args:
        folder: where the files are.
        files: (data set's name, file name) of each file, in order.
        training: whether repeated and empty captions are left out.
        own_columns: as for `SampleDataset`.

    Attributes:
        labelled: True: captions are their own labels.
        missing_shards: names of files between the others that are not there, where that is allowed.
        notes: sentences for the screen about what the files hold and the pairs do not.

    Raises:
        UserError: a file cannot be used, or no caption is left.
    """

    labelled = True
    missing_shards: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __init__(
        self,
        folder: str,
        files: Sequence[tuple[str, str]],
        *,
        training: bool,
        own_columns: Mapping[str, Sequence[Column]] = MappingProxyType({}),
    ):
        self._drops_repeats = training  # a file of images that have no captions yet may be one of many
        super().__init__(folder, files, CAPTION_COLUMNS, CAPTION.name, own_columns=own_columns)

    def __getitem__(self, index: int) -> Example:
        """Reads one pair. Raises IndexError outside 0 <= index < len."""
        place = self._find(index)
        captions, (image,) = place.file.value(CAPTION.name, place.row), self._images(place)
        key = content_key(image) if isinstance(image, bytes) else image.image_key
        texts = frozenset(map(text_key, captions))
        metadata = {"id": int(index)}
        return Example(int(index), (image,), captions[place.entry], texts, key, place.where, metadata=metadata)

    def text(self, index: int) -> str:
        """Reads a caption without its image."""
        place = self._find(index)
        return place.file.value(CAPTION.name, place.row, place.entry)

    def image_names(self, indices: Sequence[int]) -> list[str]:
        """Returns what the files call the images of these samples; "file.arrow row 12" where a file has no names."""
        places = [self._find(int(index)) for index in indices]
        files = {number: self._with_names(number) for number in {place.number for place in places}}
        return [
            (files[place.number] and files[place.number].value(IMAGE_ID.name, place.row)) or place.where
            for place in places
        ]

    def caption_ids(self) -> np.ndarray:
        """Returns what the data set calls the captions, (n,) int64, of pairs that leave none out.

        Raises:
            UserError: a file lacks them, as those of older programs do.
        """
        columns, found = [CAPTION, CAPTION_IDS], []
        for number, file in enumerate(self.describe()):
            path = self._path(number)
            if CAPTION_IDS.name not in check_file(path, columns, CAPTION.name)[1].columns:
                again = f"prepare with dataset={file.dataset} root=<its download> data_root={self._folder}"
                raise UserError(
                    f"'{path}' has no {CAPTION_IDS.name}, as older programs wrote none; `python run.py {again}` does."
                )
            found += [Flat(batch[CAPTION_IDS.name], 1).values for batch in ArrowFile(path, columns).slices()]
        return np.concatenate(found).astype(np.int64)

    def _with_names(self, number: int) -> ArrowFile | None:
        path = self._path(number)
        try:  # a column that nobody needs: what is wrong with it is no fault of the file
            return ArrowFile(path, [IMAGE_ID]) if check_file(path, [IMAGE_ID])[1].columns else None
        except UserError:
            return None

    def _gaps(self, path: str, now: Stamp, columns: Sequence[Column]) -> np.ndarray:
        if not self._drops_repeats:
            return super()._gaps(path, now, columns)
        own = next(column.source for column in columns if column.name == CAPTION.name)
        what = "repeats" if own in ("", CAPTION.name) else f"repeats-{content_key(own.encode()):x}"
        found = cached(path, now, what, {"gaps": list[int]}, lambda: find_gaps(path, columns))
        return np.array(found["gaps"], np.int64)


def find_gaps(path: str, columns: Sequence[Column] = CAPTION_COLUMNS) -> dict[str, list[int]]:
    """Returns, as "gaps", where repeated and empty captions of a file are left out; of equal ones of a row the first is kept."""
    left_out, start = [np.empty(0, np.int64)], 0
    for batch in ArrowFile(path, columns).slices():
        captions = Flat(batch[CAPTION.name], CAPTION.depth)
        rows, strings = captions.rows(), clean_all(captions.values)
        kept = np.zeros(len(rows), bool)
        if len(rows):
            codes = strings.dictionary_encode().indices.to_numpy().astype(np.int64)
            kept[np.unique(rows * (codes.max() + 1) + codes, return_index=True)[1]] = True
        kept &= np.asarray(pc.not_equal(pc.binary_length(strings), 0))
        left_out.append(start + np.flatnonzero(~kept))
        start += len(rows)
    places = np.concatenate(left_out)
    return {"gaps": (places - np.arange(len(places))).tolist()}


def clean_all(strings: pa.Array) -> pa.Array:
    """Does what `columns.clean` does to one text to every string of an array; null becomes empty."""
    words = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(pc.fill_null(strings.cast(pa.large_string()), "")))
    return pc.binary_join(words, pa.scalar(" ", pa.large_string()))
