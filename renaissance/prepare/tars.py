"""Tar shards as img2dataset leaves them: `key.jpg`, `key.txt` and `key.json` side by side, read in order, never extracted."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from renaissance.errors import UserError
from renaissance.formats import CAPTION, IMAGE, IMAGE_ID, SPLIT
from renaissance.prepare.captioned import NO_CAPTION
from renaissance.prepare.pictures import MAX_BYTES
from renaissance.prepare.spool import plain_name, text_fault
from renaissance.prepare.tables import columns_of, records_of
from renaissance.prepare.writer import LeftOut, Row

PICTURE_SUFFIXES = ("jpg", "jpeg", "png", "webp")  # img2dataset writes the first, or what it was told
_END = bytes(1024)  # two empty blocks end a tar file (POSIX.1-1988, ustar)
_TAIL = 1 << 16  # bytes of which only such blocks are expected, more than any writer's padding


class _Group(NamedTuple):
    """The files of one key. Attributes: key; tar, where they are; members, by what follows the first dot."""

    key: str
    tar: tarfile.TarFile
    members: dict[str, tarfile.TarInfo]


def require_whole(tar: Path) -> None:
    """Refuse a file that does not end as tar files end: Python's reader takes a cut one for a shorter one.

    Raises:
        UserError: it is cut short, is no tar file, or cannot be read.
    """
    try:
        with open(tar, "rb") as file:
            file.seek(-len(_END), 2)
            whole = file.read() == _END
    except OSError:  # among others: the file is shorter
        whole = False
    if not whole:
        raise UserError(f"'{tar}' is cut short or is not a tar file; download it again, or remove it.")


def tar_entries(tar: Path, below: str, split: str) -> Iterator[Callable[[], Row | LeftOut]]:
    """Yield what makes the entry of every key, in the tar's order, then of each download that failed.

    A key's files are read when its entry is made, which must be before the next one is asked for; keys that are passed
    over cost no more than their headers. Failures are known from the parquet file that img2dataset leaves beside the tar.

    Args:
        tar: the file.
        below: what pictures' ids begin with.
        split: which they belong to.

    Raises:
        UserError: the tar is damaged, a name leads out of it, or a key stands at two places.
    """
    try:
        for group in _groups(tar):
            yield partial(_entry, group, f"{below}{group.key}", split)
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"'{tar}' is damaged ({error}); download it again, or remove it.") from None
    for failure in _failures(tar.with_suffix(".parquet"), below):
        yield partial(LeftOut, *failure)


def _groups(tar: Path) -> Iterator[_Group]:
    seen: set[str] = set()
    with tarfile.open(tar, "r:") as file:
        group = None
        for member in iter(file.next, None):
            file.members.clear()  # tarfile keeps them all
            if member.isdir():
                continue
            folder, _, base = plain_name(member.name).rpartition("/")
            stem, _, suffix = base.partition(".")
            key = f"{folder}/{stem}" if folder else stem
            if group is None or key != group.key:
                if group is not None:
                    yield group
                if key in seen:
                    raise UserError(
                        f"'{tar}' has the files of '{key}' at two places; sort it so that they lie together."
                    )
                seen.add(key)
                group = _Group(key, file, {})
            group.members[suffix.lower()] = member
        if group is not None:
            yield group
        file.fileobj.seek(file.offset)
        if any(file.fileobj.read(_TAIL)):  # Python's reader takes any such place for the end
            raise tarfile.ReadError(f"no header of a file at byte {file.offset}")


def _entry(group: _Group, name: str, split: str) -> Row | LeftOut:
    members = group.members
    picture = next((members[suffix] for suffix in PICTURE_SUFFIXES if suffix in members), None)
    if not all(member.isreg() for member in members.values()):
        return LeftOut("link in a tar", name)
    if picture is None:
        return LeftOut("missing", f"{name}: no picture in the tar")
    if max(member.size for member in members.values()) > MAX_BYTES:
        return LeftOut("too large", f"{name}: more than {MAX_BYTES:,} bytes")
    caption = _caption(group)
    fault = NO_CAPTION if caption is None else text_fault(caption)
    if fault is not None:
        return LeftOut(fault, name)
    return Row({IMAGE.name: _read(group, picture)}, {CAPTION.name: [caption], IMAGE_ID.name: name, SPLIT.name: split})


def _caption(group: _Group) -> str | None:
    """Return the text of key.txt, or the caption in key.json."""
    if "txt" in group.members:
        return _read(group, group.members["txt"]).decode("utf-8-sig", "surrogateescape")
    try:
        caption = json.loads(_read(group, group.members["json"]))["caption"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return caption if isinstance(caption, str) else None


def _read(group: _Group, member: tarfile.TarInfo) -> bytes:
    return group.tar.extractfile(member).read()


def _failures(parquet: Path, below: str) -> Iterator[LeftOut]:
    if parquet.is_file() and {"key", "status"} <= set(columns_of(parquet)):
        for record in records_of(parquet, ["key", "status"]):
            if record["status"] != "success":
                yield LeftOut("missing", f"{below}{record['key']}: {record['status']}")
