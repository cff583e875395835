"""Arrow files: opened by path, checked once, memory-mapped, read without a Python object per row or text.

Arrow trusts the offsets in a file: reading through a damaged one ends the process, not the run. So every file is fully
validated before its first use; the result is cached (`file_cache.py`), so the next run opens it in microseconds.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from renaissance.core.errors import UserError, first_line, printable, require, shortened
from renaissance.core.untrusted import MOST_BYTES, expect, parse_json, refuse_lfs

from .columns import Flat, first_fault, fits, is_list, plain
from .dataset_specs import METADATA_KEY, Column
from .file_cache import Stamp, cached, stamp
from .messages import refuse_claims

MAGIC = b"ARROW1"
_STREAM = b"\xff\xff\xff\xff"  # how an Arrow stream begins
_STREAM_END = _STREAM + bytes(4)
RENAMED = ("image", "caption")  # columns that settings give other names, <column>_column
_LONGEST_TYPE = 80  # characters of a column's type that a sentence tells
_START = 64  # bytes that tell what a file is
_METADATA = {"dataset": str, "split": str, "labels": list[str]}  # of our writers
_READ_ERRORS = (pa.ArrowException, OSError, ValueError, OverflowError)


class FileContents(NamedTuple):
    """What the check of a file found.

    Attributes:
        rows: how many there are.
        samples: how many there are, in all rows.
        columns: names of the columns that are there and not empty.
    """

    rows: int
    samples: int
    columns: list[str]


class ArrowFile:
    """An open file that was checked before. It keeps no file descriptor, so a thousand can be open.

    Samples are numbered through from 0 in file order. The numbering is searched for in the file's own offsets.

    Args:
        path: the file.
        columns: the columns to read; all are there.
        samples: the column whose lists number the samples, "" where each row is one.

    Attributes:
        rows: how many there are.

    Raises:
        UserError: the file is not what it was when it was checked.
    """

    def __init__(self, path: str, columns: Sequence[Column], samples: str = ""):
        reader, _, _ = open_file(path, columns)
        self._columns, self._samples = {column.name: column for column in columns}, samples
        try:
            self._batches = [reader.get_batch(n).select([*self._columns]) for n in range(reader.num_record_batches)]
        except _READ_ERRORS as error:
            raise _damaged(path, error) from None
        self._arrays = {name: [batch[name] for batch in self._batches] for name in self._columns}
        self._row_starts = _starts([batch.num_rows for batch in self._batches])
        self.rows = self._row_starts[-1]
        self._listed = samples and is_list(reader.schema.field(samples).type)
        self._offsets = [_offsets(array) for array in self._arrays.get(samples, ()) if self._listed]
        self._sample_starts = _starts([int(offsets[-1] - offsets[0]) for offsets in self._offsets])

    def locate(self, number: int) -> tuple[int, int]:
        """Returns the row of a sample, and which of the row's samples it is."""
        if not self._listed:
            return number, 0
        part = bisect.bisect_right(self._sample_starts, number) - 1
        offsets = self._offsets[part]
        # The searched value needs the offsets' own type: numpy would convert the whole array, not the one number.
        place = offsets.dtype.type(number - self._sample_starts[part] + int(offsets[0]))
        row = int(np.searchsorted(offsets, place, side="right")) - 1
        return self._row_starts[part] + row, int(place - offsets[row])

    def value(self, name: str, row: int, entry: int | None = None) -> Any:
        """Returns a row's value, copied out of the map.

        Args:
            name: the column.
            row: the row.
            entry: which entry of the row, in a column that has one for each sample; None = a list of all.
        """
        part = bisect.bisect_right(self._row_starts, row) - 1
        column, scalar = self._columns[name], self._arrays[name][part][row - self._row_starts[part]]
        cleaned = name == self._samples
        if not column.per_sample:
            return plain(scalar.as_py(), column, cleaned=cleaned)
        listed = is_list(scalar.type)
        if entry is not None:
            return plain((scalar.values[entry] if listed else scalar).as_py(), column, cleaned=cleaned)
        entries = (scalar.as_py() or []) if listed else [scalar.as_py()]
        return [plain(each, column, cleaned=cleaned) for each in entries]

    def slices(self, rows: int = 4096) -> Iterator[pa.RecordBatch]:
        """Yields all rows in record batches of at most `rows`."""
        for batch in self._batches:
            yield from (batch.slice(first, rows) for first in range(0, batch.num_rows, rows))


