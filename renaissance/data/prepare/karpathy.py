"""Captions in the splits of Karpathy and Fei-Fei (CVPR 2015): COCO and Flickr30k.

Raw layout below `root`, files:

    coco  train2014/*.jpg, val2014/*.jpg, karpathy/dataset_coco.json  -> coco_caption_karpathy_{train,restval,val,test}.arrow
    f30k  flickr30k-images/*.jpg, karpathy/dataset_flickr30k.json     -> f30k_caption_karpathy_{train,val,test}.arrow
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypedDict

from renaissance.core.errors import require
from renaissance.data.dataset_specs import COCO_FILE, COCO_IMAGES, F30K_FILE, F30K_IMAGES

from .annotation_store import AnnotationStore
from .annotations import fields, folder_of, json_items
from .writer import Download, arrow_writer, plan_stored


class _KarpathySentence(TypedDict):
    raw: str


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
    store = AnnotationStore()
    for number, entry in enumerate(json_items(path, "images.item")):
        where = f"'{path}' image {number}"
        name, split, sentences = fields(entry, where, filename=str, split=str, sentences=list[_KarpathySentence])
        folder = images or fields(entry, where, filepath=str)[0]
        require(split in splits, f"{where}, '{name}', is in split '{split}'; the splits are {', '.join(splits)}.")
        store.add(f"{folder}/{name}", split, [sentence["raw"] for sentence in sentences], once_in=path)
    listed = store.splits()
    lacking = [split for split in splits if split not in listed]
    counts = ", ".join(f"{split} {count:,}" for split, count in listed.items())
    require(not lacking, f"'{path}' lists no image of split {', '.join(lacking)}; images listed: {counts}.")
    plans = (
        plan_stored(store, dataset, file.format(split=split), split, store.caption_rows(split, os.path.basename))
        for split in splits
    )
    return Download(dataset, plans, source={"annotations": annotations})
