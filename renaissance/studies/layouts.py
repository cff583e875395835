"""The table of a study as Markdown, CSV and LaTeX."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from renaissance.core.atomic import AtomicFile
from renaissance.core.console import markdown_table
from renaissance.core.errors import printable

from .spec import METRIC_KEY
from .table import LEVEL, Cell, Table

FILE = "table"


def write_table(table: Table, folder: Path) -> list[str]:
    """Writes table.md, table.csv and table.tex, all of them or, on a full disk, none; returns their names."""
    with ExitStack() as stack:
        files = []
        for ending, write in FORMS.items():
            files.append(stack.enter_context(AtomicFile(folder / f"{FILE}{ending}", "log_dir")))
            files[-1].write(write(table).encode())
            files[-1].sync()
        for file in files:
            file.commit()
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
    scores = [cell.scores for row in table.rows for cell in row.cells if cell is not None]
    drawn = " and examples" if all(each.frames for each in scores) else ", and examples where the predictions are kept"
    line = "column" if METRIC_KEY in table.across else "row"
    lines = [
        f"Mean ± standard deviation over n seeds, and the 95 % interval of the mean (bootstrap over seeds{drawn}). "
        f"Bold: the best of a {line}; underlined: not different from it (p of at least {LEVEL}, corrected by Holm)."
    ]
    if table.baseline is not None:
        lines.append(f"p: against the baseline ({table.baseline}), paired, corrected by Holm over the table.")
    lines += [f"({number}) {note}." for number, note in enumerate(table.notes, 1)]
    lines += [f"{table.unfinished} runs of the study are not done, and not in the table."] if table.unfinished else []
    return lines


def _numbers(cell: Cell) -> str:
    return "".join(f" ({number + 1})" for number in cell.notes)


def markdown(table: Table) -> str:
    """Best in bold, those that do not differ from it underlined."""
    lines = [[*table.keys, *(", ".join(_heading(table, column)) for column in table.columns)]]
    for row in table.rows:
        lines.append([*map(_plain, row.values), *("" if cell is None else _markdown_cell(cell) for cell in row.cells)])
    return "\n".join([markdown_table(lines), "", *(f"{line}\n" for line in _legend(table))])


def _markdown_cell(cell: Cell) -> str:
    said = f"**{_said(cell)}**" if cell.best else f"<u>{_said(cell)}</u>" if cell.near else _said(cell)
    return " ".join(filter(None, (said + _numbers(cell), _between(cell), _p(cell.p))))


def _plain(value: Any) -> str:
    return printable("" if value is None else str(value))


def _heading(table: Table, column: Sequence[Any]) -> list[str]:
    """What stands above a column, of each level."""
    named = zip(table.across, map(_plain, column), strict=True)
    return [value if key == METRIC_KEY else f"{key}={value}" for key, value in named]


def csv(table: Table) -> str:
    """A row for each cell of the table."""
    rows, keys = [], (*table.keys, *table.across)
    for row in table.rows:
        for column, cell in zip(table.columns, row.cells, strict=True):
            if cell is None:
                continue
            low, high = cell.interval or (None, None)
            rows.append(
                dict(zip(keys, (*row.values, *column), strict=True))
                | {"mean": cell.scores.mean, "deviation": cell.scores.deviation}
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
    width = len(table.keys) + len(table.columns)
    lines = [
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{{'l' * len(table.keys)}{'c' * len(table.columns)}}}",
        r"\toprule",
        *_tex_head(table),
        r"\midrule",
    ]
    for row in table.rows:
        line = [*(_tex(_plain(value)) for value in row.values)]
        line += ["--" if each is None else _tex_cell(each) for each in row.cells]
        lines.append(" & ".join(line) + r" \\")
    below = [rf"\multicolumn{{{width}}}{{p{{\linewidth}}}}{{\footnotesize {_tex(line)}}} \\" for line in _legend(table)]
    return "\n".join([*lines, r"\midrule", *below, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _tex_head(table: Table) -> Iterator[str]:
    """A line for each level of the columns; what several have in common stands once above a rule."""
    headings = [_heading(table, column) for column in table.columns]
    for level in range(len(table.across)):
        last, place, cells, rules = level == len(table.across) - 1, len(table.keys), [], []
        for _, group in groupby(headings, lambda heading, level=level: heading[: level + 1]):
            first, *others = group
            text, count = _tex(first[level]), 1 + len(others)
            cells.append(text if count == 1 else rf"\multicolumn{{{count}}}{{c}}{{{text}}}")
            rules.append(rf"\cmidrule(lr){{{place + 1}-{place + count}}}")
            place += count
        keys = [_tex(key) if last else "" for key in table.keys]
        yield " & ".join([*keys, *cells]) + r" \\" + ("" if last else " " + "".join(rules))


def _tex_cell(cell: Cell) -> str:
    said = _tex(_said(cell))
    said = rf"\textbf{{{said}}}" if cell.best else rf"\underline{{{said}}}" if cell.near else said
    return " ".join(filter(None, (said + _numbers(cell), _between(cell), _tex(_p(cell.p)))))


FORMS = {".md": markdown, ".csv": csv, ".tex": latex}
