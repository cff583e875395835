"""Arrow files as ViLT, METER and the first Renaissance wrote them, of every layout; and ways in which others write them.

Made from the layouts of the old programs with pandas and pyarrow alone: nothing of the package says what is in a file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa

ROWS = 7


class Foreign(NamedTuple):
    """Attributes: rows, as dictionaries; per_sample, the columns with an entry a sample; images, those with images."""

    rows: list[dict[str, Any]]
    per_sample: tuple[str, ...]
    pictures: tuple[str, ...] = ("image",)

    def samples(self) -> list[tuple[int, tuple[bytes, ...], dict[str, Any]]]:
        """What a reader has to give: row, images, values."""
        return [
            (number, tuple(row[name] for name in self.pictures), self._values(row, place))
            for number, row in enumerate(self.rows)
            for place in range(len(row[self.per_sample[0]]) if self.per_sample else 1)
        ]

    def _values(self, row: dict[str, Any], place: int) -> dict[str, Any]:
        return {
            name: value[place] if name in self.per_sample else value
            for name, value in row.items()
            if name not in self.pictures
        }


def _captioned(number: int) -> dict[str, Any]:
    return {
        "image": f"jpeg {number}".encode() * (number + 1),
        "caption": [f"caption {each} of {number}" for each in range(number % 3)],
        "image_id": f"COCO_{number}.jpg",
        "split": "train",
    }


def _genome(number: int) -> dict[str, Any]:
    sides = {side: [number * 10 + each for each in range(number % 3)] for side in ("width", "height", "x", "y")}
    row = _captioned(number)
    return {"image": row["image"], "caption": row["caption"], **sides, "image_id": str(number)}


def _questions(number: int) -> dict[str, Any]:
    asked = range(1 + number % 3)
    answers = [[f"answer {each + part}" for part in range(each + 1)] for each in asked]
    return {
        "image": f"jpeg {number}".encode(),
        "questions": [f"What is {each} of {number}?" for each in asked],
        "answers": answers,
        "answer_labels": [[int(answer.split()[1]) for answer in own] for own in answers],
        "answer_scores": [[0.25 * (part + 1) for part in range(len(own))] for own in answers],
        "image_id": 100 + number,
        "question_id": [1000 * number + each for each in asked],
        "split": "train",
    }


def _pairs(number: int) -> dict[str, Any]:
    return {
        "image_0": f"left {number}".encode(),
        "image_1": f"right {number}".encode(),
        "questions": [f"sentence {each}" for each in range(1 + number % 2)],
        "answers": ["True", "False"][: 1 + number % 2],
        "identifier": f"train-{number}-0",
    }


def _entailment(number: int) -> dict[str, Any]:
    return {
        "image": f"jpeg {number}".encode(),
        "sentences": [[f"premise {number}", f"hypothesis {each}"] for each in range(1 + number % 3)],
        "labels": list(range(1 + number % 3)),
    }


def _boxes(number: int) -> dict[str, Any]:
    return {
        "image": f"jpeg {number}".encode(),
        "sentences": [f"the {each} one" for each in range(1 + number % 3)],
        "bboxes": [[each + 0.5, 1.0, 20.25, 30.0] for each in range(2 + number % 2)],
        "labels": number % 2,
    }


def _classes(number: int) -> dict[str, Any]:
    return {"image": b"png", "label": number % 3, "image_id": f"a/{number}.png", "split": "train"}


def _paired_probe(number: int) -> dict[str, Any]:
    return {
        "image_0": f"left {number}".encode(),
        "image_1": f"right {number}".encode(),
        "texts": [f"text {number}", f"another {number}"],
        "correct": [[1, 0], [0, 1]],
        "id": f"{number}",
        "category": "Object",
        "group": "dog_cat",
    }


def _probe(number: int) -> dict[str, Any]:
    row = _paired_probe(number)
    return {
        "image": row.pop("image_0"),
        "correct": [[1, 0]],
        **{key: row[key] for key in ("texts", "id", "category", "group")},
    }


def _cut_probe(number: int) -> dict[str, Any]:
    return {**_probe(number), "bboxes": [[number + 0.5, 1.0, 20.25, 30.0]]}


def _of(make: Callable[[int], dict[str, Any]], *per_sample: str, pictures: tuple[str, ...] = ("image",)) -> Foreign:
    return Foreign([make(number) for number in range(ROWS)], per_sample, pictures)


_BOXES = _of(_boxes, "sentences")
_CAPTIONS = _of(_captioned, "caption")
FOREIGN = {
    **dict.fromkeys(("coco", "f30k", "gcc", "sbu", "captions"), _CAPTIONS),
    "vg": _of(_genome, "caption", "width", "height", "x", "y"),
    "vqa": _of(_questions, "questions", "answers", "answer_labels", "answer_scores", "question_id"),
    "nlvr2": _of(_pairs, "questions", "answers", pictures=("image_0", "image_1")),
    "snli": _of(_entailment, "sentences", "labels"),
    **dict.fromkeys(("refcoco", "refcoco+", "refcocog", "refcocog_google"), _BOXES),
    "images": _of(_classes),
    "winoground": _of(_paired_probe, pictures=("image_0", "image_1")),
    "sugarcrepe": _of(_probe),
    "aro_relation": _of(_cut_probe),
}
TEST_QUESTIONS = [row | {"answers": [], "answer_labels": [], "answer_scores": []} for row in FOREIGN["vqa"].rows]
"""A test split: nobody has its answers, and pandas gives the empty lists no type."""


def by_pandas(rows: list[dict[str, Any]]) -> pa.Table:
    """The table, as the old writers made it."""
    return pa.Table.from_pandas(pd.DataFrame(rows))


def with_index(rows: list[dict[str, Any]]) -> pa.Table:
    """The same from a data frame that was filtered or shuffled before: its index becomes a column."""
    frame = pd.DataFrame(rows).set_index(pd.Index([f"{number}" for number in range(len(rows))]))
    table = pa.Table.from_pandas(frame)
    assert "__index_level_0__" in table.column_names
    return table


def large(rows: list[dict[str, Any]]) -> pa.Table:
    """The same in types with 64-bit offsets, as other libraries write."""
    return _cast(rows, _large)


def narrow(rows: list[dict[str, Any]]) -> pa.Table:
    """The same with small numbers, and lists of a fixed size where all are equally long."""
    return _cast(rows, _narrow)


WAYS = (by_pandas, with_index, large, narrow)


def write(path: Path, table: pa.Table, rows_per_batch: int | None = None, metadata: dict | None = None) -> str:
    """Write a table, as the old writers do; `metadata` is added to what pandas says."""
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **(metadata or {})})
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as sink, pa.RecordBatchFileWriter(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows_per_batch)
    return str(path)


def _cast(rows: list[dict[str, Any]], change: Callable[[str, pa.DataType], pa.DataType]) -> pa.Table:
    table = pa.Table.from_pylist(rows)
    return pa.table({f.name: pa.array(table[f.name].to_pylist(), change(f.name, f.type)) for f in table.schema})


def _large(name: str, kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.large_list(_large(name, kind.value_type))
    return {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}.get(kind, kind)


def _narrow(name: str, kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        inner = _narrow(name, kind.value_type)
        sizes = {"bboxes": 4, "sentences": 2, "correct": 2}
        fixed = pa.types.is_list(kind.value_type) and name in sizes
        return pa.list_(pa.list_(inner.value_type, sizes[name]) if fixed else inner)
    return {pa.int64(): pa.int32(), pa.float64(): pa.float32()}.get(kind, kind)
