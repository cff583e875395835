"""Visual Genome's region descriptions -> vg.arrow: a row an image, with all its phrases and their boxes.

Raw layout below `root`: `images/VG_100K/*.jpg`, `images/VG_100K_2/*.jpg`, `annotations/region_descriptions.json`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypedDict

from renaissance.core.untrusted import INT64
from renaissance.data.dataset_specs import CAPTION, IMAGE, IMAGE_ID, VG_FILE

from .annotation_store import AnnotationStore
from .annotations import fields, folder_of, json_items
from .writer import Download, Row, arrow_writer, plan_stored

ANNOTATIONS = "annotations/region_descriptions.json"
FOLDERS = ("images/VG_100K", "images/VG_100K_2")
BOX = ("width", "height", "x", "y")  # columns of the file and keys of a region
_Region = TypedDict("_Region", {"phrase": str, **dict.fromkeys(BOX, INT64)})


@arrow_writer
def make_arrow(root: Path) -> Download:
    """Writes the file.

    Boxes are kept as the annotations have them, over the border or thinner than a pixel: nothing is cut out.

    Raises:
        UserError: a missing or damaged annotation file, or one of the refusals of `arrow_writer`.
    """
    path = folder_of(root, f"{', '.join(FOLDERS)} and {ANNOTATIONS}") / ANNOTATIONS
    second = set(os.listdir(root / FOLDERS[1])) if (root / FOLDERS[1]).is_dir() else set()
    store = AnnotationStore()
    for number, entry in enumerate(json_items(path, "item")):
        image, regions = fields(entry, f"'{path}' entry {number}", id=INT64, regions=list[_Region])
        boxes = [[region[key] for key in BOX] for region in regions]
        name = f"{image}.jpg"
        phrases = [region["phrase"] for region in regions]
        store.add(f"{FOLDERS[name in second]}/{name}", "train", phrases, boxes, once_in=path)
    plan = plan_stored(store, "vg", VG_FILE, "train", store.rows("train", _row))
    return Download("vg", [plan], source={"annotations": ANNOTATIONS})


def _row(name: str, samples: list[tuple[str, Any]]) -> Row:
    phrases, boxes = zip(*samples, strict=True)
    values = {CAPTION.name: phrases, **dict(zip(BOX, zip(*boxes, strict=True), strict=True))}
    return Row({IMAGE.name: name}, {**values, IMAGE_ID.name: Path(name).stem}, _rescale)


def _rescale(values: dict[str, Any], horizontal: float, vertical: float) -> dict[str, Any]:
    """Brings the boxes to the pixels of an image that was made smaller."""
    factors = {"width": horizontal, "x": horizontal, "height": vertical, "y": vertical}
    return {**values, **{key: [round(value * factors[key]) for value in values[key]] for key in BOX}}
