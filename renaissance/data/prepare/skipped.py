"""Counts of skipped items for a file's manifest."""

from __future__ import annotations

from typing import Any

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

    def count(self, *kinds: str) -> int:
        """Returns the number of items of these kinds."""
        return sum(self._kinds[kind]["count"] for kind in kinds if kind in self._kinds)

    def first(self, *kinds: str) -> list[str]:
        """Returns the first names of these kinds."""
        return [name for kind in kinds if kind in self._kinds for name in self._kinds[kind]["first"]]

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Returns {kind: {"count", "first"}}, kinds in alphabetical order."""
        return dict(sorted(self._kinds.items()))
