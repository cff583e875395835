"""Where a run starts: new, with the weights of load_path, or where the run of resume_from has stopped.

    find_start      -> Start: new, load_path, resume_from, or what resume_from=auto finds; damaged checkpoints are named
    refuse_finished -> nothing, or the sentence that the run is finished
    open_folder     -> the run's folder, and the state that its training starts from

`resume_from=auto` makes a command that may be given again and again, by a user or by a batch system: it starts a run where
there is none, resumes one that has stopped, and does nothing where it is finished.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from renaissance.core.atomic import FileLock, is_locked, locked
from renaissance.core.errors import Stopped, UserError, require
from renaissance.settings.keys import AUTO
from renaissance.settings.resolver import ConfigResolver
from renaissance.settings.sections import Settings

from . import checkpoint
from .checkpoint_folder import BEST, UNKNOWN, CheckpointFolder, first_whole
from .identity import JOB, former_identity, identity, identity_record, read_identity, runs_folder
from .metrics_table import drop_rows_after
from .report import RunFolder, unwritable
from .stored import NO_BEST, Stored, TrainingState


class Start(NamedTuple):
    """Where a run starts.

    Attributes:
        kind: "new", "load_path" or "resume_from".
        resolver: the command's settings; `resume_from` names a file or nothing.
        command: the settings as they were given, which make the run's identity.
        stored: the content of the checkpoint, None for a new run.
        automatic: whether resume_from=auto has chosen.
        notes: sentences for the screen.
    """

    kind: str
    resolver: ConfigResolver
    command: Mapping[str, Any]
    stored: Stored | None
    automatic: bool
    notes: list[str]

    @property
    def path(self) -> str | None:
        """The checkpoint's path as the command has it."""
        return None if self.kind == "new" else self.resolver[self.kind]

    @property
    def state(self) -> TrainingState:
        """What training starts from: load_path brings weights only."""
        known = self.stored.training if self.kind == "resume_from" else {}
        return TrainingState(**{key: known[key] for key in TrainingState._fields if key in known})


class _ResumableRun(NamedTuple):
    """A run of a command; sorts in the order in which runs are resumed. `files`: see `CheckpointFolder.newest_first`."""

    of_this_job: bool
    step: int
    version: int
    folder: Path
    files: list[tuple[int, Path]]


def find_start(resolver: ConfigResolver, shared: dict[str, Any] | None = None) -> Start:
    """Decides where the run of a command starts, and reads its checkpoint.

    Args:
        resolver: the settings of the command.
        shared: what the first process tells the others; it stores the checkpoint that resume_from=auto has found.

    Raises:
        UserError: the checkpoint is missing, damaged or none of this program; a whole one beside it is named.
    """
    shared = {} if shared is None else shared
    command, automatic, notes, stored = resolver.raw, resolver["resume_from"] == AUTO, [], None
    if automatic:
        if "resume_from" not in shared:  # another machine may see an older state of the folder
            # An evaluation has nothing to go on with.
            found, notes = (None, []) if resolver["test_only"] else newest(resolver.raw)
            where = f"{resolver['log_dir']}/{resolver['exp_name']} has no run of this command"
            none = "test_only=True trains nothing" if resolver["test_only"] else where
            what = f"goes on with {found[0]}" if found else f"{none}; starts a new one"
            notes.append(f"resume_from=auto: {what}")
            path, stored = found or (None, None)
            shared["resume_from"] = path and str(path)
        resolver = resolver.resuming(shared["resume_from"])
    kind = next((key for key in ("resume_from", "load_path") if resolver[key]), "new")
    if kind != "new" and stored is None:
        stored = _read(resolver[kind], kind)
    if kind == "resume_from":
        place = RunFolder.place_of(resolver[kind])
        resolver.fill_defaults("checkpoint", place, may_differ=place)
    return Start(kind, resolver, command, stored, automatic, notes)


