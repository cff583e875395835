"""What the data sets of a run hold, and what they lack, in lines for the screen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from renaissance.core.console import table
from renaissance.data.collate import Samples
from renaissance.data.dataset_specs import OWN_SPLITS
from renaissance.data.limited import LimitedDataset


def overview(samples: Mapping[str, Samples | None]) -> list[str]:
    """Returns a table of the files with their rows and samples, and notes; `samples` are the data sets by split."""
    rows = [("data", "rows", "samples")]
    for split, dataset in samples.items():
        for file in dataset.describe() if dataset is not None else ():
            rows.append((f"{split}: {file.file}", f"{file.rows:,}", f"{file.samples:,}"))
    lines = [table(rows, indent="")]
    missing = [file for dataset in samples.values() for file in getattr(dataset, "missing_shards", ())]
    if missing:
        lines.append(f"note: allow_missing_shards=True: trained without {', '.join(missing)}, which are not there")
    notes = [note for dataset in samples.values() for note in getattr(dataset, "notes", ())]
    lines += [f"note: {note}" for note in dict.fromkeys(notes)]
    hidden = [split for split, dataset in samples.items() if dataset is not None and not dataset.labelled]
    if hidden:
        lines.append(f"note: {', '.join(hidden)}: no labels, so predictions with test_only=True, and no metric")
    return lines + [f"note: {split}: {each}" for split, each in samples.items() if isinstance(each, LimitedDataset)]


def splits_not_there(
    names: Iterable[str], tables: Mapping[str, Any], samples: Mapping[str, Samples | None]
) -> list[str]:
    """Returns "val of coco" and so on: the evaluation splits that data sets may have and that were not found.

    Args:
        names: of the data sets.
        tables: their rows by name, each with its `splits`; one that has none is a user's own.
        samples: those that were opened, by split.
    """
    absent = []
    for name in names:
        row = tables.get(name)
        known = OWN_SPLITS if row is None else row.splits
        read = {split for split, each in samples.items() if each and name in {file.dataset for file in each.describe()}}
        if read <= {*known}:  # not those of an older layout, which other splits have replaced
            absent += [f"{split} of {name}" for split in known if split != "train" and split not in read]
    return absent
