"""What the program says when the user, and not the program, is at fault.

A `UserError` is one clear sentence: what was given, what is allowed, what to do, with the setting's name. `run.py` prints
it without a traceback and exits with status 1; every other exception keeps its traceback, because it is a defect of ours.
"""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user's (a setting, a file, a model id). The message is a full sentence, ready to print.

    Attributes:
        each: every process of a run that meets with it says so; else the first says it for all.
    """

    each = False


class Stopped(BaseException):
    """A run that was asked to stop and has saved what there was to save. No Exception, so that nothing takes it for a failure.

    Args:
        message: what stopped it, and how to go on.
        status: exit status of the program.
        alone: whether the other processes of the run know nothing of it; else the first one's status is that of the run.
    """

    def __init__(self, message: str, status: int, *, alone: bool = False):
        super().__init__(message)
        self.status, self.alone = status, alone


def suggest(name: str, allowed: Iterable[str]) -> str:
    """` (nearest: a, b)` for a name that is not among `allowed`, or an empty string where nothing is near."""
    near = difflib.get_close_matches(str(name), [str(each) for each in allowed], n=3, cutoff=0.6)
    return f" (nearest: {', '.join(near)})" if near else ""
