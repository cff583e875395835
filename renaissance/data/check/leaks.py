"""Pictures that are in two splits: a model that is tested on what it was trained on has learnt them by heart.

Two rows hold the same picture if their files are equal byte for byte, or if they name the same picture of COCO or
Flickr30k by its number, however it was resized. The same picture in another encoding under another name is not found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

import numpy as np

from .files import Report
from .values import COLLECTIONS

# Mao et al. divide RefCOCOg's objects, not its pictures, into train and val ("google" split).
_SHARES_BY_CONSTRUCTION = ("refcocog_google",)


def shared_pictures(reports: Iterable[Report]) -> tuple[list[str], list[str]]:
    """Return what is wrong, a sentence for each two splits of one data set that share pictures, and what is worth
    knowing: the same for training pictures of one data set in another's validation or test split."""
    splits: dict[tuple[str, str], list[Report]] = {}
    for report in reports:
        if report.found.split:  # files beside those of the splits hold the same pictures by construction
            splits.setdefault((report.found.dataset, report.found.split), []).append(report)
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


def _shared(ours: Sequence[Report], theirs: Sequence[Report]) -> Iterator[tuple[int, str, str]]:
    """Yield, for each way in which pictures are the same, how many are shared, the way, and the first of them."""
    ways = {"keys": "content"}
    collection, other = (COLLECTIONS.get(reports[0].found.dataset) for reports in (ours, theirs))
    if collection and collection == other:
        ways["ids"] = f"{collection} number"
    for name, how in ways.items():
        held = [np.concatenate([getattr(report, name) for report in reports]) for reports in (ours, theirs)]
        both, *places = np.intersect1d(*held, return_indices=True)
        pairs = sorted(zip(*(each[both >= 0].tolist() for each in places), strict=True))
        if pairs:
            first = [f"{_where(ours, name, a)} is {_where(theirs, name, b)}" for a, b in pairs[:3]]
            yield len(pairs), how, "; ".join(first)


def _where(reports: Sequence[Report], name: str, place: int) -> str:
    """Return file and row of a picture that was counted through all files of a split."""
    for report in reports:
        held = len(getattr(report, name))
        if place < held:
            return f"{report.found.path.name} row {place // (held // report.rows)}"
        place -= held
    raise IndexError(place)
