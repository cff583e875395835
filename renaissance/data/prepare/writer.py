"""The writer of every arrow file: rows stream in, one checked and complete file comes out, with a manifest beside it.

    entries with their images, in order -> record batches -> temporary file -> fsync -> rename

Memory is bounded by one record batch and the images in flight. What a file holds depends on its rows alone, never on
the number of workers. A run that is killed leaves the old file or the new one under the final name.

`write_files` writes a data set of a few files, `prepare.shards.write_shards` one that is cut into many.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, Unpack

import pyarrow as pa

from renaissance import __version__
from renaissance.core.atomic import AtomicFile, write_whole
from renaissance.core.errors import UserError
from renaissance.data.dataset_specs import METADATA_KEY, Column, Expected

from .entries import EntryIterator, LeftOut, Row, read_entries
from .image_pool import QUALITY, ImagePool
from .skipped import Skipped

PROGRAM = f"renaissance {__version__}"

_BATCH_ROWS = 1000
_BATCH_BYTES = 32 << 20  # of images
_BATCH_TEXTS = 100_000  # an image can have very many
_UNREADABLE = ("missing", "unreadable", "too large")


class WriteOptions(TypedDict, total=False):
    """What every `make_arrow` takes beside its own options, and hands on to the writer.

    Attributes:
        workers: processes that read images, None = one a core.
        max_unreadable: share of a file's images that may be unreadable or missing; None = any. Left out, it is 1 %,
            and any for images that were collected from the web (gcc, sbu).
        resize: pixels that the short side of a larger image is reduced to, None = images stay as they are.
        quality: of the JPEG files that resizing makes, 1 to 100; None = `image_pool.QUALITY`.
    """

    workers: int | None
    max_unreadable: float | None
    resize: int | None
    quality: int | None


class Plan(NamedTuple):
    """One file to be.

    Attributes:
        name: the file's name.
        schema: its columns.
        rows: what goes into it.
        listed: how many rows the annotations list.
        skipped: counts of what the annotations already left out; the writer adds its own.
        texts: the columns with lists whose entries are counted as texts.
        expected: what the official download gives.
        listed_texts: how many texts the annotations list, to be compared with `expected.texts`; None = not counted.
        notes: sentences that the manifest's note begins with.
    """

    name: str
    schema: pa.Schema
    rows: Iterable[Row | LeftOut]
    listed: int
    skipped: Skipped
    texts: Sequence[str]
    expected: Expected = Expected()
    listed_texts: int | None = None
    notes: Sequence[str] = ()


def schema_of(columns: Iterable[Column], metadata: Mapping[str, Any] | None = None) -> pa.Schema:
    """Return the Arrow schema of a file with these columns.

    Args:
        columns: of a row of `dataset_specs.DATASETS`.
        metadata: what the file says of itself under `dataset_specs.METADATA_KEY`: dataset, split, labels.
    """
    fields = [(column.name, _arrow_type(column.type)) for column in columns]
    return pa.schema(fields, metadata and {METADATA_KEY: json.dumps(metadata, ensure_ascii=False)})


def _arrow_type(name: str) -> pa.DataType:
    inner = name.removeprefix("list<")
    return pa.type_for_alias(name) if inner == name else pa.list_(_arrow_type(inner.removesuffix(">")))


def write_files(
    plans: Iterable[Plan],
    root: str | os.PathLike,
    dataset_root: str | os.PathLike,
    *,
    source: dict[str, Any],
    options: dict[str, Any],
    **writing: Unpack[WriteOptions],
) -> list[dict[str, Any]]:
    """Write files one after the other.

    Args:
        plans: the files.
        root: the folder of the raw images.
        dataset_root: the folder to write to; made if there is none.
        source, options: what the manifests say about where the data come from and how they were made.
        writing: see `WriteOptions`.

    Returns:
        The manifests, as they lie beside the files.

    Raises:
        UserError: a bad option; a file cannot be written; or, after all files are done, more than `max_unreadable` of
            one could not be read (it is then kept as "<name>.rejected", and what had the name before stays).
    """
    checked = check_options(**writing)
    folder = made_folder(dataset_root)
    manifests, refusals = [], []
    with image_pool(checked) as pool:
        for plan in plans:
            entries = EntryIterator(read_entries(plan.rows, root, pool, plan.name, plan.listed))
            said = {"source": source, "options": recorded(options, checked)}
            manifest, refusal = write_file(plan, entries.take(None, plan.skipped), folder, said)
            manifests.append(manifest)
            refusals += [refusal] if refusal else []
    if refusals:
        raise UserError(" ".join(refusals))
    return manifests


def check_options(
    workers: int | None = None,
    max_unreadable: float | None = 0.01,
    resize: int | None = None,
    quality: int | None = None,
) -> WriteOptions:
    """Refuse what `WriteOptions` does not allow, before anything is read; return all four with their defaults.

    Raises:
        UserError: naming the option.
    """
    if workers is not None and not _is_whole(workers, 1):
        raise UserError(f"workers={workers!r} must be a whole number of processes, at least 1.")
    if max_unreadable is not None and not is_share(max_unreadable):
        raise UserError(f"max_unreadable={max_unreadable!r} must be a share between 0 and 1.")
    if resize is not None and not _is_whole(resize, 1):
        raise UserError(f"resize={resize!r} must be a whole number of pixels for the short side, at least 1.")
    if quality is not None and (not _is_whole(quality, 1) or quality > 100):
        raise UserError(f"quality={quality!r} must be a whole number from 1 to 100.")
    if quality is not None and resize is None:
        raise UserError(f"quality={quality} needs resize=<short side>: a picture that is not resized keeps its bytes.")
    return {
        "workers": workers,
        "max_unreadable": max_unreadable,
        "resize": resize,
        "quality": QUALITY if resize is not None and quality is None else quality,
    }


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_share(value: object) -> bool:
    """Whether a value is a number from 0 to 1."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def recorded(options: dict[str, Any], checked: WriteOptions) -> dict[str, Any]:
    """Return the options that a manifest names: all but the number of workers, which changes nothing."""
    return {**options, **{name: value for name, value in checked.items() if name != "workers"}}


