"""What was found out about a file and need not be found out again, in the user's cache folder.

A record is keyed by the file's path and holds only while its size and modification time stay what they were. Where the
folder cannot be written (a read-only home on a cluster node), nothing is remembered and every process looks again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple

import numpy as np

from renaissance.core.errors import UserError, first_line
from renaissance.core.untrusted import expect, read_json

# Raise it whenever a check gets stricter or a record gets another meaning: old records then no longer count.
RECORD_VERSION = 3
_READ_WHOLE_BELOW = 1 << 20  # bytes; a map costs a file descriptor, so small arrays are read


class Stamp(NamedTuple):
    """By what a file is recognised. Attributes: size in bytes; mtime_ns, the time of its last change."""

    size: int
    mtime_ns: int


def stamp(path: str) -> Stamp:
    """Return the file's stamp.

    Raises:
        UserError: there is no such file, or it may not be read.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        why = first_line(error)
        raise UserError(f"'{path}' cannot be opened ({why}); expected an Arrow file.") from None
    if not S_ISREG(status.st_mode):
        raise UserError(f"'{path}' is not a file; expected an Arrow file.")
    return Stamp(status.st_size, status.st_mtime_ns)


def cache_folder() -> Path:
    """Return `$XDG_CACHE_HOME/renaissance`, or `~/.cache/renaissance`. Raises RuntimeError where there is no home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "renaissance"


def recall(path: str, now: Stamp, what: str, hints: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the record named `what` about the file, or None where there is none that still holds.

    Args:
        path, now, what: of which file, as it is now, and which record.
        hints: the types of the record's values (`untrusted.expect`); anything else in the cache folder is no record of ours.
    """
    try:
        record = read_json(_place(path, what, ".json"), dict[str, Any])
        if record.get("key") != _record_key(path, now, record.get("facts")):
            return None
        facts = expect(record["facts"], dict[str, Any], "a record")
        return {name: expect(facts.get(name), hint, name) for name, hint in hints.items()}
    except (UserError, RuntimeError):
        return None


def recall_array(path: str, what: str) -> np.ndarray | None:
    """Return the array of whole numbers that was stored with a record, memory-mapped where it is large."""
    try:
        place = _place(path, what, ".npy")
        large = place.stat().st_size > _READ_WHOLE_BELOW
        array = np.load(place, mmap_mode="r", allow_pickle=False)  # a map cannot be larger than its file
    except Exception:  # whatever is wrong with a file of a cache, it is as if it were not there
        return None
    return (array if large else np.array(array)) if array.ndim == 1 and array.dtype == np.int64 else None


def remember(path: str, now: Stamp, what: str, facts: dict[str, Any], array: np.ndarray | None = None) -> None:
    """Store a record, and the array that belongs to it first: a record never speaks of an array that is not there."""
    with contextlib.suppress(RuntimeError):
        _store(path, what, json.dumps({"key": _record_key(path, now, facts), "facts": facts}), array)


def _store(path: str, what: str, record: str, array: np.ndarray | None) -> None:
    if array is not None and not _replace(_place(path, what, ".npy"), lambda file: np.save(file, array)):
        return
    _replace(_place(path, what, ".json"), lambda file: file.write(record.encode()))


def _record_key(path: str, now: Stamp, facts: Any) -> list:
    """What makes a record one of this file: whose facts they are, and a checksum of them."""
    checksum = hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()
    return [RECORD_VERSION, os.path.abspath(path), now.size, now.mtime_ns, checksum]


def _place(path: str, what: str, suffix: str) -> Path:
    name = hashlib.blake2b(os.path.abspath(path).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    return cache_folder() / f"{name}.{what}{suffix}"


def _replace(place: Path, write) -> bool:
    """Write a file under another name and rename it, so that processes that do the same at once do no harm."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=place.parent)
    except OSError:
        return False
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        os.replace(temporary, place)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        return False
    return True
