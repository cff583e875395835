"""The table of a study: variants against metrics, means over seeds with intervals and tests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from renaissance.core.errors import require
from renaissance.evaluation.intervals import is_mean
from renaissance.evaluation.runs import FinishedRun

from .spec import METRIC, Study, Variant, is_of, variant_key
from .state import DONE, RunState
from .statistics import Scores, holm, interval, p_value

LEVEL = 0.05
_LOWER = ("loss", "perplexity", "ece", "brier")  # parts of names of metrics of which less is better
_UNLIKE = ("command", "platform")  # of a run's versions, which may differ


class Cell(NamedTuple):
    """A metric of a variant.

    Attributes:
        scores; interval: 95 % of the mean. p: against the baseline, corrected over the table; None for the baseline, and
            without one. best: whether it has the best mean of its column; near: whether it does not differ from that.
        notes: numbers of footnotes.
    """

    scores: Scores
    interval: tuple[float, float] | None
    p: float | None
    best: bool
    near: bool
    notes: tuple[int, ...]


class TableRow(NamedTuple):
    """Attributes: values, of the table's keys. baseline: whether the others are compared with it. cells: by metric."""

    values: tuple[Any, ...]
    baseline: bool
    cells: dict[str, Cell]


class Table(NamedTuple):
    """Attributes: keys, settings that name the rows. rows. metrics. notes, footnotes. unfinished, how many runs are not in it."""

    keys: list[str]
    rows: list[TableRow]
    metrics: list[str]
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
    cells = {metric: _column(study, metric, column, notes) for metric, column in columns.items()}
    found = [(metric, place, each.p) for metric, column in cells.items() for place, each in enumerate(column)]
    for (metric, place, _), p in zip(found, holm([p for *_, p in found]), strict=True):
        cells[metric][place] = cells[metric][place]._replace(p=p)
    rows: dict[str, TableRow] = {}
    for metric, column in columns.items():
        for group, cell in zip(column, cells[metric], strict=True):
            values = tuple(group.variant.get(key) for key in keys)
            is_baseline = baseline is not None and is_of(group.variant, baseline)
            row = rows.setdefault(repr(values), TableRow(values, is_baseline, {}))
            twice = f"study={study.name}: {metric}: two variants have the same {', '.join(keys) or 'settings'}"
            require(metric not in row.cells, f"{twice}; name the stage, <stage>:{metric}.")
            row.cells[metric] = cell
    return Table(keys, [*rows.values()], [*study.metrics], notes, sum(state.kind != DONE for state in states))


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


def _column(study: Study, metric: str, groups: Sequence[MeasuredVariant], notes: list[str]) -> list[Cell]:
    """The cells of a metric; p not yet corrected.

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
    sign = -1 if any(part in METRIC.fullmatch(metric)["metric"] for part in _LOWER) else 1
    best = max(range(len(groups)), key=lambda place: sign * scores[place].mean)
    of_best = holm([None if place == best else p_value(each, scores[best]) for place, each in enumerate(scores)])
    return [
        Cell(
            each,
            interval(each),
            None if not baselines or place in baselines else p_value(each, scores[baselines[0]]),
            place == best,
            q is not None and q >= LEVEL,
            marks[place],
        )
        for place, (each, q) in enumerate(zip(scores, of_best, strict=True))
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
    notes += [note for note in said if note not in notes]
    return tuple(notes.index(note) for note in said)
