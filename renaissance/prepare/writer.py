"""The writer of every arrow file: rows stream in, one checked and complete file comes out, with a manifest beside it.

    requests -> PicturePool (all cores) -> rows in order -> record batches -> temporary file -> fsync -> rename

Memory is bounded by one record batch and the pictures in flight. What a file holds depends on its rows alone, never on
the number of workers. A run that is killed leaves the old file or the new one under the final name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from tqdm import tqdm

from renaissance import __version__
from renaissance.errors import UserError
from renaissance.prepare.atomic import AtomicFile
from renaissance.prepare.pictures import Fault, PicturePool, Reply, Request
from renaissance.prepare.skipped import Skipped

_BATCH_ROWS = 1000
_BATCH_BYTES = 32 << 20  # of pictures
_UNREADABLE = ("missing", "unreadable", "too large")


class Row(NamedTuple):
    """One row to be.

    Attributes:
        pictures: column -> path of the picture below the root, or its encoded bytes.
        values: every other column -> value.
    """

    pictures: dict[str, str | bytes]
    values: dict[str, Any]


class Plan(NamedTuple):
    """One file to be.

    Attributes:
        name: the file's name.
        schema: its columns.
        rows: what goes into it.
        listed: how many rows those are, for the progress bar.
        skipped: counts of what the annotations already left out; the writer adds its own.
        texts: the columns whose strings are counted.
        expected: rows that the official download gives, None where there is no such number.
    """

    name: str
    schema: pa.Schema
    rows: Iterable[Row]
    listed: int
    skipped: Skipped
    texts: Sequence[str]
    expected: int | None = None


def write_files(
    plans: Iterable[Plan],
    root: str | os.PathLike,
    dataset_root: str | os.PathLike,
    *,
    source: dict[str, Any],
    options: dict[str, Any],
    workers: int | None = None,
    max_unreadable: float | None = 0.01,
) -> list[dict[str, Any]]:
    """Write files one after the other.

    Args:
        plans: the files.
        root: the folder of the raw pictures.
        dataset_root: the folder to write to; made if there is none.
        source, options: what the manifests say about where the data come from and how they were made.
        workers: processes that read pictures, None = one a core.
        max_unreadable: share of a file's rows that may be left out because a picture cannot be read; None = any.

    Returns:
        The manifests, as they lie beside the files.

    Raises:
        UserError: a bad option; a file cannot be written; or, after all files are done, more than `max_unreadable` of
            one could not be read (it is then kept as "<name>.rejected", and what had the name before stays).
    """
    check_options(workers, max_unreadable)
    folder = _made(Path(dataset_root))
    options = {**options, "max_unreadable": max_unreadable}
    manifests, refusals = [], []
    with PicturePool(workers) as pool:
        for plan in plans:
            manifest, refusal = _write(plan, Path(root), folder, pool, source, options)
            manifests.append(manifest)
            refusals += [refusal] if refusal else []
    if refusals:
        raise UserError(" ".join(refusals))
    return manifests


def check_options(workers: int | None, max_unreadable: float | None) -> None:
    """Refuse a number of workers under 1 or a share outside 0..1, before anything is read.

    Raises:
        UserError: naming the option.
    """
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise UserError(f"workers={workers!r} must be a whole number of processes, at least 1.")
    if max_unreadable is not None and not is_share(max_unreadable):
        raise UserError(f"max_unreadable={max_unreadable!r} must be a share between 0 and 1.")


def is_share(value: object) -> bool:
    """Whether a value is a number from 0 to 1."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"data_root='{folder}' cannot be made ({error.strerror}); give a folder to write to.") from None
    return folder


