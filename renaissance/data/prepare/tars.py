"""Tar shards as img2dataset leaves them: `key.jpg`, `key.txt` and `key.json` side by side, read in order, never extracted.

A key is what stands before the last dot, so `v1.5_0001.jpg` is one. Where a key has its own image and text, further files
that only begin with it (`0001.seg.png`, as WebDataset has them) belong to nobody else and are passed over.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from renaissance.core.errors import UserError, first_line
from renaissance.core.untrusted import parse_json
from renaissance.data.dataset_specs import CAPTION, IMAGE, IMAGE_ID, SPLIT

from .annotation_store import NO_CAPTION, plain_name, text_fault
from .annotations import opened
from .entries import LeftOut, Row
from .image_pool import MAX_BYTES
from .names import IMAGE_SUFFIXES, is_litter
from .tables import columns_of, records_of

_END = bytes(1024)  # two empty blocks end a tar file (POSIX.1-1988, ustar)
_TAIL = 1 << 16  # bytes of which only such blocks are expected, more than any writer's padding
# Headers that are followed by a text and then by the header that they extend: pax (local, Solaris's, global), GNU's names.
_EXTENSIONS, _GLOBAL = b"xXgLK", b"g"
_MOST_EXTENSION, _MOST_IN_A_ROW, _MOST_DIGITS = 1 << 16, 8, 512  # bytes; Python's reader takes their square in time
_TEXTS, _MOST_TEXT = ("txt", "json"), 16 << 20  # bytes


class _Group(NamedTuple):
    """The files of one key. Attributes: key; tar, where they are; members, by what follows the last dot of their names."""

    key: str
    tar: tarfile.TarFile
    members: dict[str, tarfile.TarInfo]


def require_whole(tar: Path) -> None:
    """Refuse a file that does not end as tar files end: Python's reader takes a cut one for a shorter one.

    Raises:
        UserError: it is cut short, is no tar file, or cannot be read.
    """
    with opened(tar) as file:
        file.seek(max(0, file.seek(0, 2) - len(_END)))
        whole = file.read() == _END
    if not whole:
        raise UserError(f"'{tar}' is cut short or is not a tar file; download it again, or remove it.")


def tar_entries(tar: Path, below: str, split: str) -> Iterator[Callable[[], Row | LeftOut]]:
    """Yield what makes the entry of every key, in the tar's order, then of each download that failed.

    A key's files are read when its entry is made, which must be before the next one is asked for; keys that are passed
    over cost no more than their headers. Failures are known from the parquet file that img2dataset leaves beside the tar.

    Args:
        tar: the file.
        below: what images' ids begin with.
        split: which they belong to.

    Raises:
        UserError: the tar is damaged, a name leads out of it, or a key stands at two places.
    """
    try:
        for group in _groups(tar):
            yield partial(_entry, group, f"{below}{group.key}", split)
    except UserError:
        raise
    except Exception as error:  # Python's reader raises nearly every type on damaged headers
        raise UserError(f"'{tar}' is damaged ({first_line(error)}); download it again, or remove it.") from None
    for failure in _failures(tar.with_suffix(".parquet"), below):
        yield partial(LeftOut, *failure)


def _groups(tar: Path) -> Iterator[_Group]:
    seen: set[str] = set()
    with _Tar.open(tar, "r:") as file:
        for members in _neighbours(file):
            for group in _divided(file, members):
                if group.key in seen:
                    raise UserError(
                        f"'{tar}' has the files of '{group.key}' at two places; sort it so that they lie together."
                    )
                seen.add(group.key)
                yield group
        file.fileobj.seek(file.offset)
        if any(file.fileobj.read(_TAIL)):  # Python's reader takes any such place for the end
            raise tarfile.ReadError(f"no header of a file at byte {file.offset}")


def _neighbours(file: tarfile.TarFile) -> Iterator[list[tuple[str, tarfile.TarInfo]]]:
    """Yield members that lie together and have one name up to its first dot, each with its whole name."""
    first, members = None, []
    for member in iter(file.next, None):
        name = plain_name(member.name)
        parts = name.split("/")
        if member.isdir() or any(map(is_litter, parts)):
            continue
        key = [*parts[:-1], parts[-1].partition(".")[0]]
        if members and key != first:
            yield members
            members = []
        first = key
        members.append((name, member))
    if members:
        yield members


class _Tar(tarfile.TarFile):
    """A reader that looks at headers before Python's own believes them, and keeps no members."""

    _shared = 0  # bytes of headers that are for all members

    def next(self) -> tarfile.TarInfo | None:
        """Return the next member, None at the end; raises TarError where its headers make no sense."""
        before = None if self.firstmember else self.offset
        if before is not None:
            self._shared += _extensions(self)
        member = super().next()
        self.members.clear()
        backwards = None not in (before, member) and self.offset <= before
        if backwards or self._shared > _MOST_EXTENSION or (member and member.size < 0):
            raise tarfile.ReadError(f"a header that makes no sense at byte {before}")
        return member


