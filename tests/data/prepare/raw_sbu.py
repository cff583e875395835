"""SBU Captions in miniature, in the layout of the first downloads; with img2dataset they lie as `raw_gcc` writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data.prepare.raw_gcc import Sample, write_list


def write(root: Path, samples: Sequence[Sample]) -> None:
    write_list(root, samples, name="annot.json")
