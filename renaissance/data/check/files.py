"""Which files of a folder belong to which data set: the table of `dataset_specs` read the other way round."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from renaissance.core.errors import UserError, suggest
from renaissance.data.arrow import dataset_of, some
from renaissance.data.dataset_specs import (
    DATASETS,
    OWN_IMAGES_NAME,
    OWN_NAME,
    OWN_SPLITS,
    SHARD,
    UNKNOWN,
    DatasetSpec,
    Expected,
)
from renaissance.data.datasets import matching
from renaissance.data.file_cache import stamp
from renaissance.data.prepare.skipped import Skipped

_OWN_LAYOUTS = (OWN_NAME, OWN_IMAGES_NAME)
_OWN_FILE = re.compile(rf"(.+?)(?:_({'|'.join(OWN_SPLITS)}))?\.arrow", re.DOTALL)


class Found(NamedTuple):
    """A file and what it is.

    Attributes:
        dataset: its data set, as `datasets` names it.
        split: the split it belongs to, "" for a file beside those of the splits.
        path: where it is.
        row: what is to be in it.
        expected: what the official download gives.
    """

    dataset: str
    split: str
    path: Path
    row: DatasetSpec
    expected: Expected = UNKNOWN


@dataclass
class Report:
    """What was found in a file.

    Attributes:
        found: the file.
        left_out: how many its writer left out, as the manifest says; None without one.
        damage: the sentence of what ended the check before the file's end.
        rows, pictures, texts: how many there are.
        problems, notes: what is wrong, and what is worth knowing, counted by kind.
        keys: (pictures,) a hash of the content of each, -1 where it cannot be read; a row's pictures come together.
        ids: (rows,) the number of each row's picture in the collection it is of, -1 = none; or nothing.
    """

    found: Found
    left_out: int | None = None
    damage: str | None = None
    rows: int = 0
    pictures: int = 0
    texts: int = 0
    problems: Skipped = field(default_factory=Skipped)
    notes: Skipped = field(default_factory=Skipped)
    keys: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))


def find(folder: Path, datasets: Sequence[str] | None) -> tuple[list[Found], list[str], list[str]]:
    """Find the files of the data sets, or of all data sets, in the order of the table.

    Args:
        folder: where the files are.
        datasets: keys of `dataset_specs.DATASETS` and names of own data; None = every file that belongs to one.

    Returns:
        The files; sentences of what is wrong, and of what is worth knowing, with the folder as a whole.

    Raises:
        UserError: the folder cannot be read or has no such file; a data set is unknown, has no file, or fits no layout.
    """
    try:
        names = {name for name in os.listdir(folder) if name.endswith(".arrow") and name[0] != "."}
    except OSError as error:
        raise UserError(
            f"data_root='{folder}' cannot be read ({error.strerror}); give a folder of arrow files."
        ) from None
    known: dict[str, Found] = {}
    problems, notes = [], []
    for dataset, row in DATASETS.items():
        if dataset in _OWN_LAYOUTS or (datasets is not None and dataset not in datasets):
            continue
        here, holes, absent = _of_table(dataset, row, names - set(known), folder)
        known |= here
        if here and holes:
            problems.append(
                f"'{dataset}' lacks {len(holes):,} shards between others: {', '.join(holes[:5])}; complete them."
            )
        if here and absent:
            notes.append(f"Files of '{dataset}' that are not here: {', '.join(absent)}.")
    own, unknown = _own(folder, names, datasets)
    files = [*known.values(), *own]
    for dataset in set(datasets or ()) - {file.dataset for file in files}:
        near = suggest(dataset, {*DATASETS, *(_own_name(name)[0] for name in names)} - {dataset})
        raise UserError(
            f"datasets names {dataset!r}{near}, of which data_root='{folder}' holds no file; the data sets are "
            f"{', '.join(DATASETS)}, and the <name> of own files <name>_train.arrow or <name>.arrow."
        )
    if not files:
        what = "its arrow files are of no known layout" if names else "it holds no .arrow file"
        raise UserError(f"data_root='{folder}': {what}; `python run.py prepare` writes them.")
    return files, problems, notes + unknown


def schema_of(path: Path) -> pa.Schema | None:
    """Return the schema of an arrow file, None where it has none that can be read."""
    try:
        stamp(str(path))  # a pipe by this name would never answer
        with pa.memory_map(str(path)) as mapped:
            return pa.ipc.open_file(mapped).schema
    except (UserError, pa.ArrowException, OSError, ValueError):
        return None


def _of_table(
    dataset: str, row: DatasetSpec, names: set[str], folder: Path
) -> tuple[dict[str, Found], list[str], list[str]]:
    """Return the files of a data set by name, the shards missing between them, and the files that are not there."""
    files, holes, absent = {}, [], []
    beside = [("", name) for name in row.also]
    for split, template in [(split, name) for split, each in row.splits.items() for name in each] + beside:
        found, gaps = matching(template, names)
        expected = row.expected.get(template, UNKNOWN)
        older = row.older.get(split, "")
        # An older name can also be the name of another data set now: our own files say what they are.
        if not found and older in names and dataset_of(str(folder / older), dataset) == dataset:
            found = [older]
        files |= {name: Found(dataset, split, folder / name, row, expected) for name in found}
        holes += gaps
        absent += [] if found or not split else [f"{template.replace(SHARD, '0')} ({split})"]
    for split, name in row.older.items():
        if split not in row.splits and name in names:
            files[name] = Found(dataset, split, folder / name, row)
    return files, holes, absent


def _own(folder: Path, names: set[str], datasets: Sequence[str] | None) -> tuple[list[Found], list[str]]:
    """Return the files of own data, told by their columns, and a sentence for each that fits no layout."""
    files, unknown = [], []
    names = {name for name in names if not any(row.owns(name) for row in DATASETS.values())}
    for name in sorted(names, key=_own_name):
        dataset, place = _own_name(name)
        if datasets is not None and dataset not in datasets:
            continue
        schema = schema_of(folder / name)
        for row in map(DATASETS.get, _OWN_LAYOUTS):  # what cannot be read at all is left to the check of the file
            if schema is None or all(column.name in schema.names for column in row.columns if column.needed):
                files.append(Found(dataset, OWN_SPLITS[place], folder / name, row))
                break
        else:
            unknown.append(
                f"{name} is of unknown layout: its columns are {some(schema.names) or 'none'}; own data needs image "
                "and caption, or image and label. It cannot be used."
            )
            if datasets is not None:
                raise UserError(unknown[-1])
    return files, unknown


def _own_name(file: str) -> tuple[str, int]:
    """Return name and number of the split of own data; a file that names no split is for training."""
    name, split = _OWN_FILE.fullmatch(file).groups()
    return name, OWN_SPLITS.index(split or OWN_SPLITS[0])
