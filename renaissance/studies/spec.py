"""A study file: which runs there are, as checked, typed values.

    base      presets, and settings by name, of every run
    grid      setting -> values, all combinations; zip: values that go together; list: settings of each variant; `presets` may
              vary like a setting, and comes after those of base and stage
    seeds     of every variant
    stages    name -> presets, settings, grid, zip, list, seeds of its own; a value "stage:<name>.best" is a result of another
    metrics, baseline, budget, slurm
    table     rows and columns, by the names of settings and "metric"

A stage has the variants of the study times its own, and times those of the stages whose results it takes; of the latter it takes
results, and no settings.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from renaissance.core.errors import UserError, require, suggest
from renaissance.core.registry import TASKS
from renaissance.core.untrusted import expect
from renaissance.settings.presets import CONFIG_FILES, parse_config

from .file import ARCHIVE, study_file

Variant = dict[str, Any]  # settings by name
REFERENCE = re.compile(r"stage:(?P<stage>[\w-]+?)(?:\.(?P<what>best|last))?")
METRIC_KEY = "metric"  # in the layout of a table
METRIC = re.compile(r"(?:(?P<stage>[\w-]+):)?(?P<task>\w+)/(?P<split>[^/]+)/(?P<metric>[^/]+)")
_NAME = re.compile(r"[A-Za-z0-9][\w-]{0,39}")
_MOST_RUNS = 10_000


class _Budget(TypedDict):
    max_runs: int | None
    hours: float | None


class _TableLayout(TypedDict):
    rows: list[str] | None
    columns: list[str] | None


class _Variants(TypedDict):
    grid: dict[str, list[Any]] | None
    zip: dict[str, list[Any]] | None
    list: list[dict[str, Any]] | None
    seeds: list[int] | None


class _StudyFile(_Variants):
    base: dict[str, Any] | None
    stages: dict[str, dict[str, Any] | None] | None
    budget: _Budget | None
    metrics: list[str] | None
    baseline: dict[str, Any] | None
    table: _TableLayout | None
    slurm: dict[str, str | int] | None


_PARTS = frozenset(_Variants.__annotations__)
_KEYS = _PARTS | frozenset(_StudyFile.__annotations__)


class Stage(NamedTuple):
    """One stage.

    Attributes:
        name; presets: words before the settings; settings: by name.
        variants: without the seed; own: what the stage itself varies. labels: those of their keys, "<stage>.<setting>", that
            tell which run of another stage it takes results of, and set nothing. seeds: of each.
        needs: names of the stages whose results it takes.
    """

    name: str
    presets: tuple[str, ...]
    settings: Variant
    variants: tuple[Variant, ...]
    own: tuple[Variant, ...]
    labels: frozenset[str]
    seeds: tuple[int, ...]
    needs: tuple[str, ...]


class Study(NamedTuple):
    """A study file.

    Attributes:
        name: of the file. stages: in an order in which they can run.
        metrics: "<task>/<split>/<metric>", with "<stage>:" before it where several stages have it.
        baseline: settings of the variant that others are compared with, None for none.
        most_runs, hours: what it may take; None for no limit. slurm: options of sbatch by their long names.
        rows, columns: what names those of the table, None where the file says nothing.
    """

    name: str
    stages: tuple[Stage, ...]
    metrics: tuple[str, ...]
    baseline: Variant | None
    most_runs: int | None
    hours: float | None
    slurm: dict[str, str]
    rows: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)


def read_study(path: str) -> Study:
    """Reads a study file.

    Raises:
        UserError: no such file, or one part of it is something else.
    """
    file = Path(path)
    ends = (*CONFIG_FILES, ARCHIVE)
    require(file.suffix.lower() in ends, f"study={path}: the name of a study file ends in {', '.join(ends)}.")
    (name, text), where = study_file(path), f"study={path}"
    file = file.with_name(name)  # of an archive, what it was made of
    content = dict(parse_config(text, Path(name).suffix, where))
    _refuse_unknown(content, _KEYS, where)
    expect(content, _StudyFile, where)
    require(_NAME.fullmatch(file.stem), f"{where}: give the file a name of at most 40 letters, digits, - and _.")
    base, seeds = content.get("base") or {}, _seeds(content, where)
    misplaced = sorted(base.keys() & _PARTS)
    require(not misplaced, f"{where}: base has {', '.join(misplaced)}, which stand beside it, or in a stage.")
    require(content.get("stages") != {}, f"{where}: stages is empty, so there are no runs; name some, or leave it out.")
    stages = {name: part or {} for name, part in (content.get("stages") or {file.stem: None}).items()}
    for name, part in stages.items():
        require(_NAME.fullmatch(name), f"{where}: a stage is named {name!r}; give letters, digits, - and _ alone.")
        expect({key: part[key] for key in part.keys() & _PARTS}, _Variants, f"{where}: stages[{name}]")
    settings = {name: _settings(base) | _settings(part) for name, part in stages.items()}
    own = {name: _variants(part, f"{where}: stages[{name}]") for name, part in stages.items()}
    common = _variants(content, where)
    for name, variants in own.items():
        twice = sorted({key for each in variants for key in each} & {key for each in common for key in each})
        require(
            not twice, f"{where}: stage {name} varies {', '.join(twice)}, and so does the whole study; vary it once."
        )
    needs = {name: _needs(name, [settings[name], *own[name], *common], stages, where) for name in stages}
    ordered: list[Stage] = []
    for name in _order(needs, where):
        inherited = _inherited(needs[name], needs)
        labelled = [_labelled(each, own[each]) for each in stages if each in inherited]
        variants = _distinct(_joined([common, *labelled, own[name]]), f"{where}: stage {name}")
        labels = frozenset(key for each in labelled for variant in each for key in variant)
        mine = _seeds(stages[name], f"{where}: stages[{name}]") or seeds or (0,)
        presets = (*presets_of(base, where), *presets_of(stages[name], f"{where}: stages[{name}]"))
        for each in variants:
            presets_of(each, f"{where}: stage {name}")
        ordered.append(Stage(name, presets, settings[name], variants, (*own[name],), labels, mine, needs[name]))
    _check_seeds(ordered, where)
    metrics = _metrics(content, stages, where)
    budget = content.get("budget") or {}
    _refuse_unknown(budget, _Budget.__annotations__, f"{where}: budget")
    study = Study(
        file.stem, tuple(ordered), metrics, content.get("baseline"), budget.get("max_runs"), budget.get("hours"),
        {key: str(value) for key, value in (content.get("slurm") or {}).items()}, *_layout(content, ordered, where),
    )  # fmt: skip
    _check_baseline(study, where)
    return study


def _refuse_unknown(content: Iterable[str], known: Iterable[str], where: str) -> None:
    for key in content:
        near = suggest(key, known)
        require(key in known, f"{where}: there is no {key!r}{near}; it may have {', '.join(sorted(known))}.")


def _settings(part: Mapping[str, Any]) -> Variant:
    return {key: value for key, value in part.items() if key not in _PARTS and key != "presets"}


def presets_of(part: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The presets of a part of the file, or of a variant."""
    given = part.get("presets") or []
    presets = tuple(expect([given] if isinstance(given, str) else given, list[str], f"{where}: presets"))
    settings = [preset for preset in presets if "=" in preset and not Path(preset).is_file()]
    require(not settings, f"{where}: presets has {settings[:1]}; write settings beside it, as `name: value`.")
    return presets


