"""Tables of (path, caption): JSONL, CSV, TSV and parquet, read as streams."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from renaissance.core.errors import UserError, first_line, require, shortened
from renaissance.core.untrusted import expect_keys
from renaissance.data.arrow import require_once, some

from .annotations import json_lines, opened, text_lines

SUFFIXES = (".jsonl", ".csv", ".parquet")
CAPTION_NAMES = ("caption", "captions")  # a text or a list of texts under either


class TableColumns(NamedTuple):
    """Names of columns, of which the first that is there counts.

    Attributes: paths; captions; separator of a CSV file; named, whether settings name the columns.
    """

    paths: tuple[str, ...] = ("path",)
    captions: tuple[str, ...] = CAPTION_NAMES
    separator: str | None = None  # by its name
    named: bool = False

    def path_and_caption(self, entry: dict[str, Any], what: str) -> list[Any]:
        """The path and the caption of an entry; `what` begins the sentence where it lacks one. Raises UserError."""
        settings = ("image_column", "caption_column") if self.named else ("", "")
        return [value_of(entry, *each, what) for each in zip((self.paths, self.captions), settings, strict=True)]


def value_of(entry: dict[str, Any], names: Sequence[str], setting: str, what: str) -> Any:
    """The first value of an entry that has one of the names. Raises UserError, which names the setting, where none has."""
    found = next((entry[name] for name in names if entry.get(name) is not None), None)
    others = f" ({', '.join(names[1:])})" if names[1:] else ""
    has = shortened((name[:_LONGEST_NAME] for name in entry), 8) or "nothing"
    named = f", of which {setting}= names one" if setting else ""
    empty = next((name for name in names if name in entry), None)
    require(found is not None or empty is None, f"{what} has no value in '{empty}'.")
    require(found is not None, f"{what} lacks '{names[0]}'{others}; it has {has}{named}.")
    return found


PLAIN = TableColumns()
_SEPARATORS = {";": "';'", "\t": "tab", "|": "'|'", ",": "','"}  # and how they are given
_LINE = {"path": str, "caption": str | list[str], "split": str | None}
_LONGEST_NAME = 60  # characters of a column's that a sentence tells
_ROWS = 16  # of a parquet file that are held at a time: few, as each may be long
_MOST_FIELD = 16 << 20  # characters of a field of CSV
# What a parquet file may swell to when it is read: one of a thousand bytes can claim anything.
_SWELLS, _LEAST_BYTES, _LEAST_VALUES = 100, 64 << 20, 10_000_000


class Line(TypedDict):
    """One entry."""

    number: int
    path: str
    caption: list[str]
    split: str | None


def is_table(path: Path, columns: TableColumns = PLAIN) -> bool:
    """Whether a file is a table of (path, caption). Raises UserError if it cannot be read."""
    if path.suffix == ".jsonl":  # each line has its own
        return True
    names = columns_of(path, columns.separator)
    return all(any(name in names for name in wanted) for wanted in (columns.paths, columns.captions))


def require_columns(table: Path, names: Sequence[str], columns: TableColumns) -> None:
    """Refuses a table that lacks a column of images or of captions; `names`: of all its columns."""
    lines = table.suffix in (".csv", ".tsv")
    other = next((each for each in _SEPARATORS if lines and len(names) == 1 and each in names[0]), None)
    require(
        other is None,
        f"'{table}' has the one column '{some(names)}' in its first line; give separator={_SEPARATORS.get(other)}.",
    )
    found = f"its columns{' in its first line' * lines} are {some(names) or 'none'}"
    for setting, wanted in (("image_column", columns.paths), ("caption_column", columns.captions)):
        lacks = f"none of the columns {', '.join(wanted)}; {found}; name another with {setting}="
        if len(wanted) == 1:
            lacks = f"no column '{wanted[0]}' ({setting}=); {found}"
        require({*wanted} & {*names}, f"'{table}' has {lacks}.")


def columns_of(table: Path, separator: str | None = None) -> list[str]:
    """Returns the names of the columns of a file. Raises UserError if it cannot be read or is damaged."""
    if table.suffix in (".csv", ".tsv"):
        with _explained(table):
            return next(csv.reader(text_lines(table), delimiter=_separator(table, separator)), [])
    return schema_of_parquet(table).names


def schema_of_parquet(table: Path) -> pa.Schema:
    """Returns the schema of a parquet file. Raises UserError if it cannot be read or is damaged."""
    with _parquet(table) as file:
        return file.schema_arrow


def _separator(table: Path, separator: str | None) -> str:
    separator = "\t" if separator in (r"\t", "tab") else separator
    require(
        separator is None or len(separator) == 1,
        f"separator={separator!r} is not one character; give one, such as '\\t'.",
    )
    return separator or ("\t" if table.suffix == ".tsv" else ",")


def lines_of(table: Path, columns: TableColumns = PLAIN) -> Iterator[Line]:
    """Yields the entries of a file with one of `SUFFIXES`.

    Raises:
        UserError: the file cannot be read, is damaged, or an entry has no path or caption; the sentence names the line.
    """
    names = [] if table.suffix == ".jsonl" else columns_of(table, columns.separator)
    if table.suffix != ".jsonl":
        require_columns(table, names, columns)
    require_once(table, names, (*columns.paths, *columns.captions, "split"))
    for number, record in _records(table, columns):
        what = f"'{table}' line {number}"
        path, caption = columns.path_and_caption(record, what)
        found = {"path": path, "caption": caption, "split": record.get("split") or None}
        path, caption, split = expect_keys(found, _LINE, what)
        captions = [caption] if isinstance(caption, str) else caption
        yield Line(number=number, path=path, caption=captions, split=split)


def records_of(parquet: Path, names: list[str]) -> Iterator[dict[str, Any]]:
    """Yields column -> value of every row of a parquet file.

    Raises:
        UserError: it cannot be read, is damaged, or would become very much larger than it is.
    """
    with _parquet(parquet, names) as file:
        left = _LEAST_BYTES * 16 + _SWELLS * parquet.stat().st_size
        for batch in file.iter_batches(_ROWS, columns=names):
            rows = batch.to_pylist()
            left -= len(repr(rows))
            require(left >= 0, f"'{parquet}' becomes more than {_SWELLS} times as large as it is; it is not read.")
            yield from rows


@contextmanager
def _parquet(table: Path, names: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
    """Opens a parquet file; columns that claim far more than the file's size are refused."""
    with _explained(table), opened(table), pq.ParquetFile(table) as file:
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        columns = [group.column(place) for group in groups for place in range(group.num_columns)]
        values, most = file.metadata.num_rows, _LEAST_VALUES + _SWELLS * table.stat().st_size
        for column in columns:
            if column.path_in_schema.partition(".")[0] in names:
                values += column.num_values
                size, packed = column.total_uncompressed_size, column.total_compressed_size
                require(
                    values <= most and size <= _LEAST_BYTES + _SWELLS * packed,
                    f"'{table}' claims {values:,} values, and {size:,} bytes in {packed:,} of column "
                    f"{column.path_in_schema}; it is not read.",
                )
        yield file


