"""A cache of what was found out about a file, in the user's cache folder, until the file changes.

Where the folder cannot be written (a read-only home on a cluster node), nothing is cached and every process looks again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from renaissance.core.atomic import write_whole
from renaissance.core.console import say
from renaissance.core.errors import UserError
from renaissance.core.untrusted import expect, read_json, refuse_special

# Raise it whenever a check gets stricter or a record gets another meaning: old records then no longer count.
RECORD_VERSION = 4
_MOST_BYTES = 1 << 30  # of a record, a file of our own
_LARGE = 1 << 32  # bytes of a file that take a while to read


class Stamp(NamedTuple):
    """What tells whether a file has changed. Attributes: size in bytes; mtime_ns, the time of its last change."""

    size: int
    mtime_ns: int


def stamp(path: str) -> Stamp:
    """Returns the file's stamp.

    Raises:
        UserError: there is no such file, or it may not be read.
    """
    status = refuse_special(path, f"'{path}'")
    return Stamp(status.st_size, status.st_mtime_ns)


def refuse_changed(path: str, then: Stamp, before: str = "") -> Stamp:
    """Returns the file's stamp where it is `then`.

    Raises:
        UserError: it is another, or there is no such file. `before` says at which point of a run.
    """
    now = stamp(path)
    if now != then:
        raise UserError(
            f"'{path}' was changed since this run began{before}; put it back, and go on with the run, or start it again."
        )
    return now


def cached(
    path: str, now: Stamp, what: str, hints: Mapping[str, Any], find: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Returns what `find()` returns, from the cache where the file has not changed since it was found.

    Args:
        path, now: the file and its stamp.
        what: name of the record, part of a file name.
        hints: key -> type of its value (`untrusted.expect`); a record with anything else is ignored.
        find: returns values that JSON can hold, by the keys of `hints`.
    """
    key = [RECORD_VERSION, os.path.abspath(path), *now]
    name = hashlib.blake2b(os.fsencode(key[1]), digest_size=16).hexdigest()
    try:
        place = cache_folder() / f"{name}.{what}.json"
    except RuntimeError:
        return find()
    with contextlib.suppress(UserError):
        record = read_json(place, dict[str, Any], most=_MOST_BYTES)
        if record.get("key") == key:
            return {each: expect(record.get(each), hint, each) for each, hint in hints.items()}
    found = find()
    with contextlib.suppress(OSError, UserError):  # processes that write the same record at once do no harm
        write_whole(place, json.dumps({"key": key, **found}).encode(), "XDG_CACHE_HOME")
    return found


def content_digest(path: str) -> str:
    """Returns a hash of a whole file, which is read once."""

    def read() -> dict[str, str]:
        if os.path.getsize(path) > _LARGE:
            say(f"reads {path} once, to know it again")
        with open(path, "rb") as file:
            return {"content": hashlib.file_digest(file, "sha256").hexdigest()}

    return cached(path, stamp(path), "content", {"content": str}, read)["content"]


def cache_folder() -> Path:
    """Returns `$XDG_CACHE_HOME/renaissance`, or `~/.cache/renaissance`. Raises RuntimeError where there is no home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "renaissance"
