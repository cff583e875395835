"""NLVR2 -> nlvr2_{train,dev,test1,balanced_dev,balanced_test1,unbalanced_dev,unbalanced_test1}.arrow.

Raw layout below `root`: `images/train/<directory>/`, `dev/`, `test1/` (or `images/dev/`, `images/test1/`) with
`<pair>-img0.png` and `<pair>-img1.png`, and `nlvr2/data/` of the authors' repository, lil-lab/nlvr (Suhr et al., ACL
2019). The balanced and unbalanced parts of dev and test1 may be absent; they are about images of dev and test1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Unpack

from renaissance.core.errors import UserError
from renaissance.data.dataset_specs import DATASETS, NLVR2_FILE, UNKNOWN

from .annotation_store import AnnotationStore
from .annotations import json_lines, require_files, texts_of
from .writer import LeftOut, Plan, Row, WriteOptions, check_options, schema_of, write_files

_NEEDED = {split: f"nlvr2/data/{split}.json" for split in ("train", "dev", "test1")}
_OPTIONAL = {
    f"{part}_{split}": f"nlvr2/data/{part}/{part}_{split}.json"
    for part in ("balanced", "unbalanced")
    for split in ("dev", "test1")
}


def make_arrow(
    root: str | os.PathLike, dataset_root: str | os.PathLike, **writing: Unpack[WriteOptions]
) -> list[dict[str, Any]]:
    """Write the seven files, or as many as there are annotations for.

    A row is a pair of images with all sentences about it, in the order of the annotations.

    Args:
        root, dataset_root, writing: as for every `make_arrow`, which returns the manifests.

    Raises:
        UserError: a bad option, a missing or malformed annotation file (with the line), or one of the refusals of
            `write_files`.
    """
    check_options(**writing)
    found = require_files(root, list(_NEEDED.values()), list(_OPTIONAL.values()))
    absent = [
        f"'{file}' is not there, so its file was not written." for file in _OPTIONAL.values() if file not in found
    ]
    plans = [_plan(Path(root), split, file) for split, file in (_NEEDED | _OPTIONAL).items() if file in found]
    plans[0] = plans[0]._replace(notes=absent)
    source = {"dataset": "nlvr2", "root": os.fspath(root), "annotations": found}
    return write_files(plans, root, dataset_root, source=source, options={}, **writing)


def _plan(root: Path, split: str, file: str) -> Plan:
    store, name = AnnotationStore("sentence"), NLVR2_FILE.format(split=split)
    listed = _read(root, store, split, root / file)
    if not listed:
        raise UserError(f"'{root / file}' lists no sentence; download it again.")
    return Plan(
        name=name,
        schema=schema_of(DATASETS["nlvr2"].columns, {"dataset": "nlvr2", "split": split}),
        rows=_rows(store, split),
        listed=store.splits()[split],
        skipped=store.skipped(split),
        texts=("questions",),
        expected=DATASETS["nlvr2"].expected.get(name, UNKNOWN),
        listed_texts=listed,
    )


def _read(root: Path, store: AnnotationStore, split: str, path: Path) -> int:
    """Fill the annotation store with pairs, each under the beginning of its images' paths; return the number of sentences."""
    base, seen = split.rpartition("_")[2], set()
    folder = base if base != "train" and (root / base).is_dir() else f"images/{base}"
    for number, entry in json_lines(path):
        identifier, sentence, label = texts_of(path, number, entry, "identifier", "sentence", "label")
        pair = identifier.rpartition("-")[0]
        where, directory = folder, entry.get("directory")
        if not pair.startswith(f"{base}-") or label not in ("True", "False") or identifier in seen:
            raise UserError(
                f"'{path}' line {number} has identifier '{identifier}' and label '{label}'; identifiers are "
                f"'{base}-<number>-<number>-<number>', each once, and labels 'True' or 'False'."
            )
        if base == "train":
            if not isinstance(directory, int | str):
                raise UserError(f"'{path}' line {number} needs directory, the folder of its pictures in '{folder}'.")
            where = f"{folder}/{directory}"
        seen.add(identifier)
        store.add(f"{where}/{pair}", split, [sentence], [[identifier, label]])
    return len(seen)


def _rows(store: AnnotationStore, split: str) -> Iterator[Row | LeftOut]:
    for name, samples in store.samples(split):
        values = {
            "questions": [sentence for sentence, _ in samples],
            "answers": [label for _, (_, label) in samples],
            "identifier": name.rpartition("/")[2],
            "identifiers": [identifier for _, (identifier, _) in samples],
        }
        images = {f"image_{side}": f"{name}-img{side}.png" for side in (0, 1)}
        yield Row(images, values) if samples else LeftOut("picture pair without a sentence", name)