def schema_metadata(path: str) -> dict[str, Any]:
    """Returns the metadata that our writers add to a file: dataset, split, and labels, their names in order; {} for others.

    Raises:
        UserError: the file cannot be read, or its metadata are not as our writers write them.
    """
    reader, _, _ = open_file(path, ())
    text = (reader.schema.metadata or {}).get(METADATA_KEY, b"{}")
    name = f"The schema metadata '{METADATA_KEY.decode()}' of '{printable(path)}'"
    require(len(text) <= MOST_BYTES, f"{name} has {len(text):,} bytes; at most {MOST_BYTES:,} are read.")
    found = parse_json(text, dict[str, Any], name)
    for key, hint in _METADATA.items():
        expect(found.get(key), hint | None, f"'{key}' of {name[0].lower()}{name[1:]}")
    return found


def dataset_of(path: str, otherwise: str) -> str:
    """Returns the data set that a file's metadata name; `otherwise` if they name none, or cannot be read."""
    try:
        return schema_metadata(path).get("dataset") or otherwise
    except UserError:
        return otherwise


def check_file(path: str, columns: Sequence[Column], samples: str | None = None) -> tuple[Stamp, FileContents]:
    """Checks a file from end to end, or looks up that this was done since its last change.

    Checked are: magic numbers at both ends; the columns and their types; that nothing is compressed or claims to be larger
    than the file, before anything is read; every offset and every string (Arrow's full validation); rows at all. With
    `samples` also the values that columns declare (`columns.first_fault`). Not decoded: the images (the writer does, and
    `check_data`).

    Args:
        path: the file.
        columns: the columns that are read; a file may lack those that are not `needed`.
        samples: the column that numbers the samples, "" where each row is one; None = only what can end the process.

    Raises:
        UserError: one sentence with the file, what was expected and what was found.
    """
    now = stamp(path)
    declared = json.dumps([[column._replace(meaning="") for column in columns], samples])
    what = f"check-{hashlib.blake2b(declared.encode(), digest_size=8).hexdigest()}"
    hints = {"rows": int, "samples": int, "columns": list[str]}
    return now, FileContents(**cached(path, now, what, hints, lambda: _check(path, columns, samples)))


def _check(path: str, columns: Sequence[Column], samples: str | None) -> dict[str, Any]:
    reader, whole, columns = open_file(path, columns)
    if not is_stream(whole):
        refuse_claims(path, whole)
    batches = [*valid_batches(path, reader, columns)]
    rows = sum(batch.num_rows for batch in batches)
    require(rows, f"'{path}' has no rows; expected at least one image.")
    counts = {
        column.name: sum(int(Flat(batch[column.name], 1).lengths[0].sum()) for batch in batches)
        for column in columns
        if column.per_sample
    }
    columns = [column for column in columns if counts.get(column.name, 1)]
    names = None if samples is None else schema_metadata(path).get("labels")
    starts = _starts([batch.num_rows for batch in batches])
    for start, batch in zip(starts, batches if samples is not None else (), strict=False):
        fault = first_fault(batch, columns, samples, None if names is None else len(names))
        if fault:
            raise UserError(f"'{path}' row {start + fault[0]} {fault[1]}: write the file again.")
    return FileContents(rows, counts.get(samples, rows), [column.name for column in columns])._asdict()


def valid_batches(path: str, reader: Batches, columns: Sequence[Column]) -> Iterator[pa.RecordBatch]:
    """Yields the record batches of an open file with these columns, each fully validated by Arrow.

    Raises:
        UserError: an offset or a string is wrong, or lists have more values than the file has bits: nulls or empty lists,
            for which it holds nothing.
    """
    most = 8 * os.path.getsize(path)
    for number in range(reader.num_record_batches):
        try:
            batch = reader.get_batch(number).select([column.name for column in columns])
            batch.validate(full=True)
        except _READ_ERRORS as error:
            raise _damaged(path, error) from None
        for name, values in zip(batch.schema.names, batch.columns, strict=True):
            while values is not None:
                sentence = f"'{path}' claims {len(values):,} values in column '{name}', more than it can hold."
                require(len(values) <= most, sentence)
                values = getattr(values, "values", None)
        yield batch


