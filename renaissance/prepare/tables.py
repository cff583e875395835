"""Tables of (path, caption) as people keep them: JSONL, CSV and parquet, read as streams."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from renaissance.errors import UserError
from renaissance.prepare.annotations import json_lines

SUFFIXES = (".jsonl", ".csv", ".parquet")
CAPTION_NAMES = ("caption", "captions")  # a text or a list of texts under either
_ROWS = 1000  # of a parquet file that are held at a time


class Line(NamedTuple):
    """One entry. Attributes: number, of the line or row; path; captions; split, None where none is named."""

    number: int
    path: str
    captions: list[str]
    split: str | None


def is_table(path: Path) -> bool:
    """Whether a file is a table of (path, caption). Raises UserError if it cannot be read."""
    if path.suffix not in (".csv", ".parquet"):
        return path.suffix == ".jsonl"
    names = columns_of(path)
    return "path" in names and any(name in names for name in CAPTION_NAMES)


def columns_of(table: Path) -> list[str]:
    """Return the names of the columns of a CSV or parquet file. Raises UserError if it cannot be read or is damaged."""
    if table.suffix == ".csv":
        with _explained(table), open(table, encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file), [])
    with _explained(table), pq.ParquetFile(table) as file:
        return file.schema_arrow.names


def lines_of(table: Path) -> Iterator[Line]:
    """Yield the entries of a file with one of `SUFFIXES`.

    Raises:
        UserError: the file cannot be read, is damaged, or an entry has no path or caption; the sentence names the line.
    """
    if not is_table(table):
        raise UserError(
            f"'{table}' has the columns {','.join(columns_of(table)) or 'none'}; expected path,caption or "
            "path,caption,split, which in CSV are its first line."
        )
    read = {".jsonl": json_lines, ".csv": _csv_records, ".parquet": _parquet_records}[table.suffix]
    for number, record in read(table):
        path, split = record.get("path"), record.get("split")
        caption = next((record[name] for name in CAPTION_NAMES if record.get(name) is not None), None)
        captions = [caption] if isinstance(caption, str) else caption
        texts = isinstance(captions, list) and all(isinstance(text, str) for text in captions)
        if not texts or not isinstance(path, str):
            raise UserError(f"'{table}' line {number} needs a path and a caption, text or list of texts.")
        yield Line(number, path, captions, split or None)


def records_of(parquet: Path, names: list[str]) -> Iterator[dict[str, Any]]:
    """Yield column -> value of every row of a parquet file. Raises UserError if it cannot be read or is damaged."""
    with _explained(parquet), pq.ParquetFile(parquet) as file:
        for batch in file.iter_batches(_ROWS, columns=names):
            yield from batch.to_pylist()


def _parquet_records(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    wanted = [name for name in columns_of(table) if name in ("path", "split", *CAPTION_NAMES)]
    return enumerate(records_of(table, wanted), 1)


def _csv_records(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with _explained(table), open(table, encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, strict=True)
        for record in rows:
            if None in record:
                raise UserError(
                    f"'{table}' line {rows.line_num} has more values than the first line has names; put a caption with "
                    "commas in double quotes."
                )
            yield rows.line_num, record


@contextmanager
def _explained(table: Path) -> Iterator[None]:
    """Turns what is wrong with a file into a sentence."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(f"'{table}' is not UTF-8 text ({error.reason} near byte {error.start}).") from None
    except csv.Error as error:
        raise UserError(f"'{table}' is cut short or is not CSV ({error}).") from None
    except (pa.ArrowException, OSError) as error:
        why = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise UserError(f"'{table}' cannot be read, or is cut short ({why}).") from None
