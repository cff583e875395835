"""Measures how long a step takes: starts one run of each kind, in a temporary folder, and ends it after three steps."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from renaissance.core.console import say
from renaissance.core.errors import printable
from renaissance.evaluation.runs import is_run, read_run
from renaissance.runs.metrics_table import read_rows, speeds
from renaissance.settings.keys import model_keys

from .execute import Share, last_line, launch
from .pace import Pace, kind, pace
from .plan import Configure, PlannedRun

if TYPE_CHECKING:
    from .check import Size

_STEPS = 1 + 3  # the first is slow
_LOOK = 0.2  # seconds
_PATIENCE = 1800.0  # seconds that a start and its first steps may take: weights may have to be downloaded


def measure(
    runs: Sequence[PlannedRun],
    todo: Sequence[PlannedRun],
    sizes: Mapping[str, Size],
    configure: Configure,
    share: Share,
) -> tuple[list[Pace], list[str]]:
    """The pace of one run of each kind that trains.

    Args:
        runs: of the study. todo: those whose kinds are measured. sizes: by name.
        share: of the cores and GPUs that a run will have.

    Returns:
        The paces, and a sentence for each run that could not be measured.
    """
    by_name, measured, paces, notes = {run.name: run for run in runs}, set(), [], []
    for run in todo:
        size = sizes[run.name]
        if size.settings["test_only"] or (of := kind(size.settings)) in measured:
            continue
        measured.add(of)
        say(f"measures {run.name}")
        with tempfile.TemporaryDirectory() as place:
            found = _measured(_words(run, by_name, configure, place), Path(place), share)
        if isinstance(found, Pace):
            # What it was built from is not what the run will be, which may take a checkpoint.
            paces.append(found._replace(settings=size.settings))
        else:
            notes.append(f"{run.name} is not measured: {printable(found)}")
    return paces, notes


def _words(run: PlannedRun, by_name: Mapping[str, PlannedRun], configure: Configure, place: str) -> list[str]:
    """The words of a run that starts from no result of others: with the model of the run whose checkpoint it takes."""
    known = {key: value for key, value in run.settings.items() if key not in run.needs}
    own = {"log_dir": place, "exp_name": "measured", "resume_from": None, "log_every_n_steps": 1, "max_time": None}
    return run._replace(settings=_model(run, by_name, configure) | known | own, needs={}).words({})


def _model(run: PlannedRun, by_name: Mapping[str, PlannedRun], configure: Configure) -> dict[str, Any]:
    """The settings of the model whose checkpoint a run takes, {} where it takes none."""
    if "load_path" not in run.needs:
        return {}
    source = by_name[run.needs["load_path"][0]]
    values, sources = configure(source.own_words())
    return _model(source, by_name, configure) | {key: values[key] for key in model_keys() & sources.keys()}


def _measured(words: Sequence[str], place: Path, share: Share) -> Pace | str:
    """The pace of a run that is ended after its first steps; or the last line of one that fails before."""
    log, ends = place / "log.txt", time.monotonic() + _PATIENCE
    process = launch(words, log, share, TMPDIR=str(place))
    folder = place / "measured" / "version_0"
    try:
        while process.poll() is None and time.monotonic() < ends and _steps(folder) < _STEPS:
            time.sleep(_LOOK)
    finally:
        with contextlib.suppress(ProcessLookupError):  # with its loaders, and without a checkpoint
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if not _steps(folder):
        return last_line(log)
    return pace(read_run(folder, "log_dir"))


def _steps(folder: Path) -> int:
    if not is_run(folder):
        return 0
    _, rows, _ = read_rows(folder / "metrics.csv")
    return len(speeds(rows))
