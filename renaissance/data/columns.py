"""The columns of an arrow file: which types serve which kind, and their values, read one at a time out of the map."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from renaissance.core.errors import UserError

from .dataset_specs import ENTRY_LENGTHS, LABEL_NAMES, PER_ROW, PER_SAMPLE, Column

_CLEANED = ("texts", "text pairs")  # what a model reads; the others are compared as they were stored


class _Leaf(NamedTuple):
    """What lists end in. Attributes: fits, whether a type can serve; noun, what it is called."""

    fits: Callable[[pa.DataType], bool]
    noun: str


def _is_string(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


_LEAVES = {  # by the type that our writers give it
    "binary": _Leaf(lambda kind: pa.types.is_binary(kind) or pa.types.is_large_binary(kind), "binary or large_binary"),
    "string": _Leaf(_is_string, "string"),
    "int64": _Leaf(pa.types.is_integer, "whole number"),
    "double": _Leaf(_is_number, "number"),
}
_KINDS = {  # kind -> what its lists end in, and how many are around it
    kind: (_LEAVES[written.rstrip(">").rpartition("<")[2]], written.count("<"))
    for kind, written in (PER_ROW | PER_SAMPLE).items()
}


def fits(found: pa.DataType, kind: str) -> bool:
    """Whether a column of this type can serve as this kind.

    Lists may be large, those inside of a fixed size; strings, binaries and numbers of any width. Of a kind of
    `PER_SAMPLE`, one value may stand for a list of one, and a list without any values has no type (pandas).
    """
    leaf, depth = _KINDS[kind]
    level = 0
    while level < depth and _is_list(found, inside=level > 0):
        found, level = found.value_type, level + 1
    valued = leaf.fits(found) or (level > 0 and pa.types.is_null(found))
    return valued and (level == depth or kind in PER_SAMPLE)


def expected(kind: str) -> str:
    """Return, in words, what `fits` wants."""
    leaf, depth = _KINDS[kind]
    return (
        leaf.noun
        if not depth
        else f"a list of {'lists of ' * (depth - 1)}{leaf.noun}s" + (f", or {leaf.noun}" if depth == 1 else "")
    )


def clean(text: str | None) -> str:
    """Return the text with every run of white space turned into one space, none at the ends."""
    return " ".join(text.split()) if text else ""


class Block(NamedTuple):
    """Some thousands of consecutive entries. Attributes: first, the number of the first; rows (n,) and entries (n,)."""

    first: int
    rows: np.ndarray
    entries: pa.Array


class Entries:
    """A column with an entry for each sample, numbered through from 0 in file order.

    The numbering is searched for in the file's own offsets, never stored.

    Args:
        chunks: the column's arrays, one a record batch: lists of entries, or one entry a row.
        kind: a key of `PER_SAMPLE`.
    """

    def __init__(self, chunks: Sequence[pa.Array], kind: str):
        self._kind = kind
        self._values = [chunk.values if _is_list(chunk.type) else chunk for chunk in chunks]
        # A list array's own offsets, straight from the map; a column without lists needs none.
        self._offsets = [_offsets(chunk) if _is_list(chunk.type) else None for chunk in chunks]
        counts = [
            len(chunk) if offsets is None else int(offsets[-1] - offsets[0])
            for chunk, offsets in zip(chunks, self._offsets, strict=True)
        ]
        self._row_starts = starts([len(chunk) for chunk in chunks])
        self._entry_starts = starts(counts)

    def __len__(self) -> int:
        return self._entry_starts[-1]

    def __getitem__(self, number: int) -> Any:
        """Return entry `number`; 0 <= number < len(self)."""
        part, place = self._place(number)
        return plain(self._values[part][place].as_py(), self._kind)

    def row(self, number: int) -> int:
        """Return the row of entry `number`."""
        part, place = self._place(number)
        offsets = self._offsets[part]
        if offsets is not None:
            # The searched value needs the offsets' own type: numpy would convert the whole array, not the one number.
            place = int(np.searchsorted(offsets, offsets.dtype.type(place), side="right")) - 1
        return self._row_starts[part] + place

    def of_row(self, row: int) -> list[Any]:
        """Return all entries of a row, in order."""
        part = bisect.bisect_right(self._row_starts, row) - 1
        place, offsets = row - self._row_starts[part], self._offsets[part]
        first, end = (place, place + 1) if offsets is None else (int(offsets[place]), int(offsets[place + 1]))
        return [plain(entry, self._kind) for entry in self._values[part].slice(first, end - first).to_pylist()]

    def blocks(self, entries: int = 1 << 18) -> Iterator[Block]:
        """Yield all entries, as they are stored, in blocks of whole rows, about `entries` each."""
        for part, (values, offsets) in enumerate(zip(self._values, self._offsets, strict=True)):
            rows = self._row_starts[part + 1] - self._row_starts[part]
            if offsets is None:
                offsets = np.arange(rows + 1)
            start = 0
            while start < rows:
                reach = offsets.dtype.type(min(int(offsets[start]) + entries, int(offsets[-1])))
                end = max(int(np.searchsorted(offsets, reach, side="right")) - 1, start + 1)
                first, count = int(offsets[start]), int(offsets[end] - offsets[start])
                of_row = np.repeat(np.arange(start, end), np.diff(offsets[start : end + 1]))
                number = self._entry_starts[part] + first - int(offsets[0])
                yield Block(number, self._row_starts[part] + of_row, values.slice(first, count))
                start = end

    def _place(self, number: int) -> tuple[int, int]:
        part = bisect.bisect_right(self._entry_starts, number) - 1
        offsets = self._offsets[part]
        return part, number - self._entry_starts[part] + (0 if offsets is None else int(offsets[0]))


def plain(value: Any, kind: str) -> Any:
    """Return a value of a column as the program uses it.

    Texts that a model reads are cleaned, null is the empty text or list, and one value in the place of an entry's list
    is a list of one.
    """
    leaf, depth = _KINDS[kind]
    if leaf.noun == "string":
        value = _texts(value, kind in _CLEANED)
    if kind in PER_SAMPLE and depth > 1 and not isinstance(value, list):
        return [] if value is None else [value]
    return value


def starts(counts: Sequence[int]) -> list[int]:
    """Return where each part begins, and the total behind: one number a record batch."""
    return [0, *np.cumsum(counts, dtype=np.int64).tolist()]


class ValueCheck:
    """What must hold between the values of a file's columns, looked at a record batch at a time.

    A column with an entry for each sample may hold none in the whole file, as the answers of a test split.

    Args:
        path: the file, for messages.
        columns: the columns that are there, pictures excepted.
        samples: the column that numbers the samples, "" where each row is one.
        names: how many label names the file has; None = it does not say.
    """

    def __init__(self, path: str, columns: Sequence[Column], samples: str, names: int | None = None):
        self._path, self._columns, self._samples, self._names = path, columns, samples, names
        self._entries = {column.name: 0 for column in columns if column.kind in PER_SAMPLE}
        self._unequal: dict[str, str] = {}

    def look(self, batch: pa.RecordBatch, first: int) -> None:
        """Check a record batch whose first row is row `first` of the file."""
        lengths, leaves = {}, {}
        for column in self._columns:
            leaf, depth = _KINDS[column.kind]
            lengths[column.name], values = _unnest(batch[column.name], depth)
            leaves[column.name] = values
            if values.null_count and leaf.noun != "string":
                row = first + _row_of(lengths[column.name], np.asarray(values.is_null()))
                raise UserError(
                    f"'{self._path}' row {row} has no value (null) in column '{column.name}'; write it again."
                )
        for column in self._columns:
            if column.most is not None:
                self._check_range(column, lengths[column.name], leaves[column.name], first)
            if column.indexes:
                self._check_places(column, lengths, leaves[column.name], first)
            if not (column.kind in ENTRY_LENGTHS or column.beside in lengths):
                continue
            inner = lengths[column.name][1]
            fixed = ENTRY_LENGTHS.get(column.kind)
            beside = lengths[column.beside][1] if fixed is None else np.full(len(inner), fixed)
            if len(inner) == len(beside) and (inner != beside).any():
                place, row = int((inner != beside).argmax()), first + _row_of(lengths[column.name][:1], inner != beside)
                raise UserError(
                    f"'{self._path}' row {row} has {inner[place]} values in an entry of '{column.name}', expected "
                    f"{beside[place]}{f' as in {column.beside!r}' if column.beside else ''}: write the file again."
                )
        self._compare({name: lengths[name][0] for name in self._entries}, first)

    def finish(self) -> dict[str, int]:
        """Raise what only the whole file shows; return how many entries each column has."""
        for name, sentence in self._unequal.items():
            if self._entries[name]:
                raise UserError(sentence)
        return self._entries

    def _check_range(self, column: Column, lengths: list[np.ndarray], leaves: pa.Array, first: int) -> None:
        """Refuse a number outside a column's range; NaN is in none."""
        numbers = np.asarray(leaves.cast(pa.float64()))
        wrong = ~((numbers >= 0) & (numbers <= column.most))
        if wrong.any():
            raise UserError(
                f"'{self._path}' row {first + _row_of(lengths, wrong)} has {numbers[int(wrong.argmax())]:g} in "
                f"'{column.name}'; expected numbers from 0 to {column.most:g}: write the file again."
            )

    def _check_places(self, column: Column, lengths: dict[str, list[np.ndarray]], leaves: pa.Array, first: int) -> None:
        """Refuse a number that is no place in what its column counts through."""
        if column.indexes == LABEL_NAMES:
            what, counts = "label names of the file", self._names
        else:  # a number a row
            what, counts = f"entries of its '{column.indexes}'", lengths[column.indexes][0]
        if counts is None:
            return
        places = np.asarray(leaves).astype(np.int64)
        wrong = (places < 0) | (places >= counts)
        if wrong.any():
            place = int(wrong.argmax())
            raise UserError(
                f"'{self._path}' row {first + _row_of(lengths[column.name], wrong)} has {places[place]} in "
                f"'{column.name}', which counts the {np.broadcast_to(counts, len(places))[place]:,} {what} from 0; write "
                "the file again."
            )

    def _compare(self, counts: dict[str, np.ndarray], first: int) -> None:
        wanted = counts.get(self._samples)
        for name, count in counts.items():
            self._entries[name] += int(count.sum())
            if wanted is not None and name not in self._unequal and (count != wanted).any():
                row = int((count != wanted).argmax())
                self._unequal[name] = (
                    f"'{self._path}' row {first + row} has {count[row]} entries in '{name}' and {wanted[row]} in "
                    f"'{self._samples}'; each of one belongs to one of the other: write the file again."
                )


