"""Annotation files as streams: JSON lists of any length and JSON lines, never held in memory as a whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ijson

from renaissance.errors import UserError
from renaissance.prepare.spool import is_unicode


def folder_of(root: str | os.PathLike, contains: str) -> Path:
    """Return `root` as a path.

    Raises:
        UserError: it is not a folder; the sentence says what it should contain.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise UserError(f"root='{root}' is not a folder; expected one that contains {contains}.")
    return folder


def require_files(root: str | os.PathLike, needed: Sequence[str], optional: Sequence[str] = ()) -> list[str]:
    """Return which of the needed and the optional files lie below `root`.

    Raises:
        UserError: `root` is not a folder, or a needed file is not there.
    """
    names = [*needed, *optional]
    folder = folder_of(root, ", ".join(names))
    found = [name for name in names if (folder / name).is_file()]
    missing = [name for name in needed if name not in found]
    if missing:
        raise UserError(
            f"root='{root}' lacks {', '.join(missing)}; expected there are {', '.join(names)}, found "
            f"{', '.join(found) or 'none of them'}."
        )
    return found


def json_items(path: Path, prefix: str) -> Iterator[Any]:
    """Yield the items of one list in a JSON file.

    Args:
        path: the file.
        prefix: where the list is, as ijson names it: "images.item" is each entry of the list "images", "item" each
            entry of a file that is one list.

    Raises:
        UserError: the file cannot be read, is cut short, is not JSON, or holds no such list.
    """
    found = False
    try:
        with open(path, "rb") as file:
            for item in ijson.items(file, prefix, use_float=True):
                found = True
                yield item
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({error.strerror}); download the annotations there.") from None
    except (ijson.JSONError, UnicodeDecodeError) as error:
        raise UserError(f"'{path}' is cut short or is not JSON ({_first_line(error)}); download it again.") from None
    if not found:
        raise UserError(f"'{path}' holds no entry at '{prefix}'; is it the official annotation file?")


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of a file of one JSON object a line; empty lines are passed over.

    Raises:
        UserError: the file cannot be read, or a line is not a JSON object.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, text in enumerate(file, 1):
                if text.strip():
                    yield number, _object(path, number, text)
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({error.strerror}); download the annotations there.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is not UTF-8 text ({error.reason} near byte {error.start}).") from None


def texts_of(path: Path, number: int, entry: dict[str, Any], *names: str) -> list[str]:
    """Return the values of a JSON line under these names.

    Raises:
        UserError: one is not there, or is not Unicode text.
    """
    texts = [entry.get(name) for name in names]
    if not all(isinstance(text, str) and is_unicode(text) for text in texts):
        raise UserError(f"'{path}' line {number} needs {', '.join(names)}, all of them text.")
    return texts


def _object(path: Path, number: int, text: str) -> dict[str, Any]:
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"'{path}' line {number} is not JSON; expected one object a line.") from None
    if not isinstance(entry, dict):
        raise UserError(f"'{path}' line {number} is not a JSON object; expected one object a line.")
    return entry


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
