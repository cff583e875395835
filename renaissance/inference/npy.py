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
        _write(folder, [pq.ParquetFile(part) for part in parts])
    for part in parts:
        part.unlink()


def _write(folder: Path, files: Sequence[pq.ParquetFile]) -> None:
    names = [name for name in ("vector", "contrastive", "tokens") if name in files[0].schema_arrow.names]
    with ExitStack() as stack:
        for name in names:
            _join_column(files, name, stack.enter_context(AtomicFile(folder / f"{name}.npy", "output")))
        file = stack.enter_context(AtomicFile(folder / ROWS, "output"))
        writer = None
        for part in files:
            table = part.read([each for each in part.schema_arrow.names if each != "tokens"])
            lengths = part.read(["tokens"])["tokens"].combine_chunks().value_lengths() if "tokens" in names else None
            table = table.drop_columns([name for name in names if name != "tokens"]).replace_schema_metadata()
            table = table if lengths is None else table.append_column("tokens_of", lengths)
            writer = writer or pq.ParquetWriter(file, table.schema)
            writer.write_table(table)
        writer.add_key_value_metadata({SKIPPED: json.dumps(skipped_of(folder))})
        writer.close()
        file.commit()  # behind the arrays: where it is, all is


def _join_column(files: Sequence[pq.ParquetFile], name: str, target: AtomicFile) -> None:
    """A column of all parts as one .npy file (n, D), read and written a part at a time."""
    count, kind = 0, None
    for file in files:
        values = _flat(file, name)
        count, kind = count + len(values), (values.dtype, values.shape[1])
    header = {"descr": np.lib.format.dtype_to_descr(kind[0]), "fortran_order": False, "shape": (count, kind[1])}
    np.lib.format.write_array_header_2_0(target, header)
    for file in files:
        target.write(np.ascontiguousarray(_flat(file, name)).tobytes())
    target.commit()


def _flat(file: pq.ParquetFile, name: str) -> np.ndarray:
    """The vectors of a column, (n, D)."""
    column = file.read([name])[name].combine_chunks()
    column = column.flatten() if name == "tokens" else column
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)


def _tables(folder: Path) -> list[pq.ParquetFile]:
    """The files that hold the rows of a side."""
    joined = folder / ROWS
    return [pq.ParquetFile(path) for path in ([joined] if joined.exists() else sorted(folder.glob("part_*.parquet")))]


def rows_of(folder: Path) -> int:
    """How many rows a side has."""
    return sum(file.metadata.num_rows for file in _tables(folder))


def skipped_of(folder: Path) -> dict[str, dict[str, Any]]:
    """What was left out of a side, as `Skipped.as_dict` says it."""
    skipped = Skipped()
    for file in _tables(folder):
        skipped.add_all(json.loads(file.metadata.metadata.get(SKIPPED.encode(), b"{}")))
    return skipped.as_dict()


def shapes_of(folder: Path) -> dict[str, Any]:
    """Of each array of a side its shape, for the manifest."""
    arrays = sorted(folder.glob("*.npy"))
    if arrays:
        return {path.stem: list(np.load(path, mmap_mode="r").shape) for path in arrays}
    types = {field.name: field.type for file in _tables(folder)[:1] for field in file.schema_arrow}
    return {
        name: [rows_of(folder), kind.list_size] for name, kind in types.items() if pa.types.is_fixed_size_list(kind)
    }
