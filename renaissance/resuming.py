"""Which run a command goes on with: the newest of its own that has a whole checkpoint.

`resume_from=auto` makes a command that may be given again and again, by a user or by a batch system: it starts a run where
there is none, goes on where one has stopped, and does nothing where it is finished.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from . import checkpoint
from .atomic import name_again
from .errors import UserError
from .keys import RESUMABLE

JOB = "SLURM_JOB_ID"
_FREE = RESUMABLE - {"load_path"}  # another start is another run


class Found(NamedTuple):
    """A checkpoint to go on from. Attributes: path; damaged, sentences about newer ones that cannot be read."""

    path: Path
    damaged: tuple[str, ...]


def identity(values: Mapping[str, Any]) -> str:
    """A hash of what makes two commands the same run: all settings but those that a resumed run may be told anew.

    Args:
        values: of every setting, as the command has them, before checkpoints and models answer for the others.
    """
    fixed = {key: value for key, value in values.items() if key not in _FREE}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True, default=str).encode()).hexdigest()[:16]


def origin(values: Mapping[str, Any], run: Path | None) -> dict[str, Any]:
    """What settings.json keeps so that `newest` finds the run again; a run that goes on stays the one that it was."""
    before = _read(run / "settings.json") if run else {}
    return {"identity": before.get("identity", identity(values)), "job": os.environ.get(JOB)}


def newest(values: Mapping[str, Any]) -> Found | None:
    """The newest whole checkpoint of a run of this command, of this Slurm job first; None where there is none.

    Raises:
        UserError: a run of this command has checkpoints, and all of them are damaged.
    """
    runs, own = [], identity(values)
    for settings in Path(values["log_dir"], values["exp_name"]).glob("version_*/settings.json"):
        record = _read(settings)
        if record.get("identity") == own and (files := checkpoints(settings.parent)):
            of_this_job = record.get("job") is not None and record["job"] == os.environ.get(JOB)
            runs.append((of_this_job, _written(files[0]), files))
    if not runs:
        return None
    damaged: list[str] = []
    if (path := _first_whole(max(runs)[2], damaged)) is not None:
        return Found(path, tuple(damaged))
    raise UserError(f"{damaged[0]} No checkpoint of this run is whole; start it anew by leaving resume_from=auto out.")


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints that a run goes on from, newest first; a run killed in a save may have a newer one than last.ckpt."""
    numbered, last = _numbered(run), run / "checkpoints" / "last.ckpt"
    if numbered and _same(numbered[0], last):
        return [last, *numbered[1:]]
    return [*numbered, *([last] if last.exists() and not any(_same(path, last) for path in numbered) else [])]


def whole_before(path: Path) -> Path | None:
    """The newest whole checkpoint beside a damaged one."""
    return _first_whole([other for other in checkpoints(path.parent.parent) if other.name != path.name], [])


def make_newest(path: Path, step: int, *, best: bool) -> int | None:
    """Makes a checkpoint the newest of its run, which goes on from it: damaged ones of later steps get another name.

    Args:
        path: of the checkpoint. step: its step. best: whether it is the best one, too.

    Returns:
        The step of a later one that is whole; then nothing is changed. None where there is none.
    """
    run = path.parent.parent
    later = [other for other in _numbered(run) if int(other.stem.removeprefix(checkpoint.NUMBERED)) > step]
    if (whole := _first_whole(later, [])) is not None:
        return int(whole.stem.removeprefix(checkpoint.NUMBERED))
    for rest in (*path.parent.glob(".*.tmp"), *path.parent.glob(".*.link")):  # of a run that was killed in a save
        rest.unlink(missing_ok=True)
    for damaged in later:
        damaged.rename(damaged.with_name(f"{damaged.name}.damaged"))
    best_path = path.with_name("best.ckpt")
    if later and best_path.exists() and _step_of(best_path) > step:
        best_path.unlink()  # of a validation that is still to come
    # A run that was killed in a save may not have given the names that a checkpoint has by its content.
    for name in (*(["best.ckpt"] if best else []), "last.ckpt"):
        if not _same(path, path.with_name(name)):
            name_again(path, path.with_name(name), "log_dir")
    return None


def _step_of(path: Path) -> float:
    try:
        return checkpoint.read(path).training["step"]
    except UserError:
        return math.inf


def _numbered(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob(f"{checkpoint.NUMBERED}*.ckpt"), reverse=True)


def _first_whole(paths: Iterable[Path], damaged: list[str]) -> Path | None:
    """The first whole checkpoint; a sentence about each before it is added to `damaged`."""
    for path in paths:
        try:
            return checkpoint.check(path)
        except UserError as error:
            damaged.append(str(error))
    return None


def _written(path: Path) -> int:
    """When a file was written; 0 where a run that goes on has removed it meanwhile."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except FileNotFoundError:
        return False


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # of a run that has been killed in its first second, say
    return content if isinstance(content, dict) else {}
