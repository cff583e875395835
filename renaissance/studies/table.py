"""The table of a study: variants against metrics, means over seeds with intervals and tests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from renaissance.core.errors import require
from renaissance.evaluation.intervals import is_mean
from renaissance.evaluation.runs import FinishedRun

from .spec import METRIC, METRIC_KEY, Study, Variant, is_of, variant_key
from .state import DONE, RunState
from .statistics import Scores, asked_others, holm, interval, p_value

LEVEL = 0.05
_LOWER = ("loss", "perplexity", "ece", "brier")  # parts of names of metrics of which less is better
_UNPAIRED = (
    "asked otherwise about the same examples than the baseline, or the first row: p is of the seeds alone (as of matching, "
    "whose false pictures are drawn by seed and negative_group)"
)
_UNLIKE = ("command", "platform")  # of a run's versions, which may differ


class Cell(NamedTuple):
    """A metric of a variant.

    Attributes:
        scores; interval: 95 % of the mean. p: against the baseline, corrected over the table; None for the baseline, and
            without one. notes: numbers of footnotes.
        best: whether it has the best mean of its column, or of its row where metrics are rows; near: whether it does not differ
            from that.
    """

    scores: Scores
    interval: tuple[float, float] | None
    p: float | None
    notes: tuple[int, ...]
    best: bool = False
    near: bool = False


class TableRow(NamedTuple):
    """Attributes: values, of the table's keys; cells, of its columns, None where there is none."""

    values: tuple[Any, ...]
    cells: list[Cell | None]


class Table(NamedTuple):
    """The table.

    Attributes:
        keys: what names the rows, settings or "metric". across: what names the columns, in the same words. columns: values of
            these. rows. baseline: what it is. notes: footnotes. unfinished: how many runs are not in it.
    """

    keys: list[str]
    across: list[str]
    columns: list[tuple[Any, ...]]
    rows: list[TableRow]
    baseline: str | None
    notes: list[str]
    unfinished: int


class MeasuredVariant(NamedTuple):
    """The runs of a variant that have a metric, by seed.

    Attributes: variant; runs; states, of the study; without, names of those that have no value.
    """

    variant: Variant
    runs: dict[int, FinishedRun]
    states: dict[int, RunState]
    without: list[str]


def make_table(study: Study, states: Iterable[RunState]) -> Table:
    """The table of all runs that are done.

    Raises:
        UserError: no metric is named, no run is done, a metric that no run has, a baseline that is not there, or runs of other
            data in one column.
    """
    states = [*states]
    columns = measured_variants(study, states)
    groups = [group for column in columns.values() for group in column]
    baseline = study.baseline
    there = baseline is None or any(is_of(group.variant, baseline) for group in groups)
    require(
        there,
        f"study={study.name}: baseline {baseline} is not in the table; its runs have not ended, or have no value.",
    )
    keys = differing(group.variant for group in groups)
    notes: list[str] = []
    cells = {metric: _cells(study, metric, column, notes) for metric, column in columns.items()}
    found = [(metric, place, each.p) for metric, column in cells.items() for place, each in enumerate(column)]
    for (metric, place, _), p in zip(found, holm([p for *_, p in found]), strict=True):
        cells[metric][place] = cells[metric][place]._replace(p=p)
    placed = [
        (group.variant | {METRIC_KEY: metric}, cell)
        for metric, column in columns.items()
        for group, cell in zip(column, cells[metric], strict=True)
    ]
    named = next((group.variant for group in groups if baseline is not None and is_of(group.variant, baseline)), None)
    said = None if named is None else ", ".join(f"{key}={named.get(key)}" for key in keys)
    return _arranged(study, keys, placed)._replace(
        baseline=said, notes=notes, unfinished=sum(state.kind != DONE for state in states)
    )


