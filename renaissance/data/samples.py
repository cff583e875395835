"""Samples of any data set, read from any number of arrow files by position.

Position -> file -> sample -> row is searched for in cumulative counts and in the files' own offsets: no Python object
is kept per row or sample, so a hundred million samples cost what the file names cost.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from renaissance.core.errors import UserError, require
from renaissance.core.types import Example, StoredTokens

from .arrow import ArrowFile, check_file, schema_metadata
from .columns import Flat
from .dataset_specs import BBOXES, Column
from .file_cache import Stamp, refuse_changed
from .identity import content_key

if TYPE_CHECKING:
    from .token_cache import TokenFile


class Sample(NamedTuple):
    """One sample, as stored.

    Attributes:
        id: position in the data set.
        row: its row in its file; the samples of a row share their images.
        images: the encoded images of the row, in the order of the columns; after `use_tokens` where their tokens are.
        values: column -> the row's value, or the sample's entry of a list; None where the file has none, such as the
            answers of a test split or a column that older programs did not write.
        where: "file.arrow row 12", for messages.
    """

    id: int
    row: int
    images: tuple[bytes, ...] | tuple[StoredTokens, ...]
    values: dict[str, Any]
    where: str


class FileSummary(NamedTuple):
    """What a file gives to a data set.

    Attributes:
        dataset: the data set's name.
        file: the file's name.
        rows: of the file.
        samples: how many are used.
    """

    dataset: str
    file: str
    rows: int
    samples: int

    def fingerprint(self, now: Stamp, ends: bytes) -> dict[str, Any]:
        """Returns what settings.json holds of the file; `ends`: its first and last samples."""
        counts = {"bytes": now.size, "mtime_ns": now.mtime_ns, "pictures": self.rows, "pairs": self.samples}
        return {**counts, "ends": f"{content_key(ends):016x}"}


class _File(NamedTuple):
    """A checked file. Attributes: summary; stamp, when it was checked; columns, of those wanted; lacking, that hold nothing."""

    summary: FileSummary
    stamp: Stamp
    columns: tuple[Column, ...]
    lacking: tuple[str, ...]


class Place(NamedTuple):
    """Where a sample is. Attributes: file; number of the file; row; entry of the row; where, for messages."""

    file: ArrowFile
    number: int
    row: int
    entry: int
    where: str


class SampleDataset:
    """Samples of several files, numbered through, with their images and all their values. A map-style data set.

    It pickles small and opens a file when it is first asked for.

    Args:
        folder: where the files are.
        files: (data set's name, file name) of each file, in order.
        columns: the columns that are read.
        samples: the column that numbers the samples, "" where each row is one.
        training: whether a file that lacks what a model learns from is refused.
        own_columns: data set -> the columns that are read of it, where its files have other names for them.

    Attributes:
        older_files: those that go by the name of an older program, which is not always that of their data set.

    Raises:
        UserError: a file cannot be used, or there is no sample.
    """

    older_files: tuple[str, ...] = ()

    def __init__(
        self,
        folder: str,
        files: Sequence[tuple[str, str]],
        columns: Sequence[Column],
        samples: str,
        *,
        training: bool = False,
        own_columns: Mapping[str, Sequence[Column]] = MappingProxyType({}),
    ):
        self._own_columns = dict(own_columns)
        self._folder, self._wanted, self._samples, self._training = str(folder), tuple(columns), samples, training
        self._files = [self._checked(dataset, name) for dataset, name in files]
        self._ends = np.cumsum([file.samples for file in self.describe()], dtype=np.int64)
        self._open: dict[int, tuple[ArrowFile, np.ndarray]] = {}
        self._tokens: Sequence[TokenFile] = ()
        what, names = samples or "row", ", ".join(file.file for file in self.describe()) or "no file"
        require(len(self), f"No {what} in {names} of '{folder}' can be used: all are empty.")

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def __getitem__(self, index: int) -> Any:
        """Reads one sample. Raises IndexError outside 0 <= index < len."""
        place = self._find(index)
        file, number, row, entry, where = place
        images = self._images(place)
        values = {
            column.name: None if column.name in self._files[number].lacking else file.value(column.name, row, entry)
            for column in self._wanted
            if not column.is_image
        }
        return Sample(int(index), row, images, values, where)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that hold something in every file."""
        return tuple(
            column.name for column in self._wanted if not any(column.name in file.lacking for file in self._files)
        )

    def schema_metadata(self) -> list[dict[str, Any]]:
        """Returns the metadata of each file (`arrow.schema_metadata`)."""
        return [schema_metadata(self._path(number)) for number in range(len(self._files))]

    def describe(self) -> list[FileSummary]:
        """Returns what each file gives, in order."""
        return [file.summary for file in self._files]

    def ids_of(self, datasets: Collection[str]) -> tuple[range, ...]:
        """Returns the positions of the samples of these data sets, in ranges. Raises UserError where there are none."""
        ends = zip(self.describe(), self._ends.tolist(), strict=True)
        ranges = tuple(range(end - file.samples, end) for file, end in ends if file.dataset in datasets)
        require(any(ranges), f"{', '.join(datasets)}: all are empty; there is no {self._samples or 'row'} to use.")
        return ranges

    def fingerprint(self) -> dict[str, dict[str, Any]]:
        """Returns file name -> fingerprint, by which a later run knows its data again.

        `bytes`, `pictures`, `pairs` and `ends` (a hash of the first and the last row, images and entries) depend on
        the content alone; `mtime_ns` also on when the file was written.
        """
        prints = {}
        for number, (file, now, *_) in enumerate(self._files):
            ends = b"".join(self._row_bytes(number, row) for row in (0, file.rows - 1))
            prints[file.file] = file.fingerprint(now, ends)
        return prints

    def rows(self) -> np.ndarray:
        """Returns (len,) int64, the row of each sample, numbered through over all files."""
        first = np.cumsum([0, *(file.rows for file in self.describe())])
        places = map(self._find, range(len(self)))
        return np.array([first[place.number] + place.row for place in places], np.int64)

    def values(self, column: str) -> Iterator[Any]:
        """Yields what a column holds in each row of all files; no image is read."""
        for number in range(len(self._files)):
            for batch in self._opened(number)[0].slices():
                yield from batch[column].to_pylist()

    def image_counts(self, number: int) -> np.ndarray:
        """Returns (images,) how many images a model sees of each of a file: one, or one for each of its boxes."""
        file, _ = self._opened(number)
        if any(column.name == BBOXES.name for column in self._columns_of(number)):
            return np.concatenate([Flat(batch[BBOXES.name], 1).lengths[0] for batch in file.slices()])
        return np.ones(file.rows * len(self._image_columns(number)), np.int64)

    def image_source(self, number: int) -> list[str]:
        """Returns the columns that make the images of a file, with that of their boxes where they are cut out."""
        boxes = [column.name for column in self._columns_of(number) if column.name == BBOXES.name]
        return self._image_columns(number) + boxes

    def images_shown(self, samples: int | None = None) -> list[int]:
        """Returns how many images of each file are read for the first so many samples, None = all; they are its first ones."""
        last = self._find((len(self) if samples is None else samples) - 1)
        rows = [file.rows for file in self.describe()][: last.number]
        rows += [last.row + 1] + [0] * (len(self._files) - last.number - 1)
        return [count * len(self._image_columns(number)) for number, count in enumerate(rows)]

    def image(self, number: int, image: int) -> Example:
        """Reads an image of a file with its boxes, whichever samples it has. They are numbered through, row by row."""
        (file, _), columns = self._opened(number), self._image_columns(number)
        self._refuse_changed(number)
        row, column = divmod(image, len(columns))
        encoded = file.value(columns[column], row)
        there = any(column.name == BBOXES.name for column in self._columns_of(number))
        boxes = file.value(BBOXES.name, row) if there else None
        where = f"{self._files[number].summary.file} row {row}"
        return Example(image, (encoded,), "", image_key=content_key(encoded), where=where, boxes=boxes)

    def paths(self) -> list[str]:
        """Returns the path of each file, in order."""
        return [self._path(number) for number in range(len(self._files))]

    def use_tokens(self, tokens: Sequence[TokenFile]) -> None:
        """From here on samples have where the tokens of their images are, by file, in the place of the encoded images."""
        self._tokens = tuple(tokens)

    def _images(self, place: Place) -> tuple[bytes, ...] | tuple[StoredTokens, ...]:
        columns = self._image_columns(place.number)
        if not self._tokens:
            return tuple(place.file.value(column, place.row) for column in columns)
        first = place.row * len(columns)
        stored = (self._tokens[place.number].stored(first + column) for column in range(len(columns)))
        return tuple(each for image in stored for each in image)

    def _image_columns(self, number: int) -> list[str]:
        return [column.name for column in self._columns_of(number) if column.is_image]

    def refuse_changed(self) -> None:
        """Raises UserError where a file is not any more what it was when this data set was made."""
        for number in range(len(self._files)):
            self._refuse_changed(number)

    def _find(self, index: int) -> Place:
        """Finds a sample. Raises IndexError outside 0 <= index < len."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        file, gaps = self._opened(number)
        self._refuse_changed(number, index)
        place = int(index - self._ends[number]) + self._files[number].summary.samples
        place += int(np.searchsorted(gaps, place, side="right"))
        row, entry = file.locate(place)
        return Place(file, number, row, entry, f"{self._files[number].summary.file} row {row}")

    def _path(self, number: int) -> str:
        return os.path.join(self._folder, self._files[number].summary.file)

    def _checked(self, dataset: str, name: str) -> _File:
        path = os.path.join(self._folder, name)
        wanted = self._own_columns.get(dataset, self._wanted)
        now, found = check_file(path, wanted, self._samples)
        lacking = tuple(column.name for column in self._wanted if column.name not in found.columns)
        empty = ", ".join(column.name for column in self._wanted if column.needed and column.name in lacking)
        if self._training and empty:
            raise UserError(f"'{path}' cannot be trained on: its {empty} are empty in every row.")
        summary = FileSummary(dataset, name, found.rows, found.samples - len(self._gaps(path, now, wanted)))
        return _File(summary, now, wanted, lacking)

    def _gaps(self, path: str, now: Stamp, columns: Sequence[Column]) -> np.ndarray:
        """Where samples of a file are left out: before the j-th of them, gaps[j] are kept.

        So kept sample k is sample k + searchsorted(gaps, k, "right") of the file.
        """
        return np.empty(0, np.int64)

    def _opened(self, number: int) -> tuple[ArrowFile, np.ndarray]:
        if number not in self._open:
            path, now = self._path(number), self._refuse_changed(number)
            gaps = self._gaps(path, now, self._files[number].columns)
            self._open[number] = ArrowFile(path, self._columns_of(number), self._samples), gaps
        return self._open[number]

    def _refuse_changed(self, number: int, index: int | None = None) -> Stamp:
        """Called for each sample, some microseconds: reading what was cut off a mapped file ends the process."""
        before = "" if index is None else f", before sample {index} was read"
        return refuse_changed(self._path(number), self._files[number].stamp, before)

    def _columns_of(self, number: int) -> list[Column]:
        file = self._files[number]
        return [column for column in file.columns if column.name not in file.lacking]

    def _row_bytes(self, number: int, row: int) -> bytes:
        file, _ = self._opened(number)
        columns = self._columns_of(number)
        images = b"".join(file.value(column.name, row) for column in columns if column.is_image)
        entries = [str(entry) for column in columns if column.per_sample for entry in file.value(column.name, row)]
        return images + "\n".join(entries).encode("utf-8", "surrogatepass")


class TaskDataset:
    """Samples as a task reads them. A map-style data set.

    Args:
        dataset: the stored samples.
        read: makes an `Example` of a stored sample; picklable.
        answer: the column without which the samples are unlabelled, "" = none is needed.
        hidden: whether they are unlabelled in any case.

    Attributes:
        labelled: whether the right answers are there.
        dataset: the stored samples.
    """

    def __init__(
        self, dataset: SampleDataset, read: Callable[[Sample], Example], answer: str = "", *, hidden: bool = False
    ):
        self.dataset, self._read = dataset, read
        self.labelled = not hidden and (not answer or answer in dataset.columns)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Example:
        return self._read(self.dataset[index])

    def __getattr__(self, name: str) -> Any:
        """Delegates to the stored samples: `describe`, `fingerprint`, `columns` ..."""
        if name == "dataset":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)
