"""Work in parts that any number of processes share: each locks one missing part after the other, without a message."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Protocol

from .atomic import AtomicFile, InUseError


class Part(Protocol):
    """What is written into one file."""

    @property
    def target(self) -> Path: ...
    def is_missing(self) -> bool: ...
    def draws(self, place: int) -> Iterable[Any]:
        """What a loader reads for it; `place` is that of the part among those that are missing."""


class Claims:
    """A sampler that locks a part when the loader wants its items; those that are locked elsewhere, or there now, are left out.

    Args:
        parts: that are missing. stack: closes their files. setting: that decided where they lie.

    Attributes:
        claimed: (part, its file) of those that were asked for, in order.
    """

    def __init__(self, parts: Sequence[Part], stack: ExitStack, setting: str):
        self.parts, self.stack, self.setting = parts, stack, setting
        self.claimed: deque[tuple[Any, AtomicFile]] = deque()

    def __iter__(self) -> Iterator[Any]:
        for place, part in enumerate(self.parts):
            with suppress(OSError):  # the file that is made next cannot be written either, and says so
                part.target.parent.mkdir(parents=True, exist_ok=True)
            try:
                file = self.stack.enter_context(AtomicFile(part.target, self.setting))
            except InUseError:
                continue
            if not part.is_missing():
                file.close()
                continue
            self.claimed.append((part, file))
            yield from part.draws(place)
