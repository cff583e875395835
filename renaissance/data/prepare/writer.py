"""From a raw download to arrow files with their manifests.

    raw download -> Download -> entries with their images, in order -> record batches -> temporary file -> fsync -> rename

A data set's writer is a function that reads a raw download; `arrow_writer` turns it into `make_arrow(root, dataset_root, ...)`.
Memory is bounded by one record batch and the images in flight. What a file holds depends on its rows alone, never on the
number of workers. A run that is killed leaves the old file or the new one under the final name.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from renaissance.core.checks import integer, number
from renaissance.core.errors import UserError, require
from renaissance.core.progress import Bar
from renaissance.data.dataset_specs import DATASETS, METADATA_KEY, UNKNOWN, Column

from .annotation_store import AnnotationStore
from .arrow_file import Entries, Plan, kept_shards, set_aside_shards, write_file
from .entries import EntryIterator, LeftOut, Row, read_entries  # noqa: F401 (what a writer needs is imported from here)
from .image_pool import QUALITY, ImagePool
from .skipped import Skipped

# What every `make_arrow` takes beside its own options; None = the default.
WRITE_OPTIONS = {
    "workers": integer(1),  # processes that read images; default: one a core
    "max_unreadable": number(0, 1),  # share of a file's images that may be unreadable or missing; None = any
    "resize": integer(1),  # pixels that the short side of a larger image is reduced to; default: none is
    "quality": integer(1, 100),  # of the JPEG files that resizing makes; default: `image_pool.QUALITY`
}


class Download(NamedTuple):
    """A raw download: the files to write and what their manifests say.

    Attributes:
        dataset: the data set, as manifests name it.
        plans: the files to write, one after the other.
        source: what manifests say about where the data come from, beside the data set and its root.
        options: what they say about how the files were made.
        max_unreadable: share of a file's images that may be unreadable unless the user gives another; None = any.
        leftovers: files that must not be there beside the new ones: an image could then be in two splits.
        absent: file -> of how many rows, and which of them have no image, as a look at the download tells before any is read.
    """

    dataset: str
    plans: Iterable[Plan]
    source: Mapping[str, Any] = {}
    options: Mapping[str, Any] = {}
    max_unreadable: float | None = 0.01
    leftovers: Sequence[str] = ()
    absent: Mapping[str, tuple[int, Sequence[str]]] = {}


def arrow_writer(read: Callable[..., Download]) -> Callable[..., list[dict[str, Any]]]:
    """Turns a function `read(root, **options)` into `make_arrow(root, dataset_root, **options)`.

    `root` is the folder of the raw download, `dataset_root` the folder to write to, which is made if there is none. The
    options are those of `read` and `WRITE_OPTIONS`. `make_arrow` returns the manifests, as they lie beside the files.

    Raises:
        UserError: a bad option, before anything is read; a refusal of `read`; a file cannot be written; or, after all
            files are done, more than `max_unreadable` of one could not be read (it is then kept as "<name>.rejected",
            and what had the name before stays).
    """

    @functools.wraps(read)
    def make_arrow(root: str | os.PathLike, dataset_root: str | os.PathLike, **options: Any) -> list[dict[str, Any]]:
        writing = _checked({name: options.pop(name) for name in WRITE_OPTIONS if name in options})
        return _write(read(Path(root), **options), root, Path(dataset_root), writing)

    return make_arrow


def plan_file(
    dataset: str, file: str, split: str, rows: Entries, metadata: Mapping[str, Any] | None = None, **fields: Any
) -> Plan:
    """Returns the plan of a file of a data set.

    Args:
        dataset: key of `DATASETS`.
        file: its name.
        split: the split it belongs to.
        rows: as for `Plan`.
        metadata: what the file says of itself beside data set and split, such as labels.
        fields: of `Plan`, those that do not follow from the data set and the name.
    """
    spec, metadata = DATASETS[dataset], {"dataset": dataset, "split": split, **(metadata or {})}
    expected = next((each.expected[file] for each in DATASETS.values() if file in each.expected), UNKNOWN)
    texts = (spec.samples,) if spec.samples else ()
    return Plan(file, schema_of(spec.columns, metadata), rows, texts=texts, expected=expected, **fields)


def plan_stored(store: AnnotationStore, dataset: str, file: str, split: str, rows: Entries, **fields: Any) -> Plan:
    """Returns the plan of a file with all images of a split in the store; arguments as for `plan_file`."""
    listed = store.splits().get(split, 0)
    return plan_file(dataset, file, split, rows, listed=listed, skipped=store.skipped[split], **fields)


def schema_of(columns: Iterable[Column], metadata: Mapping[str, Any] | None = None) -> pa.Schema:
    """Returns the Arrow schema of a file with these columns.

    Args:
        columns: of a row of `DATASETS`.
        metadata: what the file says of itself under `METADATA_KEY`: dataset, split, labels.
    """
    fields = [(column.name, _arrow_type(column.type)) for column in columns]
    return pa.schema(fields, metadata and {METADATA_KEY: json.dumps(metadata, ensure_ascii=False)})


def _arrow_type(name: str) -> pa.DataType:
    inner = name.removeprefix("list<")
    return pa.type_for_alias(name) if inner == name else pa.list_(_arrow_type(inner.removesuffix(">")))


def _checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of `WRITE_OPTIONS` that were given, and the default quality."""
    for name, value in given.items():
        problem = None if value is None else WRITE_OPTIONS[name].problem(name, value)
        require(problem is None, problem)
    resize, quality = given.get("resize"), given.get("quality")
    needs = f"quality={quality} needs resize=<short side>: an image that is not resized keeps its bytes."
    require(resize or quality is None, needs)
    return {**given, "resize": resize, "quality": quality or QUALITY if resize else None}


