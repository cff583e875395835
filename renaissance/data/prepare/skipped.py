"""Counts of skipped items for a file's manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from renaissance.core.errors import printable

_FIRST = 10  # names that are kept of each kind


class Skipped:
    """Counts items by kind, and keeps the first names of each kind."""

    def __init__(self) -> None:
        self._kinds: dict[str, dict[str, Any]] = {}

    def add(self, kind: str, name: str) -> None:
        """Counts one more item of this kind."""
        entry = self._kinds.setdefault(kind, {"count": 0, "first": []})
        entry["count"] += 1
        if len(entry["first"]) < _FIRST:
            entry["first"].append(name)

    def add_all(self, others: Mapping[str, Mapping[str, Any]]) -> None:
        """Counts the items of another `as_dict`, which come behind its own."""
        for kind, other in others.items():
            entry = self._kinds.setdefault(kind, {"count": 0, "first": []})
            entry["count"] += other["count"]
            entry["first"] = [*entry["first"], *other["first"]][:_FIRST]

    def count(self, *kinds: str) -> int:
        """Returns the number of items of these kinds."""
        return sum(self._kinds[kind]["count"] for kind in kinds if kind in self._kinds)

    def first(self, *kinds: str) -> list[str]:
        """Returns the first names of these kinds."""
        return [name for kind in kinds if kind in self._kinds for name in self._kinds[kind]["first"]]

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Returns {kind: {"count", "first"}}, kinds in alphabetical order."""
        return dict(sorted(self._kinds.items()))


def in_words(skipped: Mapping[str, Mapping[str, Any]]) -> str:
    """What an `as_dict` says, on one line, whatever the names are: each kind, its count and its first name."""
    return "; ".join(
        f"{kind}: {each['count']:,} (first {printable(each['first'][0])})" for kind, each in skipped.items()
    )
