"""What a run is: model, data, settings, time; read from its folder alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from renaissance.core.atomic import is_locked
from renaissance.core.console import millions
from renaissance.core.errors import UserError, require
from renaissance.core.untrusted import read_bytes
from renaissance.evaluation.compare.folders import logged
from renaissance.evaluation.metrics import SELECTING
from renaissance.evaluation.runs import FinishedRun
from renaissance.runs.metrics_table import speeds
from renaissance.settings.declared import SETTINGS, defaults
from renaissance.settings.keys import TOWER_KEYS, TOWERS

_PLACES = ("exp_name", "log_dir", "data_root", "cache_dir")  # where, not what
_MOST_LOG = 1 << 28  # bytes
_STAMP = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)  ", re.MULTILINE)
_TASKS = {
    "mlm": "masked language modelling", "itm": "image-text matching", "itc": "image-text contrast",
    "vqa": "visual question answering", "nlvr2": "sentences about two images", "snli": "visual entailment",
    "ref": "referring expressions", "irtr": "retrieval", "glue": "GLUE", "images": "image classification",
    "zeroshot_images": "image classification without training",
    "linear_probe": "a linear probe of frozen features", "knn": "nearest neighbours by frozen features",
}  # fmt: skip


class FactTable(NamedTuple):
    """A table. Attributes: title; head; rows, each with its name first; note below it."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


class RunFacts(NamedTuple):
    """What a run is.

    Attributes:
        lead: one sentence: what was trained on what.
        state: why there are no results; "" of a run that has ended.
        summary: (what, value) pairs. tables: of model, data, settings and versions.
        rows: of metrics.csv. notes: sentences on what cannot be read.
    """

    lead: str
    state: str
    summary: list[tuple[str, str]]
    tables: list[FactTable]
    rows: list[dict[str, str]]
    notes: list[str]


def facts_of(run: FinishedRun) -> RunFacts:
    """What a run is.

    Raises:
        UserError: its settings.json is not of this program.
    """
    ours = isinstance(run.settings.get("loss_names"), Mapping) and isinstance(run.settings.get("datasets"), list)
    require(ours, f"'{run.path / 'settings.json'}' is of another program: it does not say what was trained on what.")
    rows, problem = logged(run.path)
    log, state = _log(run), ""
    if run.results is None:
        last = rows[-1]["step"] if rows else "0"
        going = "is still going on" if is_locked(run.path) else "has not ended, or was stopped"
        state = f"This run {going}: its last line is of step {int(last):,}, and there are no results yet."
    tables = [_model(run), _data(run), _settings(run), _versions(run)]
    notes = [problem] if problem else []
    return RunFacts(
        _lead(run, rows), state, _summary(run, rows, log), [each for each in tables if each.rows], rows, notes
    )


def task_names(run: FinishedRun) -> list[str]:
    """The tasks that a run has trained or evaluated."""
    return [str(name) for name, weight in run.settings["loss_names"].items() if weight]


def waiting(rows: Sequence[Mapping[str, str]]) -> float | None:
    """Share of the time of training that was spent waiting for data; None where it was not measured."""
    known = [row for row in rows if row.get("data_wait_share") and row.get("samples_per_second")]
    steps = np.diff([0, *(int(row["step"]) for row in known)]).clip(1)
    times = steps / np.array(speeds(known)).clip(1e-9)  # of equally large steps
    shares = np.array([float(row["data_wait_share"]) for row in known])
    return float((shares * times).sum() / times.sum()) if known else None


def _lead(run: FinishedRun, rows: Sequence[Mapping[str, str]]) -> str:
    settings = run.settings
    towers = TOWERS.get(settings.get("model_type"), ())
    names = " and ".join(str(settings.get(key)) for key in towers)
    first = [each for each in settings.get("first_datasets") or () if not settings.get("test_only")]
    tasks = ", ".join(_TASKS.get(name, name) for name in task_names(run))
    data = ", ".join(map(str, [*settings["datasets"], *first]))
    what = f"A {settings.get('model_type')} model ({names})"
    if settings.get("test_only"):
        return f"{what}, evaluated on {data}: {tasks}."
    steps = f" for {int(rows[-1]['step']):,} steps of {settings.get('batch_size')} samples" if rows else ""
    blind = ", without seeing an image (blind=True)" if settings.get("blind") else ""
    return f"{what}, trained on {data}{steps}{blind}: {tasks}."


