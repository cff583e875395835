"""Arrow files: opened by path, checked once, memory-mapped, read without a Python object per row or text.

Arrow trusts the offsets in a file: reading through a damaged one ends the process, not the run. So every file is fully
validated before its first use; the result is cached (`file_cache.py`), so the next run opens it in microseconds.
"""

from __future__ import annotations

import bisect
import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from renaissance.core.errors import UserError, first_line, printable, shortened
from renaissance.core.untrusted import MOST_BYTES, expect, parse_json, refuse_lfs

from .columns import Entries, ValueCheck, expected, fits, plain, starts
from .dataset_specs import IMAGE, METADATA_KEY, PER_SAMPLE, Column
from .file_cache import Stamp, cached, stamp
from .messages import refuse_claims

MAGIC = b"ARROW1"
_LONGEST_TYPE = 80  # characters of a column's type that a sentence tells
_START = 64  # bytes that tell what a file is
_STREAM_START = b"\xff\xff\xff\xff"
_SAID = {"dataset": str, "split": str, "labels": list[str]}  # in the metadata of our writers
_READ_ERRORS = (pa.ArrowException, OSError, ValueError, OverflowError)


class Facts(NamedTuple):
    """What the check of a file found.

    Attributes:
        rows: how many there are.
        samples: how many there are, in all rows.
        columns: names of the columns that are there and not empty.
    """

    rows: int
    samples: int
    columns: tuple[str, ...]


class ArrowFile:
    """An open file that was checked before. It keeps no file descriptor, so a thousand can be open.

    Args:
        path: the file.
        columns: the columns to read; all are there.

    Attributes:
        rows: how many there are.
        names: of the columns.
        entries: the columns that have an entry for each sample, by name.

    Raises:
        UserError: the file is not what it was when it was checked.
    """

    def __init__(self, path: str, columns: Sequence[Column]):
        reader, _, _ = _open(path, columns)
        try:
            table = reader.read_all().select([column.name for column in columns])
        except _READ_ERRORS as error:
            raise _damaged(path, error) from None
        self.rows = table.num_rows
        self.names = frozenset(table.column_names)
        self.entries: dict[str, Entries] = {}
        self._values: dict[str, tuple[str, list[pa.Array]]] = {}
        for name, kind, *_ in columns:
            if kind in PER_SAMPLE:
                self.entries[name] = Entries(table[name].chunks, kind)
            else:
                self._values[name] = kind, table[name].chunks
        self._row_starts = starts([len(chunk) for chunk in table.column(0).chunks])

    def value(self, name: str, row: int) -> Any:
        """Return the value of a row in a column that has one a row, copied out of the map: a picture's encoded bytes."""
        part = bisect.bisect_right(self._row_starts, row) - 1
        kind, chunks = self._values[name]
        return plain(chunks[part][row - self._row_starts[part]].as_py(), kind)


def schema_metadata(path: str) -> dict[str, Any]:
    """Return what our writers say of a file: dataset, split, and labels, their names in order; {} for other files.

    Raises:
        UserError: the file cannot be read, or says something that our writers never say.
    """
    stamp(path)  # a pipe by this name would never answer
    reader, _, _ = _open(path, ())
    text = (reader.schema.metadata or {}).get(METADATA_KEY, b"{}")
    name = f"The schema metadata '{METADATA_KEY.decode()}' of '{printable(path)}'"
    if len(text) > MOST_BYTES:
        raise UserError(f"{name} has {len(text):,} bytes; at most {MOST_BYTES:,} are read.")
    said = parse_json(text, dict[str, Any], name)
    for key, hint in _SAID.items():
        expect(said.get(key), hint | None, f"'{key}' of {name[0].lower()}{name[1:]}")
    return said


def dataset_of(path: str, otherwise: str) -> str:
    """Return which data set a file says that it is of; `otherwise` if it does not say, or cannot be read."""
    try:
        return schema_metadata(path).get("dataset", otherwise)
    except UserError:
        return otherwise


def check_file(path: str, columns: Sequence[Column], samples: str | None = None) -> tuple[Stamp, Facts]:
    """Check a file from end to end, or recall that this was done since its last change.

    Checked are: magic numbers at both ends; the columns and their types; that nothing is compressed or claims to be larger
    than the file, before anything is read; every offset and every string (Arrow's full validation); rows at all; a picture
    of at least one byte in every row. With `samples` also: lists that belong together are equally long, no number is null
    or out of its column's range, and none that is a place in a list leads out of it (`columns.ValueCheck`). Not decoded:
    the pictures (the writer does, and `check_data`).

    Args:
        path: the file.
        columns: the columns that are read; a file may lack those that are not `needed`.
        samples: the column that numbers the samples, "" where each row is one; None = only what can end the process.

    Raises:
        UserError: one sentence with the file, what was expected and what was found.
    """
    now = stamp(path)
    asked = json.dumps([[column._replace(meaning="") for column in columns], samples])
    what = f"check-{hashlib.blake2b(asked.encode(), digest_size=8).hexdigest()}"
    hints = {"rows": int, "samples": int, "columns": list[str]}
    known = cached(path, now, what, hints, lambda: _check(path, now.size, columns, samples)._asdict())
    return now, Facts(known["rows"], known["samples"], tuple(known["columns"]))