def _seeds(part: Mapping[str, Any], where: str) -> tuple[int, ...]:
    require(part.get("seeds") != [], f"{where}: seeds is empty, so there are no runs; give some, or leave it out.")
    seeds = tuple(part.get("seeds") or ())
    twice = [seed for number, seed in enumerate(seeds) if seed in seeds[:number]]
    require(not twice, f"{where}: seeds: {twice[:1]} stands there twice.")
    return seeds


def _variants(part: Mapping[str, Any], where: str) -> list[Variant]:
    """Combinations of grid x zip x list."""
    grid, together = part.get("grid") or {}, part.get("zip") or {}
    empty = [key for key, values in (grid | together).items() if not values]
    require(not empty, f"{where}: {', '.join(empty)} has no values, so there are no runs; give some.")
    lengths = {key: len(values) for key, values in together.items()}
    require(
        len({*lengths.values()}) <= 1, f"{where}: zip: lists of different lengths ({lengths}); give as many of each."
    )
    number = math.prod(map(len, grid.values()))
    require(number <= _MOST_RUNS, f"{where}: grid has {number:,} combinations; at most {_MOST_RUNS:,} can be run.")
    lists = [[{key: value} for value in values] for key, values in grid.items()]
    if together:
        rows = zip(*together.values(), strict=True)
        lists.append([dict(zip(together, row, strict=True)) for row in rows])
    if (explicit := part.get("list")) is not None:
        require(explicit, f"{where}: list is empty, so there are no runs; give settings, or leave it out.")
        lists.append(explicit)
    return [*_joined(lists)]


def _joined(lists: list[list[Variant]]) -> Iterator[Variant]:
    """The combinations of one of each list."""
    for combination in product(*lists):
        joined: Variant = {}
        for each in combination:
            joined |= each
        yield joined


def _labelled(stage: str, variants: list[Variant]) -> list[Variant]:
    return [{f"{stage}.{key}": value for key, value in variant.items()} for variant in variants]