def _is_list(kind: pa.DataType, inside: bool = False) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or (inside and pa.types.is_fixed_size_list(kind))


def _offsets(lists: pa.Array) -> np.ndarray:
    offsets = lists.offsets.to_numpy(zero_copy_only=True)
    return offsets if len(offsets) else np.zeros(1, np.int32)


def _texts(value: Any, cleaned: bool) -> Any:
    if isinstance(value, list):
        return [_texts(each, cleaned) for each in value]
    return clean(value) if cleaned else value or ""


def _unnest(column: pa.Array, depth: int) -> tuple[list[np.ndarray], pa.Array]:
    """Return the lengths of a column's `depth` lists, the outermost first, and the values inside all of them."""
    lengths: list[np.ndarray] = []
    while len(lengths) < depth:
        if pa.types.is_fixed_size_list(column.type):
            size = column.type.list_size
            lengths.append(np.full(len(column), size))
            column = column.values.slice(column.offset * size, len(column) * size)
        elif _is_list(column.type):
            offsets = _offsets(column)
            lengths.append(np.diff(offsets).astype(np.int64))
            column = column.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
        else:  # one value in the place of a list
            lengths.append(np.ones(len(column), np.int64))
    return lengths, column


def _row_of(lengths: list[np.ndarray], wrong: np.ndarray) -> int:
    """Return the row of the first wrong value; `lengths` are those of the lists around it."""
    rows = np.arange(len(lengths[0]) if lengths else len(wrong))
    for counts in lengths:
        rows = np.repeat(rows, counts)
    return int(rows[int(wrong.argmax())])
