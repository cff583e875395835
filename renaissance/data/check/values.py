"""What the values of a file must be, apart from what its columns declare: ids that occur once, answers; and its texts.

`data.arrow.check_file` has already made sure of types and of what the columns declare.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from renaissance.data.columns import Flat, is_list
from renaissance.data.dataset_specs import BOXES, CAPTION_IDS, CORRECT, ENTAILMENT, ID, PROBES, QUESTIONS, TEXTS, Column
from renaissance.data.identity import content_key

from .files import CheckedFile
from .lengths import Lengths

_ONCE = (ID.name, "image_id", CAPTION_IDS.name, "question_id", "ref_id", "identifier", "identifiers")
# How collections name their files, in any folder and of any format: other names, such as NLVR's, hold other numbers.
_NUMBERED = r"^(?:.*/)?(?:COCO_(?:train|val|test)[0-9]{4}_)?(?P<number>[0-9]{1,18})(?:\.[A-Za-z]+)?$"


def check_values(
    file: CheckedFile, columns: Sequence[Column], batches: Sequence[pa.RecordBatch], lengths: Lengths
) -> bool:
    """Checks the values of a file, and writes what was found into it: problems, notes, texts, ids.

    Args:
        file: the file.
        columns: those of its specification that it has.
        batches: all rows.
        lengths: counts the texts.

    Returns:
        Whether several rows may have one image: a row is one reference to an object, one question of a benchmark, or one
        caption in a plain column.
    """
    samples, kind, first = file.spec.samples, file.spec.sample_kind, 0
    texts = TEXTS.name if kind == PROBES else samples
    for batch in batches:
        flat = {column.name: Flat(batch[column.name], column.depth) for column in columns if not column.is_image}
        _check_answers(file, flat, first)
        if texts:
            _count_texts(file, flat[texts], texts, first, lengths)
        first += batch.num_rows
    shared = kind in (BOXES, PROBES) or bool(samples and not is_list(batches[0][samples].type))
    for column in columns:
        if column.name in _ONCE:
            array = pa.chunked_array([batch[column.name] for batch in batches]).combine_chunks()
            ids = Flat(array, column.depth)
            if column.name == "image_id":
                file.ids = _collection_numbers(file, ids.values)
            if column.name != "image_id" or not shared:
                rows = ids.rows()[np.asarray(ids.values.is_valid())]
                for place in repeated(_keys(ids.values.drop_null())):
                    file.problems.add(f"{column.name} that occurred before", f"row {rows[place]}")
    return shared


def repeated(keys: np.ndarray) -> list[int]:
    """Returns the indices of keys that occurred before."""
    again = np.ones(len(keys), bool)
    again[np.unique(keys, return_index=True)[1]] = False
    return np.flatnonzero(again).tolist()


def _check_answers(file: CheckedFile, flat: dict[str, Flat], first: int) -> None:
    """Checks what only one kind of sample needs; counts flat boxes."""
    kind = file.spec.sample_kind
    if kind == QUESTIONS and "test" not in file.split:
        for row in np.flatnonzero(flat["answers"].lengths[0] == 0).tolist():
            file.problems.add("rows without answers", f"row {first + row}")
    if kind == BOXES:
        boxes = flat["bboxes"].numbers().reshape(-1, 4)
        for box in boxes[(boxes[:, 2:] <= 0).any(axis=1)].tolist():
            file.notes.add("boxes without width or height", str(box))
    if kind == PROBES:
        correct, several = flat[CORRECT.name], flat[TEXTS.name].lengths[0] > 1  # one text alone may be wrong
        images = np.repeat(np.arange(len(correct.lengths[1])), correct.lengths[1])
        right = np.bincount(images, correct.numbers(), len(correct.lengths[1])) > 0
        for row in np.unique(correct.rows(1)[~right & several[correct.rows(1)]]).tolist():
            file.problems.add("rows with an image to which no text belongs", f"row {first + row}")


def _count_texts(file: CheckedFile, texts: Flat, name: str, first: int, lengths: Lengths) -> None:
    """Counts the texts of the column of this name, those with nothing in them, and how long they are."""
    strings = pc.fill_null(texts.values.cast(pa.large_string()), "")
    file.texts += int(texts.lengths[0].sum())
    kinds = file.problems if file.spec.sample_kind == PROBES else file.notes  # of a benchmark nothing may be left out
    empty = np.asarray(pc.equal(pc.binary_length(pc.utf8_trim_whitespace(strings)), 0))
    for row in texts.rows()[empty].tolist():
        kinds.add("empty texts", f"row {first + row}")
    for row in np.flatnonzero(texts.lengths[0] == 0).tolist():
        kinds.add(f"rows without {name}, which no run reads", f"row {first + row}")
    if file.spec.sample_kind == ENTAILMENT:
        strings = strings.take(np.arange(1, len(strings), 2))  # the premise is what the image stands for
    lengths.add(strings)


def _collection_numbers(file: CheckedFile, image_ids: pa.Array) -> np.ndarray:
    """Returns the number of each image in the collection it is of, -1 = none; empty where the data set is of none."""
    if not file.spec.collection:
        return file.ids
    if not pa.types.is_integer(image_ids.type):
        image_ids = pc.struct_field(pc.extract_regex(image_ids.cast(pa.large_string()), _NUMBERED), "number")
    return np.asarray(pc.fill_null(image_ids.cast(pa.int64()), -1))


def _keys(ids: pa.Array) -> np.ndarray:
    if pa.types.is_integer(ids.type):
        return np.asarray(ids.cast(pa.int64()))
    return np.fromiter((content_key(str(each).encode("utf-8", "surrogatepass")) for each in ids), np.int64)
