"""Fits tables and sentences to the width of a screen: long values are shortened, wide tables split."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import accumulate

from renaissance.core.console import table

WIDTH = 120
LONGEST = 34  # characters of a cell


def wrapped(sentence: str) -> str:
    """A sentence in lines no wider than the screen."""
    return textwrap.fill(sentence, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def tables(lines: Sequence[tuple[str, ...]], indent: str = "") -> str:
    """Rows of cells as tables no wider than the screen, which all have the first column.

    A table omits rows without a cell in it. Column names are not shortened if that makes them equal.
    """
    head, *rest = lines
    short = tuple(map(_elided, head))
    rows = [head if len({*short}) < len({*head}) else short, *(tuple(map(_elided, row)) for row in rest)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    parts, start = [], 1
    while start < len(widths) or not parts:
        ends = accumulate(2 + width for width in widths[start:])
        end = start + max(1, sum(place <= WIDTH - len(indent) - widths[0] for place in ends))
        lines = [(row[0], *row[start:end]) for row in rows]
        parts.append(table([line for number, line in enumerate(lines) if not number or any(line[1:])], indent=indent))
        start = end
    return "\n\n".join(parts)


def _elided(text: str) -> str:
    """A text without its middle, if it is too long for a cell."""
    if len(text) <= LONGEST:
        return text
    start = LONGEST // 3
    return f"{text[:start]}…{text[start + 1 - LONGEST :]}"