def _log(run: FinishedRun) -> str:
    try:
        return read_bytes(run.path / "log.txt", most=_MOST_LOG).decode("utf-8", "replace")
    except (OSError, UserError):
        return ""


def _summary(run: FinishedRun, rows: Sequence[Mapping[str, str]], log: str) -> list[tuple[str, str]]:
    found, stamps = [("folder", str(run.path))], _STAMP.findall(log)
    if stamps:
        found += [("began", stamps[0]), ("last line", stamps[-1])]
    if device := re.search(r"^devices: (.+)$", log, re.MULTILINE):
        found.append(("devices", device[1]))
    if run.settings.get("load_path"):
        found.append(("started from", str(run.settings["load_path"])))
    best = [(float(row[key]), int(row["step"])) for row in rows if row.get(key := f"val/{SELECTING}")]
    if best:
        found.append(("best step on val", f"{max(best, key=lambda each: (each[0], -each[1]))[1]:,}"))
    if measured := speeds(rows):
        found.append(("samples a second", f"{np.median(measured):,.1f} (median)"))
    if (share := waiting(rows)) is not None:
        found.append(("time waiting for data", f"{share:.1%} of training"))
    return found


def _model(run: FinishedRun) -> FactTable:
    """Parameters by part, and what the towers are."""
    counts, settings = run.record.get("parameters", {}), run.settings
    kinds = ("total", "trainable", "frozen")
    rows = [(role, *(millions(of.get(kind, 0)) for kind in kinds)) for role, of in counts.items()]
    towers = []
    for key in TOWERS.get(settings.get("model_type"), ()):
        prefix, random, frozen = TOWER_KEYS[key]
        size = f"{settings.get(f'{prefix}num_layers')} x {settings.get(f'{prefix}hidden_size')}"
        drawn = settings.get(random) or settings.get(f"{key}_manual_configuration")
        weights = "of load_path" if settings.get("load_path") else "random weights" if drawn else "pretrained"
        towers.append(f"{key}: {settings.get(key)}, {size}, {weights}{', frozen' if settings.get(frozen) else ''}")
    if settings.get("model_type") == "two-tower":
        layers, width = settings.get("num_cross_layers"), settings.get("cross_layer_hidden_size")
        towers.append(f"fusion: {settings.get('fusion')}, {layers} x {width}")
    towers.append(
        f"images of {settings.get('image_size')} pixels, texts of up to {settings.get('max_text_len')} tokens"
    )
    return FactTable("Model", ("part", *(f"{kind} parameters" for kind in kinds)), rows, "; ".join(towers))


def _data(run: FinishedRun) -> FactTable:
    rows = [
        (
            f"{split}: {file}",
            *(f"{known[key]:,}" if isinstance(known.get(key), int) else "" for key in ("pictures", "pairs")),
        )
        for split, files in run.data.items()
        for file, known in files.items()
    ]
    return FactTable("Data", ("file", "rows", "samples"), rows)


def _settings(run: FinishedRun) -> FactTable:
    """Settings that the command gave otherwise than their defaults."""
    usual, sources = defaults(), run.record.get("sources", {})
    rows = []
    for key, value in run.settings.items():
        default = usual.get(key)
        if key not in SETTINGS or key in _PLACES or sources.get(key) == "default":
            continue
        given = str(sources.get(key, "")).startswith(("given", "preset"))
        if given and plain(value) != plain(default):
            rows.append((key, plain(value), plain(default), str(sources[key])))
    return FactTable("Settings that differ from their defaults", ("setting", "value", "default", "from"), rows)


def plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {each}" for name, each in value.items() if each) or "none"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _versions(run: FinishedRun) -> FactTable:
    return FactTable(
        "Versions", ("package", "version"), [(str(k), str(v)) for k, v in run.record.get("versions", {}).items()]
    )
