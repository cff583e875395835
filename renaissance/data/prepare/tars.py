"""Tar shards as img2dataset leaves them: `key.jpg`, `key.txt` and `key.json` side by side, read in order, never extracted.

A key is what stands before the last dot, so `v1.5_0001.jpg` is one. Where a key has its own image and text, further files
that only begin with it (`0001.seg.png`, as WebDataset has them) are skipped.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from renaissance.core.errors import UserError, first_line, require, shortened
from renaissance.core.untrusted import expect, parse_json
from renaissance.data.dataset_specs import CAPTION, IMAGE, IMAGE_ID, SPLIT

from .annotation_store import NO_CAPTION, plain_name, usable
from .annotations import opened
from .entries import LeftOut, Row
from .image_pool import MAX_BYTES
from .names import IMAGE_SUFFIXES, is_system_file
from .tables import columns_of, records_of

_END = bytes(1024)  # two empty blocks end a tar file (POSIX.1-1988, ustar)
_TAIL = 1 << 16  # bytes of which only such blocks are expected, more than any writer's padding
_MOST_EXTENSION = 1 << 16  # bytes of a header that is followed by a text and then by the header that it extends
_MORE_SPARSE, _MORE_IN_BLOCK = 482, 504  # bytes that say whether a map of GNU's sparse files goes on in a further block
_PROBED, _LONGEST_KEY = 200, 60  # entries that are tried for a caption; characters of a key that a sentence tells
_TEXTS, _MOST_TEXT = ("txt", "json"), 16 << 20  # bytes


class _Group(NamedTuple):
    """The files of one key. Attributes: key; tar, where they are; members, by what follows the last dot of their names."""

    key: str
    tar: BinaryIO
    members: dict[str, tarfile.TarInfo]

    @property
    def image(self) -> tarfile.TarInfo | None:
        return next((self.members[suffix] for suffix in IMAGE_SUFFIXES if suffix in self.members), None)

    @property
    def texts(self) -> list[tarfile.TarInfo]:
        return [self.members[suffix] for suffix in _TEXTS if suffix in self.members]


def require_whole(tar: Path) -> None:
    """Refuses a file without the end mark of tar files; Python's reader accepts a truncated one.

    Raises:
        UserError: it is cut short, is no tar file, or cannot be read.
    """
    with opened(tar) as file:
        file.seek(max(0, file.seek(0, 2) - len(_END)))
        require(file.read() == _END, f"'{tar}' is cut short or is not a tar file; download it again, or remove it.")


def require_captions(tar: Path, key: str | None) -> None:
    """Refuses a tar of whose first entries none has a caption under this key of its .json; None = the usual places.

    Raises:
        UserError: that, with the keys that are there; or the tar is damaged.
    """
    with opened(tar) as file, _explained(tar):
        first = list(islice((group for group in _groups(file) if group.texts), _PROBED))
        keys = dict.fromkeys(chain.from_iterable(_about(group) for group in first))
        named = f"a text under '{key}'" if key else "a caption in .txt or under 'caption' of .json"
        found = shortened((each[:_LONGEST_KEY] for each in keys), 8)
        has = f"their .json has the keys {found}, of which caption_column= names one"
        if not keys:
            has = "their .json has no keys" if any("json" in group.members for group in first) else "they have no .json"
            if key and any("txt" in group.members for group in first):
                has += "; leave caption_column out, and their .txt counts"
        require(
            not first or any(_captions(group, key) for group in first),
            f"'{tar}': none of its first {len(first):,} entries has {named}; {has}.",
        )


def tar_entries(
    tar: Path, below: str, split: str, caption_key: str | None = None
) -> Iterator[LeftOut | Callable[[], Row | LeftOut]]:
    """Yields a function that makes the entry of each key, in the tar's order, then of each failed download.

    A key's files are read when its entry is made, which must be before the next one is asked for; keys that are skipped
    cost no more than their headers. Failures are known from the parquet file that img2dataset leaves beside the tar.

    Args:
        tar: the file.
        below: what images' ids begin with.
        split: which they belong to.
        caption_key: where a .json has the caption; None = what .txt says, or else "caption".

    Raises:
        UserError: the tar is damaged, a name leads out of it, or a key stands at two places.
    """
    seen: set[str] = set()
    with opened(tar) as file, _explained(tar):
        for group in _groups(file):
            require(
                group.key not in seen,
                f"'{tar}' has the files of '{group.key}' at two places; sort it so that they lie together.",
            )
            seen.add(group.key)
            yield partial(_entry, group, f"{below}{group.key}", split, caption_key)
    yield from _failures(tar.with_suffix(".parquet"), below)


@contextmanager
def _explained(tar: Path) -> Iterator[None]:
    """Turns errors of a damaged tar into a UserError."""
    try:
        yield
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise UserError(f"'{tar}' is damaged ({first_line(error)}); download it again, or remove it.") from None


def _groups(file: BinaryIO) -> Iterator[_Group]:
    """Yields the groups of adjacent members that have one name up to the first dot, in order."""
    named = ((PurePosixPath(plain_name(member.name)), member) for member in _members(file) if not member.isdir())
    kept = ((path, member) for path, member in named if not any(map(is_system_file, path.parts)))
    for _, members in groupby(kept, lambda each: each[0].with_name(each[0].name.partition(".")[0])):
        groups: dict[str, _Group] = {}
        for path, member in members:
            key, suffix = str(path.with_suffix("")), path.suffix.removeprefix(".").lower()
            groups.setdefault(key, _Group(key, file, {})).members[suffix] = member
        shortest = groups[min(groups, key=len)]
        alone = shortest.image and shortest.texts
        for key, group in groups.items():
            if not (alone and key.startswith(f"{shortest.key}.") and not group.texts):
                yield group


def _members(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yields all members. Python's own reader trusts headers, and its time grows with the square of their length.

    Raises:
        TarError, ValueError: a header makes no sense, or the file ends within a member.
    """
    at, extended = 0, {}
    while True:
        file.seek(at)
        block = file.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("unexpected end of data")
        if not any(block) and not any(file.read(_TAIL)):
            return
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            raise tarfile.ReadError(f"no header of a file at byte {at}") from None
        member.offset_data = at + tarfile.BLOCKSIZE
        extends = member.type in b"xXgLK"
        if not extends:
            name = extended.get("GNU.sparse.name", extended.get("path", member.name))
            member.name, member.size = name, int(extended.get("size", member.size))
            if member.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in extended):
                member.sparse = []  # `issparse`; its map may go on in further blocks
                more = member.type == tarfile.GNUTYPE_SPARSE and block[_MORE_SPARSE]
                while more:
                    more = (file.read(tarfile.BLOCKSIZE)[_MORE_IN_BLOCK:] or b"\0")[0]
                    member.offset_data += tarfile.BLOCKSIZE
        if member.size < 0 or (extends and member.size > _MOST_EXTENSION):
            raise tarfile.ReadError(f"a header that is too long or makes no sense at byte {at}")
        has_content = extends or member.isreg() or member.type not in tarfile.SUPPORTED_TYPES
        at = member.offset_data + has_content * -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        if extends:
            extended |= _extension(member.type, _read(file, member))
        else:
            yield member
            extended = {}


