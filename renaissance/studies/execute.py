"""Runs what is missing of a study on this machine, several runs at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import renaissance
from renaissance.core.atomic import AtomicFile, InUseError
from renaissance.core.console import say
from renaissance.core.errors import Stopped, UserError, require
from renaissance.core.signals import INTERRUPTED, TRY_AGAIN

from .state import RUNNING, RunState, StudyFolder

_LOOK = 1.0  # seconds between two looks at the runs
_PROGRAM = Path(renaissance.__file__).parent.parent / "run.py"
_MOST_LOG = 4096  # bytes of a log's end in which its last line is looked for


class _Share(NamedTuple):
    """What a worker may use. Attributes: cores, their numbers; gpus, their numbers, None where there are none."""

    cores: frozenset[int]
    gpus: str | None


class _Process:
    """A run that is going on: a process, and the record that it will have, which is locked till then."""

    def __init__(self, folder: StudyFolder, state: RunState, record: AtomicFile, share: _Share):
        self.run, self.words, self.before, self.record, self.share = (
            state.run,
            state.words,
            state.seconds,
            record,
            share,
        )
        self.began, self.log = time.monotonic(), folder.log(state.run)
        variables = os.environ | ({} if share.gpus is None else {"CUDA_VISIBLE_DEVICES": share.gpus})
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(_PROGRAM), "with", *self.words],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=variables,
                start_new_session=True,  # a Ctrl-C is passed on to it once
            )  # fmt: skip
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self.process.pid, share.cores)

    def end(self) -> tuple[int, str]:
        """Writes the record; returns the exit status, and what it said last."""
        status, line = self.process.wait(), _last_line(self.log)
        seconds = self.before + time.monotonic() - self.began
        content = {"words": self.words, "status": status, "line": line, "seconds": round(seconds, 1)}
        self.record.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
        self.record.commit()
        self.record.close()
        return status, line


def _last_line(log: Path) -> str:
    with open(log, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _MOST_LOG))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


class _Signals:
    """Notes the first signal that asks to stop."""

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> _Signals:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        self.received = self.received or number


def run_study(folder: StudyFolder, workers: int, only: Sequence[str] = ()) -> dict[str, RunState]:
    """Runs what is neither done nor failed, each run once, until nothing can be run any more.

    Args:
        workers: runs at a time, each with its share of cores and GPUs. only: names of runs; () = all.

    Returns:
        The states at the end.

    Raises:
        Stopped: by a signal; the runs have saved.
        UserError: the budget of hours is spent, or the folder cannot be written.
    """
    shares, going, tried = _shares(workers), {}, set()
    try:
        folder.record(folder.runs[0]).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"log_dir: {folder.path} cannot be written ({error.strerror}); give another log_dir."
        ) from error
    with _Signals() as signals:
        try:
            while True:
                for name in [name for name, attempt in going.items() if attempt.process.poll() is not None]:
                    _tell(going.pop(name), folder)
                if signals.received:
                    break
                states = folder.states()
                left = [state for name, state in states.items() if name not in tried and (not only or name in only)]
                _start_more(folder, left, going, shares)
                tried |= going.keys()
                others = [each for each in states.values() if each.kind == RUNNING and each.run.name not in going]
                if not going and not others:
                    break
                time.sleep(_LOOK)
        finally:
            for attempt in going.values():
                attempt.process.send_signal(signals.received or signal.SIGTERM)
            for attempt in going.values():
                _tell(attempt, folder)
    if signals.received:
        status = INTERRUPTED if signals.received == signal.SIGINT else TRY_AGAIN
        raise Stopped("stopped: the runs have saved, and the same command goes on with them", status)
    return folder.states()


def _start_more(
    folder: StudyFolder, states: Sequence[RunState], going: dict[str, _Process], shares: list[_Share]
) -> None:
    free = [share for share in shares if all(share is not attempt.share for attempt in going.values())]
    for state in states:
        if not free or not state.needed:
            continue
        _refuse_spent(folder)
        record = AtomicFile(folder.record(state.run), "log_dir")
        try:
            record.__enter__()
        except InUseError:
            continue
        now = folder.attempt(state.run)
        if (now["seconds"] if now else 0.0) != state.seconds:  # another process has run it meanwhile
            record.close()
            continue
        going[state.run.name] = _Process(folder, state, record, free.pop(0))


def _refuse_spent(folder: StudyFolder) -> None:
    hours, attempts = folder.study.hours, [folder.attempt(run) for run in folder.runs]
    spent = sum(each["seconds"] for each in attempts if each is not None) / 3600
    require(
        hours is None or spent < hours,
        f"study={folder.study.name}: its runs took {spent:.2f} hours, and its budget allows hours={hours}; raise it to go on.",
    )


def _tell(attempt: _Process, folder: StudyFolder) -> None:
    status, line = attempt.end()
    ended = {0: "done"}.get(
        status, "saved" if status in (TRY_AGAIN, INTERRUPTED) else f"failed with status {status}: {line}"
    )
    say(f"{attempt.run.name}: {ended}")


def _shares(workers: int) -> list[_Share]:
    """Equal shares of the cores and GPUs that this process may use."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count() or 1)]
    gpus = _gpus()
    require(
        workers <= len(cores),
        f"workers={workers} is more than the {len(cores)} cores that there are; give at most as many.",
    )
    parts = [cores[number * len(cores) // workers : (number + 1) * len(cores) // workers] for number in range(workers)]
    of_gpus = [gpus[number * len(gpus) // workers : (number + 1) * len(gpus) // workers] for number in range(workers)]
    return [_Share(frozenset(own), ",".join(mine) if gpus else None) for own, mine in zip(parts, of_gpus, strict=True)]


def _gpus() -> list[str]:
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [each for each in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if each.strip()]
    import torch  # here, because it takes seconds

    return [str(number) for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]
