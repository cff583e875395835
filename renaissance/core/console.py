"""Console output: one function prints, and an output that cannot be written never ends a run.

stdout and stderr may be a pipe whose reader has gone (`| head`, a `tee` that Ctrl-C took too) or a file on a full disk. What
cannot be printed is dropped; log.txt of the run folder has it.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from collections.abc import Sequence
from typing import Any

from .errors import printable

_PATIENCE = 10.0  # seconds that a terminal which takes nothing more (EAGAIN) may hold a line up


def say(text: str, *, error: bool = False) -> None:
    """Prints a text to stdout, or to stderr; control characters in it, which came from data, are escaped."""
    print(printable(text, keep="\n\t"), file=sys.stderr if error else sys.stdout, flush=True)


class Screen(io.TextIOBase):
    """stdout or stderr as a text stream whose writes never fail and are never held back.

    Args:
        stream: the stream that it takes the place of; its file descriptor is written to.

    Attributes:
        lost: why something could not be printed, None while all was.
    """

    def __init__(self, stream: Any):
        self._stream = stream
        self._number = stream.fileno()
        self.lost: OSError | None = None

    encoding = property(lambda self: self._stream.encoding)
    errors = property(lambda self: "backslashreplace")
    buffer = property(lambda self: self._stream.buffer)

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return self._stream.isatty()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        rest = memoryview(text.encode(self.encoding or "utf-8", "backslashreplace"))
        while rest:
            try:
                rest = rest[os.write(self._number, rest) :]
            except OSError as error:
                if error.errno == errno.EAGAIN and select.select([], [self._number], [], _PATIENCE)[1]:
                    continue
                self.lost = error
                break
        return len(text)

    def flush(self) -> None:
        """Do nothing: nothing is held back."""


def install() -> None:
    """Replaces stdout and stderr of this process by a `Screen`; a closed one writes to /dev/null."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # `>&-`: a file that is opened later would get its number, and what is printed
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (it lives as long as the process)
        setattr(sys, name, Screen(stream))


def lost() -> OSError | None:
    """The error because of which something printed to stdout was lost, or None."""
    return getattr(sys.stdout, "lost", None)


def table(rows: list[tuple[str, ...]], indent: str = "  ") -> str:
    """Formats rows as aligned columns: the first left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])] for first, *rest in rows]
    return "\n".join((indent + "  ".join(cells)).rstrip() for cells in lines)


def markdown_table(rows: Sequence[Sequence[str]], align: str = "---") -> str:
    """Formats rows as a table of Markdown, the first as its head. align: of columns but the first, such as ---: for numbers."""
    lines = [f"| {' | '.join(printable(cell).replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join([lines[0], f"| --- |{f' {align} |' * (len(rows[0]) - 1)}", *lines[1:]])


def millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"
