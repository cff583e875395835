"""What the values of a file must be, apart from its pictures and its columns' declarations: ids that occur once, answers.

`data.arrow.check_file` has already made sure of types and of what the columns declare. Values are looked at a record batch
at a time, as arrays.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from renaissance.data import dataset_specs
from renaissance.data.columns import Flat, is_list
from renaissance.data.identity import image_key

from .files import CheckedFile
from .lengths import Lengths, Measure

_ONCE = ("image_id", "question_id", "ref_id", "identifier", "identifiers")
# How collections name their files, in any folder and of any format: other names, such as NLVR's, hold other numbers.
_NUMBERED = r"^(?:.*/)?(?:COCO_(?:train|val|test)[0-9]{4}_)?(?P<number>[0-9]{1,18})(?:\.[A-Za-z]+)?$"


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
        self._ids: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        self._numbers: list[np.ndarray] = []

    def look(self, batch: pa.RecordBatch, first: int) -> None:
        """Check a record batch whose first row has number `first` in the file."""
        columns = [each for each in self._spec.columns if not each.is_image and each.name in batch.schema.names]
        flat = {column.name: Flat(batch[column.name], column.depth) for column in columns}
        self._check_answers(flat, first)
        if self._spec.samples:
            self.several |= not is_list(batch[self._spec.samples].type)
            self._texts(flat[self._spec.samples], first)
        self._collect(flat, first)

    def finish(self) -> None:
        """Check, after the last batch, what is to occur once in the file."""
        for name, parts in self._ids.items():
            keys, rows = (np.concatenate(each) for each in zip(*parts, strict=True))
            order = np.argsort(keys, kind="stable")
            for place in np.sort(order[1:][np.diff(keys[order]) == 0]).tolist():
                self._file.problems.add(f"{name} that occurred before", f"row {rows[place]}")
        self._file.ids = np.concatenate([np.empty(0, np.int64), *self._numbers])

    def _check_answers(self, flat: dict[str, Flat], first: int) -> None:
        """Check what only one kind of sample needs; count flat boxes."""
        kind, problems, notes = self._spec.sample_kind, self._file.problems, self._file.notes
        if kind == dataset_specs.QUESTIONS and "test" not in self._file.split:
            for row in np.flatnonzero(flat["answers"].lengths[0] == 0).tolist():
                problems.add("rows without answers", f"row {first + row}")
        if kind == dataset_specs.IMAGE_PAIRS:
            for row, answer in zip(flat["answers"].rows(), flat["answers"].values.to_pylist(), strict=True):
                if answer not in ("True", "False"):
                    problems.add("answers that are neither True nor False", f"row {first + row}: {answer}")
        if kind == dataset_specs.BOXES:
            boxes = flat["bboxes"].numbers().reshape(-1, 4)
            for box in boxes[(boxes[:, 2:] <= 0).any(axis=1)].tolist():
                notes.add("boxes without width or height", str(box))

    def _texts(self, texts: Flat, first: int) -> None:
        """Count the texts, those with nothing in them, and how long they are."""
        strings = pc.fill_null(texts.values.cast(pa.large_string()), "")
        self._file.texts += int(texts.lengths[0].sum())
        empty = np.asarray(pc.equal(pc.binary_length(pc.utf8_trim_whitespace(strings)), 0))
        for row in texts.rows()[empty].tolist():
            self._file.notes.add("empty texts", f"row {first + row}")
        for row in np.flatnonzero(texts.lengths[0] == 0).tolist():
            self._file.notes.add(f"rows without {self._spec.samples}, which no run reads", f"row {first + row}")
        if self._spec.sample_kind == dataset_specs.ENTAILMENT:
            strings = strings.take(np.arange(1, len(strings), 2))  # the premise is what the picture stands for
        self._lengths.add(self._measure(strings))

    def _collect(self, flat: dict[str, Flat], first: int) -> None:
        """Keep the ids, as numbers, until the end of the file."""
        for name in (name for name in _ONCE if name in flat):
            if name == "image_id" and self.several:
                continue
            there = np.asarray(flat[name].values.is_valid())
            self._ids.setdefault(name, []).append((_keys(flat[name].values), flat[name].rows()[there] + first))
        if self._file.spec.collection and "image_id" in flat:
            numbers = flat["image_id"].values
            if not pa.types.is_integer(numbers.type):
                names = numbers.cast(pa.large_string())
                numbers = pc.struct_field(pc.extract_regex(names, _NUMBERED), "number")
            self._numbers.append(np.asarray(pc.fill_null(numbers.cast(pa.int64()), -1)))


def _keys(leaves: pa.Array) -> np.ndarray:
    leaves = leaves.drop_null()
    if pa.types.is_integer(leaves.type):
        return np.asarray(leaves.cast(pa.int64()))
    return np.fromiter((image_key(str(leaf).encode("utf-8", "surrogatepass")) for leaf in leaves), np.int64)
