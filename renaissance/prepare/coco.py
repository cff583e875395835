"""COCO captions in Karpathy's splits -> coco_caption_karpathy_{train,restval,val,test}.arrow.

Raw layout below `root`: `train2014/*.jpg`, `val2014/*.jpg`, `karpathy/dataset_coco.json` (the splits of Karpathy and
Fei-Fei, CVPR 2015).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ijson

from renaissance.errors import UserError
from renaissance.formats import COCO_FILE, COCO_PICTURES
from renaissance.prepare.captioned import caption_plan, folder_of
from renaissance.prepare.spool import Spool
from renaissance.prepare.writer import check_options, write_files

ANNOTATIONS = "karpathy/dataset_coco.json"


def make_arrow(
    root: str | os.PathLike,
    dataset_root: str | os.PathLike,
    *,
    workers: int | None = None,
    max_unreadable: float | None = 0.01,
) -> list[dict[str, Any]]:
    """Write the four files.

    Args:
        root: the folder of the raw download.
        dataset_root: the folder to write to.
        workers: processes that read pictures, None = one a core.
        max_unreadable: share of a file's pictures that may be unreadable or missing; None = any.

    Returns:
        The four manifests.

    Raises:
        UserError: a bad option, a missing or damaged annotation file, or one of the refusals of `write_files`.
    """
    check_options(workers, max_unreadable)
    annotations = folder_of(root, f"train2014/, val2014/ and {ANNOTATIONS}") / ANNOTATIONS
    spool = Spool()
    for number, entry in enumerate(_entries(annotations)):
        _add(spool, annotations, number, entry)
    listed = spool.splits()
    lacking = [split for split in COCO_PICTURES if split not in listed]
    if lacking:
        counts = ", ".join(f"{split} {count:,}" for split, count in listed.items()) or "none"
        raise UserError(f"'{annotations}' lists no picture of split {', '.join(lacking)}; pictures listed: {counts}.")
    plans = (
        caption_plan(spool, split, COCO_FILE.format(split=split), image_id=os.path.basename, expected=expected)
        for split, expected in COCO_PICTURES.items()
    )
    return write_files(
        plans,
        root,
        dataset_root,
        source={"dataset": "coco", "root": os.fspath(root), "annotations": ANNOTATIONS},
        options={},
        workers=workers,
        max_unreadable=max_unreadable,
    )


def _entries(annotations: Path) -> Iterator[Any]:
    """Yield the entries of the list "images" without holding the file in memory."""
    try:
        with open(annotations, "rb") as file:
            yield from ijson.items(file, "images.item", use_float=True)
    except OSError as error:
        raise UserError(
            f"'{annotations}' cannot be read ({error.strerror}); download Karpathy's splits there."
        ) from None
    except (ijson.JSONError, UnicodeDecodeError) as error:
        raise UserError(
            f"'{annotations}' is cut short or is not JSON ({_first_line(error)}); download it again."
        ) from None


def _add(spool: Spool, annotations: Path, number: int, entry: Any) -> None:
    try:
        name = f"{entry['filepath']}/{entry['filename']}"
        split, captions = entry["split"], [sentence["raw"] for sentence in entry["sentences"]]
        well_formed = all(isinstance(text, str) for text in captions)
    except (KeyError, TypeError):
        well_formed = False
    if not well_formed:
        raise UserError(
            f"'{annotations}' image {number} is not in Karpathy's form: it needs filepath, filename, split and "
            "sentences with raw, all of them text."
        )
    if split not in COCO_PICTURES:
        raise UserError(
            f"'{annotations}' puts '{name}' into split '{split}'; the splits are {', '.join(COCO_PICTURES)}."
        )
    if not spool.add(name, split, captions):
        raise UserError(f"'{annotations}' lists '{name}' twice; every picture stands there once.")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
