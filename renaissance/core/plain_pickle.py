"""Pickles that hold plain values: lists, tuples, dictionaries, texts, bytes, numbers. A pickle can run code; these cannot.

A pickle is a program of instructions. Those that build plain values are a list here, everything else is refused:
instructions that call, that set attributes, that look up names, persistent ids or registered extensions. Python's
interpreter of pickles in Python is used: the one in C cannot be held to a list, answers registered extensions without
asking, and takes 32 GB for one instruction of five bytes that names a high place in its memory.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import sys
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from .errors import UserError, first_line
from .untrusted import read_bytes

_PLAIN = (
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP"),
    *("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
    *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
)
# What a pickle may stand for, in values and characters: it can name one value many times, and lists of lists of it.
_MOST_BYTES, _SWELLS = 2 << 30, 100
_NAMED = ("GLOBAL", "STACK_GLOBAL")  # both ask `find_class`
_CALLED = ("REDUCE", "BUILD")  # a call, and `__setstate__`: of what stands for a name


class _Instructions(dict):
    """Code of an instruction -> what it does; `left` of them may still be done."""

    def __init__(self, instructions: Mapping[int, Any], most: int):
        super().__init__(instructions)
        self.left = most

    def __getitem__(self, code: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise pickle.UnpicklingError("more instructions than such a file takes")
        return super().__getitem__(code)

    def __missing__(self, code: int) -> Any:
        known = pickletools.code2op.get(chr(code))
        raise pickle.UnpicklingError(f"instruction {known.name}" if known else f"no instruction has the code {code}")


class _Plain(pickle._Unpickler):
    def __init__(
        self,
        content: bytes,
        encoding: str,
        names: Mapping[tuple[str, str], Any],
        persistent: Callable[[Any], Any] | None = None,
        most: int = sys.maxsize,
    ):
        # Read from memory, an instruction never gets more bytes than the file has, whatever size it claims.
        super().__init__(io.BytesIO(content), fix_imports=False, encoding=encoding, errors="replace")
        allowed = _PLAIN + _NAMED + (_CALLED if names else ()) + (("BINPERSID",) if persistent else ())
        self.dispatch = _Instructions({code: self._instruction(code) for code in map(_code, allowed)}, most)
        self._names, self.persistent_load = names, persistent

    @staticmethod
    def _instruction(code: int) -> Callable[[Any], Any]:
        does = pickle._Unpickler.dispatch[code]
        if code not in _KEYS_AT:
            return does

        def checked(self: _Plain) -> Any:
            if not all(isinstance(key, _KEYS) for key in self.stack[_KEYS_AT[code]]):
                raise pickle.UnpicklingError("a key that is no text and no number")
            return does(self)

        return checked

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._names:
            raise pickle.UnpicklingError(f"the name {f'{module}.{name}'!r}")
        return self._names[module, name]


def _code(instruction: str) -> int:
    return getattr(pickle, instruction)[0]


# Where the stack holds the keys that an instruction puts into a dictionary. Python computes the hash of a key, and that of
# tuples within tuples, a million deep, ends the process.
_KEYS_AT = {_code("SETITEM"): slice(-2, -1), _code("SETITEMS"): slice(0, None, 2), _code("DICT"): slice(0, None, 2)}
_KEYS = (str, bytes, int, float, type(None))


def plain_values(
    content: bytes, names: Mapping[tuple[str, str], Any], persistent: Callable[[Any], Any], most: int
) -> Any:
    """The value of a pickle in memory.

    Args:
        content: the pickle. names: as for `read_plain_pickle`.
        persistent: what stands for something that is kept outside of the pickle, by its plain id.
        most: instructions that are done; each of them takes at most some hundred bytes of memory beside those of the pickle.

    Raises:
        Exception: of nearly any type, where it is damaged or holds anything else.
    """
    return _Plain(content, "utf-8", names, persistent, most).load()


def read_plain_pickle(
    path: Path, encoding: str = "utf-8", names: Mapping[tuple[str, str], Callable[..., Any]] | None = None
) -> Any:
    """Read a pickle of plain values, of any protocol; the strings of Python 2 become text.

    Args:
        path: the file.
        encoding: of Python 2's strings; what is not in it becomes U+FFFD.
        names: (module, name) -> what stands for it, called with plain values. Any other name is refused.

    Raises:
        UserError: the file cannot be read, is damaged, or holds anything else.
    """
    try:
        content = read_bytes(path, f"'{path}'", most=_MOST_BYTES)
        value = _Plain(content, encoding, names or {}).load()
        if _size(value, {}) > _SWELLS * (len(content) + 1000):
            raise pickle.UnpicklingError("it names the same values so often that they would fill the memory")
        return value
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(f"'{path}' is not a pickle of plain values, or is damaged: {first_line(error)}.") from None
    except Exception as error:  # a damaged pickle makes nearly every type of error
        raise UserError(
            f"'{path}' is cut short or is not a pickle ({type(error).__name__}); download it again."
        ) from None


def _size(value: Any, known: dict[int, float]) -> float:
    """Return how many values and characters a value stands for, what it names twice counted twice; a circle is infinite."""
    if isinstance(value, (str, bytes)):
        return 1 + len(value)
    if not isinstance(value, (list, tuple, dict)):
        return 1
    if id(value) not in known:
        known[id(value)] = math.inf
        parts = chain.from_iterable(value.items()) if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(value)]
