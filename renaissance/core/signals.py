"""Signals that stop a run: it saves between two steps and exits with a status that says what to do next.

Slurm warns a job with SIGUSR1 or SIGTERM before it takes the machine away, a user presses Ctrl-C, a terminal that closes sends
SIGHUP, and the alarm of `max_time` goes off. Which process gets the signal, and when, differs; all processes stop after the same
step, because each step brings their requests together (`training/module.py`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from .errors import Stopped

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGALRM)
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: rerun the same command to resume
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class StopSignals:
    """Handles stop signals; a context manager around a run. A second Ctrl-C stops at once.

    Args:
        prints: whether this process prints that it received a signal.

    Attributes:
        received: number of the first stop signal, or None.
        at_once: what a second Ctrl-C calls where raising `Stopped` would leave processes behind.
        waits_for_step: whether a stop signal waits for the end of the step. If not, it raises `Stopped` at once: there is
            nothing unsaved.
    """

    def __init__(self, *, prints: bool = True):
        self.prints = prints
        self.received: int | None = None
        self.waits_for_step = False
        self.at_once: Callable[[], None] | None = None
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> StopSignals:
        self.install_handlers()
        return self

    def __exit__(self, *_: object) -> None:
        self.set_alarm(None)
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: a library's in C
        self._before = {}

    def install_handlers(self) -> None:
        """Installs the signal handlers, or installs them again where a library has replaced them."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in STOP_SIGNALS:
            before = self._before.setdefault(number, signal.getsignal(number))
            if before != signal.SIG_IGN or number != signal.SIGHUP:  # nohup has it ignored
                signal.signal(number, self._note)

    def set_alarm(self, seconds: float | None) -> None:
        """Sends the signal of `max_time` after so many seconds; None cancels it."""
        if threading.current_thread() is threading.main_thread():
            # Behind the deadline it goes off again at once.
            signal.setitimer(signal.ITIMER_REAL, 0 if seconds is None else max(seconds, 1e-3))

    def flags(self) -> list[float]:
        """One-hot vector of the received signal, in the order of `STOP_SIGNALS`."""
        return [float(self.received == number) for number in STOP_SIGNALS]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a process that was forked from this one, and is no run of its own
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        again, self.received = self.received is not None, self.received or number
        if again and number == signal.SIGINT and self.at_once is not None:
            self.at_once()
            return
        if not self.waits_for_step or (again and number == signal.SIGINT):
            if _imports(frame):
                with contextlib.suppress(OSError):
                    os.write(2, f"{stop_reason(number)}.\n".encode())
                os._exit(exit_status(number))
            raise Stopped(stop_reason(number), exit_status(number), local_only=True)
        if self.prints and not again:
            more = "; Ctrl-C again ends it at once" if number == signal.SIGINT else ""
            # Not print: the signal may have come in the middle of one. Ctrl-C ends a `| tee` too, so nobody may be listening.
            with contextlib.suppress(OSError):
                os.write(2, f"\n{signal_name(number)}: stopping after this step{more}.\n".encode())


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported: an exception in the import of a C++ module would abort the process."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def exit_status(number: int) -> int:
    """Exit status of a run that was stopped by a signal."""
    return INTERRUPTED if number == signal.SIGINT else TRY_AGAIN


def stop_reason(number: int) -> str:
    """Why the run stopped, for messages."""
    return "interrupted" if number == signal.SIGINT else f"stopped by {signal_name(number)}"


def signal_name(number: int) -> str:
    """Name of a signal for messages."""
    return "max_time" if number == signal.SIGALRM else signal.Signals(number).name
