"""Reads untrusted JSON and text: bounds size and depth, checks types, and raises one UserError for any problem.

A file of another program, a checkpoint, a cache record or a metadata field may hold anything.
"""

from __future__ import annotations

import functools
import json
import math
import os
import stat
import sys
import types
from collections import Counter
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any, NewType, Union, get_args, get_origin, get_type_hints, is_typeddict

from .errors import UserError, first_line, printable, require

MOST_BYTES = 64 << 20  # of a JSON or text file: tokenizer.json of a large vocabulary has about 20 MB
MOST_DEPTH = 64
INT64 = NewType("INT64", int)  # as a type hint: a whole number that an arrow file can hold


def refuse_special(path: str | os.PathLike, name: str) -> os.stat_result:
    """The status of a regular file; a pipe, a socket or a device would block for ever, or never end.

    Raises:
        UserError: it is none, or cannot be looked at.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"{name} cannot be read ({first_line(error)}).") from error
    kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, a socket or a device"
    require(stat.S_ISREG(found.st_mode), f"{name} is {kind}, and no file.")
    return found


def read_bytes(path: str | os.PathLike, name: str | None = None, *, most: int = MOST_BYTES) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Args:
        path: the file. name: what sentences call it; its path in quotes where None.

    Raises:
        UserError: it is not there, no regular file, too large, or a git-LFS pointer.
    """
    name = printable(name or f"'{path}'")
    size = refuse_special(path, name).st_size
    require(size <= most, f"{name} has {size:,} bytes; at most {most:,} are read.")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{name} cannot be read ({first_line(error)}).") from error
    refuse_lfs(content, name)
    return content


def refuse_lfs(start: bytes, name: str) -> None:
    """Refuses a git-LFS pointer, by the first bytes of the file."""
    pointer = start.startswith(b"version https://git-lfs")
    require(not pointer, f"{name} is a git-LFS pointer, not the file itself: run `git lfs pull` in its repository.")


def read_json(path: str | os.PathLike, hint: Any = Any, name: str | None = None, *, most: int = MOST_BYTES) -> Any:
    """The value of a JSON file, checked against a type hint; errors as `read_bytes` and `parse_json`."""
    return parse_json(read_bytes(path, name, most=most), hint, printable(name or f"'{path}'"))


