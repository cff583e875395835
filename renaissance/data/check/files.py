"""The arrow files of a folder: which data set and split each belongs to, from the table in `dataset_specs`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from renaissance.core.errors import UserError, suggest
from renaissance.data.arrow import open_file, some
from renaissance.data.dataset_specs import (
    CAPTION_COLUMNS,
    CAPTIONS,
    DATASETS,
    OWN_SPLITS,
    UNKNOWN,
    Column,
    DatasetSpec,
    Expected,
)
from renaissance.data.datasets import (
    OWN_LAYOUTS,
    arrow_names,
    captions_layout,
    matching,
    named_specs,
    own_layout,
    saved_hint,
    split_files,
)
from renaissance.data.prepare.skipped import Skipped
from renaissance.data.saved_datasets import SavedSplit, is_saved, saved_dataset


@dataclass
class CheckedFile:
    """A file and what was found in it.

    Attributes:
        dataset: its data set, as `datasets` names it.
        split: the split it belongs to, "" for a file beside those of the splits.
        path: where it is.
        spec: what is to be in it.
        expected: what the official download gives.
        saved: on the first file of a split that the library `datasets` has saved, that split.
        left_out: how many its writer left out, as the manifest says; None without one.
        damage: the sentence of what ended the check before the file's end.
        rows, images, texts: how many there are.
        problems, notes: what is wrong, and what is worth knowing, counted by kind.
        keys: (images,) hash of the content of each, -1 where it cannot be read; a row's images are consecutive.
        ids: (rows,) number of each row's image in its collection, -1 = none; or empty.
    """

    dataset: str
    split: str
    path: Path
    spec: DatasetSpec
    expected: Expected = UNKNOWN
    saved: SavedSplit | None = None
    left_out: int | None = None
    damage: str | None = None
    rows: int = 0
    images: int = 0
    texts: int = 0
    problems: Skipped = field(default_factory=Skipped)
    notes: Skipped = field(default_factory=Skipped)
    keys: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def name(self) -> str:
        """What messages call it; files of saved data sets have the same names in every split."""
        return f"{self.path.parent.name}/{self.path.name}" if is_saved(self.dataset) else self.path.name


def find(
    folder: Path, datasets: Sequence[str] | None, captions: Sequence[Column] = CAPTION_COLUMNS
) -> tuple[list[CheckedFile], list[str]]:
    """Finds the files of the data sets, or of all data sets, in the order of the table.

    Args:
        folder: where the files are.
        datasets: keys of `dataset_specs.DATASETS`, names of own data and of what the library `datasets` has saved; None =
            every file in the folder that belongs to one.
        captions: the columns of own captions (`dataset_specs.caption_columns`).

    Returns:
        The files; a sentence for each that fits no layout, and for splits that are not read.

    Raises:
        UserError: the folder cannot be read or has no such file; a data set is unknown, has no file, or fits no layout.
    """
    saved, notes = _saved([name for name in dict.fromkeys(datasets or ()) if is_saved(name)], folder, captions)
    if saved:
        datasets = [name for name in datasets if not is_saved(name)]
    files: list[CheckedFile] = []
    names = arrow_names(folder, datasets or ()) if datasets or not saved else set()
    for dataset, spec in named_specs().items():
        if datasets is None or dataset in datasets:
            files += _of_table(dataset, spec, names - {file.path.name for file in files}, folder)
    own, unknown = _own(folder, names, datasets, captions)
    if unknown and datasets is not None:
        raise UserError(unknown[0])
    files += own
    for dataset in sorted(set(datasets or ()) - {file.dataset for file in files}):
        near = saved_hint(dataset) or suggest(dataset, {*DATASETS, *(_own_name(name)[0] for name in names)} - {dataset})
        raise UserError(
            f"datasets names {dataset!r}{near}, of which data_root='{folder}' holds no file; the data sets are "
            f"{', '.join(DATASETS)}, and the <name> of own files <name>_train.arrow or <name>.arrow."
        )
    files += saved
    if not files:
        what = "its arrow files are of no known layout" if names else "it holds no .arrow file"
        raise UserError(f"data_root='{folder}': {what}; `python run.py prepare` writes them.")
    return files, notes + unknown


def _saved(names: Sequence[str], folder: Path, captions: Sequence[Column]) -> tuple[list[CheckedFile], list[str]]:
    """Returns the files of saved data sets, and sentences about splits that are not read."""
    files, notes, spec = [], [], OWN_LAYOUTS[CAPTIONS]._replace(columns=tuple(captions))
    for name in names:
        found = saved_dataset(name, str(folder))
        notes += [f"{name}: {found.note}"] if found.note else []
        for split, each in found.splits.items():
            files += [
                CheckedFile(name, split, Path(path), spec, saved=None if n else each)
                for n, path in enumerate(each.files)
            ]
    return files, notes


def _of_table(dataset: str, spec: DatasetSpec, names: set[str], folder: Path) -> list[CheckedFile]:
    """Returns the files of a data set; in them stands which shards and which other files are missing."""
    files, absent = [], []
    for split in dict.fromkeys([*spec.splits, *spec.older_files]):
        part = split_files(dataset, spec, split, str(folder), names)
        for name, template in part.files.items():
            files.append(CheckedFile(dataset, split, folder / name, spec, spec.expected.get(template, UNKNOWN)))
        for name in part.gaps:
            files[-1].problems.add("shards that are missing before it", name)
        absent += [f"{name} ({split})" for name in part.absent]
    for template in spec.extra_files:
        extra, _ = matching(template, names)
        expected = spec.expected.get(template, UNKNOWN)
        files += [CheckedFile(dataset, "", folder / name, spec, expected) for name in extra]
    for name in absent if files else ():
        files[0].notes.add("files of the data set that are missing", name)
    return files


def _own(
    folder: Path, names: set[str], datasets: Sequence[str] | None, captions: Sequence[Column]
) -> tuple[list[CheckedFile], list[str]]:
    """Returns the files of own data, told by their columns, and a sentence for each that fits no layout."""
    files, unknown = [], []
    names = {name for name in names if not any(spec.owns(name) for spec in DATASETS.values())}
    for name in sorted(names, key=_own_name):
        dataset, place = _own_name(name)
        if datasets is not None and dataset not in datasets:
            continue
        columns = _column_names(folder / name)
        # What cannot be read at all is left to the check of the file.
        if spec := own_layout(columns, captions) if columns is not None else captions_layout(captions):
            files.append(CheckedFile(dataset, OWN_SPLITS[place], folder / name, spec))
        else:
            unknown.append(
                f"{name} is of unknown layout: its columns are {some(columns) or 'none'}; own data needs image and "
                "caption, which image_column= and caption_column= call otherwise, or image and label. It cannot be used."
            )
    return files, unknown


def _column_names(path: Path) -> list[str] | None:
    """Returns the names of an arrow file's columns, None where it cannot be read."""
    try:
        return open_file(str(path), ())[0].schema.names
    except UserError:
        return None


def _own_name(file: str) -> tuple[str, int]:
    """Returns name and number of the split of own data; a file that names no split is for training."""
    stem = file.removesuffix(".arrow")
    name, _, split = stem.rpartition("_")
    return (name, OWN_SPLITS.index(split)) if name and split in OWN_SPLITS else (stem, 0)
