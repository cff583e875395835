"""The columns of an arrow file: accepted types, values without their lists, and checks.

All follows from one declaration, `dataset_specs.Column`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from renaissance.core.errors import printable

from .dataset_specs import LABEL_NAMES, Column

_LONGEST = 60  # characters of a text that a sentence shows

_SERVES = {  # innermost type of a declared column -> tests of the types that serve
    "binary": (pa.types.is_binary, pa.types.is_large_binary),
    "string": (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    "int64": (pa.types.is_integer,),
    "double": (pa.types.is_integer, pa.types.is_floating),
}


def is_list(found: pa.DataType) -> bool:
    """Whether a type is a list with offsets."""
    return pa.types.is_list(found) or pa.types.is_large_list(found)


def fits(found: pa.DataType, column: Column) -> bool:
    """Whether a type can serve as a declared column.

    Lists may be large, those inside of a fixed size; strings, binaries and numbers of any width. Where a column has an
    entry for each sample, one value may stand for a list of one, and a list without any values has no type (pandas).
    """
    depth = 0
    while is_list(found) or (depth and pa.types.is_fixed_size_list(found)):
        found, depth = found.value_type, depth + 1
    serves = any(test(found) for test in _SERVES[column.leaf]) or (depth > 0 and pa.types.is_null(found))
    return serves and (depth == column.depth or (column.per_sample and depth < column.depth))


def clean(text: str | None) -> str:
    """Returns the text with every run of white space turned into one space, none at the ends."""
    return " ".join(text.split()) if text else ""


def plain(value: Any, column: Column, *, cleaned: bool) -> Any:
    """Returns a row's value, or a sample's entry, as the program uses it.

    Args:
        value: as Arrow gives it.
        column: where it stands.
        cleaned: whether white space is normalised in texts: where a model reads them.
    """
    if column.leaf == "string":
        value = _texts(value, cleaned)
    if column.per_sample and column.depth > 1 and not isinstance(value, list):
        return [] if value is None else [value]
    return value


def _texts(value: Any, cleaned: bool) -> Any:
    if isinstance(value, list):
        return [_texts(each, cleaned) for each in value]
    return clean(value) if cleaned else value or ""


class Flat:
    """A column of a record batch without its lists.

    Attributes:
        lengths: of the lists at each depth, outermost first: (rows,), then (entries of all rows,). One value in the
            place of a list counts as a list of one.
        values: (n,) what is in all of them.
    """

    def __init__(self, array: pa.Array, depth: int):
        self.lengths: list[np.ndarray] = []
        for _ in range(depth):
            if hasattr(array.type, "value_type"):
                self.lengths.append(np.asarray(pc.fill_null(pc.list_value_length(array), 0)).astype(np.int64))
                array = array.flatten()
            else:
                self.lengths.append(np.ones(len(array), np.int64))
        self.values = array

    def rows(self, depth: int | None = None) -> np.ndarray:
        """Returns the row of each value, or of each list that is `depth` levels down."""
        rows = np.arange(len(self.lengths[0] if self.lengths else self.values))
        for lengths in self.lengths[:depth]:
            rows = np.repeat(rows, lengths)
        return rows

    def numbers(self) -> np.ndarray:
        """Returns the values as float64, null as NaN."""
        return np.asarray(self.values.cast(pa.float64(), safe=False))


class _Rule(NamedTuple):
    """A constraint of a column: where it is violated, what was found, what is expected, and the nesting depth."""

    broken: np.ndarray
    found: np.ndarray
    expected: str
    depth: int | None = None


def first_fault(
    batch: pa.RecordBatch, columns: Sequence[Column], samples: str, names: int | None
) -> tuple[int, str] | None:
    """Finds a value that is not what its column declares.

    Args:
        batch: has all the columns.
        columns: those with an entry for each sample hold some in the file; the answers of a test split do not.
        samples: the column that numbers the samples, "" where each row is one.
        names: how many label names the file has, None where it does not say.

    Returns:
        The row in the batch, and what is wrong there.
    """
    flat = {column.name: Flat(batch[column.name], column.depth) for column in columns}
    for column in columns:
        for rule in _rules(column, flat, samples, names):
            if rule.broken.any():
                place = int(rule.broken.argmax())
                row = int(flat[column.name].rows(rule.depth)[place])
                if column.is_image:
                    return row, f"has no image in '{column.source or column.name}'"
                found = printable(str(rule.found[place]))[:_LONGEST]
                return row, f"has {found or 'nothing'} in '{column.name}'; expected {rule.expected}"
    return None


def _rules(column: Column, flat: dict[str, Flat], samples: str, names: int | None) -> Iterator[_Rule]:
    own = flat[column.name]
    if column.is_image:
        sizes = np.asarray(pc.fill_null(pc.binary_length(own.values), 0))
        yield _Rule(sizes == 0, sizes, "the bytes of an image")
    elif column.leaf != "string":
        yield _Rule(np.asarray(own.values.is_null()), np.full(len(own.values), "null"), "a number")
    if column.one_of:
        texts = own.values.cast(pa.large_string())
        known = np.asarray(pc.is_in(texts, pa.array(column.one_of, pa.large_string())))
        yield _Rule(~known, texts.to_numpy(zero_copy_only=False), f"one of {', '.join(column.one_of)}")
    if column.per_sample and samples in flat:
        lengths = own.lengths[0]
        yield _Rule(lengths != flat[samples].lengths[0], lengths, f"as many entries as in '{samples}'", 0)
    if column.length:
        yield _Rule(own.lengths[1] != column.length, own.lengths[1], f"{column.length} values in each entry", 1)
    if column.lists:
        yield _Rule(own.lengths[0] != column.lists, own.lengths[0], f"{column.lists} entries", 0)
    if column.beside in flat:
        beside = flat[column.beside].lengths
        lengths, wanted = own.lengths[1], beside[-1][own.rows(1)] if len(beside) == 1 else beside[1]
        yield _Rule(lengths != wanted, lengths, f"as many values in each entry as in '{column.beside}'", 1)
    if column.bounds or column.indexes:
        numbers, (least, most) = own.numbers(), column.bounds or (0, np.inf)
        expected = f"{least:g} to {most:g}"
        if column.indexes == LABEL_NAMES and names is not None:
            most, expected = names - 1, f"0 to {names - 1}, which have label names in the file"
        elif column.indexes in flat:  # one number a row
            most, expected = flat[column.indexes].lengths[0] - 1, f"a place in '{column.indexes}', counted from 0"
        yield _Rule(~((numbers >= least) & (numbers <= most)), np.asarray(own.values), expected)  # NaN is in no range