def _write(download: Download, root: str | os.PathLike, folder: Path, writing: dict[str, Any]) -> list[dict[str, Any]]:
    left = [file for file in download.leftovers if (folder / file).exists()]
    require(
        not left,
        f"data_root='{folder}' holds {', '.join(left)}, which this run would not replace and which may share images "
        "with what it writes; remove it, or give another name=.",
    )
    options = {**download.options, "max_unreadable": download.max_unreadable}
    options |= {name: value for name, value in writing.items() if name != "workers"}
    for file, (rows, absent) in download.absent.items():
        limit = options["max_unreadable"]
        require(
            limit is None or len(absent) <= limit * rows,
            f"{len(absent):,} of {rows:,} rows for {file} lack an image (first {'; '.join(absent[:3])}): "
            f"{len(absent) / rows:.1%}, and max_unreadable={limit}; nothing was written.",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"data_root='{folder}' cannot be made ({error.strerror}); give a folder to write to.") from None
    source = {"dataset": download.dataset, "root": os.fspath(root), **download.source}
    manifests, refusals = [], []
    with ImagePool(writing.get("workers"), writing["resize"], writing["quality"]) as pool:
        for plan in download.plans:
            provenance = {"source": {**source, **plan.source}, "options": options}
            manifests += _write_plan(plan, root, folder, pool, provenance, refusals)
    require(not refusals, " ".join(refusals))
    return manifests


def _write_plan(
    plan: Plan, root: str | os.PathLike, folder: Path, pool: ImagePool, provenance: dict[str, Any], refusals: list[str]
) -> list[dict[str, Any]]:
    """Writes one file, or all shards of a stream; returns the manifests, and adds to the sentences that refuse a file."""
    done: list[dict[str, Any]] = []
    if plan.shard_rows:
        provenance["options"] = {**provenance["options"], "shard_rows": plan.shard_rows}
        done = kept_shards(folder, plan, provenance)
    position = done[-1]["shard"]["next"] if done else 0
    rows = (row() if callable(row) else row for row in islice(plan.rows, position, None))
    title = plan.name.format(shard="*") if plan.shard_rows else plan.name
    bar = functools.partial(Bar, desc=title, total=plan.listed, initial=position, unit=" rows", mininterval=0.5)
    with closing(read_entries(rows, root, pool, bar)) as read:  # an error closes the bar, too
        entries = EntryIterator(read, position)
        while not entries.ended or not done:
            file = plan._replace(name=plan.name.format(shard=len(done))) if plan.shard_rows else plan
            if done:
                file = file._replace(skipped=Skipped(), notes=())
            done.append(write_file(file, entries, folder, provenance, refusals))
    if plan.shard_rows:
        set_aside_shards(folder, plan.name, len(done))
    return done
