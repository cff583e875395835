"""Images that are in two splits: a model is tested on what it was trained on.

Two rows hold the same image if their files are equal byte for byte, or if they name the same image of COCO or
Flickr30k by its number, however it was resized. The same image in another encoding under another name is not found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

import numpy as np

from .files import CheckedFile

# Mao et al. divide RefCOCOg's objects, not its images, into train and val ("google" split).
_SHARES_BY_CONSTRUCTION = ("refcocog_google",)


def shared_images(files: Iterable[CheckedFile]) -> tuple[list[str], list[str]]:
    """Find images that are in two splits.

    Returns:
        What is wrong: a sentence for each two splits of one data set that share images. What is worth knowing: the same
        for training images of one data set in another's validation or test split.
    """
    splits: dict[tuple[str, str], list[CheckedFile]] = {}
    for file in files:
        if file.split:  # files beside those of the splits hold the same images by construction
            splits.setdefault((file.dataset, file.split), []).append(file)
    problems, notes = [], []
    for a, b in combinations(splits, 2):
        roles, same = {_role(a[1]), _role(b[1])}, a[0] == b[0]
        if len(roles) == 2 and (same or "train" in roles):
            wrong = same and a[0] not in _SHARES_BY_CONSTRUCTION
            (problems if wrong else notes).extend(
                f"{count:,} pictures are both in {' '.join(a)} and in {' '.join(b)}, by {how} ({first})."
                for count, how, first in _shared(splits[a], splits[b])
            )
    return problems, notes


def _role(split: str) -> str:
    return "test" if "test" in split else "train" if split == "train" else "val"


def _shared(ours: Sequence[CheckedFile], theirs: Sequence[CheckedFile]) -> Iterator[tuple[int, str, str]]:
    """Yield how many images are shared, by what they are the same, and the first of them."""
    ways = {"keys": "content"}
    collection = ours[0].spec.collection
    if collection and collection == theirs[0].spec.collection:
        ways["ids"] = f"{collection} number"
    for name, how in ways.items():
        held = [np.concatenate([getattr(file, name) for file in files]) for files in (ours, theirs)]
        both, *places = np.intersect1d(*held, return_indices=True)
        pairs = sorted(zip(*(each[both >= 0].tolist() for each in places), strict=True))
        if pairs:
            first = [f"{_where(ours, name, a)} is {_where(theirs, name, b)}" for a, b in pairs[:3]]
            yield len(pairs), how, "; ".join(first)


def _where(files: Sequence[CheckedFile], name: str, place: int) -> str:
    """Return file and row of an image that was counted through all files of a split."""
    for file in files:
        held = len(getattr(file, name))
        if place < held:
            return f"{file.path.name} row {place // (held // file.rows)}"
        place -= held
    raise IndexError(place)
