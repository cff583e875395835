"""Reads JSON, text and plain values that others wrote, within bounds and with one sentence for what is wrong.

A file of another program, a checkpoint, a cache record or a metadata field may hold anything. Whoever reads one goes through
this module: it bounds size and depth, and checks types before a value is used.
"""

from __future__ import annotations

import json
import math
import os
import stat
import sys
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from .errors import UserError, first_line, printable

MOST_BYTES = 64 << 20  # of a JSON or text file: tokenizer.json of a large vocabulary has about 20 MB
MOST_DEPTH = 64
_LFS = b"version https://git-lfs"


def refuse_special(path: str | os.PathLike, name: str) -> os.stat_result:
    """The status of a regular file; a pipe, a socket or a device would block for ever, or never end.

    Raises:
        UserError: it is none, or cannot be looked at.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"{name} cannot be read ({first_line(error)}).") from error
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, a socket or a device"
        raise UserError(f"{name} is {kind}, and no file.")
    return found


def read_bytes(path: str | os.PathLike, name: str | None = None, *, most: int = MOST_BYTES) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Args:
        path: the file. name: what sentences call it; its path where None.

    Raises:
        UserError: it is not there, no regular file, too large, or a git-LFS pointer.
    """
    name = printable(str(name or path))
    size = refuse_special(path, name).st_size
    if size > most:
        raise UserError(f"{name} has {size:,} bytes; at most {most:,} are read.")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{name} cannot be read ({first_line(error)}).") from error
    refuse_lfs(content, name)
    return content


def refuse_lfs(start: bytes, name: str) -> None:
    """Refuses a file whose first bytes say that git has not fetched its content."""
    if start.startswith(_LFS):
        raise UserError(f"{name} is a git-LFS pointer, not the file itself: run `git lfs pull` in its repository.")


def read_text(path: str | os.PathLike, name: str | None = None, *, most: int = MOST_BYTES) -> str:
    """The text of a UTF-8 file without its byte order mark; errors as `read_bytes`, and where it is not UTF-8."""
    name = printable(str(name or path))
    try:
        return read_bytes(path, name, most=most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is no UTF-8 text ({error.reason} at byte {error.start}).") from error


def read_json(path: str | os.PathLike, hint: Any = Any, name: str | None = None, *, most: int = MOST_BYTES) -> Any:
    """The value of a JSON file, checked against a type hint; errors as `read_text` and `parse_json`."""
    name = printable(str(name or path))
    return parse_json(read_text(path, name, most=most), hint, name)


def parse_json(text: str | bytes, hint: Any = Any, name: str = "the text", *, nan_is_null: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        text: UTF-8, with or without a byte order mark.
        hint: what it has to be; see `expect`.
        name: what sentences call it.
        nan_is_null: for what Python programs write: a number that is none (NaN, Infinity) is read as null.

    Raises:
        UserError: no JSON, NaN or an infinite number, one key twice, too deep, or of another type than `hint`.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        value = json.loads(
            text.removeprefix("\ufeff"),
            parse_constant=(lambda _: None) if nan_is_null else _no_constant,
            parse_float=_finite,
            object_pairs_hook=_unique,
        )
        _refuse_deep(value)
    except RecursionError:
        raise UserError(f"{name} is nested too deeply; at most {MOST_DEPTH} levels are read.") from None
    except ValueError as error:
        raise UserError(f"{name} cannot be read as JSON ({first_line(error)}).") from error
    return expect(value, hint, name)


def expect(value: Any, hint: Any, name: str) -> Any:
    """The value, where it has the type that a hint says: `dict[str, list[float]]`, `int | None`, `tuple[int, ...]` ...

    A whole number passes for float, no bool for a number; floats have to be finite.

    Raises:
        UserError: naming the part that is something else.
    """
    problem = _problem(value, hint, "")
    if problem is not None:
        raise UserError(f"{name}{problem}.")
    return value


def finite(value: Any) -> bool:
    """Whether a value is a number that a float can hold; whole numbers of JSON may have thousands of digits."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _problem(value: Any, hint: Any, where: str) -> str | None:
    """The end of a sentence where a value is not of a type, else None."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return None
    if origin in (Union, types.UnionType):
        found = [_problem(value, each, where) for each in inner]
        fitting = [problem for problem, each in zip(found, inner, strict=True) if _is(value, get_origin(each) or each)]
        return None if None in found else next(iter(fitting), _unlike(value, hint, where))
    if not _is(value, origin or hint):
        return _unlike(value, hint, where)
    if origin in (list, set, frozenset) or (origin is tuple and inner[-1:] == (...,)):
        if _are(value, inner[0]):
            return None
        return _first(_problem(each, inner[0], f"{where}[{number}]") for number, each in enumerate(value))
    if origin is tuple:
        if len(value) != len(inner):
            return _unlike(value, hint, where)
        pairs = enumerate(zip(value, inner, strict=True))
        return _first(_problem(each, kind, f"{where}[{number}]") for number, (each, kind) in pairs)
    if origin in (dict, Mapping):
        if _are(value, inner[0]) and _are(value.values(), inner[1]):
            return None
        return _first(_problem(key, inner[0], f"{where} (a key)") for key in value) or _first(
            _problem(each, inner[1], f"{where}[{short(key)}]") for key, each in value.items()
        )
    return None


def _are(values: Iterable[Any], hint: Any) -> bool:
    """Whether all are just of a plain type, which Python tells quickly: a vocabulary has 100,000 pieces."""
    return hint is Any or (hint in (str, int, bool) and set(map(type, values)) <= {hint})


def _first(problems: Any) -> str | None:
    return next((problem for problem in problems if problem is not None), None)


def _is(value: Any, kind: Any) -> bool:
    if kind in (None, type(None)):
        return value is None
    if kind is float:
        return finite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _unlike(value: Any, hint: Any, where: str) -> str:
    return f"{where} is {short(value)}, but has to be {_words(hint)}"


def _words(hint: Any) -> str:
    """A type hint as a reader of JSON knows it."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_words(each) for each in inner)
    if origin is tuple and inner[-1:] != (...,):
        return f"a list of {len(inner)} values"
    if (origin or hint) in (list, tuple, set, frozenset):
        return f"a list (of {_words(inner[0])})" if inner else "a list"
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
    return names.get(hint) or (
        "an object" if (origin or hint) in (dict, Mapping) else getattr(hint, "__name__", str(hint))
    )


def short(value: Any) -> str:
    """A value as a sentence shows it: on one line, cut to 60 characters, and a large one by its type alone."""
    text = printable(repr(value) if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__)
    return text if len(text) <= 60 else text[:57] + "..."


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {short(twice)} stands there twice")
    return found


def _refuse_deep(value: Any, depth: int = 0) -> None:
    if depth > MOST_DEPTH:
        raise RecursionError
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if isinstance(each, (dict, list)):
            _refuse_deep(each, depth + 1)
