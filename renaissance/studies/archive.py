"""A study as one file that another lab can read, and run again: `study=<name>.zip`.

<name>.yaml                 the study file
table.md, table.csv, ...    where metrics are named
versions.json               of each package, with the runs that it made
runs/<exp_name>/            settings.json, results.json, results_details.json, metrics.csv of each run that is done
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from renaissance.core.atomic import write_whole
from renaissance.core.errors import require
from renaissance.core.public import public, public_command
from renaissance.core.untrusted import read_bytes, read_json

from .file import ARCHIVE, VERSIONS, study_file
from .layouts import FORMS
from .spec import Study
from .state import DONE, RunState
from .table import make_table

_FILES = ("results.json", "results_details.json", "metrics.csv")
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest of a zip file: the same study is the same file


def archive(study: Study, path: str, states: Iterable[RunState], folder: Path) -> str:
    """Writes the archive into the folder of the study; returns its name.

    Args:
        path: of the study file.

    Raises:
        UserError: no run is done, or as `make_table`.
    """
    states = [*states]
    done = [state for state in states if state.kind == DONE]
    require(done, f"study={path}: no run is done yet; action=run runs them.")
    name, content = study_file(path)
    files = {name: content}
    if study.metrics:
        table = make_table(study, states)
        files |= {f"table{ending}": write(table).encode() for ending, write in FORMS.items()}
    versions: dict[str, dict[str, list[str]]] = {}
    for state in done:
        record = _record(read_json(state.folder / "settings.json", dict[str, Any]))
        for package, version in record.get("versions", {}).items():
            if package != "command":
                versions.setdefault(package, {}).setdefault(str(version), []).append(state.run.name)
        files[f"runs/{state.run.name}/settings.json"] = _json(record)
        found = {each: state.folder / each for each in _FILES}
        files |= {f"runs/{state.run.name}/{each}": read_bytes(at) for each, at in found.items() if at.is_file()}
    files[VERSIONS] = _json(versions)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as made:
        for each, text in files.items():
            made.writestr(zipfile.ZipInfo(each, _DATE), text, zipfile.ZIP_DEFLATED)
    write_whole(folder / f"{study.name}{ARCHIVE}", stream.getvalue(), "log_dir")
    return f"{study.name}{ARCHIVE}"


def _record(record: Mapping[str, Any]) -> dict[str, Any]:
    """settings.json without the folders of this disk."""
    versions = dict(record.get("versions") or {})
    if "command" in versions:
        versions["command"] = public_command(str(versions["command"]))
    return dict(record) | {"settings": public(record.get("settings") or {}), "versions": versions}


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True) + "\n").encode()