def _extension(kind: bytes, text: bytes) -> dict[str, str]:
    """Returns name and size of the next member: pax has records of "<length> <key>=<value>\\n", GNU a name (L)."""
    found, at = {}, 0
    while kind in b"xX" and at < len(text) and text[at]:
        length = text[at : at + 9].split(b" ")[0]
        key, _, value = text[at + len(length) + 1 : at + int(length) - 1].partition(b"=")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        at += max(1, int(length))
    return {"path": text.rstrip(b"\0").decode("utf-8", "surrogateescape")} if kind == b"L" else found


def _entry(group: _Group, name: str, split: str, caption_key: str | None) -> Row | LeftOut:
    image, texts = group.image, group.texts
    if not all(member.isreg() and not member.issparse() for member in group.members.values()):
        return LeftOut("link or sparse file in a tar", name)
    if image is None:
        others = ", ".join(f".{suffix}" for suffix in group.members if suffix not in _TEXTS)
        missing = LeftOut("missing", f"{name}: no image in the tar")
        return LeftOut("image of a form that is not read", f"{name}: {others}") if others else missing
    if any(member.size > _MOST_TEXT for member in texts):
        return LeftOut("too large", f"{name}: a text of more than {_MOST_TEXT:,} bytes")
    if image.size > MAX_BYTES:
        return LeftOut("too large", f"{name}: more than {MAX_BYTES:,} bytes")
    kept, others = usable(_captions(group, caption_key), name)
    if not kept:
        return others[0] if others else LeftOut(NO_CAPTION, name)
    values = {CAPTION.name: kept, IMAGE_ID.name: name, SPLIT.name: split}
    return Row({IMAGE.name: _read(group.tar, image)}, values, without=others)


def _captions(group: _Group, key: str | None) -> list[str]:
    """Returns the text of key.txt, or the caption or captions in key.json."""
    if key is None and "txt" in group.members:
        return [_read(group.tar, group.members["txt"]).decode("utf-8-sig", "surrogateescape")]
    try:
        found = expect(_about(group).get(key or CAPTION.name), str | list[str] | None, "the caption")
    except UserError:
        return []
    return [found] if isinstance(found, str) else found or []


def _about(group: _Group) -> dict[str, Any]:
    """Returns what key.json says, nothing where there is none or it is damaged."""
    if "json" not in group.members or group.members["json"].size > _MOST_TEXT:
        return {}
    try:
        return parse_json(_read(group.tar, group.members["json"]), dict, nan_is_null=True)
    except UserError:
        return {}


def _read(file: BinaryIO, member: tarfile.TarInfo) -> bytes:
    file.seek(member.offset_data)
    content = file.read(member.size)
    if len(content) < member.size:
        raise tarfile.ReadError("unexpected end of data")
    return content


def _failures(parquet: Path, below: str) -> Iterator[LeftOut]:
    if parquet.is_file() and {"key", "status"} <= set(columns_of(parquet)):
        for record in records_of(parquet, ["key", "status"]):
            if record["status"] != "success":
                yield LeftOut("missing", f"{below}{record['key']}: {record['status']}")
