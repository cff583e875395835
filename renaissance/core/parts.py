"""Work in parts that any number of processes share: each locks one missing part after the other, without a message.

A part is made whole or not at all; what a process that died had locked is made by another.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from .atomic import AtomicFile, InUseError
from .progress import Bar

_LOOK = 0.5  # seconds between two looks at parts that other processes make


class Part(Protocol):
    """What is written into one file."""

    @property
    def target(self) -> Path: ...
    @property
    def size(self) -> int:
        """How many inputs it is of, of which the bar tells."""

    def is_missing(self) -> bool: ...
    def draws(self, place: int) -> Iterable[Any]:
        """What a loader reads for it, at least one item; `place` is that of the part among those that are missing."""


def make_parts(
    parts: Sequence[Part],
    loader: Callable[[Iterable[Any]], Any],
    setting: str,
    write: Callable[[Any, AtomicFile, Iterator[Any], Bar], None],
    bar: Bar,
    rank: int = 0,
    processes: int = 1,
) -> None:
    """Makes what no other process makes, until nothing is missing.

    Args:
        parts: that are missing.
        loader: makes a `StepLoader` of what `draws` of the parts yield.
        setting: that decided where the parts lie, for the sentences of errors.
        write: (part, its file, items of the loader, bar) writes the file; it reads the items of this part and no more.
        bar: of the inputs of all parts. `write` counts its own there; those that other processes made are added here.
        rank, processes: of this process: where file systems know no locks, too, each begins with parts of its own.
    """
    first, order = rank * len(parts) // processes, [*enumerate(parts)]
    missing = dict(order[first:] + order[:first])
    while missing:
        _make(missing, loader, setting, write, bar)
        left = {place: part for place, part in missing.items() if part.is_missing()}
        if len(left) == len(missing):  # others make them
            time.sleep(_LOOK)
        missing = left
        bar.update(bar.total - sum(part.size for part in missing.values()) - bar.n)


def _make(
    parts: Mapping[int, Part],
    loader: Callable[[Iterable[Any]], Any],
    setting: str,
    write: Callable[[Any, AtomicFile, Iterator[Any], Bar], None],
    bar: Bar,
) -> None:
    """Makes the parts that are locked nowhere else."""
    with ExitStack() as stack:
        claims = _Claims(parts, stack, setting)
        draws = iter(claims)
        if (first := next(draws, None)) is None:
            return
        loading = loader(chain([first], draws))
        stack.callback(loading.kill)
        items = iter(loading)
        for item in items:
            part, file = claims.claimed.popleft()
            write(part, file, chain([item], items), bar)
            file.close()


class _Claims:
    """A sampler that locks a part when the loader wants its items; those that are locked elsewhere, or there now, are left out.

    Args:
        parts: that are missing, by their places. stack: closes their files. setting: that decided where they lie.

    Attributes:
        claimed: (part, its file) of those that were asked for, in order.
    """

    def __init__(self, parts: Mapping[int, Part], stack: ExitStack, setting: str):
        self.parts, self.stack, self.setting = parts, stack, setting
        self.claimed: deque[tuple[Any, AtomicFile]] = deque()

    def __iter__(self) -> Iterator[Any]:
        for place, part in self.parts.items():
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
