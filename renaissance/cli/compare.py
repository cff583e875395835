"""`python run.py compare with runs='result/a/*,result/b/version_3'`: finished runs side by side, its own experiment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sacred import Experiment

from renaissance.evaluation.compare import compare

ex = Experiment("compare", save_git_info=False)


@ex.config
def defaults():
    runs = (
        None  # run folders or patterns of them, a list or with commas between; the others are compared with the first
    )
    output = "compare"  # folder that the table is written to, as compare.md and compare.csv; None = only printed


def main(values: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    """Compares runs. Raises UserError as `compare` does."""
    compare(**values)
