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
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from renaissance.core.errors import UserError, first_line, printable, require, shortened
from renaissance.core.untrusted import MOST_BYTES, expect, parse_json, refuse_lfs

from .batches import STREAM, Batches, is_stream
from .columns import Flat, first_fault, fits, is_list, plain
from .dataset_specs import METADATA_KEY, Column
from .file_cache import Stamp, cached, stamp
from .messages import refuse_claims

MAGIC = b"ARROW1"
_STREAM_END = STREAM + bytes(4)
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


def rows_of(path: str) -> int:
    """Returns how many rows a file has. Raises UserError where it cannot be read."""
    reader, whole, _ = open_file(path, ())
    return sum(batch.num_rows for batch in valid_batches(path, reader, whole, ()))


def texts_in(path: str, column: Column) -> set[str]:
    """Returns the different texts of a column of a checked file; none where it has no such column of texts."""
    try:  # a column that nobody needs: what is wrong with it is no fault of the file
        if not check_file(path, [column])[1].columns:
            return set()
        found = (batch[column.name].unique().to_pylist() for batch in ArrowFile(path, [column]).slices())
        return set(filter(None, chain.from_iterable(found)))
    except UserError:
        return set()


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
    batches = [*valid_batches(path, reader, whole, columns)]
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
            todo = "write the file again"
            if is_stream(whole):
                todo = (
                    "leave out such rows with `filter` of the library `datasets`, or give `python run.py prepare with "
                    "dataset=captions`, which leaves them out and counts them, up to max_unreadable"
                )
            if reader.has_paths:
                todo = "its images are paths alone; save it with `save_to_disk` of the library `datasets`, which puts them in"
            raise UserError(f"'{path}' row {start + fault[0]} {fault[1]}: {todo}.")
    return FileContents(rows, counts.get(samples, rows), [column.name for column in columns])._asdict()


def valid_batches(path: str, reader: Batches, whole: pa.Buffer, columns: Sequence[Column]) -> Iterator[pa.RecordBatch]:
    """Yields the record batches of an open file with these columns, each fully validated by Arrow; `whole`: its map.

    Raises:
        UserError: the file is compressed or claims to be larger than it is; an offset or a string is wrong; or lists have
            more values than the file has bits: nulls or empty lists, for which it holds nothing.
    """
    if not is_stream(whole):  # of a stream this was done when it was opened
        refuse_claims(path, whole)
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
        return batches, whole, [column for column in columns if _is_there(path, batches, column)]
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


def _is_there(path: str, batches: Batches, column: Column) -> bool:
    """Whether a file has a column; raises where it needs one, or has another type."""
    schema, names = batches.schema, batches.names
    own = column.source or column.name
    require_once(path, names, [own])
    index = schema.get_field_index(column.name) if own in names else -1
    if index < 0 and column.needed:
        advice = f"; give its name with {column.name}_column=" if column.source else ""
        raise UserError(f"'{path}' needs one column '{own}'; its columns are {some(names) or 'none'}{advice}.")
    if index < 0 or (pa.types.is_null(schema.field(index).type) and not column.needed):
        return False
    require_type(path, schema.field(index).type, column, names)
    return True


def require_once(path: str | os.PathLike, names: Sequence[str], wanted: Sequence[str]) -> None:
    """Refuses a file that has a wanted column more than once; `names`: of all its columns."""
    twice = ", ".join(sorted(name for name in {*wanted} if names.count(name) > 1))
    require(not twice, f"'{path}' has {twice} more than once among its columns; give each another name.")


def require_type(path: str, found: pa.DataType, column: Column, names: Sequence[str]) -> None:
    """Refuses a column of a file whose type cannot serve as the declared one; `names`: of all columns of the file."""
    if not fits(found, column):
        wanted, own = f"expected {column.type}", column.source or column.name
        if column.source:
            what = "images, or their bytes" if column.is_image else "texts or lists of texts"
            parts = (
                ", or one that `flatten` of the library `datasets` makes of its parts"
                if pa.types.is_struct(found)
                else ""
            )
            wanted = f"expected {what}; give another of {some(names)} with {column.name}_column={parts}"
        raise UserError(f"'{path}' column '{own}' is {printable(str(found))[:_LONGEST_TYPE]}; {wanted}.")


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
