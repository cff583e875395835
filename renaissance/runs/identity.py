"""The identity of a run: a hash of the settings that a resumed run may not change, stored in settings.json."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from renaissance.core.checks import plain_path
from renaissance.core.errors import UserError
from renaissance.core.registry import FIRST_TASKS
from renaissance.core.untrusted import expect, read_json
from renaissance.settings.declared import SETTINGS, defaults
from renaissance.settings.keys import YOUNGER, marked

JOB = "SLURM_JOB_ID"


def identity(values: Mapping[str, Any]) -> str:
    """Hash of all settings but those that a resumed run may change.

    It depends on what a setting means, not on how it is written (`x`, `./x` and `/home/me/x` are one path, 1 and 1.0 one
    weight), and only on values that differ from their defaults, so a new setting changes the identity of no earlier run.

    Args:
        values: every setting as the command has it, before checkpoints and models fill in the others.
    """
    canonical, usual = _canonical(values), _canonical(defaults())
    return _hash(
        {key: value for key, value in canonical.items() if _json(value) != _json(usual.get(key))}
    )  # 1 is not 1.0


def former_identity(values: Mapping[str, Any]) -> str:
    """The identity as earlier versions computed it: of the values as they are written."""
    known = {key: values[key] for key in values.keys() - _changeable() - YOUNGER}
    if isinstance(known.get("loss_names"), Mapping):  # of the tasks that there were
        weights = known["loss_names"].items()
        known["loss_names"] = {name: weight for name, weight in weights if weight or name in FIRST_TASKS}
    return _hash(known)


def identity_record(values: Mapping[str, Any], run: Path | None) -> dict[str, Any]:
    """The part of settings.json by which `start.find_start` finds the run again; a resumed run keeps its identity.

    The identity is None where it is not known: settings.json was damaged, and a command that names no task resumes the run.
    """
    current: str | None = identity(values)
    try:
        before = read_identity(run)["identity"] if run else current
        current = current if before in (None, former_identity(values)) else before
    except UserError:
        current = current if any(values["loss_names"].values()) else None
    return {"identity": current, "job": os.environ.get(JOB)}


def read_identity(run: Path) -> dict[str, Any]:
    """{"identity", "job"} of a run folder's settings.json; "identity" is None in files older than it.

    Raises:
        UserError: it cannot be read, or its identity was lost.
    """
    path = run / "settings.json"
    record = read_json(path, dict[str, Any])
    known = {key: record.get(key) for key in ("identity", "job")}
    if "identity" in record and record["identity"] is None:
        raise UserError(f"'{path}' does not say of which command the run is, because it was damaged once.")
    return expect(known, dict[str, str | None], f"'{path}': ")


def runs_folder(values: Mapping[str, Any]) -> Path:
    """The folder that the run folders of a command lie in."""
    return Path(*(SETTINGS[key].convert(values[key]) for key in ("log_dir", "exp_name")))


def folders_of(values: Mapping[str, Any]) -> list[Path]:
    """The run folders of a command, oldest first; those that say nothing of their command are left out."""
    own, found = (identity(values), former_identity(values)), []
    for folder in sorted(runs_folder(values).glob("version_*")):
        with contextlib.suppress(UserError):
            if read_identity(folder)["identity"] in own:
                found.append(folder)
    return found


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> set[str]:
    """The settings that two runs have otherwise, of those that a resumed run may not change; what is not allowed differs."""
    known = SETTINGS.keys() & first.keys() & second.keys()
    odd = {key for key in known if SETTINGS[key].problem(first[key]) or SETTINGS[key].problem(second[key])}
    one, two = (_canonical({key: each[key] for key in known - odd}) for each in (first, second))
    return odd | {key for key in one if _json(one[key]) != _json(two[key])}


def _changeable() -> frozenset[str]:
    return marked("changeable") - {"load_path"}  # another load_path is another run


def _hash(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(_json(values).encode()).hexdigest()[:16]


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _canonical(values: Mapping[str, Any]) -> dict[str, Any]:
    """Each value that a resumed run may not change, in one form, however it was written."""
    canonical = {}
    for key in values.keys() - _changeable():
        value = None if values[key] == "" else SETTINGS[key].convert(values[key])
        if SETTINGS[key].check.is_path and isinstance(value, str):
            value = plain_path(value)
        elif key == "loss_names":
            value = {name: _number(weight) for name, weight in value.items() if weight or name in FIRST_TASKS}
        elif key != "val_check_interval":  # there 1 is a step, and 1.0 an epoch
            value = _number(value)
        canonical[key] = value
    return canonical


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
