"""Checks every run of a study before the first starts, as `python run.py check` does, and says how large each is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from renaissance.core.errors import UserError, require
from renaissance.settings.keys import model_keys
from renaissance.settings.resolver import ConfigResolver, refuse
from renaissance.tasks import task_class
from renaissance.training.assembly import Built
from renaissance.training.summary import parameters
from renaissance.training.train import prepare_run

from .flops import training_flops
from .plan import Configure, PlannedRun
from .spec import METRIC, variant_key


class Size(NamedTuple):
    """What a run is.

    Attributes: parameters, trainable; steps, or a word where they are not a number; settings, complete; flops, of a training
        step, None where they are not counted.
    """

    parameters: int
    trainable: int
    steps: int | str
    settings: dict[str, Any]
    flops: int | None = None


def check_runs(
    runs: Sequence[PlannedRun], metrics: Sequence[str], configure: Configure, *, flops: bool = False
) -> dict[str, Size]:
    """The size of each run. Of those that differ in the seed alone, one is built.

    A run that takes a checkpoint of another is built with the model of that one.

    Args:
        metrics: of the study, each of which some run must have. flops: whether they are counted, too.

    Raises:
        UserError: naming each run that would be refused, and why, and each metric that no run has.
    """
    sizes: dict[str, Size] = {}
    models: dict[str, dict[str, Any]] = {}
    built: dict[str, str] = {}  # what a run is but for its seed -> the first run that is so
    problems: list[str] = []
    for run in runs:
        first = built.setdefault(f"{run.stage} {variant_key(run.variant)}", run.name)
        if first != run.name:
            sizes |= {run.name: sizes[first]} if first in sizes else {}
            models |= {run.name: models[first]} if first in models else {}
            continue
        source = run.needs.get("load_path", (None, None))[0]
        if source is not None and source not in models:  # which was refused
            continue
        try:
            values, sources = configure(run.own_words())
            _check_blind(run, models)
            resolver = ConfigResolver(values | {"resume_from": None}, sources, starts_later=source is not None)
            if source is not None:
                stored = {key: models[source][key] for key in model_keys()}
                resolver.fill_defaults(f"checkpoint of {source}", stored)
            _, resolved, shape = prepare_run(resolver, reads_data=False)
            if source is not None and values["test_only"]:
                _check_heads(shape, source, models[source]["loss_names"])
        except UserError as error:
            problems.append(f"{run.name}: {error}")
            continue
        models[run.name] = dict(resolved.settings.flat) | {"test_only": bool(values["test_only"])}
        counts = parameters(shape)["all"]
        counted = training_flops(shape, resolved) if flops else None
        sizes[run.name] = Size(counts["total"], counts["trainable"], _steps(values), models[run.name], counted)
    refuse(problems, "runs")
    refuse([*_unknown_metrics(metrics, runs, models)], "metrics")
    return sizes


def _unknown_metrics(
    metrics: Sequence[str], runs: Sequence[PlannedRun], models: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """A sentence for each metric that no run will have, as far as it can be known before data are read."""
    for metric in metrics:
        named = METRIC.fullmatch(metric)
        stages = [run for run in runs if named["stage"] in (None, run.stage)]
        trained = {task for run in stages for task, weight in models[run.name]["loss_names"].items() if weight}
        if named["task"] not in trained:
            where = f"of stage {named['stage']} " if named["stage"] else ""
            yield f"{metric}: no run {where}trains {named['task']}; they train {', '.join(sorted(trained))}."
        elif not (task := task_class(named["task"])).has_dataset:
            names = task.means()
            known = named["split"] in ("val", "test") and named["metric"] in names
            has = f"{named['task']} has {', '.join(names)} on val and test"
            if not known:
                yield f"{metric}: no run has it; {has}."


def _check_blind(run: PlannedRun, models: dict[str, dict[str, Any]]) -> None:
    blind = run.needs.get("blind_run", (None, None))[0]
    seeing = blind in models and models[blind]["blind"] is not True
    require(not seeing, f"blind_run is of {blind}, which sees its images; give its stage blind: true.")


def _check_heads(shape: Built, source: str, trained: Mapping[str, float]) -> None:
    """Refuses an evaluation that needs the heads of tasks which the source does not train."""
    for head in filter(lambda head: head.starts_from, shape.heads.values()):
        parts = {part for part, other in head.starts_from.items() if trained.get(other.partition(".")[0])}
        head.use_loaded(parts, f"load_path, the checkpoint of {source},")


def _steps(values: dict[str, Any]) -> int | str:
    if values["test_only"]:
        return "none"
    return "by epochs" if values["max_steps"] in (None, "") else int(values["max_steps"])