def refuse_finished(start: Start, steps: int, patience: int) -> None:
    """Refuses to resume a run that is finished: it has done all its steps, or has stopped early, and has its results.

    Args:
        steps: of the whole run. patience: `early_stopping`.

    Raises:
        Stopped: with status 0, where resume_from=auto found it.
        UserError: where resume_from names it.
    """
    done, early = start.state.step, start.state.stops_early(patience)
    if start.kind != "resume_from" or (done < steps and not early) or not _has_results(start.path):
        return
    if start.automatic:
        path = RunFolder.of_checkpoint(start.path).path
        what = f"stopped early after step {done} of {steps}" if early else f"done its {done} steps"
        raise Stopped(f"{path} has {what} and has its results; nothing is left", 0)
    if early:
        raise UserError(
            f"resume_from={start.path} stopped early after step {done} of {steps}, with {start.state.without_gain} validations "
            f"without a gain: it is finished. Give an early_stopping above {start.state.without_gain}, or 0, to go on."
        )
    raise UserError(
        f"resume_from={start.path} has done {done} steps and the run ends at {steps}: it is finished. Give a larger max_steps "
        "(or max_epoch) to go on."
    )


def open_folder(start: Start, settings: Settings, *, first: bool = True) -> tuple[RunFolder, TrainingState, list[str]]:
    """Opens and locks the run folder: the existing one if the run is resumed at its newest checkpoint, else a new one.

    Args:
        settings: complete. first: whether this is rank 0, which writes.

    Returns:
        The folder, the state that training starts from, and sentences for the screen.

    Raises:
        UserError: the folder cannot be written, or another process trains in it.
    """
    state, notes = start.state, []
    if settings.run.fast_dev_run or not first:
        return RunFolder(None, prints=first), state, notes
    if start.kind == "resume_from" and (folder := RunFolder.of_checkpoint(start.path)):
        folder.lock()
        try:
            later, state = _reset_folder(folder, start)
        except OSError as error:
            raise UserError(
                f"The run in '{folder.path}' cannot go on ('{error.filename}': {error.strerror}); make its folder writable, or "
                "give resume_from a copy of the checkpoint that lies in no run folder."
            ) from error
        if later is None:
            return folder, state, notes
        folder.close()
        if start.automatic:
            raise UserError(
                f"{folder.path} has gone on to step {later} since this command read {start.path}; repeat it."
            )
        notes.append(f"{folder.path} has been at step {later}; what goes on from {start.path} gets a folder of its own")
    folder = RunFolder.create(settings.run.log_dir, settings.run.exp_name).lock()
    # What `find_start` looks for; the rest follows when the run is built.
    folder.write_json("settings.json", {"settings": settings.flat} | identity_record(start.command, None))
    return folder, state._replace(**NO_BEST), notes  # a new folder has no best.ckpt yet


def _reset_folder(folder: RunFolder, start: Start) -> tuple[int | None, TrainingState]:
    """Resets a run folder to the checkpoint that the run is resumed from.

    Returns:
        The step of a later whole checkpoint, then nothing is changed, or None; and the state that training starts from.
    """
    state, files = start.state, CheckpointFolder(folder.checkpoints)
    path = folder.checkpoints / Path(start.path).name
    name = path.name if path.exists() else Path(start.path).resolve().name  # or a link from elsewhere names it
    later = files.make_newest(name, state.step, best=state.best_step == state.step)
    if later is not None:
        return later, state
    every = start.stored.settings.get("log_every_n_steps")
    warnings = drop_rows_after(folder.path / "metrics.csv", state.step, pending=state.pending, every=every)
    (folder.path / "results.json").unlink(missing_ok=True)  # it is unfinished again
    # The best one of this very step has just got its name; a version that did not tell the step is believed.
    if state.best_step != state.step and (state.best_step is not None or state.best is None):
        warnings += filter(None, [files.check_best(state.best_step)])
    if not (folder.checkpoints / BEST).exists():
        state = state._replace(**NO_BEST)
    for warning in warnings:
        folder.say(f"warning: {warning}")
    return None, state


