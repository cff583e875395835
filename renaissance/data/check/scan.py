"""One file from end to end: format, values, images. Record batches are read from the map, images by all cores."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from renaissance.core.errors import UserError
from renaissance.core.untrusted import expect, read_json
from renaissance.data.arrow import check_file, open_file, valid_batches
from renaissance.data.dataset_specs import DatasetSpec
from renaissance.data.identity import image_key
from renaissance.data.prepare.arrow_file import manifest_of
from renaissance.data.prepare.image_pool import Fault, ImagePool, Request

from .files import CheckedFile
from .lengths import Lengths, Measure
from .values import Values


def scan_file(file: CheckedFile, workers: int | None, measure: Measure, lengths: Lengths) -> None:
    """Check a file, and write into it what was found.

    Args:
        file: the file.
        workers: processes that decode images, None = one a core.
        measure: says how long texts are.
        lengths: counts them.
    """
    try:
        _, contents = check_file(str(file.path), file.spec.columns, file.spec.samples)
        values = Values(file, measure, lengths)
        _check_images(file, values, workers, contents.rows)
        values.finish()
        _compare(file)
    except UserError as error:
        file.damage = str(error)


def image_columns(spec: DatasetSpec) -> list[str]:
    """Return the columns of a row's images."""
    return [column.name for column in spec.columns if column.is_image]


def batches(file: CheckedFile) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the record batches of a file, each validated, with the number of its first row.

    Raises:
        UserError: the file is damaged.
    """
    # Validated once more, though `check_file` may have cached it: a disk that goes bad keeps the time of the last change.
    reader, _, columns = open_file(str(file.path), file.spec.columns)
    first = 0
    for batch in valid_batches(str(file.path), reader, columns):
        yield first, batch
        first += batch.num_rows


def _check_images(file: CheckedFile, values: Values, workers: int | None, rows: int) -> None:
    """Decode all images of a file, and check the values on the way."""
    names, keys = image_columns(file.spec), array("q")

    def requests() -> Iterator[Request]:
        for first, batch in batches(file):
            values.look(batch, first)
            columns = [batch[name] for name in names]
            for row in range(batch.num_rows):
                yield Request(tuple(column[row].as_py() for column in columns), first + row)

    with ImagePool(workers) as pool:
        replies = pool.read(requests())
        for request, read in tqdm(replies, file.path.name, rows, unit=" rows", mininterval=0.5, leave=False):
            file.rows += 1
            for name, encoded, image in zip(names, request.sources, read, strict=True):
                if isinstance(image, Fault):
                    file.problems.add(f"pictures that are {image.kind} ({name})", f"row {request.row}: {image.why}")
                keys.append(-1 if isinstance(image, Fault) else image_key(encoded))
    file.keys, file.images = np.array(keys, np.int64), len(keys)
    if len(names) == 1 and not values.several:
        repeated = np.ones(len(keys), bool)
        repeated[np.unique(file.keys, return_index=True)[1]] = False
        for row in np.flatnonzero(repeated & (file.keys >= 0)).tolist():
            file.notes.add("pictures that occurred before in the file", f"row {row}")


def _compare(file: CheckedFile) -> None:
    """Compare a file with its manifest, if one of ours lies beside it."""
    beside = manifest_of(file.path)
    if not beside.exists():
        return
    try:
        manifest = read_json(beside, dict[str, Any])
        skipped = expect(manifest.get("skipped"), dict[str, dict[str, Any]], f"'skipped' of {beside.name}")
        counts = expect([each.get("count") for each in skipped.values()], list[int], f"counts of {beside.name}")
        said = expect({name: manifest.get(name) for name in ("rows", "bytes")}, dict[str, int], beside.name)
    except UserError as error:
        file.problems.add("manifests that cannot be read", str(error))
        return
    file.left_out = sum(counts)
    for name, here in (("rows", file.rows), ("bytes", os.stat(file.path).st_size)):
        if said[name] != here:
            file.problems.add("counts that differ", f"{beside.name} says {said[name]} {name}, there are {here}")