def _write(
    plan: Plan, root: Path, folder: Path, pool: PicturePool, source: dict[str, Any], options: dict[str, Any]
) -> tuple[dict[str, Any], str | None]:
    """Write one file and its manifest; return the manifest, and the sentence that refuses the file, if one does."""
    counts = {"rows": 0, "pictures": 0, "texts": 0, "picture_bytes": 0}
    limit = options["max_unreadable"]
    with AtomicFile(folder / plan.name) as file:
        with pa.ipc.new_file(pa.PythonFile(file, mode="w"), plan.schema) as arrow:
            for rows in _batches(_readable(plan, root, pool)):
                _count(counts, rows, plan.texts)
                columns = [
                    pa.array([row[name] for row in rows], plan.schema.field(name).type) for name in plan.schema.names
                ]
                arrow.write_batch(pa.record_batch(columns, schema=plan.schema))
        unreadable = plan.skipped.count(*_UNREADABLE)
        rejected = counts["rows"] == 0 or (limit is not None and unreadable > limit * plan.listed)
        name = plan.name + ".rejected" if rejected else plan.name
        manifest = {
            "file": name,
            "program": f"renaissance {__version__}",
            **counts,
            "file_bytes": file.tell(),
            "columns": {field.name: str(field.type) for field in plan.schema},
            "source": source,
            "options": options,
            "listed": plan.listed,
            "skipped": plan.skipped.as_dict(),
            "expected_rows": plan.expected,
            "note": _note(plan, counts["rows"]),
        }
        beside = folder / f"{name.removesuffix('.arrow')}.json"
        beside.unlink(missing_ok=True)  # a manifest never speaks of another file than the one it lies beside
        file.commit(folder / name)
    with AtomicFile(beside) as file:
        file.write(json.dumps(manifest, indent=2, ensure_ascii=False).encode() + b"\n")
        file.commit(beside)
    return manifest, _refusal(plan, folder / name, unreadable, limit) if rejected else None


def _readable(plan: Plan, root: Path, pool: PicturePool) -> Iterator[dict[str, Any]]:
    """Yield the rows whose pictures can all be read, as column -> value; count and name the others."""
    for row, pictures in tqdm(_replies(plan, root, pool), plan.name, plan.listed, unit=" rows", mininterval=0.5):
        fault = next((place for place, picture in enumerate(pictures) if isinstance(picture, Fault)), None)
        if fault is not None:
            source = list(row.pictures.values())[fault]
            name = source if isinstance(source, str) else f"a picture of the row {row.values}"
            plan.skipped.add(pictures[fault].kind, f"{name}: {pictures[fault].why}")
        else:
            yield {**dict(zip(row.pictures, pictures, strict=True)), **row.values}


def _replies(plan: Plan, root: Path, pool: PicturePool) -> Iterator[Reply]:
    def path(picture: str | bytes) -> str | bytes:
        return os.path.join(root, picture) if isinstance(picture, str) else picture

    return pool.read(Request(tuple(map(path, row.pictures.values())), row) for row in plan.rows)


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch, size = [], 0
    for row in rows:
        batch.append(row)
        size += _picture_bytes(row)
        if len(batch) >= _BATCH_ROWS or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _count(counts: dict[str, int], rows: list[dict[str, Any]], texts: Sequence[str]) -> None:
    counts["rows"] += len(rows)
    counts["pictures"] += sum(isinstance(value, bytes) for row in rows for value in row.values())
    counts["picture_bytes"] += sum(map(_picture_bytes, rows))
    counts["texts"] += sum(len(row[name]) for row in rows for name in texts)


def _picture_bytes(row: dict[str, Any]) -> int:
    return sum(len(value) for value in row.values() if isinstance(value, bytes))


def _note(plan: Plan, rows: int) -> str | None:
    """Say in one sentence where a file differs from the official download."""
    if plan.expected in (None, rows):
        return None
    return (
        f"{plan.name} holds {rows:,} pictures where the official download has {plan.expected:,}: "
        f"{plan.listed:,} are listed in the annotations and {plan.listed - rows:,} of them were left out."
    )


def _refusal(plan: Plan, kept: Path, unreadable: int, limit: float | None) -> str:
    share = unreadable / plan.listed if plan.listed else 0
    first = plan.skipped.first(*_UNREADABLE)
    named = f" (first {'; '.join(first[:3])})" if first else ""
    return (
        f"{unreadable:,} of {plan.listed:,} pictures for {plan.name} could not be read{named}: {share:.1%}, and "
        f"max_unreadable={limit}; what could be written is kept as '{kept}', any older {plan.name} is as it was."
    )
