"""The table of a study: variants against metrics, means over seeds with intervals and tests, in Markdown, CSV and LaTeX."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from renaissance.core.atomic import write_whole
from renaissance.core.errors import printable, require
from renaissance.evaluation.intervals import is_mean
from renaissance.evaluation.runs import FinishedRun

from .spec import METRIC, Study, Variant
from .state import DONE, RunState
from .statistics import Scores, holm, interval, p_value

FILE = "table"
_LEVEL = 0.05
_LOWER = ("loss", "perplexity", "ece", "brier")  # parts of names of metrics of which less is better
_SIGNS = "†‡§¶#"
_UNLIKE = ("command", "platform")  # of a run's versions, which may differ


class Cell(NamedTuple):
    """A metric of a variant.

    Attributes:
        scores; interval: 95 % of the mean. p: against the baseline, corrected; None for the baseline, and without one.
        best: whether it has the best mean of its column; near: whether it does not differ from that. note: number of a
            footnote, or None.
    """

    scores: Scores
    interval: tuple[float, float] | None
    p: float | None
    best: bool
    near: bool
    note: int | None


class Table(NamedTuple):
    """Attributes: keys: settings that name the rows. rows: (their values, cell by metric). metrics; baseline: its row's values,
    None for none. notes: footnotes. unfinished: how many runs are not in it."""

    keys: list[str]
    rows: list[tuple[tuple[Any, ...], dict[str, Cell]]]
    metrics: list[str]
    baseline: tuple[Any, ...] | None
    notes: list[str]
    unfinished: int


def make_table(study: Study, states: Iterable[RunState]) -> Table:
    """The table of all runs that are done.

    Raises:
        UserError: no metric is named, none is done, a metric that no run has, or runs of other data in one cell.
    """
    require(study.metrics, f"study={study.name} names no metrics; add some, such as metrics: [vqa/val/accuracy].")
    states = [*states]
    done = [state for state in states if state.kind == DONE]
    require(done, f"study={study.name}: no run is done yet; action=run runs them, action=status says what they do.")
    found = {metric: _measured(study, metric, done) for metric in study.metrics}
    keys = _differing(state.run.variant for runs in found.values() for state, _ in runs)
    notes: list[str] = []
    columns: dict[str, dict[tuple[Any, ...], Cell]] = {}
    for metric, runs in found.items():
        groups: dict[tuple[Any, ...], dict[int, FinishedRun]] = {}
        for state, run in runs:
            group = groups.setdefault(tuple(state.run.variant.get(key) for key in keys), {})
            twice = f"study={study.name}: {metric}: two runs have the same {', '.join(keys) or 'settings'} and seed"
            require(state.run.seed not in group, f"{twice}; name the stage, <stage>:{metric}.")
            group[state.run.seed] = run
        columns[metric] = _column(metric, groups, _baseline(study, keys, groups), notes)
    names = dict.fromkeys(values for column in columns.values() for values in column)
    rows = [(name, {metric: column[name] for metric, column in columns.items() if name in column}) for name in names]
    return Table(keys, rows, [*study.metrics], _baseline(study, keys, names), notes, len(states) - len(done))


def _measured(study: Study, metric: str, done: Sequence[RunState]) -> list[tuple[RunState, FinishedRun]]:
    """The runs that have a metric.

    Raises:
        UserError: none has it, or several stages have it and the metric names none.
    """
    named = METRIC.fullmatch(metric)
    finished = [(state, state.finished()) for state in done if named["stage"] in (None, state.run.stage)]
    runs = [(state, run) for state, run in finished if _value(run, metric) is not None]
    there = {
        f"{task}/{split}/{name}"
        for _, run in finished
        for split, tasks in (run.results or {}).items()
        for task, values in tasks.items()
        for name in values
    }
    where = f"study={study.name}: metrics: {metric}"
    require(runs, f"{where}: no run that is done has it; there are {', '.join(sorted(there)) or 'none'}.")
    stages = dict.fromkeys(state.run.stage for state, _ in runs)
    require(len(stages) == 1, f"{where}: stages {', '.join(stages)} have it; write {next(iter(stages))}:{metric}, say.")
    return runs


def _value(run: FinishedRun, metric: str) -> float | None:
    named = METRIC.fullmatch(metric)
    return run.value(named["task"], named["split"], named["metric"])


def _differing(variants: Iterable[Variant]) -> list[str]:
    every = [*variants]
    keys = dict.fromkeys(key for variant in every for key in variant)
    return [key for key in keys if len({repr(variant.get(key)) for variant in every}) > 1]


def _baseline(study: Study, keys: Sequence[str], names: Iterable[tuple[Any, ...]]) -> tuple[Any, ...] | None:
    """The values of the baseline's row.

    Raises:
        UserError: it is no row, or several are.
    """
    if study.baseline is None:
        return None
    wanted = {key: value for key, value in study.baseline.items() if key in keys}
    matching = [name for name in names if wanted.items() <= dict(zip(keys, name, strict=True)).items()]
    where = f"study={study.name}: baseline {study.baseline}"
    require(matching, f"{where} is not in the table; it has not ended, or was never measured.")
    require(len(matching) == 1, f"{where} are {len(matching)} rows; say more of {', '.join(keys)}.")
    return matching[0]


def _column(
    metric: str,
    groups: Mapping[tuple[Any, ...], Mapping[int, FinishedRun]],
    baseline: tuple[Any, ...] | None,
    notes: list[str],
) -> dict[tuple[Any, ...], Cell]:
    first = next(iter(next(iter(groups.values())).values()))
    marks = {name: _note(metric, runs, first, notes) for name, runs in groups.items()}
    scores = {name: _scores(metric, runs) for name, runs in groups.items()}
    names = [*scores]
    sign = -1 if any(part in METRIC.fullmatch(metric)["metric"] for part in _LOWER) else 1
    best = max(names, key=lambda name: sign * scores[name].mean)
    against = [None if baseline in (None, name) else p_value(scores[name], scores[baseline]) for name in names]
    of_best = [None if name == best else p_value(scores[name], scores[best]) for name in names]
    return {
        name: Cell(scores[name], interval(scores[name]), p, name == best, q is not None and q >= _LEVEL, marks[name])
        for name, p, q in zip(names, holm(against), holm(of_best), strict=True)
    }


def _scores(metric: str, runs: Mapping[int, FinishedRun]) -> Scores:
    named = METRIC.fullmatch(metric)
    values = {seed: _value(run, metric) for seed, run in runs.items()}
    frames = {seed: run.predictions(named["task"], named["split"]) for seed, run in runs.items()}
    usable = {seed: frame for seed, frame in frames.items() if frame is not None and is_mean(frame, values[seed])}
    return Scores(values, usable if len(usable) == len(runs) else {})


def _note(metric: str, runs: Mapping[int, FinishedRun], first: FinishedRun, notes: list[str]) -> int | None:
    """The footnote of a cell whose runs were made by other versions; its number.

    Raises:
        UserError: its runs, or those of the table, were evaluated on other data.
    """
    split = METRIC.fullmatch(metric)["split"]
    for run in runs.values():
        why = run.unlike(split, first.data.get(split, {}), first.settings.get("eval_limit"))
        require(why is None, f"{metric}: {run.path} {why}, and {first.path} was not: their scores are no column.")
    versions = [
        {name: each for name, each in (run.record.get("versions") or {}).items() if name not in _UNLIKE}
        for run in (first, *runs.values())
    ]
    differ = [name for name in versions[0] if any(each.get(name) != versions[0][name] for each in versions)]
    if not differ:
        return None
    said = ", ".join(f"{name} {' and '.join(sorted({str(each.get(name)) for each in versions}))}" for name in differ)
    note = f"made by other versions than the first row: {said}"
    notes += [] if note in notes else [note]
    return notes.index(note)


def write_table(table: Table, folder: Path) -> list[str]:
    """Writes table.md, table.csv and table.tex; returns their names."""
    for ending, text in ((".md", markdown(table)), (".csv", csv(table)), (".tex", latex(table))):
        write_whole(folder / f"{FILE}{ending}", text.encode(), "log_dir")
    return [f"{FILE}{ending}" for ending in (".md", ".csv", ".tex")]


def _said(cell: Cell) -> str:
    """Mean, deviation and number of seeds as they stand in a table."""
    deviation = cell.scores.deviation
    spread = "" if deviation is None else f" ± {deviation:.4f}"
    return f"{cell.scores.mean:.4f}{spread} (n={len(cell.scores.values)})"


def _between(cell: Cell) -> str:
    return "" if cell.interval is None else f"[{cell.interval[0]:.4f}, {cell.interval[1]:.4f}]"


def _p(p: float | None) -> str:
    return "" if p is None else "p<.001" if p < 0.001 else f"p={p:.3f}"


def _legend(table: Table, bold: str, underlined: str) -> list[str]:
    lines = [
        f"Mean ± standard deviation over n seeds, and the 95 % interval of the mean (bootstrap over seeds and examples). "
        f"{bold}: the best of a column; {underlined}: not different from it (p of at least {_LEVEL}, corrected by Holm)."
    ]
    if table.baseline is not None:
        of = ", ".join(f"{key}={value}" for key, value in zip(table.keys, table.baseline, strict=True))
        lines.append(f"p: against the baseline ({of}), paired, corrected by Holm.")
    lines += [f"{_SIGNS[number % len(_SIGNS)]} {note}." for number, note in enumerate(table.notes)]
    lines += [f"{table.unfinished} runs of the study are not done, and not in the table."] if table.unfinished else []
    return lines


def markdown(table: Table) -> str:
    """Best in bold, those that do not differ from it underlined."""
    lines = [[*table.keys, *table.metrics]]
    for values, cells in table.rows:
        line = [_plain(value) for value in values]
        for metric in table.metrics:
            cell = cells.get(metric)
            if cell is None:
                line.append("")
                continue
            said = f"**{_said(cell)}**" if cell.best else f"<u>{_said(cell)}</u>" if cell.near else _said(cell)
            sign = "" if cell.note is None else _SIGNS[cell.note % len(_SIGNS)]
            line.append(" ".join(filter(None, (said + sign, _between(cell), _p(cell.p)))))
        lines.append(line)
    head, *rest = [f"| {' | '.join(each.replace('|', chr(92) + '|') for each in line)} |" for line in lines]
    rule = "| " + "--- | " * len(lines[0])
    return "\n".join([head, rule.rstrip(), *rest, "", *(f"{line}\n" for line in _legend(table, "Bold", "underlined"))])


def _plain(value: Any) -> str:
    return printable("" if value is None else str(value))


def csv(table: Table) -> str:
    """A row for each row of the table and metric."""
    rows = []
    for values, cells in table.rows:
        for metric, cell in cells.items():
            low, high = cell.interval or (None, None)
            rows.append(
                dict(zip(table.keys, values, strict=True))
                | {"metric": metric, "mean": cell.scores.mean, "deviation": cell.scores.deviation}
                | {"n": len(cell.scores.values), "low": low, "high": high, "p": cell.p, "best": cell.best}
                | {"not_different_from_best": cell.near}
            )
    stream = io.StringIO(newline="")
    pd.DataFrame(rows, dtype=object).to_csv(stream, index=False, lineterminator="\r\n")
    return stream.getvalue()


_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", **{each: f"\\{each}" for each in "&%$#_{}"}
}  # fmt: skip


def _tex(text: str) -> str:
    return re.sub(r"[\\~^&%$#_{}]", lambda found: _LATEX[found[0]], text)


def latex(table: Table) -> str:
    """A tabular of the package booktabs; percentages are left to the reader."""
    lines = [
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{{'l' * len(table.keys)}{'c' * len(table.metrics)}}}",
        r"\toprule",
        " & ".join(_tex(name) for name in (*table.keys, *table.metrics)) + r" \\",
        r"\midrule",
    ]
    for values, cells in table.rows:
        line = [_tex(_plain(value)) for value in values]
        for metric in table.metrics:
            cell = cells.get(metric)
            if cell is None:
                line.append("--")
                continue
            deviation = cell.scores.deviation
            said = f"{cell.scores.mean:.4f}" + ("" if deviation is None else rf" $\pm$ {deviation:.4f}")
            said = rf"\textbf{{{said}}}" if cell.best else rf"\underline{{{said}}}" if cell.near else said
            line.append(said + ("" if cell.note is None else rf"\textsuperscript{{{chr(97 + cell.note)}}}"))
        lines.append(" & ".join(line) + r" \\")
    notes = [rf"% \textsuperscript{{{chr(97 + number)}}} {_tex(note)}" for number, note in enumerate(table.notes)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *notes]) + "\n"
