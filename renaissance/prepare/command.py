"""`python run.py prepare with dataset=... root=... data_root=...`: the writers' own experiment and settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sacred import Experiment

from renaissance.prepare import prepare

ex = Experiment("prepare", save_git_info=False)


@ex.config
def defaults():
    dataset = None  # coco, or captions (own pictures with captions)
    root = None  # folder of the raw download
    data_root = None  # folder that takes the arrow files
    workers = None  # processes that read pictures; None = one a core
    max_unreadable = 0.01  # share of a file's pictures that may be missing or unreadable
    name = None  # captions: name of the data set; None = captions
    annotations = None  # captions: .jsonl or .csv file below root; None = the only one directly in root
    val_share = None  # captions: share of the pictures for validation where no split is given; None = 0


def main(values: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    """Prepares one data set. Raises UserError as `prepare` does."""
    prepare(**values)
