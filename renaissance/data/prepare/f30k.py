"""Flickr30k in Karpathy's splits -> f30k_caption_karpathy_{train,val,test}.arrow.

Raw layout below `root`: `flickr30k-images/*.jpg`, `karpathy/dataset_flickr30k.json`.
"""

from __future__ import annotations

import os
from typing import Any, Unpack

from renaissance.data.dataset_specs import F30K_FILE, F30K_PICTURES

from .karpathy import write_karpathy
from .writer import WriteOptions

ANNOTATIONS, IMAGES = "karpathy/dataset_flickr30k.json", "flickr30k-images"


def make_arrow(
    root: str | os.PathLike, dataset_root: str | os.PathLike, **writing: Unpack[WriteOptions]
) -> list[dict[str, Any]]:
    """Write the three files from the raw download in `root`; returns their manifests, raises as `write_karpathy`."""
    splits = tuple(F30K_PICTURES)
    return write_karpathy("f30k", F30K_FILE, splits, ANNOTATIONS, IMAGES, root, dataset_root, **writing)
