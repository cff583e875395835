"""What finished runs left: their folders read back, and the blind run that a score stands beside."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa

from renaissance.errors import UserError, first_line
from renaissance.foreign import expect, read_json

from .frames import predictions_file

_RESULTS = dict[str, dict[str, dict[str, float | None]]]  # by split, task and metric


class Run(NamedTuple):
    """What a run left in its folder. Attributes: path; record, of settings.json; results, None while unfinished."""

    path: Path
    record: dict[str, Any]
    results: dict[str, dict[str, dict[str, float | None]]] | None

    @property
    def settings(self) -> dict[str, Any]:
        return self.record.get("settings", {})

    def predictions(self, task: str, split: str) -> pd.DataFrame | None:
        """The frame of a split, None where the run has written none.

        Raises:
            UserError: the file is damaged.
        """
        path = self.path / predictions_file(task, split)
        if not path.is_file():
            return None
        try:
            return pd.read_parquet(path)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(f"'{path}' cannot be read ({first_line(error)}); evaluate that run again.") from None


class BlindRun(NamedTuple):
    """A finished run with blind=True of the same task, whose score stands beside this run's."""

    run: Run
    task: str

    def value(self, split: str, metric: str) -> float | None:
        """Its metric on a split, None where it has none."""
        return self.run.results.get(split, {}).get(self.task, {}).get(metric)


def read_blind_run(path: str, task: str, splits: Iterable[str] = ()) -> BlindRun:
    """What `blind_run` names: a run folder, or a file in it such as results.json or its predictions.

    Args:
        path: as given.
        task: of the run that it is to stand beside.
        splits: on which that run will be evaluated; () = not known.

    Raises:
        UserError: no run folder; a run that is unfinished or learned with pictures; another task or other splits.
    """
    given = Path(path)
    run = read_run(next((each for each in (given, *given.parents[:2]) if is_run(each)), given), "blind_run")
    if run.results is None:
        raise UserError(f"blind_run={path} is of a run that has no results.json yet; let it end first.")
    if run.settings.get("blind") is not True:
        raise UserError(
            f"blind_run={path} is of a run that saw its pictures; name one that was trained with blind=True."
        )
    by_task: dict[str, list[str]] = {}
    for split, tasks in run.results.items():
        for name in tasks:
            by_task.setdefault(name, []).append(split)
    if task not in by_task:
        raise UserError(f"blind_run={path} is of {', '.join(by_task) or 'no task'}, and this run is of {task}.")
    wanted = list(splits)
    if wanted and not set(wanted) & set(by_task[task]):
        raise UserError(
            f"blind_run={path} was evaluated on {', '.join(by_task[task])}, and this run will be on {', '.join(wanted)}."
        )
    return BlindRun(run, task)


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run."""
    return (path / "settings.json").is_file()


def read_run(path: Path, setting: str) -> Run:
    """What a run left in its folder.

    Args:
        path: the folder.
        setting: what named it, for the sentence of a refusal.

    Raises:
        UserError: no run folder, or a damaged file in it.
    """
    if not is_run(path):
        why = "holds no settings.json" if path.exists() else "does not exist"
        raise UserError(
            f"{setting} names {path}, which is no run folder (it {why}); give one, such as result/vqa/version_0."
        )
    results = path / "results.json"
    record = path / "settings.json"
    known = read_json(record, dict[str, Any], f"'{record}'")
    for key in ("settings", "parameters", "data"):
        expect(known.get(key, {}), dict[str, Any], f"'{record}': {key}")
    return Run(path, known, read_json(results, _RESULTS, f"'{results}'") if results.is_file() else None)
