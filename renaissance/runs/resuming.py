"""Which run a command goes on with: the furthest of its own that has a whole checkpoint.

`resume_from=auto` makes a command that may be given again and again, by a user or by a batch system: it starts a run where
there is none, goes on where one has stopped, and does nothing where it is finished.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from renaissance.core.atomic import Held, is_held, name_again, set_aside
from renaissance.core.checks import plain_path
from renaissance.core.errors import UserError
from renaissance.core.foreign import expect, read_json
from renaissance.settings.declared import SETTINGS, defaults
from renaissance.settings.keys import RESUMABLE, YOUNGER

from . import checkpoint
from .report import RunFolder

JOB = "SLURM_JOB_ID"
_FREE = RESUMABLE - {"load_path"}  # another start is another run
_PATHS = ("load_path", "tokenizer", "encoder", "image_encoder", "text_encoder")  # of those that are not free
_UNKNOWN = -1  # step of a checkpoint that cannot be read


class Found(NamedTuple):
    """A checkpoint to go on from. Attributes: path; damaged, sentences about what cannot be read beside it."""

    path: Path
    damaged: tuple[str, ...]


class _Run(NamedTuple):
    """A run of a command, in the order in which runs are gone on with. `files`: see `checkpoints`."""

    of_this_job: bool
    step: int
    version: int
    folder: Path
    files: list[tuple[int, Path]]


def identity(values: Mapping[str, Any]) -> str:
    """A hash of what makes two commands the same run: all settings but those that a resumed run may be told anew.

    It asks for what a setting means, not for how it is written (`x`, `./x` and `/home/me/x` are one path, 1 and 1.0 one
    weight), and only for those that differ from their defaults, so that a setting which is new changes no run's.

    Args:
        values: of every setting, as the command has them, before checkpoints and models answer for the others.
    """
    meant, usual = _meant(values), _meant(defaults())
    changed = (key for key, value in meant.items() if _json(value) != _json(usual.get(key)))  # 1 is not 1.0
    return _hash({key: meant[key] for key in changed if key not in _FREE})


def former_identity(values: Mapping[str, Any]) -> str:
    """The same as runs of earlier versions have it: of values as they are written."""
    return _hash({key: value for key, value in values.items() if key not in _FREE | YOUNGER})


def _hash(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(_json(values).encode()).hexdigest()[:16]


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _meant(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values in their one form."""
    meant = {key: SETTINGS[key].convert(None if value == "" else value) for key, value in values.items()}
    for key, value in meant.items():
        if key in _PATHS and value is not None:
            meant[key] = plain_path(value)
        elif key == "loss_names":
            meant[key] = {name: _number(weight) for name, weight in value.items()}
        elif key != "val_check_interval":  # there 1 is a step, and 1.0 an epoch
            meant[key] = _number(value)
    return meant


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def origin(values: Mapping[str, Any], run: Path | None) -> dict[str, Any]:
    """What settings.json keeps so that `newest` finds the run again; a run that goes on stays the one that it was.

    The identity is None where that is not known: settings.json was damaged, and a command that names no task goes on.
    """
    own: str | None = identity(values)
    try:
        before = _record(run)["identity"] if run else own
        own = own if before in (None, former_identity(values)) else before
    except UserError:
        own = own if any(values["loss_names"].values()) else None
    return {"identity": own, "job": os.environ.get(JOB)}


@contextlib.contextmanager
def alone(values: Mapping[str, Any]) -> Iterator[None]:
    """Around all that leads to the run of a command with resume_from=auto, until its folder is held and says whose it is.

    Raises:
        UserError: another process is starting the same command, or runs it.
    """
    folder = _place(values)
    RunFolder.refuse_unwritable(str(folder.parent), folder.name)
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"log_dir={folder.parent} cannot be written ({error.strerror}); give another log_dir."
        ) from error
    held = Held(folder, f".{identity(values)}.lock")
    try:
        for run in _runs(values, [])[0]:
            if is_held(run.folder):
                raise UserError(
                    f"Another process is training in '{run.folder}'; wait for it or end it, or give another exp_name."
                )
        yield
    finally:
        held.release()
        with contextlib.suppress(OSError):  # a command that is refused leaves nothing behind
            for each in made:
                each.rmdir()


def newest(values: Mapping[str, Any]) -> Found | None:
    """The newest whole checkpoint of the furthest run of this command, of this Slurm job first; None where there is none.

    Runs are ordered by step, then by version: the dates of files are those of a copy where folders were copied.

    Raises:
        UserError: runs of this command have checkpoints, and all of them are damaged; or there is none, but one that has
            checkpoints and of which it cannot be said whose it is.
    """
    damaged: list[str] = []
    runs, unknown = _runs(values, damaged)
    for run in runs:
        if (path := _first_whole((path for _, path in run.files), damaged)) is not None:
            return Found(path, tuple(damaged))
    if any(run.files for run in runs):
        raise UserError(
            f"{damaged[len(unknown)]} No checkpoint of this run is whole; start it anew by leaving resume_from=auto out."
        )
    if unknown:
        path = _first_whole((path for _, path in checkpoints(unknown[0] / "checkpoints")), []) or "<checkpoint>"
        raise UserError(
            f"{damaged[0]} So resume_from=auto cannot tell whether that run, which has checkpoints, is of this command: go on "
            f"with it by the same command and resume_from={path}, or move '{unknown[0]}' elsewhere."
        )
    return None


