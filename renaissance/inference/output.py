"""The folder that `encode` writes: what it is of, and its manifest, which is complete when all parts are there."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from renaissance.core.atomic import AtomicFile, InUseError
from renaissance.core.checks import require_empty
from renaissance.core.errors import UserError, require
from renaissance.core.untrusted import read_json, refuse_special
from renaissance.data.prepare.skipped import in_words
from renaissance.runs.exported import model_files

from .features import SIDES, EncodingPlan
from .npy import counts_of, join_parts, shapes_of

MANIFEST = "manifest.json"


def identity(plan: EncodingPlan) -> dict[str, Any]:
    """What a folder of vectors is of: parts of another model, other inputs or another form are not mixed into it."""
    path, where = Path(plan.load_path), f"load_path={plan.load_path}"
    digest = hashlib.sha256()
    for each in model_files(path, where) if path.is_dir() else [path]:
        refuse_special(each, f"{where}: {each.name}")
        try:
            with open(each, "rb") as file:
                hashlib.file_digest(file, lambda: digest)
        except OSError as error:
            raise UserError(f"{where}: {each.name} cannot be read ({error.strerror}).") from error
    return {
        "model": digest.hexdigest(),
        "inputs": plan.inputs.fingerprint(),
        "samples": {side: plan.inputs.count(side) for side in plan.sides},
        "tokens": plan.tokens,
        "store": plan.store,
    }


def open_output(plan: EncodingPlan, file_type: str, about: dict[str, Any]) -> bool:
    """Makes the folder with its manifest, or finds what was begun there; True where all is made.

    Raises:
        UserError: the folder holds something else.
    """
    path, wanted = plan.output / MANIFEST, json.loads(json.dumps(identity(plan) | {"file_type": file_type}))
    found = read_json(path, dict[str, Any], f"output={path}") if path.is_file() else {}
    ours = wanted.keys() <= found.keys()
    begun = ours and any(plan.output.glob("*/*"))  # else the command ended before anything was made
    other = [key for key, value in wanted.items() if found.get(key) != value]
    require(
        not (begun and other),
        f"output={plan.output} holds vectors of another command (other {', '.join(other)}); give another folder.",
    )
    if begun:
        return found.get("complete") is True
    if not ours or {*os.listdir(plan.output)} - {MANIFEST, f".{MANIFEST}.tmp", *SIDES}:
        require_empty(plan.output)
    _write_manifest(plan.output, wanted | about | {"complete": False})
    return False


def finish(plan: EncodingPlan, file_type: str) -> dict[str, Any]:
    """Makes of the parts what was asked for, and marks the manifest as complete; one process does it.

    Returns:
        The manifest, which is not `complete` where another process is finishing it.

    Raises:
        UserError: a part is missing, or nothing is left of any side.
    """
    found = read_json(plan.output / MANIFEST, dict[str, Any])
    if found["complete"]:
        return found
    lost = sum(part.is_missing() for part in plan.parts())
    require(
        not lost, f"output={plan.output}: {lost:,} parts are not there; give the same command again, and it goes on."
    )
    folders = {side: plan.output / side for side in plan.sides}
    try:
        with AtomicFile(plan.output / "finishing", "output"):
            counts = {side: counts_of(folder) for side, folder in folders.items()}
            rows, skipped = ({side: each[place] for side, each in counts.items()} for place in (0, 1))
            lines = "; ".join(f"{side}: {in_words(kinds)}" for side, kinds in skipped.items() if kinds)
            none = f"what={','.join(plan.sides)}: nothing is left, as no image can be read ({lines})"
            require(any(rows.values()) or not lines, f"{none}; output={plan.output} is of no use, remove it.")
            if file_type == "npy":
                for folder in folders.values():
                    join_parts(folder)
            shapes = {side: shapes_of(folder, rows[side]) for side, folder in folders.items()}
            found |= {"rows": rows, "skipped": skipped, "shapes": shapes, "complete": True}
            _write_manifest(plan.output, found)
    except InUseError:
        pass
    return found


def _write_manifest(output: Path, content: dict[str, Any]) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={output} cannot be written ({error.strerror}); give another folder.") from error
    with AtomicFile(output / MANIFEST, "output") as file:
        file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
        file.commit()
