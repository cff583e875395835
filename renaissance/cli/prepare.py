"""`python run.py prepare with dataset=... root=... data_root=...`: the writers' own experiment and settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sacred import Experiment

from renaissance.data.prepare import prepare

ex = Experiment("prepare", save_git_info=False)


@ex.config
def defaults():
    dataset = None  # coco, f30k, vg, gcc, sbu, vqa, nlvr2, snli, refcoco, refcoco+, refcocog, captions or images
    root = None  # folder of the raw download
    data_root = None  # folder that takes the arrow files
    workers = None  # processes that read pictures; None = one a core
    max_unreadable = None  # share of a file's pictures that may be missing or unreadable; None = 1 %, gcc and sbu any
    resize = None  # pixels that the short side of a larger picture is reduced to; None = pictures stay as they are
    quality = None  # of the JPEG files that resizing makes, 1 to 100; None = 95
    split_by = None  # refcoco, refcoco+, refcocog: unc, google or umd; None = unc, refcocog umd
    name = None  # captions, images: name of the data set; None = captions, images or cifar10
    annotations = None  # captions: .jsonl, .csv or .parquet file below root; None = those in root, see "Own captions"
    val_share = None  # captions, images: share of the training pictures for val; None = 0, images without val 0.1


def main(values: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    """Prepares one data set. Raises UserError as `prepare` does."""
    prepare(**values)
