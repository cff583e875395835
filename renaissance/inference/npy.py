"""Parts of vectors as .npy files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from renaissance.core.atomic import AtomicFile
from renaissance.data.prepare.skipped import Skipped

ROWS = "rows.parquet"
SKIPPED = "skipped"  # metadata of a file of rows: what was left out, as `Skipped.as_dict` says it


def join_parts(folder: Path) -> None:
    """The parts of a side as <column>.npy, and rows.parquet with all else; a list of tokens is flat, `tokens_of` its lengths."""
    parts = sorted(folder.glob("part_*.parquet"))
    if not (folder / ROWS).exists():
        _write(folder, parts)
    for part in parts:
        part.unlink()


def _write(folder: Path, parts: Sequence[Path]) -> None:
    columns = pq.read_schema(parts[0]).names
    names = [name for name in ("vector", "contrastive", "tokens") if name in columns]
    with ExitStack() as stack:
        for name in names:
            _join_column(parts, name, stack.enter_context(AtomicFile(folder / f"{name}.npy", "output")))
        file = stack.enter_context(AtomicFile(folder / ROWS, "output"))
        writer = None
        for part in parts:
            table = _read(part, [each for each in columns if each not in names]).replace_schema_metadata()
            if "tokens" in names:
                lengths = _read(part, ["tokens"])["tokens"].combine_chunks().value_lengths()
                table = table.append_column("tokens_of", lengths)
            writer = writer or pq.ParquetWriter(file, table.schema)
            writer.write_table(table)
        writer.add_key_value_metadata({SKIPPED: json.dumps(counts_of(folder)[1])})
        writer.close()
        file.commit()  # behind the arrays: where it is, all is


def _read(part: Path, columns: list[str]) -> pa.Table:
    with pq.ParquetFile(part) as file:  # one at a time: there may be more of them than a process may have open
        return file.read(columns)


def _join_column(parts: Sequence[Path], name: str, target: AtomicFile) -> None:
    """A column of all parts as one .npy file (n, D), read and written a part at a time."""
    count, kind = 0, None
    for part in parts:
        values = _vectors(part, name)
        count, kind = count + len(values), (values.dtype, values.shape[1])
    header = {"descr": np.lib.format.dtype_to_descr(kind[0]), "fortran_order": False, "shape": (count, kind[1])}
    np.lib.format.write_array_header_2_0(target, header)
    for part in parts:
        target.write(np.ascontiguousarray(_vectors(part, name)).tobytes())
    target.commit()


def flat(column: pa.ChunkedArray) -> pa.Array:
    """The numbers of a column of vectors, or of lists of them."""
    values = column.combine_chunks()
    while not pa.types.is_floating(values.type):
        values = values.flatten()
    return values


def _vectors(part: Path, name: str) -> np.ndarray:
    """The vectors of a column, (n, D)."""
    column = _read(part, [name])[name]
    kind = column.type.value_type if name == "tokens" else column.type
    return flat(column).to_numpy(zero_copy_only=False).reshape(-1, kind.list_size)


def _tables(folder: Path) -> list[Path]:
    """The files that hold the rows of a side."""
    joined = folder / ROWS
    return [joined] if joined.exists() else sorted(folder.glob("part_*.parquet"))


def counts_of(folder: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """How many rows a side has, and what was left out of it, as `Skipped.as_dict` says it."""
    rows, skipped = 0, Skipped()
    for path in _tables(folder):
        found = pq.read_metadata(path)
        rows += found.num_rows
        skipped.add_all(json.loads(found.metadata.get(SKIPPED.encode(), b"{}")))
    return rows, skipped.as_dict()


def shapes_of(folder: Path, rows: int) -> dict[str, Any]:
    """Of each array of a side, which has so many rows, its shape, for the manifest."""
    arrays = sorted(folder.glob("*.npy"))
    if arrays:
        return {path.stem: list(np.load(path, mmap_mode="r").shape) for path in arrays}
    types = {field.name: field.type for field in pq.read_schema(_tables(folder)[0])}
    return {name: [rows, kind.list_size] for name, kind in types.items() if pa.types.is_fixed_size_list(kind)}
