"""Runs what is missing of a study on this machine, several runs at a time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from renaissance.core.atomic import AtomicFile, InUseError, is_locked
from renaissance.core.console import say
from renaissance.core.errors import Stopped, UserError, require
from renaissance.core.launch import REPOSITORY
from renaissance.core.signals import INTERRUPTED, TRY_AGAIN, StopSignals, exit_status, signal_name, stop_reason

from .state import RUNNING, AttemptRecord, RunState, StudyFolder, attempt_bytes

_LOOK = 1.0  # seconds between two looks at the runs, or as many more as keep them under a tenth of the time
_PROGRAM = REPOSITORY / "run.py"
_OF_SLURM = ("srun: ", "slurmstepd: ")
_MOST_LOG = 4096  # bytes of a log's end in which its last line is looked for


class Share(NamedTuple):
    """What a worker may use. Attributes: cores, their numbers; gpus, their numbers, None where there are none."""

    cores: frozenset[int]
    gpus: str | None


class _Process:
    """A run that is going on: a process, and the record that it will have, which is locked till then."""

    def __init__(self, folder: StudyFolder, state: RunState, record: AtomicFile, share: Share):
        self.run, self.took, self.record, self.share = state.run, state.took, record, share
        self.before = state.attempt["seconds"] if state.attempt else 0.0
        self.began, self.log = time.monotonic(), folder.log(state.run)
        self.process = launch(state.words, self.log, share)

    @property
    def seconds(self) -> float:
        """That all attempts at it took."""
        return self.before + time.monotonic() - self.began

    def end(self) -> None:
        """Waits for its end, writes the record and tells what became of it."""
        try:
            status = self.process.wait()
            line = last_line(self.log)
            attempt: AttemptRecord = {
                "status": status,
                "line": line,
                "seconds": round(self.seconds, 1),
                "took": self.took,
            }
            self.record.write(attempt_bytes(attempt))
            self.record.commit()
        finally:
            self.record.close()
        saved = status in (TRY_AGAIN, INTERRUPTED)
        say(f"{self.run.name}: {'done' if not status else 'saved' if saved else f'status {status}: {line}'}")


def launch(words: Sequence[str], log: Path, share: Share, **variables: str) -> subprocess.Popen:
    """Starts `python run.py with <words>`, which prints to the end of a log. variables: of its environment."""
    variables |= {} if share.gpus is None else {"CUDA_VISIBLE_DEVICES": share.gpus}
    with open(log, "ab") as printed:
        process = subprocess.Popen(
            [sys.executable, str(_PROGRAM), "with", *words],
            stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.STDOUT, env=os.environ | variables,
            start_new_session=True,  # a Ctrl-C is passed on to it once
        )  # fmt: skip
    if hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            os.sched_setaffinity(process.pid, share.cores)
    return process


def last_line(log: Path) -> str:
    """What a run has said last; what Slurm says of it, after it, is left out."""
    if not log.is_file():
        return "it has no log"
    with open(log, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _MOST_LOG))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(_OF_SLURM)]
    return lines[-1] if lines else "it printed nothing"


def run_study(folder: StudyFolder, workers: int, only: str | None = None) -> dict[str, RunState]:
    """Runs what is neither done nor failed, each run once.

    Args:
        workers: runs at a time, each with its share of cores and GPUs. only: the name of the run, None for all.

    Returns:
        The states at the end.

    Raises:
        Stopped: by a signal; the runs have saved.
        UserError: the budget of hours is spent, or the folder cannot be written; the runs that go on are waited for.
    """
    shares, going, tried, spent = shares_of(workers), {}, set(), None
    try:
        folder.record(folder.runs[0]).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"log_dir: {folder.path} cannot be written ({error.strerror}); give another log_dir."
        ) from error
    with StopSignals(prints=False) as signals:
        signals.waits_for_step, signals.at_once = True, lambda: _kill(going)
        try:
            while not signals.received:
                for name in [name for name, attempt in going.items() if attempt.process.poll() is not None]:
                    going.pop(name).end()
                looked = time.monotonic()
                states = {name: state for name, state in folder.states().items() if only in (None, name)}
                took = time.monotonic() - looked
                left = [state for name, state in states.items() if name not in tried and state.needed]
                spent = spent or _spent(folder, going)
                if left and not spent:
                    _start_more(folder, left, going, shares)
                    tried |= going.keys()
                elsewhere = any(state.kind == RUNNING and name not in going for name, state in states.items())
                if not going and not elsewhere:
                    break
                time.sleep(max(_LOOK, 9 * took))
        finally:
            _end_all(going, signals.received)
    if signals.received:
        said = f"{stop_reason(signals.received)}: the runs have saved, and the same command goes on with them"
        raise Stopped(said, exit_status(signals.received))
    require(not (spent and left), spent)
    return folder.states()


def _start_more(
    folder: StudyFolder, states: Sequence[RunState], going: dict[str, _Process], shares: list[Share]
) -> None:
    free = [share for share in shares if all(share is not attempt.share for attempt in going.values())]
    for state in states:
        if not free:
            return
        record = AtomicFile(folder.record(state.run), "log_dir")
        try:
            record.__enter__()
        except InUseError:
            continue
        try:
            if folder.attempt(state.run) != state.attempt or (state.folder is not None and is_locked(state.folder)):
                record.close()  # another process has run it meanwhile, or runs it
                continue
            if state.outdated:
                folder.set_aside(state)
            going[state.run.name] = _Process(folder, state, record, free.pop(0))
        except OSError as error:
            record.close()
            raise UserError(f"log_dir: '{error.filename}' cannot be written ({error.strerror}).") from error


def _kill(going: Mapping[str, _Process]) -> None:
    for attempt in [*going.values()]:
        attempt.process.kill()


def _end_all(going: Mapping[str, _Process], received: int | None) -> None:
    """Ends the runs that a signal, or an error, leaves behind; each gets its record if it can be written."""
    if going and received:
        say(
            f"{signal_name(received)}: waits until the runs have saved; Ctrl-C again ends them at once",
            error=True,
        )
    for attempt in going.values():
        with contextlib.suppress(ProcessLookupError):
            attempt.process.send_signal(received or signal.SIGTERM)
    for attempt in going.values():
        try:
            attempt.end()
        except UserError as error:
            say(f"{attempt.run.name}: {error}", error=True)


def _spent(folder: StudyFolder, going: Mapping[str, _Process]) -> str | None:
    """The sentence of a budget of hours that is spent."""
    hours = folder.study.hours
    spent = (folder.seconds_spent() + sum(each.seconds - each.before for each in going.values())) / 3600
    if hours is None or spent < hours:
        return None
    return f"study={folder.study.name}: its runs took {spent:.2f} hours, and its budget allows hours={hours}; raise it to go on."


def shares_of(workers: int) -> list[Share]:
    """Equal shares of the cores and GPUs that this process may use."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count() or 1)]
    gpus = _gpus()
    most, what = (len(gpus), "GPUs") if gpus else (len(cores), "cores")
    require(workers <= most, f"workers={workers} is more than the {most} {what} that there are; give at most as many.")
    parts = [cores[number * len(cores) // workers : (number + 1) * len(cores) // workers] for number in range(workers)]
    of_gpus = [gpus[number * len(gpus) // workers : (number + 1) * len(gpus) // workers] for number in range(workers)]
    return [Share(frozenset(own), ",".join(mine) if gpus else None) for own, mine in zip(parts, of_gpus, strict=True)]


def _gpus() -> list[str]:
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [each for each in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if each.strip()]
    import torch  # here, because it takes seconds

    return [str(number) for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]
