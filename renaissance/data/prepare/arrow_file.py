"""Writes one arrow file and its manifest: record batches of bounded size, renamed to the final name when complete.

A data set may be divided into shards of equal length. An interrupted run then continues after its last complete shard.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import pyarrow as pa

from renaissance import __version__
from renaissance.core.atomic import AtomicFile, write_whole
from renaissance.core.console import say
from renaissance.core.errors import UserError
from renaissance.core.untrusted import read_json
from renaissance.data.dataset_specs import UNKNOWN, Expected, file_pattern

from .entries import EntryIterator, LeftOut, Row
from .skipped import Skipped

PROGRAM = f"renaissance {__version__}"

_BATCH_ROWS = 1000
_BATCH_BYTES = 32 << 20  # of images
_BATCH_TEXTS = 100_000  # an image can have very many
_UNREADABLE = ("missing", "unreadable", "too large")


Entries = Iterable[Row | LeftOut | Callable[[], Row | LeftOut]]


class Plan(NamedTuple):
    """A file to be written, or a stream that is divided into shards.

    Attributes:
        name: the file's name; with "{shard}" for the number of a file from 0 where there are several.
        schema: its columns.
        rows: what goes into it, in an order that is always the same. What is left out stands there as `LeftOut`, at its
            place. An entry may also be a function that makes it, so that entries of a kept shard cost little.
        listed: how many rows the annotations list; None = not known.
        skipped: counts of what the annotations already left out; the writer adds its own.
        texts: the columns with lists whose entries are counted as texts.
        expected: what the official download gives.
        listed_texts: how many texts the annotations list, to be compared with `expected.texts`; None = not counted.
        notes: sentences that the manifest's note begins with.
        source: what the manifest says about where the data come from beside `Download.source`. With shards it must
            differ where the listing differs: it holds the listing's size or digest.
        shard_rows: rows of each shard; None = one file.
    """

    name: str
    schema: pa.Schema
    rows: Entries
    listed: int | None
    skipped: Skipped
    texts: Sequence[str]
    expected: Expected = UNKNOWN
    listed_texts: int | None = None
    notes: Sequence[str] = ()
    source: Mapping[str, Any] = {}
    shard_rows: int | None = None


class _Counted(TypedDict):
    count: int
    first: list[str]


class Manifest(TypedDict):
    """What is read of a manifest. Attributes: shard, its first entry and the first one behind it."""

    rows: int
    images: int
    texts: int
    bytes: int
    skipped: dict[str, _Counted]
    note: str | None
    shard: dict[str, int] | None


def write_file(
    plan: Plan, entries: EntryIterator, folder: Path, provenance: Mapping[str, Any], refusals: list[str]
) -> dict[str, Any]:
    """Writes one file and its manifest.

    Args:
        plan: the file, or the shard; its own `rows` are not read.
        entries: where its rows come from.
        folder: where it goes.
        provenance: "source" and "options" of the manifest.
        refusals: takes the sentence that refuses the file, if one does.

    Returns:
        The manifest.
    """
    counts = {"rows": 0, "images": 0, "texts": 0, "image_bytes": 0}
    limit, first = provenance["options"]["max_unreadable"], entries.position
    with AtomicFile(folder / plan.name, "data_root") as file:
        with pa.ipc.new_file(pa.PythonFile(file, mode="w"), plan.schema) as arrow:
            for batch in _batches(entries.take(plan.shard_rows, plan.skipped), counts, plan.texts):
                columns = [pa.array([row[field.name] for row in batch], field.type) for field in plan.schema]
                arrow.write_batch(pa.record_batch(columns, schema=plan.schema))
        if plan.shard_rows or plan.listed is None:
            plan = plan._replace(listed=entries.position - first)
        if plan.shard_rows:  # the manifest says which entries it holds
            provenance = {**provenance, "shard": {"first": first, "next": entries.position}}
        unreadable = plan.skipped.count(*_UNREADABLE)
        rejected = counts["rows"] == 0 or (limit is not None and unreadable > limit * plan.listed)
        name = plan.name + ".rejected" if rejected else plan.name
        manifest = {
            "file": name,
            "program": PROGRAM,
            **counts,
            "bytes": file.tell(),
            "columns": columns_of(plan.schema),
            **provenance,
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
    content = json.dumps(manifest, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
    write_whole(beside, content, "data_root")
    if rejected:
        refusals.append(_refusal(plan, folder / name, counts["rows"], unreadable, limit))
    return manifest


def kept_shards(folder: Path, plan: Plan, provenance: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the manifests of the shards, from 0 on, that need not be written again.

    A shard is kept if it and all before it are complete and their manifests name the same source, options and program.
    """
    wanted = json.loads(json.dumps({"program": PROGRAM, "columns": columns_of(plan.schema), **provenance}))
    manifests: list[dict[str, Any]] = []
    position = 0
    for number in count():
        file = folder / plan.name.format(shard=number)
        try:
            manifest = read_json(manifest_of(file), Manifest)
            first, after = manifest["shard"]["first"], manifest["shard"]["next"]
            whole = manifest.items() >= wanted.items() and file.stat().st_size == manifest["bytes"]
        except (UserError, OSError, KeyError, TypeError):  # no such shard, or one of another program
            return manifests
        if not whole or not first == position <= after < 2**62:
            return manifests
        say(f"{file.name} is kept from an earlier run; remove it to write it again.")
        manifests.append(manifest)
        position = after