def _arranged(study: Study, keys: Sequence[str], placed: Sequence[tuple[Variant, Cell]]) -> Table:
    """The table of cells by what they are, as the study file lays it out, with the best of each line marked.

    Raises:
        UserError: two variants are in one cell.
    """
    down, across = _layout(study, keys)
    rows = _lines(placed, down, nested=study.rows is not None)
    columns = _lines(placed, across, nested=True)
    table: dict[tuple[str, str], Cell] = {}
    lines: dict[tuple[str, str], list[tuple[str, str]]] = {}  # cells that are compared, by their metric and line
    compared = across if METRIC_KEY in across else down
    for at, cell in placed:
        place = (repr(_values(at, down)), repr(_values(at, across)))
        left = [key for key in keys if key not in (*down, *across)]
        more = f"add {', '.join(left)} to its rows or columns" if left else "name the stage, <stage>:<metric>"
        where = f"study={study.name}: table: two variants have the same {', '.join((*down, *across))}"
        require(place not in table, f"{where} ({at[METRIC_KEY]}); {more}.")
        table[place] = cell
        lines.setdefault((at[METRIC_KEY], repr(_values(at, compared))), []).append(place)
    for (metric, _), places in lines.items():
        _mark(table, places, -1 if any(part in METRIC.fullmatch(metric)["metric"] for part in _LOWER) else 1)
    made = [TableRow(row, [table.get((repr(row), repr(column))) for column in columns]) for row in rows]
    return Table(down, across, columns, made, None, [], 0)


