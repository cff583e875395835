"""What the program says when the user, and not the program, is at fault.

A `UserError` is one clear sentence: what was given, what is allowed, what to do, with the setting's name. `run.py` prints
it without a traceback and exits with status 1; every other exception keeps its traceback, because it is a defect of ours.
"""

import difflib
import re
import unicodedata
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user's (a setting, a file, a model id). The message is a full sentence, ready to print.

    Attributes:
        each: raised on every process, so each prints it; else the first process prints it for all.
    """

    each = False


class Stopped(BaseException):
    """A run that was asked to stop and has saved what there was to save. No `Exception`, so that no handler of errors catches it.

    Args:
        message: what stopped it, and how to go on.
        status: exit status of the program.
        local_only: whether the other processes of the run do not stop; else the status of the first one is that of the run.
    """

    def __init__(self, message: str, status: int, *, local_only: bool = False):
        super().__init__(message)
        self.status, self.local_only = status, local_only


def require(condition: object, sentence: str) -> None:
    """Raises a UserError with the sentence where the condition does not hold."""
    if not condition:
        raise UserError(sentence)


def is_defect(error: BaseException) -> bool:
    """Whether an error is the program's and not the user's, so that its traceback is wanted."""
    return not isinstance(error, (UserError, Stopped, KeyboardInterrupt, SystemExit))


def suggest(name: str, allowed: Iterable[str]) -> str:
    """` (nearest: a, b)` for a name that is not among `allowed`, or an empty string where nothing is near."""
    near = difflib.get_close_matches(str(name), [str(each) for each in allowed], n=3, cutoff=0.6)
    return f" (nearest: {', '.join(near)})" if near else ""


def printable(text: str, keep: str = "") -> str:
    """The text with what would steer a terminal, or forge a line, written as escapes; for names and words that came from data.

    Args:
        keep: control characters that stay, such as a line break in a text of our own.
    """
    if text.isprintable():
        return text
    return "".join(
        each.encode("unicode_escape").decode()
        if unicodedata.category(each) in _STEERING and each not in keep and each not in _JOINERS
        else each
        for each in text
    )


# Control, format (direction of text), surrogate, line and paragraph separator.
_STEERING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"  # formats too, but words of Persian and Hindi, and emoji, are written with them


def shortened(names: Iterable[object], most: int = 3) -> str:
    """The first names of a list, with commas between, and how many more there are; safe to print."""
    names = [*names]
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(printable(str(name)) for name in names[:most]) + more


def first_line(error: BaseException) -> str:
    """The first line of what an error says (the system's own words, for one of the system), or its name; safe to print.

    What torch says of a file that it does not load ends in the advice to load it so that its code runs; that is left out.
    """
    text = str(getattr(error, "strerror", None) or error).strip()
    if "weights_only" in text or "add_safe_globals" in text or "Weights only load failed" in text:
        name = re.search(r"GLOBAL ([\w.]+)", text)
        text = f"it names {name[1]}, which could run code" if name else "it holds more than tensors and plain values"
    lines = re.sub(r"^\w+, \S+\.cpp:\d+, ", "", text).splitlines()  # where in torchvision it was built
    return printable(lines[0].strip() if lines else type(error).__name__)
