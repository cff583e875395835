"""Images with captions in the splits of Karpathy and Fei-Fei (CVPR 2015): what coco and f30k have in common."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Unpack

from renaissance.core.errors import UserError
from renaissance.data.dataset_specs import DATASETS

from .annotation_store import AnnotationStore
from .annotations import folder_of, json_items
from .captioned import caption_plan
from .writer import WriteOptions, check_options, write_files


def write_karpathy(
    dataset: str,
    template: str,
    splits: tuple[str, ...],
    annotations: str,
    images: str | None,
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
        images: the folder of the images, below root; None = each entry names its own, as "filepath".
        root, dataset_root, writing: as for every `make_arrow`.

    Raises:
        UserError: a bad option, a missing or damaged annotation file, or one of the refusals of `write_files`.
    """
    check_options(**writing)
    path = folder_of(root, f"{images or 'train2014/, val2014'}/ and {annotations}") / annotations
    store = AnnotationStore()
    for number, entry in enumerate(json_items(path, "images.item")):
        _add(store, path, number, entry, images, splits)
    listed = store.splits()
    lacking = [split for split in splits if split not in listed]
    if lacking:
        counts = ", ".join(f"{split} {count:,}" for split, count in listed.items())
        raise UserError(f"'{path}' lists no picture of split {', '.join(lacking)}; pictures listed: {counts}.")
    files = {split: template.format(split=split) for split in splits}
    expected = DATASETS[dataset].expected
    return write_files(
        (
            caption_plan(store, split, file, dataset=dataset, image_id=os.path.basename, expected=expected[file])
            for split, file in files.items()
        ),
        root,
        dataset_root,
        source={"dataset": dataset, "root": os.fspath(root), "annotations": annotations},
        options={},
        **writing,
    )


def _add(
    store: AnnotationStore, path: Path, number: int, entry: Any, images: str | None, splits: tuple[str, ...]
) -> None:
    try:
        folder, name = entry["filepath"] if images is None else images, entry["filename"]
        split, captions = entry["split"], [sentence["raw"] for sentence in entry["sentences"]]
        well_formed = all(isinstance(text, str) for text in (folder, name, split, *captions))
    except (KeyError, TypeError):
        well_formed = False
    if not well_formed:
        needed = "filename, split" if images else "filepath, filename, split"
        raise UserError(
            f"'{path}' image {number} is not in Karpathy's form: it needs {needed} and sentences with raw, all of them "
            "text."
        )
    name = f"{folder}/{name}"
    if split not in splits:
        raise UserError(f"'{path}' puts '{name}' into split '{split}'; the splits are {', '.join(splits)}.")
    if not store.add(name, split, captions):
        raise UserError(f"'{path}' lists '{name}' twice; every picture stands there once.")
