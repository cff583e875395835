"""Data sets that are cut into many files of equal length: an ended run is taken up again after its last whole file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Unpack

import pyarrow as pa

from renaissance.core.console import say
from renaissance.core.errors import UserError
from renaissance.core.untrusted import expect, read_json
from renaissance.data.dataset_specs import SHARD_ROWS

from .entries import EntryIterator, LeftOut, Row, read_entries
from .skipped import Skipped
from .writer import (
    PROGRAM,
    Plan,
    WriteOptions,
    check_options,
    columns_of,
    image_pool,
    made_folder,
    manifest_of,
    recorded,
    write_file,
)

_READ_BACK = {  # of the manifest of a shard that is kept
    **{name: int for name in ("images", "texts", "bytes")},
    "shard": dict[str, int],
    "skipped": dict[str, dict[str, int | list[str]]],
    "note": str | None,
}


def write_shards(
    template: str,
    rows_from: Callable[[int], Iterable[Row | LeftOut]],
    root: str | os.PathLike,
    dataset_root: str | os.PathLike,
    *,
    schema: pa.Schema,
    listed: int | None,
    skipped: Skipped,
    texts: Sequence[str],
    source: dict[str, Any],
    options: dict[str, Any],
    notes: Sequence[str] = (),
    shard_rows: int = SHARD_ROWS,
    **writing: Unpack[WriteOptions],
) -> list[dict[str, Any]]:
    """Write one stream of rows to files of `shard_rows` rows each; the last one has the rest.

    A shard of an earlier run is kept, and its rows are neither asked for nor read again, if it and all before it are
    whole and their manifests name the same source, options and program. Shards of an earlier run with higher numbers
    than this one needs are set aside as "<name>.stale", so that no image is in two shards.

    Args:
        template: the files' name with "{shard}" for their number from 0, such as `dataset_specs.SBU_FILE`.
        rows_from: gives every entry of the listing from a position on, counted from 0, in an order that is always the
            same. What is left out must be given as `LeftOut`, at its place, so that an entry is a position and is
            counted by the shard that it falls into.
        root: the folder of the raw images.
        dataset_root: the folder to write to; made if there is none.
        schema: the columns of each file.
        listed: how many entries there are, for the progress bar; None = not known.
        skipped: what was left out before the entries were counted; the manifest of the first shard names it.
        texts: the columns with lists whose entries are counted as texts.
        source: what the manifests say about where the data come from. It must differ where the listing differs, so let
            it hold the listing's size or digest.
        options: what the manifests say about how the files were made.
        notes: sentences that the note of the first shard begins with.
        shard_rows: rows written to a file; an entry that is left out does not count.
        writing: see `WriteOptions`; `max_unreadable`, here None unless it is given, is a share of each shard's entries.

    Returns:
        The manifests of all shards, kept ones too. "shard" says which entries are in a file: {"first", "next"}.

    Raises:
        UserError: as `write_files` does.
    """
    checked = check_options(**({"max_unreadable": None} | writing))
    folder = made_folder(dataset_root)
    said = {"source": source, "options": {**recorded(options, checked), "shard_rows": shard_rows}}
    manifests, refusals = _whole_shards(folder, template, schema, said), []
    title, position = template.format(shard="*"), manifests[-1]["shard"]["next"] if manifests else 0
    with image_pool(checked) as pool:
        entries = EntryIterator(read_entries(rows_from(position), root, pool, title, listed, position), position)
        while not entries.ended or not manifests:
            here = Skipped() if manifests else skipped
            plan = Plan(
                template.format(shard=len(manifests)), schema, (), 0, here, texts, notes=() if manifests else notes
            )
            manifest, refusal = write_file(plan, entries.take(shard_rows, here), folder, said, entries)
            manifests.append(manifest)
            refusals += [refusal] if refusal else []
    _set_aside(folder, template, len(manifests))
    if refusals:
        raise UserError(" ".join(refusals))
    return manifests


def _whole_shards(folder: Path, template: str, schema: pa.Schema, said: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the manifests of the shards, from 0 on, that this run would only write again."""
    wanted = json.loads(json.dumps({"program": PROGRAM, "columns": columns_of(schema), **said}))
    manifests: list[dict[str, Any]] = []
    position = 0
    for number in count():
        file = folder / template.format(shard=number)
        try:
            manifest = read_json(manifest_of(file), dict)
            for name, hint in _READ_BACK.items():
                expect(manifest[name], hint, name)
            whole = manifest.items() >= wanted.items() and file.stat().st_size == manifest["bytes"]
            if not whole or manifest["shard"]["first"] != position or not position <= manifest["shard"]["next"] < 2**62:
                break
        except (UserError, OSError, KeyError):  # no such shard, or one that another program made
            break
        say(f"{file.name} is kept from an earlier run; remove it to write it again.")
        manifests.append(manifest)
        position = manifest["shard"]["next"]
    return manifests


def _set_aside(folder: Path, template: str, shards: int) -> None:
    before, _, after = template.partition("{shard}")
    for file in sorted(folder.glob(template.format(shard="*"))):
        number = file.name.removeprefix(before).removesuffix(after)
        if number.isdecimal() and int(number) >= shards:
            stale = file.with_name(f"{file.name}.stale")
            say(f"{file.name} is of an earlier, longer run and is set aside as {stale.name}; remove it.")
            file.rename(stale)
            manifest_of(file).unlink(missing_ok=True)