def _records(table: Path, columns: TableColumns) -> Iterator[tuple[int, dict[str, Any]]]:
    if table.suffix == ".jsonl":
        return json_lines(table)
    if table.suffix != ".parquet":
        return _csv_records(table, _separator(table, columns.separator))
    wanted = [name for name in columns_of(table) if name in (*columns.paths, "split", *columns.captions)]
    return enumerate(records_of(table, wanted), 1)


def _csv_records(table: Path, separator: str) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(_MOST_FIELD)  # Python's own limit is 131,072; it is the whole process's
    with _explained(table):
        rows = csv.DictReader(text_lines(table), delimiter=separator, strict=True)
        for record in rows:
            require(
                None not in record,
                f"'{table}' line {rows.line_num} has more values than the first line has names; put a caption with "
                "commas in double quotes.",
            )
            yield rows.line_num, record


@contextmanager
def _explained(table: Path) -> Iterator[None]:
    """Turns errors of a damaged file into a UserError."""
    try:
        yield
    except csv.Error as error:
        raise UserError(f"'{table}' is cut short or is not CSV ({error}).") from None
    except (pa.ArrowException, OSError, ValueError, ArithmeticError, MemoryError) as error:
        raise UserError(f"'{table}' cannot be read, or is cut short ({first_line(error)}).") from None
