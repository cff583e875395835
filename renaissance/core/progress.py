"""Progress of long work: a bar on a terminal, and a line now and then where stderr is a file."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from tqdm import tqdm

from . import console

LINES_EVERY = 30.0  # seconds between two lines


class Bar(tqdm):
    """A bar of tqdm; where stderr is no terminal, a line every half minute and, with `leave`, one at the end.

    Args:
        given: what tqdm takes. leave: whether it stays when it is done. say: prints a line, in the place of stderr.

    Attributes:
        in_lines: whether there are lines, and no bar.
    """

    def __init__(self, *given: Any, leave: bool = True, say: Callable[[str], None] | None = None, **named: Any):
        self.in_lines, self._leaves, self._say = not sys.stderr.isatty(), leave, say or partial(console.say, error=True)
        self._said, self._said_at = None, time.monotonic()
        if self.in_lines:  # ncols=0: numbers and times alone; smoothing=0: the time left goes by the mean speed
            named |= {"ncols": 0, "smoothing": 0, "bar_format": (named.get("bar_format") or "").replace("|{bar}|", "")}
        super().__init__(*given, leave=leave and not self.in_lines, dynamic_ncols=not self.in_lines, **named)

    def say_line(self) -> None:
        """Prints how far it is, in lines."""
        if self.in_lines and not self.disable:
            self._said, self._said_at = self.n, time.monotonic()
            self._say(str(self))

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """As tqdm's; a line only where one is due."""
        if not self.in_lines:
            super().display(msg, pos)
        elif msg is None and time.monotonic() - self._said_at >= LINES_EVERY:
            self.say_line()

    def clear(self, nolock: bool = False) -> None:
        """As tqdm's; lines stay."""
        if not self.in_lines:
            super().clear(nolock)

    def close(self) -> None:
        """As tqdm's, with a last line."""
        if not getattr(self, "disable", True) and self._leaves and self._said != self.n:
            self.say_line()
        super().close()


# One process draws. tqdm's own lock is a semaphore, which a process that is killed leaves behind.
Bar.set_lock(threading.RLock())