class Batches:
    """The record batches of an Arrow file, or of an Arrow stream, the form in which `datasets` saves.

    Args:
        whole: the content, mapped; nothing is copied out of it.
        columns: that are read, under the names that they declare; of `datasets`' images the bytes alone.

    Attributes:
        schema: with these names. num_record_batches.
    """

    def __init__(self, whole: pa.Buffer, columns: Sequence[Column]):
        # All columns, though few are wanted: with `included_fields` Arrow copies what it reads out of the map.
        stream = is_stream(whole)
        reader = (pa.ipc.open_stream if stream else pa.ipc.open_file)(pa.BufferReader(whole))
        self._streamed = [*reader] if stream else None
        self._reader, self._columns = reader, [each for each in columns if self._is_another(reader.schema, each)]
        self.num_record_batches = len(self._streamed) if stream else reader.num_record_batches
        self.schema = self._renamed(_no_rows(reader.schema)).schema

    def get_batch(self, number: int) -> pa.RecordBatch:
        """A batch. Raises an error of Arrow where it is damaged."""
        return self._renamed(self._reader.get_batch(number) if self._streamed is None else self._streamed[number])

    @staticmethod
    def _is_another(schema: pa.Schema, column: Column) -> bool:
        """Whether a column has another name or form in the file."""
        index = schema.get_field_index(column.source or column.name)
        return index >= 0 and (bool(column.source) or _is_image(schema.field(index).type, column))

    def _renamed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if not self._columns:
            return batch
        metadata, arrays = batch.schema.metadata, dict(zip(batch.schema.names, batch.columns, strict=True))
        for column in self._columns:
            array = batch[column.source or column.name]
            if _is_image(array.type, column):
                array.validate(full=True)  # before Arrow follows its lengths
                array = array.flatten()[array.type.get_field_index("bytes")]
            arrays[column.name] = array
        return pa.RecordBatch.from_pydict(arrays).replace_schema_metadata(metadata)


def _no_rows(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


def _is_image(found: pa.DataType, column: Column) -> bool:
    """Whether a column is an image as `datasets` saves it: a struct of bytes and path."""
    return column.is_image and pa.types.is_struct(found) and found.get_field_index("bytes") >= 0


def is_stream(whole: pa.Buffer) -> bool:
    """Whether a file is an Arrow stream."""
    return whole[: len(_STREAM)].to_pybytes() == _STREAM


def open_file(path: str, columns: Sequence[Column]) -> tuple[Batches, pa.Buffer, list[Column]]:
    """Maps the file and reads its schema; the descriptor is closed again, the map lives as long as its buffer.

    Returns:
        Its batches, the map, and those of the columns that are there.
    """
    stamp(path)  # opening a pipe would block
    try:
        with pa.memory_map(path) as mapped:
            whole = mapped.read_buffer()
        _check_ends(path, whole)
        if is_stream(whole):  # which is read whole to be opened
            refuse_claims(path, whole, stream=True)
        batches = Batches(whole, columns)
        return batches, whole, [column for column in columns if _is_there(path, batches.schema, column)]
    except _READ_ERRORS as error:
        raise _damaged(path, error) from None


def _check_ends(path: str, whole: pa.Buffer) -> None:
    start, end = whole[:_START].to_pybytes(), whole[-len(MAGIC) :].to_pybytes()
    refuse_lfs(start, f"'{printable(path)}'")
    if is_stream(whole):
        require(
            whole[-len(_STREAM_END) :].to_pybytes() == _STREAM_END, f"'{path}' is cut short; copy it or write it again."
        )
        return
    head = start[: len(MAGIC)]
    require(
        head == MAGIC == end,
        f"'{path}' is not a whole Arrow file: it begins with {head!r} and ends in {end!r}, expected {MAGIC!r} (the Arrow "
        "IPC *file* format, pyarrow.ipc.new_file); copy it or write it again.",
    )


def _is_there(path: str, schema: pa.Schema, column: Column) -> bool:
    """Whether a file has a column; raises where it needs one, or has another type."""
    index = schema.get_field_index(column.name) if not column.source or column.source in schema.names else -1
    if index < 0 and (column.needed or column.name in schema.names):
        own = column.source or column.name
        advice = f"; give its name with {column.name}_column=" if column.name in RENAMED else ""
        raise UserError(f"'{path}' needs one column '{own}'; its columns are {some(schema.names) or 'none'}{advice}.")
    if index < 0 or (pa.types.is_null(schema.field(index).type) and not column.needed):
        return False
    found = schema.field(index).type
    if not fits(found, column):
        kind = printable(str(found))[:_LONGEST_TYPE]
        raise UserError(f"'{path}' column '{column.name}' is {kind}; expected {column.type}.")
    return True


def _starts(counts: Sequence[int]) -> list[int]:
    """Returns where each part begins, and the total behind: one number a record batch."""
    return [0, *np.cumsum(counts, dtype=np.int64).tolist()]


def _offsets(lists: pa.Array) -> np.ndarray:
    """Returns where each row's entries start and end, from the map; computed only where rows are null."""
    if lists.null_count:
        return np.array(_starts(np.asarray(pc.fill_null(pc.list_value_length(lists), 0))), np.int64)
    offsets = lists.offsets.to_numpy(zero_copy_only=True)
    return offsets if len(offsets) else np.zeros(1, np.int32)


def _damaged(path: str, error: BaseException) -> UserError:
    what = "cannot be read" if getattr(error, "errno", None) else "is damaged"
    return UserError(f"'{path}' {what} ({first_line(error)}); copy it or write it again.")


def some(names: Sequence[str]) -> str:
    """Returns the first few of names that came from data, each cut where it is long."""
    return shortened((name[:_LONGEST_TYPE] for name in names), 8)
