"""Captions in the splits of Karpathy and Fei-Fei (CVPR 2015): COCO and Flickr30k.

Raw layout below `root`, files:

    coco  train2014/*.jpg, val2014/*.jpg, karpathy/dataset_coco.json  -> coco_caption_karpathy_{train,restval,val,test}.arrow
    f30k  flickr30k-images/*.jpg, karpathy/dataset_flickr30k.json     -> f30k_caption_karpathy_{train,val,test}.arrow
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any, TypedDict

from renaissance.core.errors import require
from renaissance.core.untrusted import INT64
from renaissance.data.dataset_specs import (
    CAPTION,
    CAPTION_IDS,
    COCO_FILE,
    COCO_IMAGES,
    F30K_FILE,
    F30K_IMAGES,
    IMAGE,
    IMAGE_ID,
    SPLIT,
)

from .annotation_store import AnnotationStore
from .annotations import fields, folder_of, json_items
from .arrow_file import Plan
from .writer import Download, Row, arrow_writer, plan_stored


class _KarpathySentence(TypedDict):
    raw: str
    sentid: INT64 | None  # COCO's own number of the caption


# Data set -> name of the files; the splits; the annotations and the images below root, None = each entry names its folder.
_SOURCES = {
    "coco": (COCO_FILE, COCO_IMAGES.keys(), "karpathy/dataset_coco.json", None),
    "f30k": (F30K_FILE, F30K_IMAGES.keys(), "karpathy/dataset_flickr30k.json", "flickr30k-images"),
}


@arrow_writer
def make_arrow(root: Path, *, dataset: str = "coco") -> Download:
    """Writes one file a split, of which the annotations must list all.

    Raises:
        UserError: a missing or damaged annotation file, or one of the refusals of `arrow_writer`.
    """
    file, splits, annotations, images = _SOURCES[dataset]
    path = folder_of(root, f"{images or 'train2014/, val2014'}/ and {annotations}") / annotations
    store, unnumbered = AnnotationStore(), Counter()
    for number, entry in enumerate(json_items(path, "images.item")):
        where = f"'{path}' image {number}"
        name, split, sentences = fields(entry, where, filename=str, split=str, sentences=list[_KarpathySentence])
        folder = images or fields(entry, where, filepath=str)[0]
        require(split in splits, f"{where}, '{name}', is in split '{split}'; the splits are {', '.join(splits)}.")
        numbers = [sentence.get("sentid") for sentence in sentences]
        unnumbered[split] += numbers.count(None)
        store.add(f"{folder}/{name}", split, [sentence["raw"] for sentence in sentences], numbers, once_in=path)
    listed = store.splits()
    lacking = [split for split in splits if split not in listed]
    counts = ", ".join(f"{split} {count:,}" for split, count in listed.items())
    require(not lacking, f"'{path}' lists no image of split {', '.join(lacking)}; images listed: {counts}.")
    plans = (_plan(store, dataset, file.format(split=split), split, unnumbered[split]) for split in splits)
    return Download(dataset, plans, source={"annotations": annotations})


def _plan(store: AnnotationStore, dataset: str, file: str, split: str, unnumbered: int) -> Plan:
    """The plan of a split's file, whose captions have their numbers where all of them have one; else it is noted."""

    def row(name: str, samples: list[tuple[str, Any]]) -> Row:
        texts, numbers = zip(*samples, strict=True)
        values = {CAPTION.name: texts, IMAGE_ID.name: os.path.basename(name), SPLIT.name: split}
        return Row({IMAGE.name: name}, {**values, CAPTION_IDS.name: () if unnumbered else numbers})

    lacking = f"{file} has no {CAPTION_IDS.name}: {unnumbered:,} captions of the annotations have no sentid."
    return plan_stored(store, dataset, file, split, store.rows(split, row), notes=[lacking] if unnumbered else [])
