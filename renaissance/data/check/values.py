"""What the values of a file must be, apart from its pictures: labels in range, boxes finite, ids that occur once.

`data.arrow.check_file` has already made sure of types and of lists that belong together. Values are looked at a record
batch at a time, as arrays; no Python object is made of one that is right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from renaissance.data import dataset_specs
from renaissance.data.arrow import schema_metadata
from renaissance.data.identity import image_key

from .files import CheckedFile
from .lengths import Lengths, Measure

_DEPTH = {"text": 0, "integer": 0, "texts": 1, "integers": 1}  # lists around a value; of the other kinds 2
_ONCE = ("image_id", "question_id", "ref_id", "identifier", "identifiers")
# Pictures of these have a number that is the same in every data set made of them.
COLLECTIONS = {
    **dict.fromkeys(("coco", "vqa", "refcoco", "refcoco+", "refcocog", "refcocog_google"), "COCO"),
    **dict.fromkeys(("f30k", "snli"), "Flickr30k"),
}
# How a collection names its files, in any folder and of any format: other names, such as NLVR's, hold other numbers.
_NAMES = {
    "COCO": r"^(?:.*/)?(?:COCO_(?:train|val|test)[0-9]{4}_)?(?P<number>[0-9]{1,18})(?:\.[A-Za-z]+)?$",
    "Flickr30k": r"^(?:.*/)?(?P<number>[0-9]{1,18})(?:\.[A-Za-z]+)?$",
}

# What is wrong, whether it is so at each place, the row of each place, and what is there.
_Fault = tuple[str, np.ndarray, np.ndarray, Sequence]


class Spread:
    """A column without its lists.

    Attributes:
        counts: entries of each list, outermost first: (rows,), then (entries of all rows,).
        leaves: (n,) the values.
        plain: whether there are no lists in the column.
    """

    def __init__(self, column: pa.Array, kind: str):
        self.plain = not hasattr(column.type, "value_type")
        self.counts: list[np.ndarray] = []
        for _ in range(_DEPTH.get(kind, 2)):
            if hasattr(column.type, "value_type"):
                self.counts.append(np.asarray(pc.fill_null(pc.list_value_length(column), 0)).astype(np.int64))
                column = column.flatten()
            else:  # one value where a list of them is expected
                self.counts.append(np.ones(len(column), np.int64))
        self.leaves = column

    def rows(self, depth: int = 2) -> np.ndarray:
        """Return the row of each value, or of each list that is `depth` levels down."""
        rows = np.arange(len(self.counts[0] if self.counts else self.leaves))
        for counts in self.counts[:depth]:
            rows = np.repeat(rows, counts)
        return rows

    def numbers(self) -> np.ndarray:
        """Return the values as float64, null as NaN."""
        return np.asarray(self.leaves.cast(pa.float64()))


class Values:
    """Checks the values of one file, and writes what it finds into it: problems, notes, texts, ids.

    Args:
        file: takes what is found.
        measure: says how long texts are.
        lengths: counts them.

    Attributes:
        several: whether a picture comes in several rows: as a row is one reference to an object, or one caption in a plain
            column.
    """

    def __init__(self, file: CheckedFile, measure: Measure, lengths: Lengths):
        self._file, self._measure, self._lengths = file, measure, lengths
        self._spec = file.spec
        self.several = self._spec.sample_kind == dataset_specs.BOXES
        labels = len(schema_metadata(str(file.path)).get("labels") or ())
        self._ranges = {  # column -> least, most
            dataset_specs.QUESTIONS: {"answer_labels": (0, (labels or dataset_specs.VQA_LABELS) - 1)},
            dataset_specs.ENTAILMENT: {"labels": (0, len(dataset_specs.SNLI_LABELS) - 1)},
            dataset_specs.CLASSES: {"label": (0, labels - 1 if labels else math.inf)},
        }.get(self._spec.sample_kind, {})
        self._ids: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        self._numbers: list[np.ndarray] = []

    def look(self, batch: pa.RecordBatch, first: int) -> None:
        """Check a record batch whose first row has number `first` in the file."""
        spread = {
            column.name: Spread(batch[column.name], column.kind)
            for column in self._spec.columns
            if column.kind != dataset_specs.IMAGE.kind and column.name in batch.schema.names
        }
        for kind, wrong, rows, there in self._faults(spread):
            for place in np.flatnonzero(wrong).tolist():
                self._file.problems.add(kind, f"row {first + rows[place]}: {there[place]}")
        if self._spec.samples:
            self.several |= spread[self._spec.samples].plain
            self._texts(spread[self._spec.samples], first)
        self._collect(spread, first)

    def finish(self) -> None:
        """Check, after the last batch, what is to occur once in the file."""
        for name, parts in self._ids.items():
            keys, rows = (np.concatenate(each) for each in zip(*parts, strict=True))
            order = np.argsort(keys, kind="stable")
            for place in np.sort(order[1:][np.diff(keys[order]) == 0]).tolist():
                self._file.problems.add(f"{name} that occurred before", f"row {rows[place]}")
        self._file.ids = np.concatenate([np.empty(0, np.int64), *self._numbers])

    def _faults(self, spread: dict[str, Spread]) -> Iterator[_Fault]:
        """Yield what every check of a value says."""
        sample_kind = self._spec.sample_kind
        for name, (least, most) in self._ranges.items():
            numbers = spread[name].numbers()
            wrong = ~((numbers >= least) & (numbers <= most))  # NaN is in no range
            yield f"{name} outside {least} to {most}", wrong, spread[name].rows(), numbers
        if sample_kind == dataset_specs.QUESTIONS and "test" not in self._file.split:
            answers = spread["answers"]
            yield "rows without answers", answers.counts[0] == 0, answers.rows(0), answers.counts[0]
        if sample_kind == dataset_specs.IMAGE_PAIRS:
            answers = np.array(spread["answers"].leaves.to_pylist(), object)
            wrong = ~np.isin(answers, ("True", "False"))
            yield "answers that are neither True nor False", wrong, spread["answers"].rows(), answers
        if sample_kind == dataset_specs.BOXES:
            yield from self._boxes(spread["bboxes"])

    def _boxes(self, boxes: Spread) -> Iterator[_Fault]:
        """Yield what is wrong with boxes; count the flat ones."""
        numbers = boxes.numbers().reshape(-1, 4)
        finite = np.isfinite(numbers).all(axis=1)
        yield "boxes that are not finite", ~finite, boxes.rows(1), numbers
        for box in numbers[finite & (numbers[:, 2:] <= 0).any(axis=1)].tolist():
            self._file.notes.add("boxes without width or height", str(box))

    def _texts(self, texts: Spread, first: int) -> None:
        """Count the texts, those with nothing in them, and how long they are."""
        strings = pc.fill_null(texts.leaves.cast(pa.large_string()), "")
        self._file.texts += int(texts.counts[0].sum())
        empty = np.asarray(pc.equal(pc.binary_length(pc.utf8_trim_whitespace(strings)), 0))
        for row in texts.rows()[empty].tolist():
            self._file.notes.add("empty texts", f"row {first + row}")
        for row in np.flatnonzero(texts.counts[0] == 0).tolist():
            self._file.notes.add(f"rows without {self._spec.samples}, which no run reads", f"row {first + row}")
        if self._spec.sample_kind == dataset_specs.ENTAILMENT:
            strings = strings.take(np.arange(1, len(strings), 2))  # the premise is what the picture stands for
        self._lengths.add(self._measure(strings))

    def _collect(self, spread: dict[str, Spread], first: int) -> None:
        """Keep the ids, as numbers, until the end of the file."""
        for name in (name for name in _ONCE if name in spread):
            if name == "image_id" and self.several:
                continue
            there = np.asarray(spread[name].leaves.is_valid())
            self._ids.setdefault(name, []).append((_keys(spread[name].leaves), spread[name].rows()[there] + first))
        collection = COLLECTIONS.get(self._file.dataset)
        if collection and "image_id" in spread:
            numbers = spread["image_id"].leaves
            if not pa.types.is_integer(numbers.type):
                names = numbers.cast(pa.large_string())
                numbers = pc.struct_field(pc.extract_regex(names, _NAMES[collection]), "number")
            self._numbers.append(np.asarray(pc.fill_null(numbers.cast(pa.int64()), -1)))


def _keys(leaves: pa.Array) -> np.ndarray:
    leaves = leaves.drop_null()
    if pa.types.is_integer(leaves.type):
        return np.asarray(leaves.cast(pa.int64()))
    return np.fromiter((image_key(str(leaf).encode("utf-8", "surrogatepass")) for leaf in leaves), np.int64)
