"""The table of a study as Markdown, CSV and LaTeX."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pandas as pd

from renaissance.core.atomic import write_whole
from renaissance.core.console import markdown_table
from renaissance.core.errors import printable

from .table import LEVEL, Cell, Table

FILE = "table"


def write_table(table: Table, folder: Path) -> list[str]:
    """Writes table.md, table.csv and table.tex; returns their names."""
    for ending, write in FORMS.items():
        write_whole(folder / f"{FILE}{ending}", write(table).encode(), "log_dir")
    return [f"{FILE}{ending}" for ending in FORMS]


def _said(cell: Cell) -> str:
    """Mean, deviation and number of seeds as they stand in a table."""
    deviation = cell.scores.deviation
    spread = "" if deviation is None else f" ± {deviation:.4f}"
    return f"{cell.scores.mean:.4f}{spread} (n={len(cell.scores.values)})"


def _between(cell: Cell) -> str:
    return "" if cell.interval is None else f"[{cell.interval[0]:.4f}, {cell.interval[1]:.4f}]"


def _p(p: float | None) -> str:
    return "" if p is None else "p<.001" if p < 0.001 else f"p={p:.3f}"


def _legend(table: Table) -> list[str]:
    """What the cells mean."""
    scores = [cell.scores for row in table.rows for cell in row.cells.values()]
    drawn = " and examples" if all(each.frames for each in scores) else ", and examples where the predictions are kept"
    lines = [
        f"Mean ± standard deviation over n seeds, and the 95 % interval of the mean (bootstrap over seeds{drawn}). "
        f"Bold: the best of a column; underlined: not different from it (p of at least {LEVEL}, corrected by Holm)."
    ]
    if (baseline := next((row for row in table.rows if row.baseline), None)) is not None:
        of = ", ".join(f"{key}={value}" for key, value in zip(table.keys, baseline.values, strict=True))
        lines.append(f"p: against the baseline ({of}), paired, corrected by Holm over the table.")
    lines += [f"({number}) {note}." for number, note in enumerate(table.notes, 1)]
    lines += [f"{table.unfinished} runs of the study are not done, and not in the table."] if table.unfinished else []
    return lines


def _numbers(cell: Cell) -> str:
    return "".join(f" ({number + 1})" for number in cell.notes)


def markdown(table: Table) -> str:
    """Best in bold, those that do not differ from it underlined."""
    lines = [[*table.keys, *table.metrics]]
    for row in table.rows:
        cells = [row.cells.get(metric) for metric in table.metrics]
        lines.append([*map(_plain, row.values), *("" if cell is None else _markdown_cell(cell) for cell in cells)])
    return "\n".join([markdown_table(lines), "", *(f"{line}\n" for line in _legend(table))])


def _markdown_cell(cell: Cell) -> str:
    said = f"**{_said(cell)}**" if cell.best else f"<u>{_said(cell)}</u>" if cell.near else _said(cell)
    return " ".join(filter(None, (said + _numbers(cell), _between(cell), _p(cell.p))))


def _plain(value: Any) -> str:
    return printable("" if value is None else str(value))


def csv(table: Table) -> str:
    """A row for each row of the table and metric."""
    rows = []
    for row in table.rows:
        for metric, cell in row.cells.items():
            low, high = cell.interval or (None, None)
            rows.append(
                dict(zip(table.keys, row.values, strict=True))
                | {"metric": metric, "mean": cell.scores.mean, "deviation": cell.scores.deviation}
                | {"n": len(cell.scores.values), "low": low, "high": high, "p": cell.p, "best": cell.best}
                | {"not_different_from_best": cell.near, "notes": "; ".join(table.notes[each] for each in cell.notes)}
            )
    stream = io.StringIO(newline="")
    pd.DataFrame(rows, dtype=object).to_csv(stream, index=False, lineterminator="\r\n")
    return stream.getvalue()


_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": "$<$",
    **{each: f"\\{each}" for each in "&%$#_{}"},
}  # fmt: skip


def _tex(text: str) -> str:
    return re.sub(r"[\\~^±<&%$#_{}]", lambda found: _LATEX[found[0]], text)


def latex(table: Table) -> str:
    """A tabular of the package booktabs, with what its cells mean below it."""
    width = len(table.keys) + len(table.metrics)
    lines = [
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{{'l' * len(table.keys)}{'c' * len(table.metrics)}}}",
        r"\toprule",
        " & ".join(_tex(name) for name in (*table.keys, *table.metrics)) + r" \\",
        r"\midrule",
    ]
    for row in table.rows:
        cells = [row.cells.get(metric) for metric in table.metrics]
        line = [
            *(_tex(_plain(value)) for value in row.values),
            *("--" if each is None else _tex_cell(each) for each in cells),
        ]
        lines.append(" & ".join(line) + r" \\")
    below = [rf"\multicolumn{{{width}}}{{p{{\linewidth}}}}{{\footnotesize {_tex(line)}}} \\" for line in _legend(table)]
    return "\n".join([*lines, r"\midrule", *below, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _tex_cell(cell: Cell) -> str:
    said = _tex(_said(cell))
    said = rf"\textbf{{{said}}}" if cell.best else rf"\underline{{{said}}}" if cell.near else said
    return " ".join(filter(None, (said + _numbers(cell), _between(cell), _tex(_p(cell.p)))))


FORMS = {".md": markdown, ".csv": csv, ".tex": latex}