@contextlib.contextmanager
def lock_command(values: Mapping[str, Any]) -> Iterator[None]:
    """Locks the start of a command with resume_from=auto, until its run folder is locked and has settings.json.

    Raises:
        UserError: another process is starting the same command, or runs it.
    """
    folder = runs_folder(values)
    RunFolder.refuse_unwritable(str(folder.parent), folder.name)
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(unwritable(folder.parent, error.strerror)) from error
    lock = FileLock(folder, f".{identity(values)}.lock")
    try:
        for run in _runs(values)[0]:
            require(not is_locked(run.folder), locked(run.folder))
        yield
    finally:
        lock.release()
        with contextlib.suppress(OSError):  # a command that is refused leaves nothing behind
            for each in made:
                each.rmdir()


def _read(path: str, setting: str) -> Stored:
    """The checkpoint that a setting names."""
    try:
        return checkpoint.read(path, setting)
    except UserError as error:
        files = CheckpointFolder(Path(path).parent).newest_first() if setting == "resume_from" else []
        before = first_whole((file for file in files if file[1].name != Path(path).name), [])
        if before is None:
            raise
        raise UserError(f"{error} {before[0]} is whole: give resume_from={before[0]}.") from None


def newest(values: Mapping[str, Any]) -> tuple[tuple[Path, Stored] | None, list[str]]:
    """The newest whole checkpoint of the furthest run of this command, of this Slurm job first.

    Runs are ordered by step, then by version: the dates of files are those of a copy where folders were copied.

    Returns:
        Its path and content, None where there is none; and sentences about what cannot be read.

    Raises:
        UserError: all checkpoints of this command's runs are damaged; or it has no run, and there is one with checkpoints
            whose command is unknown.
    """
    runs, unknown = _runs(values)
    damaged = [*unknown.values()]
    for run in runs:
        if found := first_whole(run.files, damaged):
            return found, damaged
    if any(run.files for run in runs):
        raise UserError(
            f"{damaged[len(unknown)]} No checkpoint of this run is whole; start it anew by leaving resume_from=auto out."
        )
    for folder, why in unknown.items():
        whole = first_whole(CheckpointFolder(folder / "checkpoints").newest_first(), [])
        raise UserError(
            f"{why} So resume_from=auto cannot tell whether that run, which has checkpoints, is of this command: go on "
            f"with it by the same command and resume_from={whole[0] if whole else '<checkpoint>'}, or move '{folder}' "
            "elsewhere."
        )
    return None, damaged


def _runs(values: Mapping[str, Any]) -> tuple[list[_ResumableRun], dict[Path, str]]:
    """The runs of this command in the order in which they are resumed; and of other folders, why they cannot be identified.

    Where this Slurm job has runs, the others do not count.
    """
    own, job = (identity(values), former_identity(values)), os.environ.get(JOB)
    runs, unknown = [], {}
    for folder in sorted(runs_folder(values).glob("version_*")):
        files = CheckpointFolder(folder / "checkpoints")
        try:
            record = read_identity(folder)
        except UserError as error:
            if files.newest_first():  # else it was killed in its first second, say
                unknown[folder] = str(error)
            continue
        if record["identity"] in own:
            there = files.newest_first()
            number = re.fullmatch(r"version_(\d{1,9})", folder.name)  # a copy may have any other name
            version = int(number[1]) if number else UNKNOWN
            of_job = job is not None and record["job"] == job
            step = there[0][0] if there else UNKNOWN
            runs.append(_ResumableRun(of_job, step, version, folder, there))
    runs.sort(key=lambda run: run[:4], reverse=True)
    return [run for run in runs if run.of_this_job] or runs, unknown


def _has_results(path: str) -> bool:
    """Whether the run of a checkpoint has complete results; always True for a checkpoint that is in no run folder."""
    folder = RunFolder.of_checkpoint(path)
    with contextlib.suppress(OSError):
        return folder is None or (folder.path / "results.json").read_bytes().rstrip().endswith(b"}")
    return False
