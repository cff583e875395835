"""What a setting may be: the kinds of values that `config.py` and the commands declare behind a setting's name.

    keep_last: integer(1).changeable = 2  # a whole number of at least 1, which a resumed run may have otherwise
    max_steps: integer(1) = None  # ... or None

Rules between settings are in `settings/combinations.py`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from .errors import UserError, require
from .registry import FUSIONS, TASKS, TRANSFORMS, with_names

# Sizes that no model and no machine has; what several of them make together is found in `bounds`.
MOST_WIDTH, MOST_LAYERS, MOST_PIECES, MOST_TOKENS, MOST_PIXELS = 1 << 20, 1024, 1 << 24, 1 << 20, 1 << 14
MOST_PAIRS, MOST_PROCESSES = 1 << 24, 1 << 12
PRECISIONS = {"32": "32-true", "32-true": "32-true", "16": "16-mixed", "16-mixed": "16-mixed", "bf16": "bf16-mixed",
              "bf16-mixed": "bf16-mixed", "64": "64-true", "64-true": "64-true"}  # fmt: skip


RANDAUG = "_randaug"  # behind the name of a transform: with augmentation


def _mark(*names: str) -> property:
    return property(lambda check: replace(check, marks=check.marks.union(names)))


@dataclass(frozen=True)
class Check:
    """What one setting may be, and where it may come from.

    Attributes:
        allowed: the end of the sentence "<key>=<value> is not allowed: give ..."; `{TASKS}` stands for the names in that table.
        test: True for an allowed value.
        convert: an allowed value in its canonical form (1e3 arrives as a float).
        is_path: it names a file or folder, so that `~` is the home folder.
        marks: names of the marks below that its declaration has.
        fallback: its value where neither command nor checkpoint nor model give one; written `.or_fallback(value)`.
        choices: what can be typed, where that is a list; shells complete it.

    Marks, written behind a check:
        changeable: a resumed run may have another value.
        command_only: no checkpoint says it: how a command starts, where it writes, what it may fetch and run.
        evaluation: decides what an evaluation measures, so that with test_only the checkpoint gives it.
        adaptable: a command may have another value than the checkpoint or model; the weights are adapted, and the report says so.
        or_none: None is allowed, though it is not the default.
    """

    allowed: str
    test: Callable[[Any], bool]
    convert: Callable[[Any], Any] = lambda value: value
    is_path: bool = False
    marks: frozenset[str] = frozenset()
    fallback: Any = None
    choices: tuple[str, ...] = ()

    changeable = _mark("changeable")
    command_only = _mark("command_only", "changeable")
    evaluation = _mark("evaluation")
    adaptable = _mark("adaptable")
    or_none = _mark("or_none")

    def or_fallback(self, value: Any) -> Check:
        return replace(self, fallback=value)

    def problem(self, key: str, value: Any) -> str | None:
        """A sentence about a value, or None where it is allowed."""
        why = ""
        if isinstance(value, str) and _UNWRITABLE.search(value):
            why = "it holds a NUL or bytes that are no UTF-8, as no name and no path does; "
        elif self.is_path and _LONG.search("/".join(map(str, _as_list(value))).encode(errors="replace")):
            why = "it holds a name of more than 255 bytes, which no disk has; "
        elif value is not None and self.test(value):
            return None
        return f"{key}={value!r} is not allowed: {why}give {with_names(self.allowed)}."


_UNWRITABLE = re.compile("[\0\ud800-\udfff]")  # surrogates are bytes that are no UTF-8
_LONG = re.compile(b"[^/]{256}")


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63


def _is_whole(value: Any) -> bool:
    return _is_number(value) and abs(value) < 1 << 63 and value == int(value)


def integer(least: int, most: int | None = None) -> Check:
    span = f"a whole number of at least {least}" + ("" if most is None else f", at most {most:,}")
    return Check(span, lambda v: _is_whole(v) and least <= v and (most is None or v <= most), int)


pairs = partial(integer, most=MOST_PAIRS)
processes = partial(integer, most=MOST_PROCESSES)
pixels = partial(integer, most=MOST_PIXELS)
width = heads = integer(1, MOST_WIDTH)
layers = integer(1, MOST_LAYERS)


def number(least: float, most: float | None = None, *, above: bool = False) -> Check:
    low = f"above {least}" if above else f"of at least {least}"
    span = f"a number {low}" + ("" if most is None else f" and at most {most}")
    return Check(span, lambda v: _is_number(v) and (v > least if above else v >= least) and (most is None or v <= most))


flag = Check("True or False", lambda v: isinstance(v, bool), choices=("True", "False"))


def _is_text(value: Any) -> bool:
    """A text that is not empty; a whole number (exp_name=2024) is one too."""
    return bool(value.strip()) if isinstance(value, str) else isinstance(value, int) and not isinstance(value, bool)


def text(what: str) -> Check:
    return Check(what, _is_text, str)


def path(what: str) -> Check:
    """A file or folder; or a Hub id, which begins with no ~."""
    return replace(text(what), is_path=True)


def paths(what: str) -> Check:
    """A list of them, or one text with commas between."""
    return Check(what, lambda v: bool(v) and (_is_text(v) or isinstance(v, (list, tuple))))


checkpoint = path("a checkpoint file")
model = path("a Hub id or a folder")


def choice(*names: str) -> Check:
    return Check(" or ".join(names), lambda v: v in names, choices=names)


def steps_or_share(of: str, least: int, *, closed: bool = False) -> Check:
    """A whole number is a number of steps; a float below 1 (or 1.0 where `closed`) is a share of `of`."""
    what = f"a number of steps, or a share of {of} " + ("up to 1.0" if closed else "below 1")

    def is_share(value: Any) -> bool:
        return isinstance(value, float) and (0 < value <= 1 if closed else 0 <= value < 1)

    return Check(what, lambda v: is_share(v) or (_is_whole(v) and v >= least), lambda v: v if is_share(v) else int(v))


_LONGEST = 3650 * 24 * 3600  # seconds; timers of the system hold no time without end
_TIME = re.compile(r"(?:(\d{1,9})-)?(\d{1,9}):([0-5]\d)(?::([0-5]\d))?", re.ASCII)


def seconds_of(time: str) -> int:
    """The seconds of a time as [days-]hours:minutes[:seconds]; 0 where it is none."""
    found = _TIME.fullmatch(time)
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0, 0)
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


duration = Check(
    "hours:minutes, such as 11:30, also [days-]hours:minutes:seconds",
    lambda v: isinstance(v, str) and 0 < seconds_of(v) <= _LONGEST,
)


def _is_folder_name(value: Any) -> bool:
    """A folder of this name shows up in `ls` and in patterns such as result/*, and can be typed."""
    name = str(value)
    plain = name.isprintable() and name == name.strip() and "/" not in name and not name.startswith(".")
    return _is_text(value) and plain and len(name) <= 100 and len(name.encode()) <= 255


run_name = Check(
    "a name without /, a dot at its start or spaces at its ends, of at most 100 characters and 255 bytes",
    _is_folder_name,
    str,
)
flag_or_steps = Check("True, False or a number of steps", lambda v: flag.test(v) or (_is_whole(v) and v >= 0), int)
decay = Check('a number of at least 0 or "cosine"', lambda v: v == "cosine" or (_is_number(v) and v >= 0))
bits = Check("16 or 32", lambda v: _is_whole(v) and v in (16, 32), int, choices=("16", "32"))
precision_name = Check(
    "32, 16-mixed, bf16-mixed or 64",
    lambda v: str(v) in PRECISIONS,
    lambda v: PRECISIONS[str(v)],
    choices=("32", "16-mixed", "bf16-mixed", "64"),
)


def _are_names(value: Any) -> bool:
    names = value if isinstance(value, (list, tuple)) else ()
    return bool(names) and all(isinstance(name, str) and name and not _UNWRITABLE.search(name) for name in names)


dataset_names = Check("a list of data set names, such as ['coco','vg']", _are_names, list)
dataset_list = Check('names, such as ["coco","vg"]', lambda v: isinstance(v, str) or _are_names(v))
words = Check('a list of words, such as ["a","of","the"]', _are_names, list)
task_list = replace(dataset_list, allowed="all, or names of tasks")


def _listed(value: Any) -> list[str]:
    """Names of a list, or of one text with commas between, as a shell hands over `tags=[baseline,paper]`."""
    words = value.strip().removeprefix("[").removesuffix("]").split(",") if isinstance(value, str) else value
    return [str(word).strip() for word in words] if isinstance(words, (list, tuple)) else [str(value)]


def _are_tags(value: Any) -> bool:
    kind = isinstance(value, (list, tuple)) or _is_text(value)
    return kind and all(word.isprintable() and 0 < len(word) <= 64 and "," not in word for word in _listed(value))


# Names of loggers, and the package that one needs besides those of this program.
LOGGERS = {"tensorboard": None, "wandb": "wandb>=0.31", "mlflow": "mlflow-skinny>=3.17", "csv": None}
logger_names = Check(
    f"one of {', '.join(LOGGERS)}, or a list of them",
    lambda v: _are_tags(v) and 0 < len(_listed(v)) == len({*_listed(v)} & LOGGERS.keys()),
    _listed,
    choices=tuple(LOGGERS),
)
tag_list = Check("names of at most 64 characters, such as [baseline,paper]", _are_tags, _listed)
plugin_names = Check(
    'modules and files, such as ["my_lab.gqa", "path/to/file.py"]',
    lambda v: isinstance(v, str) and bool(v) or _are_names(v),
    _as_list,
    is_path=True,
)
transform = Check(
    f"a list of one of {{TRANSFORMS}}, each also with {RANDAUG}",
    lambda v: _are_names(v) and len(v) == 1 and v[0].removesuffix(RANDAUG) in TRANSFORMS,
    list,
)
fusion_kind = Check("one of {FUSIONS}", lambda v: v in [*FUSIONS], choices=tuple(FUSIONS))


def no_losses() -> dict[str, int]:
    """Every task with weight 0."""
    return dict.fromkeys(TASKS, 0)


def _are_weights(value: Any) -> bool:
    return isinstance(value, Mapping) and all(_is_number(w) and w >= 0 and n in TASKS for n, w in value.items())


loss_weights = Check("weights of at least 0 for {TASKS}", _are_weights, dict)


def expanded(key: str, value: Any) -> Any:
    """A path with `~` and `~user` written out, which no shell does behind `key=`.

    Raises:
        UserError: no such user.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # a folder named 2024
    if not isinstance(value, str) or not value.startswith("~") or "\0" in value:
        return value
    path = os.path.expanduser(value)
    if path.startswith("~"):
        user = path.split("/")[0]
        raise UserError(f"{key}={value}: {user} is the home folder of nobody here; write ./{path} for a name with ~.")
    return path


def require_checkpoint(key: str, path: str | os.PathLike) -> None:
    """Refuses the path of a checkpoint where there is no file; those beside it are named. load_path may be an exported model."""
    if os.path.isfile(path) or (key == "load_path" and is_exported(path)):
        return
    if key == "load_path" and os.path.isdir(path):
        ours = " of format=sentence_transformers" if os.path.isfile(os.path.join(path, "modules.json")) else ""
        why = f"is a folder{ours} without config.json: it is none that `export` wrote to be read back, or not whole"
        raise UserError(f"{key}={path} {why}; give a checkpoint, or a folder of format=transformers or safetensors.")
    folder = Path(path).parent
    beside = sorted(folder.glob("*.ckpt"))[:5] if os.path.isdir(folder) else []
    there = f" (there: {', '.join(map(str, beside))})" if beside else ""
    raise UserError(f"{key}={path} is not a file{there}; give the path of a checkpoint.")


def is_exported(path: str | os.PathLike) -> bool:
    """Whether a path is a folder with a model's configuration, as `export` writes it."""
    return os.path.isfile(os.path.join(path, "config.json"))


def require_empty(folder: Path) -> None:
    """Refuses the folder of `output=` where something is there already."""
    empty = not os.path.lexists(folder) or (folder.is_dir() and not os.listdir(folder))
    require(empty, f"output={folder} is there already and not empty; give another name, or remove it.")


def require_writable(folder: Path, what: str, setting: str) -> None:
    """Refuses a folder that cannot be made or written to, as far as can be seen. what: is kept there, for the sentence."""
    nearest = next(each for each in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(each))
    writable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    require(writable, f"{what}: {nearest} cannot be written; give another folder with {setting}=.")


def plain_path(path: str | os.PathLike) -> str:
    """The one spelling of a path: without links, and relative where it lies in the working folder; a Hub id stays one."""
    real = os.path.realpath(os.path.expanduser(path))
    relative = os.path.relpath(real, os.path.realpath(os.curdir))
    return real if relative.partition(os.sep)[0] == os.pardir else relative
