"""Pickles that hold plain values: lists, tuples, dictionaries, texts, bytes, numbers. A pickle can run code; these cannot.

A pickle is a program of instructions. Those that build plain values are listed here, everything else is refused. The unpickler
that is written in Python is used: the one in C cannot be restricted to a list, resolves registered extensions without
`find_class`, and allocates 32 GB for an instruction of five bytes that names a high memo index.
"""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import UserError, first_line
from .untrusted import MOST_DEPTH, read_bytes

_INSTRUCTIONS = (
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP"),
    *("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
    *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BINPERSID"),  # a name or an id, a call: of `names` alone
)
# Where the stack holds the keys that an instruction puts into a dictionary. Python hashes a key, and the hash of tuples that are
# nested a million deep ends the process.
_KEYS_AT = {"SETITEM": slice(-2, -1), "SETITEMS": slice(0, None, 2), "DICT": slice(0, None, 2)}
_KEYS = (str, bytes, int, float, type(None))
_MOST_BYTES = 1 << 29
_VALUE = 25  # characters that a value counts as


class _Dispatch(dict):
    """What each instruction does, by its code; `left` of them may still be done."""

    left: float = math.inf

    def __getitem__(self, code: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise pickle.UnpicklingError("more instructions than such a file takes")
        return super().__getitem__(code)


class PlainUnpickler(pickle._Unpickler):
    """Reads a pickle in memory with `load`, which raises nearly any type of error where it is damaged or no plain one.

    An instruction never gets more bytes than the pickle has, whatever size it claims, and a list takes some hundred bytes.

    Args:
        content: the pickle.
        names: (module, name) -> what stands for it. Any other name is refused.
        encoding: of Python 2's strings; what is not in it becomes U+FFFD.
        most: instructions that are done.
    """

    def __init__(
        self, content: bytes, names: Mapping[tuple[str, str], Any], encoding: str = "utf-8", most: float = math.inf
    ):
        super().__init__(io.BytesIO(content), fix_imports=False, encoding=encoding, errors="replace")
        self._names = names
        self.dispatch = _Dispatch({getattr(pickle, name)[0]: _instruction(name) for name in _INSTRUCTIONS})
        self.dispatch[pickle.BUILD[0]] = _build
        self.dispatch[pickle.NEWOBJ[0]] = _new
        self.dispatch.left = most

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._names:
            raise pickle.UnpicklingError(f"it holds the name {f'{module}.{name}'!r}")
        return self._names[module, name]


def _instruction(name: str) -> Callable[[Any], Any]:
    does = pickle._Unpickler.dispatch[getattr(pickle, name)[0]]

    def with_plain_keys(self: PlainUnpickler) -> None:
        if not all(isinstance(key, _KEYS) for key in self.stack[_KEYS_AT[name]]):
            raise pickle.UnpicklingError("it holds a key that is no text and no number")
        does(self)

    return with_plain_keys if name in _KEYS_AT else does


def _build(self: PlainUnpickler) -> None:
    """Gives a state to instances of the classes in `names` alone: a tensor would take any storage and shape as its state."""
    kind = type(self.stack[-2])
    if kind is OrderedDict:
        self.stack.pop()  # what torch notes in a state dictionary, which nobody reads
    elif kind in self._names.values():
        pickle._Unpickler.dispatch[pickle.BUILD[0]](self)
    else:
        raise pickle.UnpicklingError(f"it sets the state of a {kind.__name__}")


def _new(self: PlainUnpickler) -> None:
    """Makes an empty dictionary of a class in `names`; nothing else is made without a call."""
    kind, arguments = self.stack[-2:]
    if not (isinstance(kind, type) and issubclass(kind, dict) and kind in self._names.values() and arguments == ()):
        raise pickle.UnpicklingError("it makes an object")
    self.stack[-2:] = [kind()]


def leaves(value: Any, most: int) -> Iterator[Any]:
    """What the lists, tuples and dictionaries of a value hold, which may name the same one many times, or be in themselves.

    Args:
        most: characters that the value may stand for, what it names twice counted twice; every value counts as 25.

    Raises:
        ValueError: it stands for more, or is nested too deeply.
    """
    waiting = [(value, 0)]
    while waiting:
        value, depth = waiting.pop()
        most -= _VALUE + (len(value) if isinstance(value, (str, bytes)) else 0)
        if most < _VALUE * len(waiting) or depth > MOST_DEPTH:
            raise ValueError("it names the same values so often that they would fill memory, or is nested too deeply")
        if isinstance(value, dict):
            waiting += [(each, depth + 1) for pair in value.items() for each in pair]
        elif type(value) in (list, tuple):
            waiting += [(each, depth + 1) for each in value]
        else:
            yield value


def read_plain_pickle(
    path: Path, encoding: str = "utf-8", names: Mapping[tuple[str, str], Callable[..., Any]] | None = None
) -> Any:
    """Read a pickle of plain values, of any protocol; the strings of Python 2 become text.

    Args:
        path: the file. encoding, names: see `PlainUnpickler`.

    Raises:
        UserError: the file cannot be read, is damaged, or holds anything else.
    """
    content = read_bytes(path, most=_MOST_BYTES)
    try:
        value = PlainUnpickler(content, names or {}, encoding).load()
        for _ in leaves(value, 100 * (len(content) + 1000)):
            pass
        return value
    except Exception as error:  # a damaged pickle makes nearly every type of error
        why = first_line(error) if isinstance(error, (pickle.UnpicklingError, ValueError)) else type(error).__name__
        raise UserError(
            f"'{path}' is not a pickle of plain values, is cut short or damaged ({why}); download it again."
        ) from None
