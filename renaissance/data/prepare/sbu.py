"""SBU Captions -> sbu_{0..}.arrow, 100,000 rows a file.

Raw layout below `root`: `images_train/0000/...` and `annot.json`, or what img2dataset leaves, in `root` or in `train/`;
see `web`.
"""

from __future__ import annotations

import os
from typing import Any, Unpack

from renaissance.data.dataset_specs import SBU_FILE

from .web import write_web
from .writer import WriteOptions


def make_arrow(
    root: str | os.PathLike, dataset_root: str | os.PathLike, **writing: Unpack[WriteOptions]
) -> list[dict[str, Any]]:
    """Write the files from the raw download in `root`; returns their manifests, raises as `write_web`."""
    return write_web("sbu", SBU_FILE, {"train": "annot.json"}, root, dataset_root, **writing)
