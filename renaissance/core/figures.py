"""Figures as PNG and SVG. Needs matplotlib, which is loaded when one is drawn."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .atomic import write_whole
from .errors import UserError

_DOTS = 150  # of an inch, in a PNG


def require_matplotlib(setting: str) -> None:
    """Refuses a setting that asks for figures where matplotlib is not installed. setting: such as "action=plot"."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise UserError(f"{setting} needs the package matplotlib: pip install 'matplotlib>=3.11'.") from None


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

    with matplotlib.rc_context({"svg.hashsalt": name, "axes.prop_cycle": _colours(matplotlib)}):
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


def _colours(matplotlib: Any) -> Any:
    """Colours that the colour-blind tell apart (Okabe and Ito 2008)."""
    codes = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
    return matplotlib.cycler(color=codes)
