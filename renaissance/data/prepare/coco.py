"""COCO captions in Karpathy's splits -> coco_caption_karpathy_{train,restval,val,test}.arrow.

Raw layout below `root`: `train2014/*.jpg`, `val2014/*.jpg`, `karpathy/dataset_coco.json`.
"""

from __future__ import annotations

import os
from typing import Any, Unpack

from renaissance.data.dataset_specs import COCO_FILE, COCO_PICTURES

from .karpathy import write_karpathy
from .writer import WriteOptions

ANNOTATIONS = "karpathy/dataset_coco.json"


def make_arrow(
    root: str | os.PathLike, dataset_root: str | os.PathLike, **writing: Unpack[WriteOptions]
) -> list[dict[str, Any]]:
    """Write the four files from the raw download in `root`; returns their manifests, raises as `write_karpathy`."""
    return write_karpathy("coco", COCO_FILE, tuple(COCO_PICTURES), ANNOTATIONS, None, root, dataset_root, **writing)
