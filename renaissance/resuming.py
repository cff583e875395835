"""Which run a command goes on with: the newest of its own that has a whole checkpoint.

`resume_from=auto` makes a command that may be given again and again, by a user or by a batch system: it starts a run where
there is none, goes on where one has stopped, and does nothing where it is finished.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from . import checkpoint
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
    runs = []
    for settings in Path(values["log_dir"], values["exp_name"]).glob("version_*/settings.json"):
        record = _read(settings)
        if record.get("identity") == identity(values) and (files := checkpoints(settings.parent)):
            of_this_job = record.get("job") is not None and record["job"] == os.environ.get(JOB)
            runs.append((of_this_job, files[0].stat().st_mtime_ns, files))
    if not runs:
        return None
    files = max(runs)[2]
    damaged = []
    for path in files:
        try:
            checkpoint.check(path)
        except UserError as error:
            damaged.append(str(error))
        else:
            return Found(path, tuple(damaged))
    raise UserError(f"{damaged[0]} No checkpoint of this run is whole; start it anew by leaving resume_from=auto out.")


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints that a run goes on from, newest first."""
    folder = run / "checkpoints"
    numbered = sorted(folder.glob(f"{checkpoint.NUMBERED}*.ckpt"), reverse=True)
    last = folder / "last.ckpt"
    return [*([last] if last.exists() else []), *(path for path in numbered if not _same(path, last))]


def whole_before(path: Path) -> Path | None:
    """The newest whole checkpoint beside a damaged one."""
    for other in checkpoints(path.parent.parent):
        if other.name != path.name:
            try:
                checkpoint.check(other)
            except UserError:
                continue
            return other
    return None


def _same(path: Path, other: Path) -> bool:
    return other.exists() and path.samefile(other)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # of a run that has been killed in its first second, say
    return content if isinstance(content, dict) else {}
