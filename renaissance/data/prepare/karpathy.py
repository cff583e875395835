"""Captions in the splits of Karpathy and Fei-Fei (CVPR 2015): COCO and Flickr30k.

Raw layout below `root`, files:

    coco  train2014/*.jpg, val2014/*.jpg, karpathy/dataset_coco.json  -> coco_caption_karpathy_{train,restval,val,test}.arrow
    f30k  flickr30k-images/*.jpg, karpathy/dataset_flickr30k.json     -> f30k_caption_karpathy_{train,val,test}.arrow
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple, TypedDict

from renaissance.core.errors import require
from renaissance.data.dataset_specs import COCO_FILE, COCO_IMAGES, F30K_FILE, F30K_IMAGES

from .annotation_store import AnnotationStore
from .annotations import fields, folder_of, json_items
from .writer import Download, arrow_writer, plan_stored


class _KarpathySource(NamedTuple):
    """Attributes: file, name with "{split}"; splits; annotations, below root; images, None = each entry names its folder."""

    file: str
    splits: tuple[str, ...]
    annotations: str
    images: str | None


class _KarpathySentence(TypedDict):
    raw: str


_LAYOUTS = {
    "coco": _KarpathySource(COCO_FILE, tuple(COCO_IMAGES), "karpathy/dataset_coco.json", None),
    "f30k": _KarpathySource(F30K_FILE, tuple(F30K_IMAGES), "karpathy/dataset_flickr30k.json", "flickr30k-images"),
}


@arrow_writer
def make_arrow(root: Path, *, dataset: str = "coco") -> Download:
    """Writes one file a split, of which the annotations must list all.

    Raises:
        UserError: a missing or damaged annotation file, or one of the refusals of `arrow_writer`.
    """
    layout = _LAYOUTS[dataset]
    path = folder_of(root, f"{layout.images or 'train2014/, val2014'}/ and {layout.annotations}") / layout.annotations
    store = AnnotationStore()
    for number, entry in enumerate(json_items(path, "images.item")):
        where = f"'{path}' image {number}"
        name, split, sentences = fields(entry, where, filename=str, split=str, sentences=list[_KarpathySentence])
        folder = layout.images or fields(entry, where, filepath=str)[0]
        known = ", ".join(layout.splits)
        require(split in layout.splits, f"{where}, '{name}', is in split '{split}'; the splits are {known}.")
        store.add(f"{folder}/{name}", split, [sentence["raw"] for sentence in sentences], once_in=path)
    listed = store.splits()
    lacking = [split for split in layout.splits if split not in listed]
    counts = ", ".join(f"{split} {count:,}" for split, count in listed.items())
    require(not lacking, f"'{path}' lists no image of split {', '.join(lacking)}; images listed: {counts}.")
    plans = (
        plan_stored(store, dataset, layout.file.format(split=split), split, store.caption_rows(split, os.path.basename))
        for split in layout.splits
    )
    return Download(dataset, plans, source={"annotations": layout.annotations})
