"""What became of each run of a study: read from run folders, and from the record that the study keeps of each attempt.

    <log_dir>/<study>/runs/<exp_name>/version_N/   run folders, as of any run
    <log_dir>/<study>/attempts/<exp_name>.json     words, exit status and last line of the last attempt
    <log_dir>/<study>/attempts/<exp_name>.log      what it printed

An attempt holds the lock of its record while it goes on. So any number of `study run`, on machines that share a disk, share the
runs, and what a process that died had locked is free.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from renaissance.core.atomic import is_being_written, is_locked
from renaissance.core.errors import UserError
from renaissance.core.signals import INTERRUPTED, TRY_AGAIN
from renaissance.core.untrusted import read_json
from renaissance.evaluation.runs import FinishedRun, is_run, read_run
from renaissance.runs.identity import folders_of
from renaissance.runs.metrics_table import read_rows

from .plan import Configure, PlannedRun
from .spec import Study

WAITING, RUNNING, STOPPED, LOST, FAILED, DONE = STATES = ("waiting", "running", "stopped", "lost", "failed", "done")
# Exit statuses of a run that was stopped: it has saved, or had nothing to save when the signal came.
_STOPPED = (TRY_AGAIN, INTERRUPTED, -signal.SIGINT, -signal.SIGTERM)


class _Attempt(TypedDict):
    words: list[str]
    status: int
    line: str
    seconds: float


def _deciding(words: Sequence[str]) -> list[str]:
    """The words that decide what a run computes; what it starts from is part of its identity."""
    places = ("data_root=", "log_dir=", "load_path=", "blind_run=")
    return [word for word in words if not word.startswith(places)]


class RunState(NamedTuple):
    """What became of a run.

    Attributes:
        run; kind: one of STATES; folder: of the run, None where it has none.
        words: of its command; None while it waits for results of others. attempt: the last one.
        step: the last one that was logged. seconds: that all attempts took. note: why it failed.
    """

    run: PlannedRun
    kind: str
    folder: Path | None = None
    words: list[str] | None = None
    step: int | None = None
    seconds: float = 0.0
    note: str = ""

    @property
    def needed(self) -> bool:
        """Whether it is still to be run, or to go on."""
        return self.kind in (WAITING, STOPPED, LOST) and self.words is not None

    def finished(self) -> FinishedRun:
        """The results of a run that is done."""
        return read_run(self.folder, "study")


class StudyFolder:
    """The folder of a study.

    Args:
        path: of it. study: the file's content. runs: planned. configure: as of `settings.words.configured`.
    """

    def __init__(self, path: Path, study: Study, runs: Sequence[PlannedRun], configure: Configure):
        self.path, self.study, self.runs, self._configure = path, study, runs, configure
        self._identities: dict[tuple[str, ...], dict[str, Any]] = {}

    def states(self) -> dict[str, RunState]:
        """Every run by its name."""
        found: dict[str, RunState] = {}
        for run in self.runs:
            needs = {name for name, _ in run.needs.values()}
            if all(found[name].kind == DONE for name in needs):
                folders = {name: found[name].folder for name in needs}
                found[run.name] = self._state(run, run.words(folders))
            else:
                failed = [name for name in needs if found[name].kind == FAILED]
                found[run.name] = RunState(run, WAITING, note=f"needs {failed[0]}, which failed" if failed else "")
        return found

    def values(self, words: Sequence[str]) -> dict[str, Any]:
        """The settings that words give."""
        key = tuple(words)
        if key not in self._identities:
            self._identities[key] = self._configure(words)[0]
        return self._identities[key]

    def _state(self, run: PlannedRun, words: list[str]) -> RunState:
        folders = folders_of(self.values(words))
        folder = folders[-1] if folders else None
        attempt = self.attempt(run)
        same = attempt is not None and _deciding(attempt["words"]) == _deciding(words)
        state = RunState(run, WAITING, folder, words, seconds=attempt["seconds"] if attempt else 0.0)
        if folder is not None and is_run(folder):
            _, rows, _ = read_rows(folder / "metrics.csv")
            state = state._replace(step=int(rows[-1]["step"]) if rows else 0)
        if is_being_written(self.record(run)) or (folder is not None and is_locked(folder)):
            return state._replace(kind=RUNNING)
        if attempt is not None and not same:
            return state._replace(note="the study file has other settings by now")
        if folder is not None and (folder / "results.json").is_file():
            return state._replace(kind=DONE)
        status = 0 if attempt is None else attempt["status"]
        if status in _STOPPED:
            return state._replace(kind=STOPPED)
        if status > 0:
            return state._replace(kind=FAILED, note=attempt["line"])
        return state if folder is None and attempt is None else state._replace(kind=LOST)

    def record(self, run: PlannedRun) -> Path:
        return self.path / "attempts" / f"{run.name}.json"

    def log(self, run: PlannedRun) -> Path:
        return self.record(run).with_suffix(".log")

    def forget(self, run: PlannedRun) -> None:
        """Lets a run that failed run again."""
        self.record(run).unlink(missing_ok=True)

    def attempt(self, run: PlannedRun) -> _Attempt | None:
        """The record of the last attempt."""
        path = self.record(run)
        try:
            return read_json(path, _Attempt) if path.is_file() else None
        except UserError:  # it can be run again
            return None
