"""Random numbers of the generated world: streams of (seed, index), drawn alike by every version of Python."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any


def stream(seed: int, index: int, which: int) -> random.Random:
    """The random numbers of one stream of one scene.

    Only `random` and `randbytes` are used: `sample` and `randrange` draw differently in different versions of Python.
    """
    return random.Random(seed << 72 | index << 8 | which)


def below(draws: random.Random, n: int) -> int:
    """A number from 0 to n - 1."""
    return int(draws.random() * n)


def pick(draws: random.Random, population: Iterable[Any]) -> Any:
    """One random member."""
    members = tuple(population)
    return members[below(draws, len(members))]


def distinct(draws: random.Random, population: Sequence[Any], count: int) -> list[Any]:
    """`count` different members in random order."""
    remaining = list(population)
    return [remaining.pop(below(draws, len(remaining))) for _ in range(count)]
