"""The folder that `encode` writes: what it is of, and its manifest, which is complete when all parts are there."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from renaissance.core.atomic import AtomicFile, InUseError
from renaissance.core.checks import require_empty
from renaissance.core.errors import UserError, require
from renaissance.core.untrusted import read_json
from renaissance.data.prepare.skipped import in_words
from renaissance.runs.exported import model_digest

from .features import SIDES, EncodingPlan
from .npy import counts_of, join_parts, shapes_of

MANIFEST = "manifest.json"


def identity(plan: EncodingPlan) -> dict[str, Any]:
    """What a folder of vectors is of: parts of another model, other inputs or another form are not mixed into it."""
    return {
        "model": model_digest(plan.load_path),
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


def finish(plan: EncodingPlan, file_type: str, *, made: bool) -> dict[str, Any]:
    """Makes of the parts what was asked for, and marks the manifest as complete; one process does it.

    Args:
        made: whether this command made the folder, which goes again where nothing is left.

    Returns:
        The manifest, which is not `complete` where another process is finishing it.

    Raises:
        UserError: a part is missing, or nothing is left of any side; then what was written is removed.
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
            empty = lines and not any(rows.values())
            if not empty:
                if file_type == "npy":
                    for folder in folders.values():
                        join_parts(folder)
                shapes = {side: shapes_of(folder, rows[side]) for side, folder in folders.items()}
                found |= {"rows": rows, "skipped": skipped, "shapes": shapes, "complete": True}
                _write_manifest(plan.output, found)
    except InUseError:
        return found
    if empty:
        _remove(plan, made)
        raise UserError(f"what={','.join(plan.sides)}: no image can be read, so nothing is written ({lines}).")
    return found


def _remove(plan: EncodingPlan, made: bool) -> None:
    """Removes parts and manifest, and the folders that are empty then."""
    for path in [*(part.target for part in plan.parts()), plan.output / MANIFEST]:
        path.unlink(missing_ok=True)
    for folder in [*(plan.output / side for side in plan.sides), *([plan.output] if made else [])]:
        with suppress(OSError):  # it holds something else
            folder.rmdir()


def _write_manifest(output: Path, content: dict[str, Any]) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={output} cannot be written ({error.strerror}); give another folder.") from error
    with AtomicFile(output / MANIFEST, "output") as file:
        file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
        file.commit()
