"""Reads the folders of finished runs, and the blind run that a score is compared with."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from renaissance.core.errors import UserError, first_line, require
from renaissance.core.untrusted import read_json

from .frames import predictions_file
from .intervals import ASKED, GROUP

RUNS = "runs"  # the folder of a study that its run folders lie in, as <exp_name>/version_N
MOST_ROWS = 20_000_000  # of a file of predictions
_Results = dict[str, dict[str, dict[str, float | None]]]


class _Record(TypedDict):
    """Parts of settings.json; earlier versions wrote fewer."""

    settings: dict[str, Any] | None
    sources: dict[str, str] | None
    versions: dict[str, str] | None
    parameters: dict[str, dict[str, int]] | None
    data: dict[str, dict[str, dict[str, Any]]] | None
    steps: int | None


class _Detail(TypedDict):
    """What results_details.json says of one metric."""

    method: str | None
    exact: bool | None
    interval: list[float] | None
    baseline: dict[str, float | None] | None
    examples: int | None
    eval_limit: dict[str, int] | None
    stopped_early: dict[str, int] | None


_Details = dict[str, dict[str, dict[str, _Detail]]]


class FinishedRun(NamedTuple):
    """What a run left in its folder.

    Attributes:
        path: the folder. record: of settings.json.
        results: of results.json, None while unfinished. details: of results_details.json, {} where there is none.
    """

    path: Path
    record: dict[str, Any]
    results: _Results | None
    details: _Details

    @property
    def settings(self) -> dict[str, Any]:
        return self.record.get("settings", {})

    @property
    def data(self) -> dict[str, dict[str, dict[str, Any]]]:
        """What the content of the files of each split is known by."""
        return {split: _content(files) for split, files in self.record.get("data", {}).items()}

    def unlike(self, split: str, data: Mapping[str, Mapping[str, Any]], limit: int | None) -> str | None:
        """Why its score on a split does not stand beside that of another run; None where it does.

        Args:
            data, limit: fingerprints of the files of the split, and `eval_limit`, of the other run.
        """
        if (theirs := self.data.get(split)) is not None and theirs != _content(data):
            return f"was evaluated on other data of {split} ({', '.join(theirs)})"
        if (own := self.settings.get("eval_limit")) != limit:
            return f"was evaluated with eval_limit={own}, this run with eval_limit={limit}"
        return None

    def unlike_run(self, other: FinishedRun, split: str) -> str | None:
        """`unlike` of another run; None where one of them does not say what it was evaluated on."""
        data = other.data.get(split, self.data.get(split, {}))
        return self.unlike(split, data, other.settings.get("eval_limit"))

    @property
    def stopped_early(self) -> int | None:
        """The step after which training stopped early; None where it did not."""
        metrics = (each for tasks in self.details.values() for task in tasks.values() for each in task.values())
        return next((early.get("step") for each in metrics if (early := each.get("stopped_early"))), None)

    @property
    def tags(self) -> list[str]:
        """The names that the command gave it."""
        tags = self.settings.get("tags")
        return [str(tag) for tag in tags] if isinstance(tags, list) else []

    def value(self, task: str, split: str, metric: str) -> float | None:
        """A metric, None if it has none."""
        return self.results.get(split, {}).get(task, {}).get(metric)

    def predictions(self, task: str, split: str) -> pd.DataFrame | None:
        """Ids, scores, groups and what was asked of the frame of a split, None where the run has written none.

        Raises:
            UserError: the file is damaged.
        """
        path = self.path / predictions_file(task, split)
        if not os.path.isfile(path):
            return None
        try:
            file = pq.ParquetFile(path)
            rows = file.metadata.num_rows
            require(rows <= MOST_ROWS, f"'{path}' has {rows:,} rows; at most {MOST_ROWS:,} are read.")
            wanted = ("id", "score", GROUP, *ASKED)
            frame = file.read([name for name in wanted if name in file.schema_arrow.names]).to_pandas()
            return frame.assign(id=frame["id"].astype(str), score=frame["score"].astype(float))
        except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
            what = f"no column {error}" if isinstance(error, KeyError) else first_line(error)
            raise UserError(f"'{path}' cannot be read ({what}); evaluate that run again.") from None


def _content(files: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Fingerprints of files but for when they were written."""
    return {file: {key: value for key, value in prints.items() if key != "mtime_ns"} for file, prints in files.items()}


def find_run(path: str, setting: str) -> FinishedRun:
    """The run of a folder, or of a file in one such as results.json or its predictions. Raises UserError as `read_run`."""
    given = Path(path)
    return read_run(next((each for each in (given, *given.parents[:2]) if is_run(each)), given), setting)


def read_blind_run(path: str, task: str, splits: Iterable[str] = ()) -> FinishedRun:
    """What `blind_run` names: a run folder, or a file in it such as results.json or its predictions.

    Args:
        path: as given.
        task: of the run that it is to stand beside.
        splits: on which that run will be evaluated; () = not known.

    Raises:
        UserError: no run folder; a run that is unfinished or learned with images; another task or other splits.
    """
    run = find_run(path, "blind_run")
    require(run.results is not None, f"blind_run={path} is of a run that has no results.json yet; let it end first.")
    blind = run.settings.get("blind") is True
    require(blind, f"blind_run={path} is of a run that saw its images; name one that was trained with blind=True.")
    there = ", ".join(dict.fromkeys(name for tasks in run.results.values() for name in tasks)) or "no task"
    evaluated, wanted = [split for split, tasks in run.results.items() if task in tasks], list(splits)
    require(evaluated, f"blind_run={path} is of {there}, and this run is of {task}.")
    require(
        not wanted or set(wanted) & set(evaluated),
        f"blind_run={path} was evaluated on {', '.join(evaluated)}, and this run will be on {', '.join(wanted)}.",
    )
    return run


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run."""
    return os.path.isfile(path / "settings.json")


def read_run(path: Path, setting: str) -> FinishedRun:
    """What a run left in its folder.

    Args:
        path: the folder.
        setting: what named it, for the sentence of a refusal.

    Raises:
        UserError: no run folder, or a damaged file in it.
    """
    if not is_run(path):
        why = "holds no settings.json" if os.path.exists(path) else "does not exist"
        inside = f"{path}/*" if os.path.isdir(path) and any(map(is_run, path.glob("*"))) else "result/vqa/version_0"
        raise UserError(f"{setting} names {path}, which is no run folder (it {why}); give one, such as {inside}.")
    record = read_json(path / "settings.json", _Record)
    results, details = (
        read_json(path / name, hint) if os.path.isfile(path / name) else None
        for name, hint in (("results.json", _Results), ("results_details.json", _Details))
    )
    return FinishedRun(path, {key: value for key, value in record.items() if value is not None}, results, details or {})
