"""Images that are in two splits: a model is tested on what it was trained on.

Two rows hold the same image if their files are equal byte for byte, or if they name the same image of COCO or
Flickr30k by its number, however it was resized. The same image in another encoding under another name is not found.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

import numpy as np

from .files import CheckedFile


def find_shared_images(files: Iterable[CheckedFile]) -> None:
    """Finds images that are in two splits, and writes them into the first of the two files.

    Wrong is what two splits of one data set share; worth knowing, what training images of one data set share with another's
    validation or test split.
    """
    # Files beside those of the splits hold the same images by construction.
    for ours, theirs in combinations([file for file in files if file.split], 2):
        roles, same = {_role(ours.split), _role(theirs.split)}, ours.dataset == theirs.dataset
        if len(roles) < 2 or not (same or "train" in roles):
            continue
        found = ours.problems if same and not ours.spec.shares_images else ours.notes
        what = f"images that {ours.dataset} {ours.split} shares with {theirs.dataset} {theirs.split}, by"
        for row, other in _shared(ours.keys, theirs.keys, ours.rows, theirs.rows):
            found.add(f"{what} content", f"row {row} is {theirs.name} row {other}")
        if ours.spec.collection and ours.spec.collection == theirs.spec.collection:
            for row, other in _shared(ours.ids, theirs.ids, ours.rows, theirs.rows):
                found.add(f"{what} {ours.spec.collection} number", f"row {row} is {theirs.name} row {other}")


def _role(split: str) -> str:
    return "test" if "test" in split else "train" if split == "train" else "val"


def _shared(ours: np.ndarray, theirs: np.ndarray, our_rows: int, their_rows: int) -> list[tuple[int, int]]:
    """Returns the rows of equal values, of which each row has one or several; -1 is equal to none."""
    both, our_places, their_places = np.intersect1d(ours, theirs, return_indices=True)
    known = both >= 0
    our_rows = our_places[known] * our_rows // max(len(ours), 1)
    their_rows = their_places[known] * their_rows // max(len(theirs), 1)
    return sorted(zip(our_rows.tolist(), their_rows.tolist(), strict=True))