def _extensions(file: tarfile.TarFile) -> int:
    """Refuse extended headers that would take the reader very long; return how many bytes of them are for all members."""
    back, at, shared = file.fileobj.tell(), file.offset, 0  # the reader finds out a cut file from where it stands
    for _ in range(_MOST_IN_A_ROW):
        file.fileobj.seek(at)
        block = file.fileobj.read(tarfile.BLOCKSIZE)
        kind = block[156:157]
        if not kind or kind not in _EXTENSIONS:
            file.fileobj.seek(back)
            return shared
        size = tarfile.nti(block[124:136])
        if not 0 <= size <= _MOST_EXTENSION:
            break
        text = file.fileobj.read(size)
        if kind.lower() in b"xg" and not _is_pax(text):
            break
        shared += size * (kind == _GLOBAL)
        at += tarfile.BLOCKSIZE * (1 + -(-size // tarfile.BLOCKSIZE))
    raise tarfile.ReadError(f"an extended header that is too long or makes no sense at byte {at}")


def _is_pax(text: bytes) -> bool:
    """Whether a text is records of "<length> <key>=<value>\\n", each as long as it says (POSIX.1-2001)."""
    at = 0
    while at < len(text) and text[at]:
        record = re.match(rb"(\d{1,9}) [^=\n]+=", text[at : at + 400])
        end = at + int(record[1]) if record else at
        if not record or end < at + record.end() or text[end - 1 : end] != b"\n":
            return False
        at = end
    return all(len(run) <= _MOST_DIGITS for run in re.findall(rb"\d+", text))


def _divided(file: tarfile.TarFile, members: list[tuple[str, tarfile.TarInfo]]) -> Iterator[_Group]:
    """Yield the groups of neighbours, those that came first first."""
    groups: dict[str, _Group] = {}
    for name, member in members:
        folder, slash, base = name.rpartition("/")
        stem, _, suffix = base.rpartition(".") if "." in base else (base, "", "")
        key = folder + slash + stem
        groups.setdefault(key, _Group(key, file, {})).members[suffix.lower()] = member
    shortest = min(groups, key=len)
    alone = _has_image(groups[shortest]) and _has_text(groups[shortest])
    for key, group in groups.items():
        if not (alone and key.startswith(f"{shortest}.") and not _has_text(group)):
            yield group


def _has_image(group: _Group) -> bool:
    return any(suffix in group.members for suffix in IMAGE_SUFFIXES)


def _has_text(group: _Group) -> bool:
    return any(suffix in group.members for suffix in _TEXTS)


def _entry(group: _Group, name: str, split: str) -> Row | LeftOut:
    members = group.members
    image = next((members[suffix] for suffix in IMAGE_SUFFIXES if suffix in members), None)
    if not all(member.isreg() for member in members.values()):
        return LeftOut("link in a tar", name)
    if any(member.issparse() for member in members.values()):
        return LeftOut("sparse file in a tar", name)
    if image is None:
        others = ", ".join(f".{suffix}" for suffix in members if suffix not in _TEXTS)
        if others:
            return LeftOut("picture of a form that is not read", f"{name}: {others}")
        return LeftOut("missing", f"{name}: no picture in the tar")
    if any(members[suffix].size > _MOST_TEXT for suffix in _TEXTS if suffix in members):
        return LeftOut("too large", f"{name}: a text of more than {_MOST_TEXT:,} bytes")
    if max(member.size for member in members.values()) > MAX_BYTES:
        return LeftOut("too large", f"{name}: more than {MAX_BYTES:,} bytes")
    caption = _caption(group)
    fault = NO_CAPTION if caption is None else text_fault(caption)
    if fault is not None:
        return LeftOut(fault, name)
    return Row({IMAGE.name: _read(group, image)}, {CAPTION.name: [caption], IMAGE_ID.name: name, SPLIT.name: split})


def _caption(group: _Group) -> str | None:
    """Return the text of key.txt, or the caption in key.json."""
    if "txt" in group.members:
        return _read(group, group.members["txt"]).decode("utf-8-sig", "surrogateescape")
    if "json" not in group.members:
        return None
    try:
        about = parse_json(_read(group, group.members["json"]), nan_is_null=True)
    except UserError:
        return None
    caption = about.get("caption") if isinstance(about, dict) else None
    return caption if isinstance(caption, str) else None


def _read(group: _Group, member: tarfile.TarInfo) -> bytes:
    return group.tar.extractfile(member).read()


def _failures(parquet: Path, below: str) -> Iterator[LeftOut]:
    if parquet.is_file() and {"key", "status"} <= set(columns_of(parquet)):
        for record in records_of(parquet, ["key", "status"]):
            if record["status"] != "success":
                yield LeftOut("missing", f"{below}{record['key']}: {record['status']}")
