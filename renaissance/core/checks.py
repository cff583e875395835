"""What a setting may be: the kinds of values that `config.py` and the commands declare behind a setting's name.

    keep_last: whole(1).free = 2  # a whole number of at least 1, which a resumed run may have otherwise
    max_steps: whole(1) = None  # ... or None

Rules between settings are in `settings/combinations.py`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import UserError, printable

TRANSFORMS = tuple(name + suffix for name in ("imagenet", "vit", "clip", "pixelbert") for suffix in ("", "_randaug"))
# A task is a file in tasks/; its name is the key of its weight in loss_names.
TASK_NAMES = tuple(
    sorted(path.stem for path in (Path(__file__).parents[1] / "tasks").glob("[a-z]*.py") if path.stem != "base")
)
# Sizes that no model and no machine has; what several of them make together is found in `bounds`.
MOST_WIDTH, MOST_LAYERS, MOST_PIECES, MOST_TOKENS, MOST_PIXELS = 1 << 20, 1024, 1 << 24, 1 << 20, 1 << 14
MOST_PAIRS, MOST_PROCESSES = 1 << 24, 1 << 12
PRECISIONS = {"32": "32-true", "32-true": "32-true", "16": "16-mixed", "16-mixed": "16-mixed", "bf16": "bf16-mixed",
              "bf16-mixed": "bf16-mixed", "64": "64-true", "64-true": "64-true"}  # fmt: skip


@dataclass(frozen=True)
class Check:
    """What one setting may be.

    Attributes:
        allowed: the end of the sentence "<key>=<value> is not allowed: give ...".
        test: True for a value that may stand.
        convert: brings an allowed value to its one form (1e3 arrives as a float).
        resumable: a resumed run may have it otherwise; written `.free`.
        optional: None may stand, where it is not the default; written `.or_none`.
        is_path: it names a file or folder, so that `~` is the home folder.
        many: it names several, with commas between.
    """

    allowed: str
    test: Callable[[Any], bool]
    convert: Callable[[Any], Any] = lambda value: value
    resumable: bool = False
    optional: bool = False
    is_path: bool = False
    many: bool = False

    @property
    def free(self) -> Check:
        return replace(self, resumable=True)

    @property
    def or_none(self) -> Check:
        return replace(self, optional=True)

    def expanded(self, key: str, value: Any) -> Any:
        """The value with `~` written out where it names a file or folder. Raises UserError as `expanded`."""
        if self.many and isinstance(value, str) and "," in value:
            value = [each.strip() for each in value.split(",")]
        return expanded(key, value) if self.is_path else value

    def problem(self, key: str, value: Any) -> str | None:
        """A sentence, or None where the value may stand."""
        if value is None:
            return f"{key}=None is not allowed: give {self.allowed}."
        if isinstance(value, str) and (wrong := _no_name(value)):
            return (
                f"{key}={value!r} is not allowed: it holds {wrong}, as no name and no path does; give {self.allowed}."
            )
        return None if self.test(value) else f"{key}={value!r} is not allowed: give {self.allowed}."


def _no_name(text: str) -> str | None:
    """What a text holds that cannot be part of a path, or not be written down; None where there is nothing."""
    if "\0" in text:
        return "a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "bytes that are no UTF-8"
    return None


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63


def _is_whole(value: Any) -> bool:
    return _is_number(value) and abs(value) < 1 << 63 and value == int(value)


def whole(least: int, most: int | None = None) -> Check:
    span = f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}"
    return Check(span, lambda v: _is_whole(v) and least <= v and (most is None or v <= most), int)


def size(least: int, most: int) -> Check:
    """A whole number whose most is so far away that the sentence begins with what a user may have meant."""
    return replace(whole(least, most), allowed=f"a whole number of at least {least}, at most {most:,}")


def pairs(least: int) -> Check:
    return size(least, MOST_PAIRS)


def processes(least: int) -> Check:
    return size(least, MOST_PROCESSES)


def pixels(least: int = 8) -> Check:
    return size(least, MOST_PIXELS)


def width() -> Check:
    return size(1, MOST_WIDTH)


heads = width


def layers() -> Check:
    return size(1, MOST_LAYERS)


def number(least: float, most: float | None = None, *, above: bool = False) -> Check:
    low = f"above {least}" if above else f"of at least {least}"
    span = f"a number {low}" + ("" if most is None else f" and at most {most}")
    return Check(span, lambda v: _is_number(v) and (v > least if above else v >= least) and (most is None or v <= most))


def flag() -> Check:
    return Check("True or False", lambda v: isinstance(v, bool))


def _text(value: Any) -> bool:
    """A text that is not empty; a whole number (exp_name=2024) is one too."""
    return isinstance(value, str) and bool(value.strip()) or isinstance(value, int) and not isinstance(value, bool)


def text(what: str) -> Check:
    return Check(what, _text, str)


def path(what: str) -> Check:
    """A file or folder; or a Hub id, which begins with no ~."""
    return replace(text(what), is_path=True)


def paths(what: str) -> Check:
    """A list of them, or one text with commas between."""
    return Check(what, lambda v: bool(v) and (_text(v) or isinstance(v, (list, tuple))), is_path=True, many=True)


def checkpoint() -> Check:
    return path("a checkpoint file")


def model() -> Check:
    return path("a Hub id or a folder")


def choice(*names: str) -> Check:
    return Check(" or ".join(names), lambda v: v in names)


def steps_or_share(of: str, least: int, *, closed: bool = False) -> Check:
    """A whole number is a number of steps; a float below 1 (or 1.0 where `closed`) is a share of `of`."""
    what = f"a number of steps, or a share of {of} " + ("up to 1.0" if closed else "below 1")

    def convert(value: Any) -> int | float:
        return float(value) if isinstance(value, float) and value <= 1 and (closed or value < 1) else int(value)

    def test(value: Any) -> bool:
        if not _is_number(value) or value < 0:
            return False
        if isinstance(value, float) and (value < 1 or (closed and value == 1)):
            return value > 0 or not closed
        return _is_whole(value) and value >= least

    return Check(what, test, convert)


_LONGEST = 3650 * 24 * 3600  # seconds; timers of the system hold no time without end
_TIME = re.compile(r"(?:(\d+)-)?(\d+):([0-5]\d)(?::([0-5]\d))?", re.ASCII)


def seconds_of(time: str) -> int:
    """The seconds of a time as [days-]hours:minutes[:seconds], which has been checked."""
    days, hours, minutes, seconds = (int(part or 0) for part in _TIME.fullmatch(time).groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _time(value: Any) -> bool:
    return (
        isinstance(value, str)
        and len(value) < 20
        and bool(_TIME.fullmatch(value))
        and 0 < seconds_of(value) <= _LONGEST
    )


def _one_transform(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 1 and value[0] in TRANSFORMS


def _folder_name(value: Any) -> bool:
    """A folder of this name shows up in `ls` and in patterns such as result/*, and can be typed."""
    name = str(value)
    plain = name.isprintable() and name == name.strip() and "/" not in name and not name.startswith(".")
    return _text(value) and plain and len(name) <= 100 and len(name.encode()) <= 255


def _names(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and bool(value)
        and all(isinstance(name, str) and name and not _no_name(name) for name in value)
    )


def _weights(value: Any) -> bool:
    return isinstance(value, Mapping) and all(_is_number(w) and w >= 0 and n in TASK_NAMES for n, w in value.items())


def run_name() -> Check:
    what = "a name without /, a dot at its start or spaces at its ends, of at most 100 characters and 255 bytes"
    return Check(what, _folder_name, str)


def duration() -> Check:
    return Check("hours:minutes, such as 11:30, also [days-]hours:minutes:seconds", _time)


def flag_or_steps() -> Check:
    allowed = "True, False or a number of steps"
    return Check(allowed, lambda v: isinstance(v, bool) or (_is_whole(v) and v >= 0), int)


def dataset_names(*, or_one: bool = False) -> Check:
    if or_one:
        return Check('names, such as ["coco","vg"]', lambda v: isinstance(v, str) or _names(v))
    return Check("a list of data set names, such as ['coco','vg']", _names, list)


def transform() -> Check:
    return Check(f"a list of one of {', '.join(TRANSFORMS)}", _one_transform)


def task_list() -> Check:
    return Check("all, or names of tasks", lambda v: isinstance(v, (str, list, tuple)))


def loss_weights() -> Check:
    return Check(f"weights of at least 0 for {', '.join(TASK_NAMES)}", _weights, dict)


def decay() -> Check:
    return Check('a number of at least 0 or "cosine"', lambda v: v == "cosine" or (_is_number(v) and v >= 0))


def precision_name() -> Check:
    return Check("32, 16-mixed, bf16-mixed or 64", lambda v: str(v) in PRECISIONS, lambda v: PRECISIONS[str(v)])


def expanded(key: str, value: Any) -> Any:
    """A path, or a list of paths, with `~` and `~user` written out, which no shell does behind `key=`.

    Raises:
        UserError: no such user, or a NUL.
    """
    if isinstance(value, (list, tuple)):
        return [expanded(key, each) for each in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # a folder named 2024
    if not isinstance(value, str):
        return value
    if "\0" in value:
        raise UserError(f"{key}={printable(value)} is not allowed: a path holds no NUL.")
    path = os.path.expanduser(value)
    if path.startswith("~"):
        user = path.split("/")[0]
        raise UserError(f"{key}={value}: {user} is the home folder of nobody here; write ./{path} for a name with ~.")
    return path


def plain_path(path: str | os.PathLike) -> str:
    """The one spelling of a path: without links, and relative where it lies in the working folder; a Hub id stays one."""
    real = os.path.realpath(os.path.expanduser(path))
    relative = os.path.relpath(real, os.path.realpath(os.curdir))
    return real if relative.partition(os.sep)[0] == os.pardir else relative