def _check(path: str, size: int, columns: Sequence[Column], samples: str | None) -> Facts:
    _check_ends(path, size)
    reader, whole, columns = _open(path, columns)
    refuse_claims(path, whole)
    values = None
    if samples is not None:
        names = schema_metadata(path).get("labels")
        others = [column for column in columns if column.kind != IMAGE.kind]
        values = ValueCheck(path, others, samples, len(names) if isinstance(names, list) else None)
    rows = 0
    for number in range(reader.num_record_batches):
        try:
            batch = reader.get_batch(number).select([column.name for column in columns])
            if not _inside(batch, whole):
                raise UserError(f"'{path}' has the byte order of another machine, so it cannot be memory-mapped.")
            batch.validate(full=True)
        except _READ_ERRORS as error:
            raise _damaged(path, error) from None
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            _refuse_hollow(path, name, column, 8 * size)
        for column in columns:
            if column.kind == IMAGE.kind:
                _check_pictures(path, column.name, batch[column.name], rows)
        if values:
            values.look(batch, rows)
        rows += batch.num_rows
    if rows == 0:
        raise UserError(f"'{path}' has no rows; expected at least one picture.")
    counts = values.finish() if values else {}
    there = tuple(column.name for column in columns if counts.get(column.name, 1))
    return Facts(rows, counts.get(samples, rows), there)


def _check_ends(path: str, size: int) -> None:
    try:
        with open(path, "rb") as file:
            start = file.read(_START)
            file.seek(max(size - len(MAGIC), 0))
            tail = file.read()
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({error.strerror}).") from None
    refuse_lfs(start, f"'{printable(path)}'")
    head = start[: len(MAGIC)]
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


def _refuse_hollow(path: str, name: str, values: pa.Array | None, most: int) -> None:
    """Refuse lists of more values than a file has bits: of nulls or of empty lists, for which it holds nothing."""
    while values is not None:
        if len(values) > most:
            raise UserError(f"'{path}' claims {len(values):,} values in column '{name}', more than it can hold.")
        values = getattr(values, "values", None)


def _check_pictures(path: str, name: str, pictures: pa.Array, first_row: int) -> None:
    missing = np.asarray(pictures.is_null()) if pictures.null_count else np.zeros(len(pictures), bool)
    empty = np.asarray(pc.fill_null(pc.equal(pc.binary_length(pictures), 0), True)) | missing
    if empty.any():
        row = first_row + int(empty.argmax())
        raise UserError(
            f"'{path}' row {row} has no picture in column '{name}' ({int(empty.sum())} such rows in its record batch); "
            "write the file again without these rows."
        )


def _open(path: str, columns: Sequence[Column]) -> tuple[pa.ipc.RecordBatchFileReader, pa.Buffer, tuple[Column, ...]]:
    """Map the file and read its schema; the descriptor is closed again, the map lives as long as its buffer.

    Returns:
        The reader, the map, and those of the columns that are there.
    """
    try:
        with pa.memory_map(path) as mapped:
            whole = mapped.read_buffer()
        # All columns, though few are wanted: with `included_fields` Arrow copies what it reads out of the map.
        reader = pa.ipc.open_file(pa.BufferReader(whole))
        there = tuple(column for column in columns if _is_there(path, reader.schema, column))
    except _READ_ERRORS as error:
        raise _damaged(path, error) from None
    return reader, whole, there


def _is_there(path: str, schema: pa.Schema, column: Column) -> bool:
    """Whether a file has a column; raises where it needs one, or has another type."""
    index = schema.get_field_index(column.name)
    if index < 0 and (column.needed or column.name in schema.names):
        raise UserError(f"'{path}' needs one column '{column.name}'; its columns are {some(schema.names) or 'none'}.")
    if index < 0 or (pa.types.is_null(schema.field(index).type) and not column.needed):
        return False
    if not fits(schema.field(index).type, column.kind):
        kind = printable(str(schema.field(index).type))[:_LONGEST_TYPE]
        raise UserError(f"'{path}' column '{column.name}' is {kind}; expected {expected(column.kind)}.")
    return True


def _inside(batch: pa.RecordBatch, whole: pa.Buffer) -> bool:
    """Whether all data lies in the map; swapped bytes do not."""
    buffers = (buffer for column in batch.columns for buffer in column.buffers() if buffer is not None and buffer.size)
    return all(whole.address <= buffer.address < whole.address + whole.size for buffer in buffers)


def _damaged(path: str, error: BaseException) -> UserError:
    return UserError(f"'{path}' is damaged ({first_line(error)}); copy it or write it again.")


def some(names: Sequence[str], limit: int = 8) -> str:
    """Return the first few of names that came from data, each cut where it is long."""
    return shortened((name[:_LONGEST_TYPE] for name in names), limit)
