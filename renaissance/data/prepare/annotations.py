"""Annotation files, read as streams: JSON lists of any length and JSON lines."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import ijson
import numpy as np

from renaissance.core.errors import UserError, first_line, require
from renaissance.core.untrusted import MOST_DEPTH, expect_keys, parse_json, refuse_lfs, refuse_special

from .annotation_store import is_unicode

_BOM = b"\xef\xbb\xbf"  # before the text of files that were edited on Windows
_GZIP = b"\x1f\x8b"
_MOST_LINE = 64 << 20  # bytes
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = bytes.maketrans(b"[{]}", b"\1\1\xff\xff")  # 1 and -1


def folder_of(root: str | os.PathLike, contains: str) -> Path:
    """Returns `root` as a path.

    Raises:
        UserError: it is not a folder; the sentence says what it should contain.
    """
    require(Path(root).is_dir(), f"root='{root}' is not a folder; expected one that contains {contains}.")
    return Path(root)


def require_files(root: str | os.PathLike, needed: Sequence[str], optional: Sequence[str] = ()) -> list[str]:
    """Returns which of the needed and the optional files lie below `root`.

    Raises:
        UserError: `root` is not a folder, or a needed file is not there.
    """
    names = [*needed, *optional]
    folder = folder_of(root, ", ".join(names))
    found = [name for name in names if (folder / name).exists()]
    missing = [name for name in needed if name not in found]
    require(
        not missing,
        f"root='{root}' lacks {', '.join(missing)}; expected there are {', '.join(names)}, found "
        f"{', '.join(found) or 'none of them'}.",
    )
    return found


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Opens a file of a download in binary mode; a byte order mark is skipped.

    Raises:
        UserError: it cannot be read (by then or later), is a pipe or a device, compressed, or a git-LFS pointer.
    """
    try:
        if path.exists():
            refuse_special(path, f"'{path}'")
        with open(path, "rb") as file:
            start = file.read(64)
            refuse_lfs(start, f"'{path}'")
            require(not start.startswith(_GZIP), f"'{path}' is compressed by gzip; unpack it, as `gunzip` does.")
            file.seek(len(_BOM) if start.startswith(_BOM) else 0)
            yield file
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({error.strerror}); download the annotations there.") from None


class _DepthLimitedReader:
    """Reads a JSON file up to a nesting depth: the memory of ijson grows with the square of the depth."""

    def __init__(self, file: BinaryIO, path: Path):
        self._file, self._path = file, path
        self._depth, self._in_text, self._rest = 0, False, b""

    def read(self, size: int = -1) -> bytes:
        """Reads the next bytes. Raises UserError where they are nested too deeply."""
        block = self._file.read(size)
        text = self._rest + block
        whole = text.rstrip(b"\\")  # an escape sequence may be split between two blocks
        self._rest = text[len(whole) :]
        parts = whole.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(parts[self._in_text :: 2])
        self._in_text ^= len(parts) % 2 == 0
        steps = np.frombuffer(outside.translate(_STEPS, _NO_BRACKETS), np.int8).cumsum(dtype=np.int64)
        require(
            self._depth + steps.max(initial=0) <= MOST_DEPTH,
            f"'{self._path}' is nested too deeply; at most {MOST_DEPTH} levels are read.",
        )
        self._depth += int(steps[-1:].sum())
        return block


def json_items(path: Path, prefix: str, hint: str = "is it the official annotation file?") -> Iterator[Any]:
    """Yields the items of one list in a JSON file.

    Args:
        path: the file.
        prefix: where the list is, as ijson names it: "images.item" is each entry of the list "images", "item" each
            entry of a file that is one list.
        hint: the end of the sentence where it holds none.

    Raises:
        UserError: the file cannot be read, is cut short, is not JSON, or holds no such list.
    """
    found = False
    try:
        with opened(path) as file:
            for item in ijson.items(_DepthLimitedReader(file, path), prefix, use_float=True):
                found = True
                yield item
    except (ijson.JSONError, ValueError, ArithmeticError, RecursionError) as error:
        raise UserError(f"'{path}' is cut short or is not JSON ({first_line(error)}); download it again.") from None
    require(found, f"'{path}' holds no entry at '{prefix}'; {hint}")


def text_lines(path: Path) -> Iterator[str]:
    """Yields the lines of a UTF-8 file with their line breaks.

    Raises:
        UserError: the file cannot be read, is not UTF-8 text, or a line of it has more than 64 MiB.
    """
    with opened(path) as file:
        while line := file.readline(_MOST_LINE):
            require(len(line) < _MOST_LINE, f"'{path}' has a line of more than {_MOST_LINE:,} bytes; is it text?")
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                byte = file.tell() - len(line) + error.start
                raise UserError(f"'{path}' is not UTF-8 text ({error.reason} near byte {byte}).") from None


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number, object) of a file of one JSON object a line; empty lines are skipped.

    Raises:
        UserError: as `text_lines`, or a line is not a JSON object.
    """
    for number, text in enumerate(text_lines(path), 1):
        if text.strip():
            yield number, parse_json(text, dict, f"'{path}' line {number}", nan_is_null=True)


def fields(entry: Any, where: str, **hints: Any) -> list[Any]:
    """Returns the values of an object of an annotation file, in the order of the hints.

    Args:
        entry: what is there.
        where: file and place, for the sentence.
        hints: key -> the type of its value; see `untrusted.expect`.

    Raises:
        UserError: it is no object, lacks a key, or a value is of another type or a text that is not Unicode.
    """
    values = expect_keys(entry, hints, where)
    for name, value in zip(hints, values, strict=True):
        require(not isinstance(value, str) or is_unicode(value), f"{where}[{name!r}] is not Unicode text.")
    return values
