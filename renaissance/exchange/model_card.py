"""The README.md of an exported folder: a model card out of what the run has written, and what it does not know."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from renaissance.core.errors import UserError, printable
from renaissance.core.public import public, public_command
from renaissance.core.untrusted import parse_json, read_bytes
from renaissance.evaluation.runs import FinishedRun, find_run, read_run
from renaissance.runs.checkpoint_folder import BEST
from renaissance.runs.exported import CONFIG, OURS
from renaissance.runs.report import RunFolder
from renaissance.runs.stored import Stored
from renaissance.settings.declared import SETTINGS, defaults
from renaissance.settings.keys import TOWERS, TYPE_KEYS, marked

from .formats.source import ExportSource

_OF_MACHINE = {
    "data_root",
    "per_gpu_batchsize",
    "eval_batch_size",
    *(k for k, s in SETTINGS.items() if s.section == "machine"),
}
_MOST_CARD = 1 << 20  # bytes of a card that is read
_LICENCE = "Licence and intended use"
_UNKNOWN = "Not known: the folder of the run was not beside the checkpoint."


def card(source: ExportSource, name: str, format: str) -> str:
    """The text of the card. name: of the folder. format: of `export`."""
    run, stored = _read(RunFolder.of_checkpoint(source.path)), source.stored
    before = _sections(source)
    towers = {key: public(stored.settings[key]) for key in TOWERS[stored.settings["model_type"]]}
    keys = ("datasets", "first_datasets")
    datasets = list(dict.fromkeys(name for key in keys for name in (run.settings.get(key) or ()))) if run else []
    made_of = [
        *towers.values(),
        *(public(datasets) if run else ["the data that it was trained on"]),
    ]
    licences = ", ".join(map(str, made_of))
    sections = [
        f"# {name}",
        f"A {stored.settings['model_type']} vision-language encoder of {_named(towers)}, step {stored.training['step']:,} of "
        "its training by Renaissance.",
        "## Loading it",
        source.loading,
        "## Scores",
        before.get("Scores") or _scores(run, source.path),
        "## Training",
        before.get("Training") or _training(run, stored),
        f"## {_LICENCE}",
        before.get(_LICENCE)
        or f"To be filled in. It was made of {printable(licences)}, whose licences apply to it. What it is meant for, and "
        "what it should not be used for: to be filled in.",
    ]
    library = {"sentence_transformers": "sentence-transformers", "safetensors": "renaissance"}.get(
        format, "transformers"
    )
    tags = f"library_name: {library}\nlicense: other  # fill in\ntags:\n- vision-language\n- renaissance"
    return f"---\n{tags}\n---\n\n" + "\n\n".join(sections) + "\n"


def _sections(source: ExportSource) -> dict[str, str]:
    """What the card of a folder that was exported before says of the same tensors, by heading."""
    folder = Path(source.path)
    if not folder.is_dir():
        return {}
    try:
        config = parse_json(read_bytes(folder / CONFIG), dict[str, Any])
        text = read_bytes(folder / "README.md", most=_MOST_CARD).decode()
    except (UserError, UnicodeDecodeError):
        return {}
    if config.get(OURS, {}).get("digest") != source.digest:
        return {}
    parts = (part.partition("\n") for part in printable(text, keep="\n").split("\n## ")[1:])
    return {heading.strip(): body.strip() for heading, _, body in parts}


def _read(folder: RunFolder | None) -> FinishedRun | None:
    try:
        return folder and read_run(folder.path, "load_path")
    except UserError:  # a damaged file of the run is no reason to export nothing
        return None


def _named(towers: Mapping[str, Any]) -> str:
    return " and ".join(f"`{printable(str(name))}` ({key})" for key, name in towers.items())


def _scores(run: FinishedRun | None, source: str) -> str:
    if run is None:
        return f"{_UNKNOWN} Nothing that was measured is known."
    best = run.path / "checkpoints" / BEST
    if run.results is None or not best.exists() or not os.path.samefile(best, source):
        return "Not measured: the run evaluates its best checkpoint, and this is another one, or the run has not ended."
    rows = [
        (split, task, metric, value)
        for split, tasks in run.results.items()
        for task, metrics in tasks.items()
        for metric, value in metrics.items()
        if "_as_" not in metric
    ]
    lines = ["| split | task | metric | score | 95 % interval | baseline | examples |", "| " + "--- | " * 7]
    for split, task, metric, value in rows:
        detail = run.details.get(split, {}).get(task, {}).get(metric, {})
        baseline = ", ".join(f"{name} {score:.4f}" for name, score in (detail.get("baseline") or {}).items())
        cells = (split, task, metric, _number(value), _interval(detail), baseline, detail.get("examples") or "")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    limit = run.settings.get("eval_limit")
    notes = [f"\n{_blind(run, rows)}", "Not measured: any other benchmark, data of other kinds, and bias."]
    notes += [f"Only the first {limit} examples of a split were evaluated."] if limit else []
    notes += ["No split with labels was evaluated."] if not rows else []
    return "\n".join([*lines, *notes])


def _number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.4f}"


def _interval(detail: Mapping[str, Any]) -> str:
    bounds = detail.get("interval")
    return "" if not bounds else f"{bounds[0]:.4f} to {bounds[1]:.4f}"


def _blind(run: FinishedRun, rows: list[Any]) -> str:
    """What the same model reaches that saw no images."""
    if not (path := run.settings.get("blind_run")):
        return "No blind baseline (the same model without images) was named with `blind_run`."
    try:
        blind = find_run(path, "blind_run")
    except UserError:
        return f"The blind baseline {printable(public(path))} cannot be read any more."
    both = [
        (split, task, metric, blind.results and blind.value(task, split, metric)) for split, task, metric, _ in rows
    ]
    found = [f"{split} {metric} {value:.4f}" for split, task, metric, value in both if value is not None]
    return f"The same model without images: {', '.join(found) or 'nothing in common'}."


def _training(run: FinishedRun | None, stored: Stored) -> str:
    hidden, plain = marked("command_only") | _OF_MACHINE, defaults()
    for model_type, keys in TYPE_KEYS.items():
        hidden |= set() if model_type == stored.settings["model_type"] else {*keys}
    changed = {
        key: {name: each for name, each in value.items() if each} if isinstance(value, dict) else public(value)
        for key, value in stored.settings.items()
        if key not in hidden and value not in (None, plain.get(key))
    }
    rows = [f"| `{key}` | `{printable(str(value))}` |" for key, value in changed.items()]
    settings = "\n".join(["Settings that differ from the defaults:\n", "| setting | value |", "| --- | --- |", *rows])
    if run is None:
        return f"{_UNKNOWN}\n\n{settings}"
    versions = run.record.get("versions") or {}
    command = f"```\n{printable(public_command(str(versions.get('command', 'not known'))))}\n```"
    packages = ", ".join(f"{name} {each}" for name, each in versions.items() if name not in ("command", "platform"))
    files = [
        f"| {split} | {printable(public(file))} | {printable(', '.join(f'{key} {value}' for key, value in prints.items()))} |"
        for split, files in run.data.items()
        for file, prints in files.items()
    ]
    data = "\n".join(["| split | file | known by |", "| --- | --- | --- |", *files])
    return "\n\n".join([command, f"With {packages}.", data, settings])
