"""Figures as PNG and SVG, and the colours of all of them. matplotlib is loaded when one is drawn."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .atomic import write_whole
from .console import say

# The colour-blind tell the colours apart, and a grey print the rest. Okabe and Ito (2008), for white paper; and the same
# hues for a dark page.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
ON_DARK = ("#4FA8E8", "#FF8A42", "#2FC49A", "#E3A0C6", "#F2F2F2", "#9AD7FA", "#FFC54D")
MARKERS, DASHES = "osD^vP*Xh<>", ("-", "--", ":", "-.")  # in matplotlib's letters
AS_TEXT = {"text.parse_math": False}  # a dollar sign is one
_DOTS = 150  # of an inch, in a PNG


@contextlib.contextmanager
def said_missing_signs() -> Iterator[None]:
    """Says once, in a sentence, that the font of a figure lacks signs, in the place of matplotlib's warning for each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    missing = [each for each in caught if "missing from font" in str(each.message)]
    if missing:
        say("note: the font of the figure lacks signs of its words, and shows boxes in their place.", error=True)
    for each in caught:
        if each not in missing:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


def write_figure(folder: Path, setting: str, name: str, draw: Callable[[Any], None]) -> list[str]:
    """Writes a figure as PNG and SVG; the same figure is the same SVG, byte for byte.

    Args:
        folder: of the files. setting: that names it, for sentences.
        name: theirs, without an ending. draw: draws on the axes of matplotlib.

    Returns:
        The names of the files.

    Raises:
        UserError: they cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    style = AS_TEXT | {"svg.hashsalt": name, "axes.prop_cycle": matplotlib.cycler(color=COLOURS)}
    with matplotlib.rc_context(style), said_missing_signs():
        figure = Figure(figsize=(6.4, 4.8), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.grid(alpha=0.3)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", frameon=False)
        for ending in ("png", "svg"):
            stream = io.BytesIO()
            figure.savefig(stream, format=ending, dpi=_DOTS, metadata={"Date": None} if ending == "svg" else None)
            write_whole(folder / f"{name}.{ending}", stream.getvalue(), setting)
    return [f"{name}.png", f"{name}.svg"]
