"""One file from end to end: format, values, images, and the manifest beside it."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from renaissance.core.errors import UserError
from renaissance.core.progress import Bar
from renaissance.core.untrusted import read_json
from renaissance.data.arrow import check_file, open_file, valid_batches
from renaissance.data.dataset_specs import SHOWN_BOX
from renaissance.data.datasets import refuse_divided
from renaissance.data.identity import content_key
from renaissance.data.prepare.arrow_file import Manifest, manifest_of
from renaissance.data.prepare.entries import shows_some
from renaissance.data.prepare.image_pool import Fault, ImagePool, Request, size_of

from .files import CheckedFile
from .lengths import Lengths
from .values import check_values, repeated


def scan_file(file: CheckedFile, workers: int | None, lengths: Lengths) -> None:
    """Checks a file, and writes into it what was found.

    Args:
        file: the file.
        workers: processes that decode images, None = one a core.
        lengths: counts its texts.
    """
    path = str(file.path)
    try:
        check_file(path, file.spec.columns, file.spec.samples)
        reader, whole, columns = open_file(path, file.spec.columns)
        # Validated once more, though `check_file` may have cached it: a disk that goes bad keeps the time of the last change.
        batches = [*valid_batches(path, reader, whole, columns)]
        shared = check_values(file, columns, batches, lengths)
        _check_images(file, batches, workers, shared)
        _compare_manifest(file)
        _compare_official(file)
    except UserError as error:
        file.damage = str(error)


def _check_images(file: CheckedFile, batches: Sequence[pa.RecordBatch], workers: int | None, shared: bool) -> None:
    """Decodes all images of a file, and counts those that occur twice, unless rows share them."""
    names, keys = file.spec.image_columns, array("q")
    file.rows, boxes = sum(batch.num_rows for batch in batches), _boxes_shown(file, batches)

    def requests() -> Iterator[Request]:
        rows = (row for batch in batches for row in zip(*(batch[name] for name in names), strict=True))
        for number, row in enumerate(rows):
            yield Request(tuple(image.as_py() for image in row), number)

    with ImagePool(workers) as pool:
        replies = pool.read(requests())
        for request, read in Bar(replies, file.name, file.rows, unit=" rows", mininterval=0.5, leave=False):
            for name, encoded, image in zip(names, request.sources, read, strict=True):
                if isinstance(image, Fault):
                    file.problems.add(f"images that are {image.kind} ({name})", f"row {request.row}: {image.why}")
                elif boxes and not shows_some(boxes[request.row], *size_of(encoded)):
                    file.problems.add("boxes with nothing of their image", f"row {request.row}: {boxes[request.row]}")
                keys.append(-1 if isinstance(image, Fault) else content_key(encoded))
    file.keys, file.images = np.array(keys, np.int64), len(keys)
    if len(names) == 1 and not shared:
        for row in repeated(file.keys):
            if file.keys[row] >= 0:
                file.notes.add("images that occurred before in the file", f"row {row}")


def _boxes_shown(file: CheckedFile, batches: Sequence[pa.RecordBatch]) -> list[list[float]]:
    """Returns the box that each image of a benchmark is cut to; none where it shows whole images."""
    there = SHOWN_BOX in file.spec.columns
    return [boxes[0] for batch in batches for boxes in batch[SHOWN_BOX.name].to_pylist()] if there else []


def _compare_manifest(file: CheckedFile) -> None:
    """Compares a file with its manifest, if one of ours lies beside it."""
    beside = manifest_of(file.path)
    if not beside.exists():
        return
    try:
        manifest = read_json(beside, Manifest)
    except UserError as error:
        file.problems.add("manifests that cannot be read", str(error))
        return
    file.left_out = sum(kind["count"] for kind in manifest["skipped"].values())
    for name, found in (("rows", file.rows), ("bytes", os.stat(file.path).st_size)):
        if manifest[name] != found:
            file.problems.add("counts that differ", f"{beside.name} says {manifest[name]} {name}, there are {found}")


def compare_saved(files: Sequence[CheckedFile]) -> None:
    """Compares the rows of each split that the library `datasets` has saved with what is noted of them."""
    for first in files:
        if first.saved is None:
            continue
        try:
            refuse_divided(first.dataset, first.saved.files, first.split)
        except UserError as error:
            first.problems.add("rows of another split", str(error))
        if first.saved.rows is None:
            continue
        split = [file for file in files if (file.dataset, file.split) == (first.dataset, first.split)]
        found, noted = sum(file.rows for file in split), first.saved.rows
        if found != noted and not any(file.damage for file in split):
            # What `save_to_disk` notes is of before a `select` or a `filter`.
            kinds = first.problems if first.saved.exact else first.notes
            kinds.add(
                "counts that differ", f"dataset_info.json says {noted:,} rows of {first.split}, there are {found:,}"
            )


def _compare_official(file: CheckedFile) -> None:
    """Notes where a file differs from the official download and its manifest does not tell why."""
    for what, here, official in zip(("rows", "texts"), (file.rows, file.texts), file.expected, strict=True):
        if official is not None and not here <= official <= here + (file.left_out or 0):
            file.notes.add("differences from the official download", f"{here:,} {what} instead of {official:,}")