def set_aside_shards(folder: Path, template: str, shards: int) -> None:
    """Renames the shards of an earlier, longer run to "<name>.stale", so that no image is in two shards."""
    for file in sorted(folder.iterdir()):
        match = file_pattern(template).fullmatch(file.name)
        if match and int(match[1]) >= shards:
            stale = file.with_name(f"{file.name}.stale")
            say(f"{file.name} is of an earlier, longer run and is set aside as {stale.name}; remove it.")
            file.rename(stale)
            manifest_of(file).unlink(missing_ok=True)


def columns_of(schema: pa.Schema) -> dict[str, str]:
    """Returns column -> type, as manifests say it."""
    return {field.name: str(field.type) for field in schema}


def manifest_of(file: Path) -> Path:
    """Returns the path of a file's manifest."""
    return file.with_name(f"{file.name.removesuffix('.arrow')}.json")


def _batches(
    rows: Iterable[dict[str, Any]], counts: dict[str, int], texts: Sequence[str]
) -> Iterator[list[dict[str, Any]]]:
    """Groups rows into record batches of bounded size, and counts them."""
    batch, before = [], dict(counts)
    for row in rows:
        batch.append(row)
        images = [value for value in row.values() if isinstance(value, bytes)]
        counts["rows"] += 1
        counts["images"] += len(images)
        counts["image_bytes"] += sum(map(len, images))
        counts["texts"] += sum(len(row[name]) for name in texts)
        size, added = (counts[name] - before[name] for name in ("image_bytes", "texts"))
        if len(batch) >= _BATCH_ROWS or size >= _BATCH_BYTES or added >= _BATCH_TEXTS:
            yield batch
            batch, before = [], dict(counts)
    if batch:
        yield batch


def _note(plan: Plan, rows: int) -> str | None:
    """Says where a file differs from the official download, a sentence for each difference."""
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
            f"{unreadable:,} of {plan.listed:,} images for {plan.name} could not be read (first "
            f"{'; '.join(plan.skipped.first(*_UNREADABLE)[:3])}): {unreadable / plan.listed:.1%}, and max_unreadable={limit}"
        )
    else:
        kinds = plan.skipped.as_dict().items()
        reasons = "; ".join(f"{kind}: {each['count']:,}, first {each['first'][0]}" for kind, each in kinds)
        why = f"Nothing is left for {plan.name}: all of the {plan.listed:,} rows listed were left out ({reasons or 'none'})"
    return f"{why}; what could be written is kept as '{kept}', any older {plan.name} is as it was."
