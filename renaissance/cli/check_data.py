"""`python run.py check_data with data_root=...`: the check of arrow files, its own experiment and settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sacred import Experiment

from renaissance.data.check import check_data

ex = Experiment("check_data", save_git_info=False)


@ex.config
def defaults():
    data_root = None  # folder of the arrow files
    datasets = None  # data sets to check, such as ["coco","vg","mine"]; None = every file in data_root
    max_text_len = 50  # tokens that a run cuts texts to; the lengths of the texts are compared with it
    tokenizer = None  # Hub id or folder: lengths in its word pieces; None = an estimate from words, at once
    workers = None  # processes that decode pictures; None = one a core
    sheet_folder = None  # folder that takes the contact sheets, check_data_<data set>.png; None = data_root


def main(values: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    """Checks the files of a folder. Raises UserError as `check_data` does."""
    check_data(**values)
