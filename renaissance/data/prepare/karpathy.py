"""Pictures with captions in the splits of Karpathy and Fei-Fei (CVPR 2015): what coco and f30k have in common."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Unpack

from renaissance.core.errors import UserError
from renaissance.data.dataset_specs import DATASETS

from .annotations import folder_of, json_items
from .captioned import caption_plan
from .spool import Spool
from .writer import WriteOptions, check_options, write_files


def write_karpathy(
    dataset: str,
    template: str,
    splits: tuple[str, ...],
    annotations: str,
    pictures: str | None,
    root: str | os.PathLike,
    dataset_root: str | os.PathLike,
    **writing: Unpack[WriteOptions],
) -> list[dict[str, Any]]:
    """Write one file a split.

    Args:
        dataset: key of `dataset_specs.DATASETS`.
        template: the files' name with "{split}".
        splits: all of which the annotations must list.
        annotations: Karpathy's file, below root.
        pictures: the folder of the pictures, below root; None = each entry names its own, as "filepath".
        root, dataset_root, writing: as for every `make_arrow`.

    Raises:
        UserError: a bad option, a missing or damaged annotation file, or one of the refusals of `write_files`.
    """
    check_options(**writing)
    path = folder_of(root, f"{pictures or 'train2014/, val2014'}/ and {annotations}") / annotations
    spool = Spool()
    for number, entry in enumerate(json_items(path, "images.item")):
        _add(spool, path, number, entry, pictures, splits)
    listed = spool.splits()
    lacking = [split for split in splits if split not in listed]
    if lacking:
        counts = ", ".join(f"{split} {count:,}" for split, count in listed.items())
        raise UserError(f"'{path}' lists no picture of split {', '.join(lacking)}; pictures listed: {counts}.")
    files = {split: template.format(split=split) for split in splits}
    expected = DATASETS[dataset].expected
    return write_files(
        (
            caption_plan(spool, split, file, dataset=dataset, image_id=os.path.basename, expected=expected[file])
            for split, file in files.items()
        ),
        root,
        dataset_root,
        source={"dataset": dataset, "root": os.fspath(root), "annotations": annotations},
        options={},
        **writing,
    )


def _add(spool: Spool, path: Path, number: int, entry: Any, pictures: str | None, splits: tuple[str, ...]) -> None:
    try:
        folder, name = entry["filepath"] if pictures is None else pictures, entry["filename"]
        split, captions = entry["split"], [sentence["raw"] for sentence in entry["sentences"]]
        well_formed = all(isinstance(text, str) for text in (folder, name, split, *captions))
    except (KeyError, TypeError):
        well_formed = False
    if not well_formed:
        needed = "filename, split" if pictures else "filepath, filename, split"
        raise UserError(
            f"'{path}' image {number} is not in Karpathy's form: it needs {needed} and sentences with raw, all of them "
            "text."
        )
    name = f"{folder}/{name}"
    if split not in splits:
        raise UserError(f"'{path}' puts '{name}' into split '{split}'; the splits are {', '.join(splits)}.")
    if not spool.add(name, split, captions):
        raise UserError(f"'{path}' lists '{name}' twice; every picture stands there once.")
