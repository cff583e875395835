"""Conceptual Captions -> conceptual_caption_{train,val}_{0..}.arrow, 100,000 rows a file.

Raw layout below `root`: `images_train/0000/...`, `images_val/...`, `train_annot.json`, `val_annot.json`, or what
img2dataset leaves, train in `root` or in `train/`, val in `val/`; see `web`.
"""

from __future__ import annotations

import os
from typing import Any, Unpack

from renaissance.data.dataset_specs import GCC_FILE

from .web import write_web
from .writer import WriteOptions


def make_arrow(
    root: str | os.PathLike, dataset_root: str | os.PathLike, **writing: Unpack[WriteOptions]
) -> list[dict[str, Any]]:
    """Write the files of both splits from the raw download in `root`; returns their manifests, raises as `write_web`."""
    lists = {"train": "train_annot.json", "val": "val_annot.json"}
    return write_web("gcc", GCC_FILE, lists, root, dataset_root, **writing)
