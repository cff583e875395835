"""Arrow files: opened by path, checked once, memory-mapped, read without a Python object per row or text.

Arrow trusts the offsets in a file: reading through a damaged one ends the process, not the run. So every file is fully
validated before its first use; the result is remembered (`remembered.py`), so the next run opens it in microseconds.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from renaissance.data.remembered import Stamp, recall, remember, stamp
from renaissance.errors import UserError
from renaissance.formats import Column

MAGIC = b"ARROW1"
_STREAM_START = b"\xff\xff\xff\xff"
_READ_ERRORS = (pa.ArrowException, OSError, ValueError, OverflowError)
_EXPECTED = {"picture": "binary or large_binary", "texts": "a list of strings, or string"}


class Facts(NamedTuple):
    """What the check of a file found. Attributes: rows; texts, the strings in its text column (0 without one)."""

    rows: int
    texts: int


class TextBlock(NamedTuple):
    """Some thousands of consecutive texts. Attributes: first, the number of the first; rows (n,) and strings (n,)."""

    first: int
    rows: np.ndarray
    strings: pa.Array


class TextColumn:
    """The texts of a file, numbered through from 0 in file order; the numbering is searched for, never stored.

    Args:
        chunks: the column's arrays, one a record batch: lists of strings, or strings.
    """

    def __init__(self, chunks: Sequence[pa.Array]):
        self._values = [chunk if _is_string(chunk.type) else chunk.values for chunk in chunks]
        # A list array's own offsets, straight from the map; a plain string column needs none.
        self._offsets = [
            None if _is_string(chunk.type) else chunk.offsets.to_numpy(zero_copy_only=True) for chunk in chunks
        ]
        counts = [
            len(chunk) if offsets is None else int(offsets[-1] - offsets[0]) if len(offsets) else 0
            for chunk, offsets in zip(chunks, self._offsets, strict=True)
        ]
        self._row_starts = _starts([len(chunk) for chunk in chunks])
        self._text_starts = _starts(counts)

    def __len__(self) -> int:
        return self._text_starts[-1]

    def locate(self, number: int) -> tuple[int, str]:
        """Return row and text of text `number`; 0 <= number < len(self)."""
        part = bisect.bisect_right(self._text_starts, number) - 1
        place, offsets = number - self._text_starts[part], self._offsets[part]
        row = place
        if offsets is not None:
            # The searched value needs the offsets' own type: numpy would convert the whole array, not the one number.
            place = offsets[0] + offsets.dtype.type(place)
            row = int(np.searchsorted(offsets, place, side="right")) - 1
        return self._row_starts[part] + row, clean(self._values[part][int(place)].as_py())

    def of_row(self, row: int) -> list[str]:
        """Return all texts of a row, in order."""
        part = bisect.bisect_right(self._row_starts, row) - 1
        place, offsets = row - self._row_starts[part], self._offsets[part]
        first, end = (place, place + 1) if offsets is None else (int(offsets[place]), int(offsets[place + 1]))
        return [clean(text) for text in self._values[part].slice(first, end - first).to_pylist()]

    def blocks(self, texts: int = 1 << 18) -> Iterator[TextBlock]:
        """Yield all texts in blocks of whole rows, about `texts` strings each."""
        for part, (values, offsets) in enumerate(zip(self._values, self._offsets, strict=True)):
            rows = self._row_starts[part + 1] - self._row_starts[part]
            if offsets is None:
                offsets = np.arange(rows + 1)
            start = 0
            while start < rows:
                reach = offsets.dtype.type(min(int(offsets[start]) + texts, int(offsets[-1])))
                end = max(int(np.searchsorted(offsets, reach, side="right")) - 1, start + 1)
                first, count = int(offsets[start]), int(offsets[end] - offsets[start])
                of_row = np.repeat(np.arange(start, end), np.diff(offsets[start : end + 1]))
                number = self._text_starts[part] + first - int(offsets[0])
                yield TextBlock(number, self._row_starts[part] + of_row, values.slice(first, count))
                start = end


class ArrowFile:
    """An open file that was checked before. It keeps no file descriptor, so a thousand can be open.

    Args:
        path: the file.
        columns: the columns to read, as given to `check_file`.

    Raises:
        UserError: the file is not what it was when it was checked.
    """

    def __init__(self, path: str, columns: Sequence[Column]):
        self.path = path
        reader, _ = _open(path, columns)
        try:
            table = reader.read_all().select([column.name for column in columns])
        except _READ_ERRORS as error:
            raise _damaged(path, error) from None
        self.rows = table.num_rows
        self._chunks = {column.name: table[column.name].chunks for column in columns if column.kind == "picture"}
        self.texts = {
            column.name: TextColumn(table[column.name].chunks) for column in columns if column.kind == "texts"
        }
        self._row_starts = _starts([len(chunk) for chunk in table.column(0).chunks])

    def picture(self, name: str, row: int) -> bytes:
        """Return the encoded picture of a row, a copy out of the map."""
        part = bisect.bisect_right(self._row_starts, row) - 1
        return self._chunks[name][part][row - self._row_starts[part]].as_py()


def clean(text: str | None) -> str:
    """Return the text with every run of white space turned into one space, none at the ends."""
    return " ".join(text.split()) if text else ""


def check_file(path: str, columns: Sequence[Column]) -> tuple[Stamp, Facts]:
    """Check a file from end to end, or recall that this was done since its last change.

    Checked are: magic numbers at both ends; the columns and their types; that no column is compressed; every offset and
    every string (Arrow's full validation); rows at all; a picture of at least one byte in every row. Not decoded: the
    pictures (the writer does, and `check_data`).

    Args:
        path: the file.
        columns: the columns that must be there; others are not looked at.

    Raises:
        UserError: one sentence with the file, what was expected and what was found.
    """
    now = stamp(path)
    what = "check-" + "-".join(f"{column.name}.{column.kind}" for column in columns)
    known = recall(path, now, what)
    if known is not None:
        return now, Facts(**known)
    facts = _check(path, now.size, columns)
    remember(path, now, what, facts._asdict())
    return now, facts


def _check(path: str, size: int, columns: Sequence[Column]) -> Facts:
    _check_ends(path, size)
    reader, whole = _open(path, columns)
    rows = texts = 0
    for number in range(reader.num_record_batches):
        try:
            batch = reader.get_batch(number).select([column.name for column in columns])
            if not _inside(batch, whole):
                raise UserError(
                    f"'{path}' is compressed, so it cannot be memory-mapped: write it again without compression."
                )
            batch.validate(full=True)
        except _READ_ERRORS as error:
            raise _damaged(path, error) from None
        for column in columns:
            if column.kind == "picture":
                _check_pictures(path, column.name, batch[column.name], rows)
            else:
                texts += len(TextColumn([batch[column.name]]))
        rows += batch.num_rows
    if rows == 0:
        raise UserError(f"'{path}' has no rows; expected at least one picture.")
    return Facts(rows, texts)


def _check_ends(path: str, size: int) -> None:
    try:
        with open(path, "rb") as file:
            head = file.read(len(MAGIC))
            file.seek(max(size - len(MAGIC), 0))
            tail = file.read()
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({error.strerror}).") from None
    if head.startswith(_STREAM_START[: max(len(head), 1)]):
        raise UserError(f"'{path}' is an Arrow *stream*; expected the Arrow IPC *file* format (pyarrow.ipc.new_file).")
    if head != MAGIC:
        found = f"it begins with {head!r}" if head else "it is empty (0 bytes)"
        raise UserError(f"'{path}' is not an Arrow file: {found}, expected {MAGIC!r}.")
    if tail != MAGIC or size < 4 * len(MAGIC):
        raise UserError(
            f"'{path}' was cut short: an Arrow file ends in {MAGIC!r}, this one of {size:,} bytes does not; "
            "copy it or write it again."
        )


def _check_pictures(path: str, name: str, pictures: pa.Array, first_row: int) -> None:
    missing = np.asarray(pictures.is_null()) if pictures.null_count else np.zeros(len(pictures), bool)
    empty = np.asarray(pc.fill_null(pc.equal(pc.binary_length(pictures), 0), True)) | missing
    if empty.any():
        row = first_row + int(empty.argmax())
        raise UserError(
            f"'{path}' row {row} has no picture in column '{name}' ({int(empty.sum())} such rows in its record batch); "
            "write the file again without these rows."
        )


def _open(path: str, columns: Sequence[Column]) -> tuple[pa.ipc.RecordBatchFileReader, pa.Buffer]:
    """Map the file and read its schema; the descriptor is closed again, the map lives as long as its buffer."""
    try:
        with pa.memory_map(path) as mapped:
            whole = mapped.read_buffer()
        # All columns, though few are wanted: with `included_fields` Arrow copies what it reads out of the map.
        reader = pa.ipc.open_file(pa.BufferReader(whole))
        for column in columns:
            _check_type(path, reader.schema, column)
    except _READ_ERRORS as error:
        raise _damaged(path, error) from None
    return reader, whole


def _check_type(path: str, schema: pa.Schema, column: Column) -> None:
    index = schema.get_field_index(column.name)
    if index < 0:
        raise UserError(
            f"'{path}' needs one column '{column.name}'; its columns are {', '.join(schema.names) or 'none'}."
        )
    kind = schema.field(index).type
    fits = _is_binary(kind) if column.kind == "picture" else _is_string(kind) or _is_list_of_strings(kind)
    if not fits:
        raise UserError(f"'{path}' column '{column.name}' is {kind}; expected {_EXPECTED[column.kind]}.")


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_string(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_list_of_strings(kind: pa.DataType) -> bool:
    return (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _is_string(kind.value_type)


def _inside(batch: pa.RecordBatch, whole: pa.Buffer) -> bool:
    """Whether all data lies in the map; decompressed data does not."""
    buffers = (buffer for column in batch.columns for buffer in column.buffers() if buffer is not None and buffer.size)
    return all(whole.address <= buffer.address < whole.address + whole.size for buffer in buffers)


def _starts(counts: Sequence[int]) -> list[int]:
    """Return where each part begins, and the total behind: one number a record batch."""
    return [0, *np.cumsum(counts, dtype=np.int64).tolist()]


def _damaged(path: str, error: BaseException) -> UserError:
    reason = str(error).strip().splitlines()
    return UserError(
        f"'{path}' is damaged ({reason[0] if reason else type(error).__name__}); copy it or write it again."
    )
