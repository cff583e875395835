"""Data sets that are cut into many files of equal length: an ended run is taken up again after its last whole file."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any, TypedDict

from renaissance.core.console import say
from renaissance.core.errors import UserError
from renaissance.core.untrusted import read_json

from .arrow_file import PROGRAM, Plan, columns_of, manifest_of


class _Manifest(TypedDict):
    """What is read of the manifest of a shard that is kept."""

    images: int
    texts: int
    bytes: int
    shard: dict[str, int]
    skipped: dict[str, dict[str, int | list[str]]]
    note: str | None


def kept_shards(folder: Path, plan: Plan, said: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the manifests of the shards, from 0 on, that this run would only write again.

    A shard is kept if it and all before it are whole and their manifests name the same source, options and program.
    """
    wanted = json.loads(json.dumps({"program": PROGRAM, "columns": columns_of(plan.schema), **said}))
    manifests: list[dict[str, Any]] = []
    position = 0
    for number in count():
        file = folder / plan.name.format(shard=number)
        try:
            manifest = read_json(manifest_of(file), _Manifest)
            whole = manifest.items() >= wanted.items() and file.stat().st_size == manifest["bytes"]
            if not whole or manifest["shard"]["first"] != position or not position <= manifest["shard"]["next"] < 2**62:
                break
        except (UserError, OSError, KeyError):  # no such shard, or one that another program made
            break
        say(f"{file.name} is kept from an earlier run; remove it to write it again.")
        manifests.append(manifest)
        position = manifest["shard"]["next"]
    return manifests


def set_aside_shards(folder: Path, template: str, shards: int) -> None:
    """Rename the shards of an earlier, longer run to "<name>.stale", so that no image is in two shards."""
    before, _, after = template.partition("{shard}")
    for file in sorted(folder.glob(template.format(shard="*"))):
        number = file.name.removeprefix(before).removesuffix(after)
        if number.isdecimal() and int(number) >= shards:
            stale = file.with_name(f"{file.name}.stale")
            say(f"{file.name} is of an earlier, longer run and is set aside as {stale.name}; remove it.")
            file.rename(stale)
            manifest_of(file).unlink(missing_ok=True)