def _layout(study: Study, keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """What names rows and columns: as given; of what is not, the settings that differ make rows, and metrics columns."""
    down, across = study.rows, study.columns
    if down is None:
        down = [key for key in keys if key not in (across or ())]
        across = across or ()
    elif across is None:
        across = [key for key in keys if key not in down]
    metrics = () if METRIC_KEY in (*down, *across) else (METRIC_KEY,)
    return [*down], [*across, *metrics]


def _values(at: Variant, keys: Sequence[str]) -> tuple[Any, ...]:
    return tuple(at.get(key) for key in keys)


def _lines(placed: Sequence[tuple[Variant, Cell]], keys: Sequence[str], *, nested: bool) -> list[tuple[Any, ...]]:
    """The values of rows or columns, in the order of the study; nested: those with the same first value side by side."""
    found = {repr(values): values for values in (_values(at, keys) for at, _ in placed)}
    orders = [[*dict.fromkeys(repr(at.get(key)) for at, _ in placed)] for key in keys]
    if not nested:
        return [*found.values()]
    return sorted(
        found.values(), key=lambda line: [order.index(repr(each)) for order, each in zip(orders, line, strict=True)]
    )


def _mark(table: dict[tuple[str, str], Cell], places: Sequence[tuple[str, str]], sign: int) -> None:
    """Marks the best of some cells of one metric, and those that do not differ from it."""
    best = max(places, key=lambda place: sign * table[place].scores.mean)
    scores = table[best].scores
    of_best = holm([None if place == best else p_value(table[place].scores, scores) for place in places])
    for place, q in zip(places, of_best, strict=True):
        table[place] = table[place]._replace(best=place == best, near=q is not None and q >= LEVEL)


def measured_variants(study: Study, states: Iterable[RunState]) -> dict[str, list[MeasuredVariant]]:
    """The variants with their runs that are done, by metric.

    Raises:
        UserError: no metric is named, no run is done, or a metric that no run has.
    """
    require(study.metrics, f"study={study.name} names no metrics; add some, such as metrics: [vqa/val/vqa_score].")
    done = [state for state in states if state.kind == DONE]
    require(done, f"study={study.name}: no run is done yet; action=run runs them, action=status says what they do.")
    return {metric: _measured(study, metric, done) for metric in study.metrics}


def _measured(study: Study, metric: str, done: Sequence[RunState]) -> list[MeasuredVariant]:
    """The runs of the one stage that has a metric, by variant.

    Raises:
        UserError: none has it, or several stages have it and the metric names none.
    """
    named = METRIC.fullmatch(metric)
    finished = [(state, state.finished()) for state in done if named["stage"] in (None, state.run.stage)]
    having = [(state, run) for state, run in finished if named["metric"] in _metrics(run, named)]
    where = f"study={study.name}: metrics: {metric}"
    there = {
        f"{task}/{split}/{name}"
        for _, run in finished
        for split, tasks in (run.results or {}).items()
        for task, values in tasks.items()
        for name in values
    }
    require(having, f"{where}: no run that is done has it; there are {', '.join(sorted(there)) or 'none'}.")
    stages = dict.fromkeys(state.run.stage for state, _ in having)
    require(len(stages) == 1, f"{where}: stages {', '.join(stages)} have it; write {next(iter(stages))}:{metric}, say.")
    groups: dict[str, MeasuredVariant] = {}
    for state, run in having:
        group = groups.setdefault(variant_key(state.run.variant), MeasuredVariant(state.run.variant, {}, {}, []))
        if value_of(run, metric) is None:
            group.without.append(state.run.name)
        else:
            group.runs[state.run.seed], group.states[state.run.seed] = run, state
    valued = [group for group in groups.values() if group.runs]
    require(valued, f"{where}: it is not a number in any run that is done.")
    return valued


def _metrics(run: FinishedRun, named: re.Match[str]) -> dict[str, float | None]:
    return (run.results or {}).get(named["split"], {}).get(named["task"], {})


def value_of(run: FinishedRun, metric: str) -> float | None:
    """A metric of a study, None if the run has none."""
    named = METRIC.fullmatch(metric)
    return run.value(named["task"], named["split"], named["metric"])


def differing(variants: Iterable[Variant]) -> list[str]:
    every = [*variants]
    keys = dict.fromkeys(key for variant in every for key in variant)
    return [key for key in keys if len({repr(variant.get(key)) for variant in every}) > 1]


def _cells(study: Study, metric: str, groups: Sequence[MeasuredVariant], notes: list[str]) -> list[Cell]:
    """The cells of a metric; p not yet corrected, and the best not yet marked.

    Raises:
        UserError: several variants are the baseline, or runs were evaluated or trained on other data.
    """
    first = next(iter(groups[0].runs.values()))
    marks = [_marks(metric, group, first, notes) for group in groups]
    scores = [_scores(metric, group.runs) for group in groups]
    wanted = study.baseline
    baselines = [place for place, group in enumerate(groups) if wanted is not None and is_of(group.variant, wanted)]
    several = f"study={study.name}: baseline {wanted} are {len(baselines)} variants of {metric}; say more of"
    require(len(baselines) < 2, f"{several} {', '.join(differing(group.variant for group in groups))}.")
    reference = scores[baselines[0] if baselines else 0]
    for place, each in enumerate(scores):
        if asked_others(each, reference):
            marks[place] += _noted([_UNPAIRED], notes)
    return [
        Cell(
            each,
            interval(each),
            None if not baselines or place in baselines else p_value(each, scores[baselines[0]]),
            marks[place],
        )
        for place, each in enumerate(scores)
    ]


def _scores(metric: str, runs: Mapping[int, FinishedRun]) -> Scores:
    named = METRIC.fullmatch(metric)
    values = {seed: value_of(run, metric) for seed, run in runs.items()}
    frames = {seed: run.predictions(named["task"], named["split"]) for seed, run in runs.items()}
    usable = {seed: frame for seed, frame in frames.items() if frame is not None and is_mean(frame, values[seed])}
    return Scores(values, usable if len(usable) == len(runs) else {})


def _marks(metric: str, group: MeasuredVariant, first: FinishedRun, notes: list[str]) -> tuple[int, ...]:
    """The footnotes of a cell: runs without a value, and runs that other versions have made.

    Raises:
        UserError: its runs were trained on other data, or it was evaluated on other data than the column.
    """
    split, runs = METRIC.fullmatch(metric)["split"], [*group.runs.values()]
    for run in runs:
        why = run.unlike(split, first.data.get(split, {}), first.settings.get("eval_limit"))
        require(why is None, f"{metric}: {run.path} {why}, and {first.path} was not: their scores are no column.")
        same = run.data.get("train") == runs[0].data.get("train")
        require(same, f"{metric}: {run.path} was trained on other data than {runs[0].path}: they have no mean.")
    said = []
    if group.without:
        said.append(f"without {len(group.without)} more, which have no value: {', '.join(group.without)}")
    versions = [
        {name: each for name, each in (run.record.get("versions") or {}).items() if name not in _UNLIKE}
        for run in (first, *runs)
    ]
    names = dict.fromkeys(name for each in versions for name in each)
    differ = [name for name in names if any(each.get(name) != versions[0].get(name) for each in versions)]
    if differ:
        each = (
            f"{name} {' and '.join(sorted({str(found.get(name, 'not known')) for found in versions}))}"
            for name in differ
        )
        said.append(f"of other versions, here or in the first row: {', '.join(each)}")
    return _noted(said, notes)


def _noted(said: Sequence[str], notes: list[str]) -> tuple[int, ...]:
    """The numbers of footnotes."""
    notes += [note for note in said if note not in notes]
    return tuple(notes.index(note) for note in said)