def _distinct(variants: Iterable[Variant], where: str) -> tuple[Variant, ...]:
    found: dict[str, Variant] = {}
    for variant in variants:
        key = variant_key(variant)
        require(key not in found, f"{where}: the variant {variant} is there twice.")
        found[key] = variant
        require(len(found) <= _MOST_RUNS, f"{where} has more than {_MOST_RUNS:,} variants.")
    return tuple(found.values())


def variant_key(variant: Variant) -> str:
    """A variant in one form; 1, 1.0 and True are three values."""
    return repr(sorted(variant.items()))


def is_of(variant: Variant, wanted: Variant) -> bool:
    """Whether a variant has all these values."""
    return all(key in variant and repr(variant[key]) == repr(value) for key, value in wanted.items())


def references(settings: Mapping[str, Any]) -> dict[str, re.Match[str]]:
    """The values that name a result of another stage, by setting."""
    texts = {key: value for key, value in settings.items() if isinstance(value, str) and value.startswith("stage:")}
    return {key: REFERENCE.fullmatch(value) for key, value in texts.items()}


def _needs(name: str, settings: Iterable[Variant], stages: Iterable[str], where: str) -> tuple[str, ...]:
    needs: dict[str, None] = {}
    for key, found in ((key, found) for each in settings for key, found in references(each).items()):
        form = "write stage:<name>.best, stage:<name>.last, or stage:<name> for the folder of its run"
        require(found, f"{where}: stage {name}: {key} names no result of a stage; {form}.")
        other = found["stage"]
        require(other in stages, f"{where}: stage {name}: {key}: there is no stage {other}{suggest(other, stages)}.")
        needs[other] = None
    return tuple(needs)


def _order(needs: Mapping[str, tuple[str, ...]], where: str) -> list[str]:
    own = [name for name, each in needs.items() if name in each]
    require(not own, f"{where}: stage {', '.join(own)} takes a result of itself; name another stage.")
    try:
        return [*TopologicalSorter(needs).static_order()]
    except CycleError as error:
        circle = " -> ".join(error.args[1])
        raise UserError(f"{where}: stages take results of each other in a circle ({circle}); break it.") from None


def _inherited(names: Iterable[str], needs: Mapping[str, tuple[str, ...]]) -> set[str]:
    return {each for name in names for each in (name, *_inherited(needs[name], needs))}


def _check_seeds(ordered: list[Stage], where: str) -> None:
    for stage in ordered:
        for other in (each for each in ordered if each.name in stage.needs):
            match = len(other.seeds) == 1 or {*stage.seeds} <= {*other.seeds}
            require(
                match,
                f"{where}: stage {stage.name} has seeds that stage {other.name} has not; give both the same, or the latter one.",
            )


def _metrics(content: Mapping[str, Any], stages: Iterable[str], where: str) -> tuple[str, ...]:
    metrics = tuple(content.get("metrics") or ())
    for metric in metrics:
        named = METRIC.fullmatch(metric)
        form = "write <task>/<split>/<metric>, such as vqa/val/accuracy"
        require(named, f"{where}: metrics: {metric!r} is none; {form}.")
        known, tasks = named["task"] in TASKS, ", ".join(TASKS)
        require(known, f"{where}: metrics: {metric}: there is no task {named['task']}; those are {tasks}.")
        require(named["stage"] in (None, *stages), f"{where}: metrics: {metric}: there is no stage {named['stage']}.")
    return metrics


def _layout(content: Mapping[str, Any], stages: Iterable[Stage], where: str) -> Iterator[tuple[str, ...] | None]:
    """What names the rows of the table, and its columns."""
    layout = content.get("table") or {}
    _refuse_unknown(layout, _TableLayout.__annotations__, f"{where}: table")
    known = {METRIC_KEY} | {key for stage in stages for variant in stage.variants for key in variant}
    names = [*(layout.get("rows") or ()), *(layout.get("columns") or ())]
    _refuse_unknown(names, known, f"{where}: table")
    twice = [name for number, name in enumerate(names) if name in names[:number]]
    require(not twice, f"{where}: table: {twice[:1]} stands there twice.")
    for part in _TableLayout.__annotations__:
        yield None if layout.get(part) is None else tuple(layout[part])


def _check_baseline(study: Study, where: str) -> None:
    if study.baseline is None:
        return
    matching = [each for stage in study.stages for each in stage.variants if is_of(each, study.baseline)]
    keys = dict.fromkeys(key for stage in study.stages for variant in stage.variants for key in variant)
    require(matching, f"{where}: baseline: no variant has {study.baseline}; the variants differ in {', '.join(keys)}.")
