"""<colour>_<number>.png in train/ and val/ -> toys_{train,val}.arrow."""

from __future__ import annotations

from pathlib import Path

from renaissance.data.prepare.entries import Row
from renaissance.data.prepare.skipped import Skipped
from renaissance.data.prepare.writer import Download, arrow_writer, plan_file


@arrow_writer
def make_arrow(root: Path) -> Download:
    """Write both files."""
    plans = []
    for split in ("train", "val"):
        names = sorted(path.name for path in (root / split).iterdir())
        rows = [Row({"image": f"{split}/{name}"}, {"colour": name.partition("_")[0]}) for name in names]
        plans.append(plan_file("toys", f"toys_{split}.arrow", split, rows, listed=len(rows), skipped=Skipped()))
    return Download("toys", plans)