def parse_json(text: str | bytes, hint: Any = Any, name: str = "the text", *, nan_is_null: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        text: UTF-8, with or without a byte order mark.
        hint: what it has to be; see `expect`.
        name: what sentences call it.
        nan_is_null: for what Python programs write: a number that is none (NaN, Infinity) is read as null.

    Raises:
        UserError: no JSON, NaN or Infinity, one key twice, too deep, or of another type than `hint`.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        constant = (lambda _: None) if nan_is_null else _no_constant
        value = json.loads(
            text.removeprefix("\ufeff"), parse_constant=constant, object_pairs_hook=_unique, parse_float=_finite
        )
        _refuse_deep(value)
    except RecursionError:
        raise UserError(f"{name} is nested too deeply; at most {MOST_DEPTH} levels are read.") from None
    except ValueError as error:
        raise UserError(f"{name} cannot be read as JSON ({first_line(error)}).") from error
    return expect(value, hint, name)


def expect(value: Any, hint: Any, name: str) -> Any:
    """Returns the value if it matches a type hint: `dict[str, list[float]]`, `int | None`, `tuple[int, ...]` ...

    A TypedDict or NamedTuple names keys of a dictionary, which may have more; one that is not there counts as None.

    A whole number passes for float, no bool for a number; floats have to be finite.

    Raises:
        UserError: naming the part that is something else.
    """
    problem = _problem(value, hint)
    require(problem is None, f"{name}{problem}.")
    return value


def expect_keys(value: Any, hints: Mapping[str, Any], name: str) -> list[Any]:
    """Returns the values of some keys of an object, in the order of the hints.

    Args:
        value: what is there.
        hints: key -> type of its value, see `expect`; a key that is not there counts as None.
        name: what sentences call the object.

    Raises:
        UserError: naming the part that is something else, and every key with its type.
    """
    expect(value, dict, name)
    for key, hint in hints.items():
        if problem := _problem(value.get(key), hint):
            fault = f"[{key!r}]{problem}" if key in value else f" lacks {key!r}"
            needs = ", ".join(f"{each} ({_words(kind)})" for each, kind in hints.items())
            raise UserError(f"{name}{fault}; it needs {needs}.")
    return [value.get(key) for key in hints]


def finite(value: Any) -> bool:
    """Whether a value is a number that a float can hold; whole numbers of JSON may have thousands of digits."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _problem(value: Any, hint: Any) -> str | None:
    """Describes the first mismatch of a value and a type, beginning with its place; None if there is none."""
    if hint is Any or (hint in (str, int, INT64, float, bool) and _is(value, hint)):  # a vocabulary has 100,000 of them
        return None
    origin, inner = dict if _is_record(hint) else get_origin(hint), get_args(hint)
    fixed = origin is tuple and inner[-1] is not ...
    if origin in (Union, types.UnionType):
        found = [_problem(value, each) for each in inner]
        if None in found:
            return None
        if inside := [problem for problem in found if not problem.startswith(" is ")]:
            return inside[0]
    elif _is(value, origin or hint) and not (fixed and len(value) != len(inner)):
        return _problem_inside(value, hint, origin, inner) if origin else None
    return f" is {short(value)}, but has to be {_words(hint)}"


def _is_record(hint: Any) -> bool:
    return is_typeddict(hint) or hasattr(hint, "_fields")


def _problem_inside(value: Any, hint: Any, origin: Any, inner: tuple[Any, ...]) -> str | None:
    if _is_record(hint):
        parts = ((key, value.get(key), kind) for key, kind in _keys_of(hint).items())
    elif origin in (dict, Mapping):
        if problem := next(filter(None, (_problem(key, inner[0]) for key in value)), None):
            return f" (a key){problem}"
        parts = ((key, each, inner[1]) for key, each in value.items())
    else:
        parts = zip(
            count(), value, inner if origin is tuple and inner[-1] is not ... else inner[:1] * len(value), strict=False
        )
    found = ((key, _problem(each, kind)) for key, each, kind in parts if type(each) is not kind or kind is float)
    return next((f"[{short(key)}]{problem}" for key, problem in found if problem), None)


def _is(value: Any, kind: Any) -> bool:
    if kind is float:
        return finite(value)
    if kind in (int, INT64):
        return isinstance(value, int) and not isinstance(value, bool) and (kind is int or -(1 << 63) <= value < 1 << 63)
    return isinstance(value, kind or type(None))


def _words(hint: Any) -> str:
    """A type hint in words of JSON."""
    origin, inner = dict if _is_record(hint) else get_origin(hint) or hint, get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_words, inner))
    if origin is tuple and inner[-1:] != (...,):
        return f"a list of {len(inner)} values"
    if origin in (list, tuple, set, frozenset):
        return f"a list (of {_words(inner[0])})" if inner else "a list"
    return _WORDS.get(origin) or f"a {origin.__name__.lower()}"


_keys_of = functools.cache(get_type_hints)  # of a TypedDict
_WORDS = {str: "text", int: "a whole number", INT64: "a whole number of 64 bits", float: "a number", bool: "true or false",
          type(None): "null", dict: "an object", Mapping: "an object"}  # fmt: skip


def short(value: Any) -> str:
    """A value for an error message: on one line of at most 60 characters; of a container only the type."""
    text = printable(repr(value) if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__)
    return text if len(text) <= 60 else text[:57] + "..."


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_constant(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {short(twice)} stands there twice")
    return found


def _refuse_deep(value: Any, depth: int = 0) -> None:
    if depth > MOST_DEPTH:
        raise RecursionError
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if isinstance(each, (dict, list)):
            _refuse_deep(each, depth + 1)
