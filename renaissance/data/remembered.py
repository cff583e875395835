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
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from renaissance.errors import UserError

# Raise it whenever a check gets stricter or a record gets another meaning: old records then no longer count.
RECORD_VERSION = 2
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
        if not os.path.isfile(path):
            raise UserError(f"'{path}' is not a file; expected an Arrow file.")
    except OSError as error:
        raise UserError(f"'{path}' cannot be opened ({error.strerror}); expected an Arrow file.") from None
    return Stamp(status.st_size, status.st_mtime_ns)


def cache_folder() -> Path:
    """Return `$XDG_CACHE_HOME/renaissance`, or `~/.cache/renaissance`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "renaissance"


def recall(path: str, now: Stamp, what: str) -> dict[str, Any] | None:
    """Return the record named `what` about the file, or None where there is none that still holds."""
    try:
        record = json.loads(_place(path, what, ".json").read_bytes())
    except (OSError, ValueError):
        return None
    return record["facts"] if record.get("key") == _record_key(path, now) else None


def recall_array(path: str, what: str) -> np.ndarray | None:
    """Return the array that was stored with a record, memory-mapped where it is large."""
    place = _place(path, what, ".npy")
    try:
        large = place.stat().st_size > _READ_WHOLE_BELOW
        return np.load(place, mmap_mode="r" if large else None, allow_pickle=False)
    except (OSError, ValueError):
        return None


def remember(path: str, now: Stamp, what: str, facts: dict[str, Any], array: np.ndarray | None = None) -> None:
    """Store a record, and the array that belongs to it first: a record never speaks of an array that is not there."""
    if array is not None and not _replace(_place(path, what, ".npy"), lambda file: np.save(file, array)):
        return
    record = json.dumps({"key": _record_key(path, now), "facts": facts})
    _replace(_place(path, what, ".json"), lambda file: file.write(record.encode()))


def _record_key(path: str, now: Stamp) -> list:
    return [RECORD_VERSION, os.path.abspath(path), now.size, now.mtime_ns]


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
