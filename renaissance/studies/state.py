"""What became of each run of a study: read from run folders, and from the record that the study keeps of each attempt.

    <log_dir>/<study>/runs/<exp_name>/version_N/   run folders, as of any run
    <log_dir>/<study>/attempts/<exp_name>.json     exit status and last line of the last attempt
    <log_dir>/<study>/attempts/<exp_name>.log      what it printed

An attempt holds the lock of its record while it goes on. So any number of `study run`, on machines that share a disk, share the
runs, and what a process that died had locked is free.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from renaissance.core.atomic import damaged_name, is_being_written, is_locked, write_whole
from renaissance.core.errors import UserError
from renaissance.core.signals import INTERRUPTED, STOP_SIGNALS, TRY_AGAIN
from renaissance.core.untrusted import read_json
from renaissance.evaluation.runs import FinishedRun, is_run, read_run
from renaissance.runs.identity import folders_of
from renaissance.settings.declared import SETTINGS

from .pace import Pace, pace
from .plan import Configure, PlannedRun
from .spec import Study

WAITING, RUNNING, STOPPED, LOST, FAILED, DONE = STATES = ("waiting", "running", "stopped", "lost", "failed", "done")
RESULTS = "results.json"
# Exit statuses of a run that was stopped: it has saved, or had nothing to save when the signal came.
_STOPPED = (TRY_AGAIN, INTERRUPTED, *(-number for number in STOP_SIGNALS))
_LENGTHS = ("max_steps", "max_epoch")  # a run goes on to another length; its identity is without them


class AttemptRecord(TypedDict):
    """The record of the last attempt at a run: its exit status, the last line it printed, the seconds of all attempts, and what
    the results that it took are known by, by run."""

    status: int
    line: str
    seconds: float
    took: dict[str, str]


class RunState(NamedTuple):
    """What became of a run.

    Attributes:
        run; kind: one of STATES; folder: of the run, None where it has none.
        words: of its command; None while it waits for results of others. took: what those are known by, by run.
        attempt: the record of the last one.
        outdated: whether it is of results that others have replaced. note: why it failed, or is to be run again.
    """

    run: PlannedRun
    kind: str
    folder: Path | None = None
    words: list[str] | None = None
    took: dict[str, str] | None = None
    attempt: AttemptRecord | None = None
    outdated: bool = False
    note: str = ""

    @property
    def needed(self) -> bool:
        """Whether it is still to be run, or to go on."""
        return self.kind in (WAITING, STOPPED, LOST) and self.words is not None

    def finished(self) -> FinishedRun:
        """The results of a run that is done."""
        return read_run(self.folder, "study")

    def pace(self) -> Pace | None:
        """How far it is and how fast; None where it has no folder."""
        has_folder = self.folder is not None and is_run(self.folder)
        return pace(read_run(self.folder, "study")) if has_folder else None

    def step(self) -> int | None:
        """The last step that was logged."""
        return None if (found := self.pace()) is None else found.step


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
                found[run.name] = self._state(run, {name: found[name].folder for name in needs})
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

    def _state(self, run: PlannedRun, sources: dict[str, Path]) -> RunState:
        words, took = run.words(sources), {name: _known_by(folder) for name, folder in sources.items()}
        values, attempt = self.values(words), self.attempt(run)
        folders = folders_of(values)
        state = RunState(run, WAITING, folders[-1] if folders else None, words, took, attempt)
        if is_being_written(self.record(run)) or (state.folder is not None and is_locked(state.folder)):
            return state._replace(kind=RUNNING)
        if state.folder is not None and attempt is not None and attempt["took"] != took:
            return state._replace(outdated=True, note="what it takes of other runs has changed since")
        if state.folder is not None and (state.folder / RESULTS).is_file():
            note, goes_on = _other_length(state.folder, values)
            return state._replace(kind=WAITING if goes_on else DONE, note=note)
        status = 0 if attempt is None else attempt["status"]
        if status in _STOPPED:
            return state._replace(kind=STOPPED)
        if status > 0:
            return state._replace(kind=FAILED, note=attempt["line"])
        return state if state.folder is None and attempt is None else state._replace(kind=LOST)

    def record(self, run: PlannedRun) -> Path:
        return self.path / "attempts" / f"{run.name}.json"

    def log(self, run: PlannedRun) -> Path:
        return self.record(run).with_suffix(".log")

    def seconds_spent(self) -> float:
        """By all attempts that have ended."""
        return sum(each["seconds"] for each in map(self.attempt, self.runs) if each is not None)

    def forget(self, run: PlannedRun) -> None:
        """Lets a run that failed run again; the time that it took still counts."""
        attempt = self.attempt(run)
        if attempt is not None:
            write_whole(self.record(run), attempt_bytes(attempt | {"status": TRY_AGAIN}), "log_dir")

    def set_aside(self, state: RunState) -> None:
        """Moves the folder of a run whose sources have changed to `outdated/`, so that the run is made anew."""
        free = self.path / "outdated" / state.run.name
        free.parent.mkdir(parents=True, exist_ok=True)
        state.folder.rename(free if not free.exists() else damaged_name(free))

    def attempt(self, run: PlannedRun) -> AttemptRecord | None:
        """The record of the last attempt."""
        path = self.record(run)
        try:
            return read_json(path, AttemptRecord) if path.is_file() else None
        except UserError:  # it can be run again
            return None


def attempt_bytes(attempt: AttemptRecord) -> bytes:
    """The content of a record."""
    return (json.dumps(attempt, indent=2, ensure_ascii=False) + "\n").encode()


def _known_by(folder: Path) -> str:
    """What the results of a run are known by; those that are computed again are the same only if they are equal."""
    return hashlib.sha256((folder / RESULTS).read_bytes()).hexdigest()[:16]


def _other_length(folder: Path, values: dict[str, Any]) -> tuple[str, bool]:
    """A note where a run that has its results has another length than its command gives by now, and whether it goes on, as
    `runs.start.refuse_finished` decides when it starts: one that has done as many steps, or more, does not."""
    run = read_run(folder, "study")
    had, steps = run.settings, run.record.get("steps") or 0
    patience, before = SETTINGS["early_stopping"].convert(values["early_stopping"]), had.get("early_stopping") or 0
    if run.stopped_early:  # 0 is what the run had, where it goes on
        more = patience > before
        note = f"it has stopped early with early_stopping={before} and is to have {patience}"
        return (note if more else ""), more
    now = {key: None if values[key] in (None, "") else SETTINGS[key].convert(values[key]) for key in _LENGTHS}
    now = {key: had.get(key) if value is None else value for key, value in now.items()}
    notes = [f"it has {key}={had.get(key)} and is to have {now[key]}" for key in _LENGTHS if now[key] != had.get(key)]
    if not notes:
        return "", False
    more_steps = now["max_steps"] is None or now["max_steps"] > steps
    ended_by_epochs = had.get("max_epoch") is not None and had.get("max_steps") != steps
    return notes[0], more_steps and not (ended_by_epochs and now["max_epoch"] <= had["max_epoch"])
