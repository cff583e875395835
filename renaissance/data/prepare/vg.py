"""Visual Genome's region descriptions -> vg.arrow: a row an image, with all its phrases and their boxes.

Raw layout below `root`: `images/VG_100K/*.jpg`, `images/VG_100K_2/*.jpg`, `annotations/region_descriptions.json`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Unpack

from renaissance.core.errors import UserError
from renaissance.data.dataset_specs import CAPTION, DATASETS, IMAGE, IMAGE_ID, VG_FILE

from .annotation_store import AnnotationStore
from .annotations import folder_of, json_items
from .captioned import NO_CAPTION
from .writer import LeftOut, Plan, Row, WriteOptions, check_options, schema_of, write_files

ANNOTATIONS = "annotations/region_descriptions.json"
FOLDERS = ("images/VG_100K", "images/VG_100K_2")
BOX = ("width", "height", "x", "y")  # columns of the file and keys of a region
_LARGEST = 2**31  # of a box's numbers


def make_arrow(
    root: str | os.PathLike, dataset_root: str | os.PathLike, **writing: Unpack[WriteOptions]
) -> list[dict[str, Any]]:
    """Write the file.

    Boxes are kept as the annotations have them, over the border or thinner than a pixel: nothing is cut out.

    Args:
        root, dataset_root, writing: as for every `make_arrow`, which returns the manifests.

    Raises:
        UserError: a bad option, a missing or damaged annotation file, or one of the refusals of `write_files`.
    """
    check_options(**writing)
    folder = folder_of(root, f"{', '.join(FOLDERS)} and {ANNOTATIONS}")
    second = set(os.listdir(folder / FOLDERS[1])) if (folder / FOLDERS[1]).is_dir() else set()
    store = AnnotationStore()
    for number, entry in enumerate(json_items(folder / ANNOTATIONS, "item")):
        _add(store, folder / ANNOTATIONS, number, entry, second)
    plan = Plan(
        name=VG_FILE,
        schema=schema_of(DATASETS["vg"].columns, {"dataset": "vg", "split": "train"}),
        rows=_rows(store),
        listed=store.splits()["train"],
        skipped=store.skipped("train"),
        texts=(CAPTION.name,),
        expected=DATASETS["vg"].expected[VG_FILE],
    )
    source = {"dataset": "vg", "root": os.fspath(root), "annotations": ANNOTATIONS}
    return write_files([plan], root, dataset_root, source=source, options={}, **writing)


def _add(store: AnnotationStore, path: Path, number: int, entry: Any, second: set[str]) -> None:
    try:
        image, regions = entry["id"], entry["regions"]
        phrases = [region["phrase"] for region in regions]
        boxes = [[region[key] for key in BOX] for region in regions]
        well_formed = type(image) is int and all(isinstance(phrase, str) for phrase in phrases)
        well_formed &= all(type(value) is int and -_LARGEST <= value < _LARGEST for box in boxes for value in box)
    except (KeyError, TypeError):
        well_formed = False
    if not well_formed:
        raise UserError(
            f"'{path}' entry {number} is not in Visual Genome's form: it needs id and regions with phrase (text), "
            f"{', '.join(BOX)} (whole numbers)."
        )
    name = f"{image}.jpg"
    if not store.add(f"{FOLDERS[name in second]}/{name}", "train", phrases, boxes):
        raise UserError(f"'{path}' lists picture {image} twice; every picture stands there once.")


def _rows(store: AnnotationStore) -> Iterator[Row | LeftOut]:
    for name, samples in store.samples("train"):
        if samples:
            phrases, boxes = zip(*samples, strict=True)
            values = {CAPTION.name: phrases, **dict(zip(BOX, zip(*boxes, strict=True), strict=True))}
            yield Row({IMAGE.name: name}, {**values, IMAGE_ID.name: Path(name).stem}, _rescale)
        else:
            yield LeftOut(NO_CAPTION, name)


def _rescale(values: dict[str, Any], horizontal: float, vertical: float) -> dict[str, Any]:
    """Bring the boxes to the pixels of an image that was made smaller."""
    factors = {"width": horizontal, "x": horizontal, "height": vertical, "y": vertical}
    return {**values, **{key: [round(value * factors[key]) for value in values[key]] for key in BOX}}
