"""From the rows of all processes to one frame, and from frames to files."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from renaissance.runs.report import RunFolder

FIRST = ("id", "prediction", "target", "score", "position")


def gather_rows(
    rows: Sequence[Mapping[str, Any]], gather: Callable[[Any], list[Any]], expected: int | None
) -> pd.DataFrame:
    """Bring the rows of all processes together into one frame; every process must call it.

    Args:
        rows: of this process, each with its "position".
        gather: returns one object of each process, in the order of ranks.
        expected: number of examples of the split; None where only a part is evaluated.

    Returns:
        The frame, each position once; it does not depend on the number of processes.

    Raises:
        RuntimeError: an example is missing.
    """
    by_position = {row["position"]: row for part in gather(list(rows)) for row in part}
    if expected is not None and len(by_position) != expected:
        raise RuntimeError(f"{len(by_position):,} examples came together of a split that has {expected:,}")
    ordered = [by_position[position] for position in sorted(by_position)]
    names = dict.fromkeys([*FIRST, *(name for row in ordered for name in row)])
    columns = {name: [row.get(name) for row in ordered] for name in names}
    # Beside a hidden value pandas would turn whole numbers into fractions.
    types = {name: object for name, values in columns.items() if None in values or not values} | {"score": float}
    return pd.DataFrame({name: pd.Series(values, dtype=types.get(name)) for name, values in columns.items()})


def predictions_file(task: str, split: str) -> str:
    """The file of a split's frame, below the run folder."""
    return f"predictions/{task}_{split}.parquet"


def write_predictions(folder: RunFolder, task: str, split: str, frame: pd.DataFrame) -> None:
    """Write the frame of a split: id, prediction, target, score, position, then what the task adds.

    A column has one type: ids are whole numbers or all text, a hidden target or score is null.
    """
    names = [*FIRST, *(name for name in frame if name not in FIRST)]
    columns = {name: _column(name, frame[name].tolist()) for name in names}
    if pa.types.is_null(columns["target"].type):  # all hidden: still a column of answers
        columns["target"] = columns["target"].cast(columns["prediction"].type)
    content = io.BytesIO()
    pq.write_table(pa.table(columns), content)
    folder.write(predictions_file(task, split), content.getvalue())


def _column(name: str, values: list[Any]) -> pa.Array:
    """An array of one type: that of the values, else text (numbers beside words, lists beside numbers)."""
    try:
        # A prediction that is NaN is not hidden.
        return pa.array(values, pa.float64() if name == "score" else None, from_pandas=name != "prediction")
    except (pa.ArrowException, OverflowError):
        return pa.array([None if value is None or value != value else _text(value) for value in values], pa.string())


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | tuple | dict) else str(value)
