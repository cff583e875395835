"""One file from end to end: format, values, pictures. Record batches are read from the map, pictures by all cores."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from renaissance.core.errors import UserError, first_line
from renaissance.core.untrusted import expect, read_json
from renaissance.data.arrow import check_file
from renaissance.data.dataset_specs import IMAGE
from renaissance.data.identity import image_key
from renaissance.data.prepare.image_pool import Fault, ImagePool, Request
from renaissance.data.prepare.writer import manifest_of

from .files import Found, Report
from .lengths import Lengths, Measure
from .values import Values


def scan_file(found: Found, workers: int | None, measure: Measure, lengths: Lengths) -> Report:
    """Check a file.

    Args:
        found: the file.
        workers: processes that decode pictures, None = one a core.
        measure: says how long texts are.
        lengths: counts them.
    """
    report = Report(found)
    try:
        _, facts = check_file(str(found.path), found.row.columns, found.row.samples)
        values = Values(report, measure, lengths)
        _pictures(report, values, workers, facts.rows)
        values.finish()
        _compare(report)
    except UserError as error:
        report.damage = str(error)
    return report


def pictures_of(found: Found) -> list[str]:
    """Return the columns of a row's pictures."""
    return [column.name for column in found.row.columns if column.kind == IMAGE.kind]


def batches(found: Found) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the record batches of a file, each validated, with the number of its first row.

    Raises:
        UserError: the file is damaged.
    """
    first = 0
    try:
        with pa.memory_map(str(found.path)) as mapped:
            reader = pa.ipc.open_file(mapped)
            names = [column.name for column in found.row.columns if column.name in reader.schema.names]
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number).select(names)
                # Once more, though `check_file` may remember: a disk that goes bad keeps the time of the last change.
                batch.validate(full=True)
                yield first, batch
                first += batch.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"'{found.path}' is damaged ({first_line(error)}); copy it or write it again.") from None


def _pictures(report: Report, values: Values, workers: int | None, rows: int) -> None:
    """Decode all pictures of a file, and check the values on the way."""
    names, keys = pictures_of(report.found), array("q")

    def requests() -> Iterator[Request]:
        for first, batch in batches(report.found):
            values.look(batch, first)
            columns = [batch[name] for name in names]
            for row in range(batch.num_rows):
                yield Request(tuple(column[row].as_py() for column in columns), first + row)

    with ImagePool(workers) as pool:
        title = report.found.path.name
        for request, read in tqdm(pool.read(requests()), title, rows, unit=" rows", mininterval=0.5, leave=False):
            report.rows += 1
            for name, encoded, picture in zip(names, request.sources, read, strict=True):
                if isinstance(picture, Fault):
                    report.problems.add(
                        f"pictures that are {picture.kind} ({name})", f"row {request.row}: {picture.why}"
                    )
                keys.append(-1 if isinstance(picture, Fault) else image_key(encoded))
    report.keys, report.pictures = np.array(keys, np.int64), len(keys)
    if len(names) == 1 and not values.several:
        _, firsts = np.unique(report.keys, return_index=True)
        repeated = np.ones(len(keys), bool)
        repeated[firsts] = False
        for row in np.flatnonzero(repeated & (report.keys >= 0)).tolist():
            report.notes.add("pictures that occurred before in the file", f"row {row}")


def _compare(report: Report) -> None:
    """Compare a file with its manifest, if one of ours lies beside it."""
    beside = manifest_of(report.found.path)
    try:
        if not beside.exists():
            return
        manifest = read_json(beside, dict[str, Any])
        skipped = expect(manifest.get("skipped"), dict[str, dict[str, Any]], f"'skipped' of {beside.name}")
        counts = [expect(each.get("count"), int, f"a count of {beside.name}") for each in skipped.values()]
        said = {name: expect(manifest.get(name), int, f"'{name}' of {beside.name}") for name in ("rows", "bytes")}
    except UserError as error:
        report.problems.add("manifests that cannot be read", str(error))
        return
    report.left_out = sum(counts)
    for name, here in (("rows", report.rows), ("bytes", os.stat(report.found.path).st_size)):
        if said[name] != here:
            report.problems.add("counts that differ", f"{beside.name} says {said[name]} {name}, there are {here}")
