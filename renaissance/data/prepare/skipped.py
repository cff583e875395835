"""What was left out of a file, counted by kind and named: the counts end up in the file's manifest."""

from __future__ import annotations

from collections import Counter

_FIRST = 10  # names that are kept of each kind


class Skipped:
    """Counts what is left out, and keeps the first names of each kind."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, list[str]] = {}

    def add(self, kind: str, name: str) -> None:
        """Count one more thing of this kind."""
        self._counts[kind] += 1
        first = self._first.setdefault(kind, [])
        if len(first) < _FIRST:
            first.append(name)

    def count(self, *kinds: str) -> int:
        """Return how many were left out, of these kinds."""
        return sum(self._counts[kind] for kind in kinds)

    def first(self, *kinds: str) -> list[str]:
        """Return the first names of these kinds."""
        return [name for kind in kinds for name in self._first.get(kind, [])]

    def as_dict(self) -> dict[str, dict[str, int | list[str]]]:
        """Return {kind: {"count", "first"}}, kinds in alphabetical order."""
        return {kind: {"count": self._counts[kind], "first": self._first[kind]} for kind in sorted(self._counts)}