def _runs(values: Mapping[str, Any], damaged: list[str]) -> tuple[list[_Run], list[Path]]:
    """The runs of this command, those first that are gone on with first; and folders that may be one.

    Where this Slurm job has runs, the others do not count. Sentences about folders that may be one are added to `damaged`.
    """
    own, job = (identity(values), former_identity(values)), os.environ.get(JOB)
    runs, unknown = [], []
    for folder in sorted(_place(values).glob("version_*")):
        try:
            record = _record(folder)
        except UserError as error:
            if checkpoints(folder / "checkpoints"):  # else it was killed in its first second, say
                unknown.append(folder)
                damaged.append(str(error))
            continue
        if record["identity"] in own:
            files = checkpoints(folder / "checkpoints")
            number = re.fullmatch(r"version_(\d{1,9})", folder.name)
            of_job = job is not None and record["job"] == job
            step = files[0][0] if files else _UNKNOWN
            runs.append(_Run(of_job, step, int(number[1]) if number else _UNKNOWN, folder, files))
    runs.sort(reverse=True)
    return [run for run in runs if run.of_this_job] or runs, unknown


def _place(values: Mapping[str, Any]) -> Path:
    return Path(*(SETTINGS[key].convert(values[key]) for key in ("log_dir", "exp_name")))


def _record(run: Path) -> dict[str, Any]:
    """What a run's settings.json says of its origin.

    Raises:
        UserError: it cannot be read, or does not say.
    """
    path = run / "settings.json"
    record = read_json(path, dict[str, Any], f"'{path}'")
    known = {key: record.get(key) for key in ("identity", "job")}
    if "identity" in record and record["identity"] is None:
        raise UserError(f"'{path}' does not say of which command the run is, because it was damaged once.")
    return expect(known, dict[str, str | None], f"'{path}': ")


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Step and path of the checkpoints of a folder that a run goes on from, newest first, each under one of its names.

    A run that was killed in a save may have a newer one than last.ckpt. best.ckpt comes last, whatever its step, which is not
    looked up: it serves where all others are damaged.
    """
    found = _numbered(folder)
    last, best = folder / "last.ckpt", folder / "best.ckpt"
    if found and _same(found[0][1], last):
        found[0] = (found[0][0], last)
    elif last.exists() and not any(_same(path, last) for _, path in found):  # copied, or alone
        step, _ = _step_of(last)
        found = sorted([*found, (step, last)], key=lambda each: each[0], reverse=True)
    if best.exists() and not any(_same(path, best) for _, path in found):
        found.append((_UNKNOWN, best))
    return found


def whole_before(path: Path) -> Path | None:
    """The newest whole checkpoint beside a damaged one."""
    return _first_whole((other for _, other in checkpoints(path.parent) if other.name != path.name), [])


def make_newest(path: Path, step: int, *, best: bool) -> int | None:
    """Makes a checkpoint the newest of its run, which goes on from it: damaged ones of later steps get another name.

    Args:
        path: of the checkpoint, in the folder of its run. step: its step. best: whether it is the best one, too.

    Returns:
        The step of a later one that is whole; then nothing is changed. None where there is none.
    """
    later = [(number, other) for number, other in checkpoints(path.parent) if number > step]
    for number, other in later:
        if _first_whole([other], []) is not None:
            return number
    for rest in (*path.parent.glob(".*.tmp"), *path.parent.glob(".*.link")):  # of a run that was killed in a save
        rest.unlink(missing_ok=True)
    for number, damaged in _numbered(path.parent):
        if number > step:
            set_aside(damaged)
    # A run that was killed in a save may not have given the names that a checkpoint has by its content.
    for name in (*(["best.ckpt"] if best else []), "last.ckpt"):
        other = path.with_name(name)
        if os.path.lexists(other) and not other.is_symlink() and not other.is_file():
            set_aside(other)  # a folder, say
        if not _same(path, other):
            name_again(path, other, "log_dir")
    return None


def lose_best(folder: Path, step: int | None) -> str | None:
    """Sets best.ckpt aside where it is not what the checkpoint that a run goes on from tells of it.

    Args:
        folder: of the checkpoints. step: of the best validation so far, None where there was none.

    Returns:
        What is wrong, with what comes of it; None where nothing is.
    """
    best, anew = folder / "best.ckpt", "the next validation, if any is left, selects anew"
    if not os.path.lexists(best):
        return None if step is None else f"'{best}' is not there; {anew}"
    found, why = _step_of(best)
    if found == step:
        return None
    aside = set_aside(best)
    known = "there was no validation yet" if step is None else f"the best validation so far was at step {step}"
    why = why or f"{best} is of step {found}, and {known}."
    return f"{why} It is now {aside.name}; {anew}"


def read_unasked(path: Path) -> tuple[checkpoint.Stored | None, str]:
    """A checkpoint that no setting of the command names, or None and why it cannot be read."""
    try:
        return checkpoint.read(path), ""
    except UserError as error:
        return None, _unnamed(path, error)


def _unnamed(path: Path, error: UserError) -> str:
    return str(error).removeprefix("load_path=") if path.is_file() else f"{path} is not a file."


def _step_of(path: Path) -> tuple[int, str]:
    """The step of a checkpoint, and why it is not known."""
    stored, why = read_unasked(path)
    return (_UNKNOWN if stored is None else stored.training["step"]), why


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    """Step and path of the checkpoints that a run leaves on its way, newest first."""
    files = {
        path: re.fullmatch(rf"{checkpoint.NUMBERED}(\d{{1,18}})\.ckpt", path.name) for path in folder.glob("*.ckpt")
    }
    return sorted(((int(number[1]), path) for path, number in files.items() if number), reverse=True)


def _first_whole(paths: Iterable[Path], damaged: list[str]) -> Path | None:
    """The first whole checkpoint; a sentence about each before it is added to `damaged`."""
    for path in paths:
        try:
            checkpoint.read(path)  # not only its checksums: what is whole may still be refused
            return path
        except UserError as error:
            damaged.append(_unnamed(path, error))
    return None


def _same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return False