def made_folder(dataset_root: str | os.PathLike) -> Path:
    """Return the folder to write to, made if there is none.

    Raises:
        UserError: it cannot be made.
    """
    folder = Path(dataset_root)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"data_root='{folder}' cannot be made ({error.strerror}); give a folder to write to.") from None
    return folder


def image_pool(checked: WriteOptions) -> ImagePool:
    """Return the readers of images for checked options."""
    return ImagePool(checked["workers"], checked["resize"], checked["quality"])


def write_file(
    plan: Plan, rows: Iterable[dict[str, Any]], folder: Path, said: dict[str, Any], entries: EntryIterator | None = None
) -> tuple[dict[str, Any], str | None]:
    """Write one file and its manifest.

    Args:
        plan: the file; its own `rows` are not read.
        rows: what goes into it, column -> value.
        folder: where it goes.
        said: "source" and "options" of the manifest.
        entries: where the rows come from, if the file is a shard; its manifest then says which entries are in it.

    Returns:
        The manifest, and the sentence that refuses the file, if one does.
    """
    counts = {"rows": 0, "images": 0, "texts": 0, "image_bytes": 0}
    limit, first = said["options"]["max_unreadable"], entries.position if entries else 0
    with AtomicFile(folder / plan.name, "data_root") as file:
        with pa.ipc.new_file(pa.PythonFile(file, mode="w"), plan.schema) as arrow:
            for batch in _batches(rows, plan.texts):
                _count(counts, batch, plan.texts)
                columns = [pa.array([row[field.name] for row in batch], field.type) for field in plan.schema]
                arrow.write_batch(pa.record_batch(columns, schema=plan.schema))
        if entries:
            plan = plan._replace(listed=entries.position - first)
            said = {**said, "shard": {"first": first, "next": entries.position}}
        unreadable = plan.skipped.count(*_UNREADABLE)
        rejected = counts["rows"] == 0 or (limit is not None and unreadable > limit * plan.listed)
        name = plan.name + ".rejected" if rejected else plan.name
        manifest = {
            "file": name,
            "program": PROGRAM,
            **counts,
            "bytes": file.tell(),
            "columns": columns_of(plan.schema),
            **said,
            "listed": plan.listed,
            "listed_texts": plan.listed_texts,
            "skipped": plan.skipped.as_dict(),
            "expected": plan.expected._asdict(),
            "note": _note(plan, counts["rows"]),
        }
        file.sync()
        beside = manifest_of(folder / name)
        beside.unlink(missing_ok=True)  # a manifest never speaks of another file than the one it lies beside
        file.commit(folder / name)
    write_whole(
        beside,
        json.dumps(manifest, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n",
        "data_root",
    )
    return manifest, _refusal(plan, folder / name, counts["rows"], unreadable, limit) if rejected else None


def columns_of(schema: pa.Schema) -> dict[str, str]:
    """Return column -> type, as manifests say it."""
    return {field.name: str(field.type) for field in schema}


def manifest_of(file: Path) -> Path:
    """Return the path of a file's manifest."""
    return file.with_name(f"{file.name.removesuffix('.arrow')}.json")


def _batches(rows: Iterable[dict[str, Any]], texts: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    batch, size, held = [], 0, 0
    for row in rows:
        batch.append(row)
        size += _image_bytes(row)
        held += _text_count(row, texts)
        if len(batch) >= _BATCH_ROWS or size >= _BATCH_BYTES or held >= _BATCH_TEXTS:
            yield batch
            batch, size, held = [], 0, 0
    if batch:
        yield batch


def _count(counts: dict[str, int], rows: list[dict[str, Any]], texts: Sequence[str]) -> None:
    counts["rows"] += len(rows)
    counts["images"] += sum(isinstance(value, bytes) for row in rows for value in row.values())
    counts["image_bytes"] += sum(map(_image_bytes, rows))
    counts["texts"] += sum(_text_count(row, texts) for row in rows)


def _image_bytes(row: dict[str, Any]) -> int:
    return sum(len(value) for value in row.values() if isinstance(value, bytes))


def _text_count(row: dict[str, Any], texts: Sequence[str]) -> int:
    return sum(len(row[name]) for name in texts)


def _note(plan: Plan, rows: int) -> str | None:
    """Say where a file differs from the official download, a sentence for each difference."""
    notes = [*plan.notes]
    if plan.expected.rows not in (None, rows):
        notes.append(
            f"{plan.name} holds {rows:,} rows where the official download has {plan.expected.rows:,}: "
            f"{plan.listed:,} are listed in the annotations and {plan.listed - rows:,} of them were left out."
        )
    if None not in (plan.listed_texts, plan.expected.texts) and plan.listed_texts != plan.expected.texts:
        notes.append(
            f"The annotations for {plan.name} list {plan.listed_texts:,} texts where those of the official download "
            f"list {plan.expected.texts:,}."
        )
    return " ".join(notes) or None


def _refusal(plan: Plan, kept: Path, rows: int, unreadable: int, limit: float | None) -> str:
    if rows:
        why = (
            f"{unreadable:,} of {plan.listed:,} pictures for {plan.name} could not be read (first "
            f"{'; '.join(plan.skipped.first(*_UNREADABLE)[:3])}): {unreadable / plan.listed:.1%}, and max_unreadable={limit}"
        )
    else:
        kinds = plan.skipped.as_dict().items()
        reasons = "; ".join(f"{kind}: {each['count']:,}, first {each['first'][0]}" for kind, each in kinds)
        why = f"Nothing is left for {plan.name}: all of the {plan.listed:,} rows listed were left out ({reasons or 'none'})"
    return f"{why}; what could be written is kept as '{kept}', any older {plan.name} is as it was."
