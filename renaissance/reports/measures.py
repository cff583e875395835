"""What the predictions of a run say beyond its metrics: confusions, scores of categories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from renaissance.core.errors import UserError, first_line, require
from renaissance.evaluation.frames import FIRST, predictions_file
from renaissance.evaluation.intervals import GROUP, interval
from renaissance.evaluation.runs import MOST_ROWS, FinishedRun

MOST_CLASSES = 10  # of a confusion matrix; the others are one
MOST_CATEGORIES = 40  # values of a column that is taken for one of categories
SHOWN_CATEGORIES = 20


class Confusion(NamedTuple):
    """Attributes: names, of classes; counts (right,guess), the others last; merged, how many classes these are."""

    names: list[str]
    counts: np.ndarray
    merged: int


class Category(NamedTuple):
    """Examples with one value of a column. Attributes: name; examples; score, their mean; interval of 95 %, or None."""

    name: str
    examples: int
    score: float
    interval: tuple[float, float] | None


def read_frame(run: FinishedRun, task: str, split: str) -> pd.DataFrame | None:
    """The predictions of a split that have a score, all columns; None where there are none.

    Raises:
        UserError: the file is damaged.
    """
    path = run.path / predictions_file(task, split)
    if not path.is_file():
        return None
    try:
        file = pq.ParquetFile(path)
        rows = file.metadata.num_rows
        require(rows <= MOST_ROWS, f"'{path}' has {rows:,} rows; at most {MOST_ROWS:,} are read.")
        frame = file.read().to_pandas()
        missing = [name for name in FIRST if name not in frame]
        require(not missing, f"'{path}' has no column {', '.join(missing)}; evaluate that run again.")
        known = frame[frame["score"].astype(float).notna()].reset_index(drop=True)
        if "confidence" in known:  # of a task of others it may be anything
            sure = pd.to_numeric(known["confidence"], errors="coerce")
            known["confidence"] = sure.where(np.isfinite(sure))
        return known.astype({"position": int}) if len(known) else None
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise UserError(f"'{path}' cannot be read ({first_line(error)}); evaluate that run again.") from None


def headline_split(runs: Iterable[FinishedRun], task: str) -> str | None:
    """The split that is looked into: that with predictions of most runs; test, else any but val; None without results."""
    names = [(run, split) for run in runs for split, tasks in (run.results or {}).items() if task in tasks]
    known = [(run, split) for run, split in names if (run.path / predictions_file(task, split)).is_file()]
    counts = Counter(split for _, split in known or names)
    return min(counts, key=lambda name: (-counts[name], name != "test", name == "val"), default=None)


def confusion(frame: pd.DataFrame) -> Confusion | None:
    """Which answer is taken for which; None where answers are no names, such as numbers of boxes."""
    if not _are_names(frame["target"]) or not _are_names(frame["prediction"]):
        return None
    known = frame.dropna(subset="target")
    frequent = pd.concat([known["target"], known["prediction"]]).value_counts()
    names = sorted(frequent.index[: MOST_CLASSES + (len(frequent) == MOST_CLASSES + 1)])
    merged = len(frequent) - len(names)
    counts = np.zeros((len(names) + (merged > 0),) * 2, int)
    # The others have the place -1, the last.
    np.add.at(counts, tuple(pd.Index(names).get_indexer(known[column]) for column in ("target", "prediction")), 1)
    return Confusion(names, counts, merged)


def categories(frame: pd.DataFrame) -> dict[str, list[Category]]:
    """The mean score by each column of categories and by the right answer, the most frequent values first."""
    beside = [name for name in frame if name not in (*FIRST, GROUP, "confidence", "image", "text", "task")]
    found = {}
    for name in ("target", *beside):
        if not (_are_names(frame[name]) or pd.api.types.is_bool_dtype(frame[name]) or name == "candidates"):
            continue
        counts = frame[name].value_counts()
        if not 2 <= len(counts) <= MOST_CATEGORIES:
            continue
        columns = [column for column in ("score", GROUP) if column in frame]
        found["right answer" if name == "target" else name.replace("_", " ")] = [
            Category(str(value), int(count), float(part["score"].mean()), interval([part]))
            for value, count in counts.head(SHOWN_CATEGORIES).items()
            for part in [frame.loc[frame[name] == value, columns]]
        ]
    return found


def _are_names(column: pd.Series) -> bool:
    known: Sequence[object] = column.dropna().tolist()
    return bool(known) and all(isinstance(value, str) for value in known)
