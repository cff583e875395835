"""What a run prints: one screen before it starts, and its results when it ends; and settings.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from renaissance.core.console import millions, table
from renaissance.runs.report import versions
from renaissance.settings.sections import Settings
from renaissance.tasks import downstream_task

from .assembly import Built
from .devices import on_gpu
from .image_inputs import patch_drop
from .loading import RunData
from .optim import ROLES, parameter_groups, random_towers, role_of, steps_of, validation_interval
from .overview import overview
from .resolution import Resolved


def parameters(built: Built) -> dict[str, dict[str, int]]:
    """{role: {"total", "trainable", "frozen"}} and the same for "all"; numbers of parameters."""
    counts: dict[str, dict[str, int]] = {}
    for role, parameter in role_of(built.model, built.heads):
        for key in (role, "all"):
            of = counts.setdefault(key, {"total": 0, "trainable": 0, "frozen": 0})
            of["total"] += parameter.numel()
            of["trainable" if parameter.requires_grad else "frozen"] += parameter.numel()
    return {role: counts[role] for role in (*ROLES, "all") if role in counts}


def parameter_table(built: Built) -> str:
    """Parameters by role as aligned columns."""
    rows = [("parameters", "total", "trainable", "frozen")]
    for part, counts in parameters(built).items():
        rows.append((part, *(millions(counts[key]) for key in ("total", "trainable", "frozen"))))
    return table(rows)


def model_lines(resolved: Resolved) -> list[str]:
    """What is built, in a few lines."""
    model = resolved.settings.model
    size = f"images {model.image_size} px" + (f", patches {model.patch_size} px" if model.patch_size else "")
    lines = [f"{model.model_type} model; {size}; texts up to {model.max_text_len} tokens of {model.tokenizer}"]
    for key in resolved.configs:
        tower = getattr(model, key)
        weights = "checkpoint" if resolved.stored else "random weights" if tower.random else "pretrained"
        kind = resolved.configs[key].model_type
        width = f"{tower.dimensions['num_layers'] or '?'} x {tower.dimensions['hidden_size']}"
        lines.append(f"  {key}: {tower.name} ({kind}, {width}, {weights}{', frozen' if tower.frozen else ''})")
    if model.fusion is not None:
        fusion = model.fusion
        lines.append(f"  fusion: {fusion.kind}, {fusion.num_layers} x {fusion.hidden_size}, {fusion.num_heads} heads")
    return lines


def startup_report(built: Built, resolved: Resolved, data: RunData, steps: int, first_step: int) -> str:
    """The screen before training: model, parameters, data, optimization, devices."""
    settings = resolved.settings
    lines = [*model_lines(resolved), parameter_table(built), *(f"note: {note}" for note in built.notes)]
    if resolved.stored is None and downstream_task(settings.objectives.loss_names):
        lines.append("note: no load_path: only the encoders' own weights are pretrained, all else starts at random")
    lines += data_lines(settings, data.samples)
    if not settings.run.test_only:
        lines += _optimization_lines(built, settings, data, steps, first_step)
    return "\n".join(lines)


def data_lines(settings: Settings, samples: Mapping[str, Any]) -> list[str]:
    """Sizes of the data by file, and what is missing."""
    lines = overview(samples)
    if settings.objectives.blind:
        lines.append("note: blind=True: every image is one colour: the score is a text-only baseline")
    if samples.get("val") is None and not settings.run.test_only:
        lines.append(f"note: {', '.join(settings.data.datasets)} has no validation split; the last checkpoint is kept")
    return lines


def _optimization_lines(built: Built, settings: Settings, data: RunData, steps: int, first_step: int) -> list[str]:
    batch_size, optim, machine, samples = settings.data.batch_size, settings.optim, settings.machine, data.epoch_size
    micro = batch_size // (settings.data.per_gpu_batchsize * machine.processes)
    start = f", from step {first_step}" if first_step else ""
    lines = [
        f"steps: {steps:,}{start} (warm-up {steps_of(optim.warmup_steps, steps):,}, "
        f"{steps * batch_size / samples:.2f} epochs); validation every "
        f"{validation_interval(optim, samples, batch_size):,}",
        f"batch: {batch_size} = {settings.data.per_gpu_batchsize} x {micro} micro-batch(es) x {machine.processes} process(es)",
        f"objectives: {', '.join(f'{name} x {weight:g}' for name, weight in settings.objectives.loss_names.items())}",
    ]
    if first := data.pool(settings, steps).first_steps:
        begins, then = ", ".join(settings.data.first_datasets), ", ".join(settings.data.datasets)
        lines.append(f"data: {begins} before step {first:,}, then {then}")
    if (drop := patch_drop(settings, steps)) is not None:
        lines.append(f"patches: {drop.count} of {drop.patches} of each image before step {drop.steps:,}, then all")
    rows = [(f"{optim.optim_type}, {optim.decay_power} decay", "learning rate", "weight decay", "parameters")]
    for group in parameter_groups(built.model, built.heads, optim, random_towers(settings.model)):
        rate, count = optim.learning_rate * group["multiplier"], sum(each.numel() for each in group["params"])
        rows.append((group["name"], f"{rate:g}", f"{group['weight_decay']:g}", millions(count)))
    lines.append(table(rows, indent=""))
    return [*lines, *device_lines(settings)]


def device_lines(settings: Settings) -> list[str]:
    """Where it runs, and a warning where that is not where the user thinks."""
    machine = settings.machine
    device = torch.cuda.get_device_name() if on_gpu(settings) else "CPU"
    lines = [f"devices: {machine.num_gpus} x {device} on {machine.num_nodes} node(s), precision {machine.precision}"]
    if not on_gpu(settings) and settings.sources["num_gpus"].startswith(("given", "preset")):
        processes = "1 CPU process" if machine.num_gpus == 1 else f"{machine.num_gpus} CPU processes"
        lines.append(f"warning: no GPU is used; num_gpus={machine.num_gpus} runs {processes} instead")
    if machine.compile:
        lines.append("note: compile=True compiles the model in the first steps, which takes a minute or more")
    if machine.strategy != "ddp" and machine.processes == 1:
        lines.append(f"note: strategy={machine.strategy} has no effect with one process")
    if not on_gpu(settings) and machine.precision == "16-mixed":
        lines.append("warning: precision=16-mixed needs a GPU; on the CPU Lightning computes in bf16-mixed instead")
    return lines


def record(built: Built, resolved: Resolved, samples: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """The content of settings.json: every setting with its source, parameters, steps, versions, and fingerprints of the data."""
    settings = resolved.settings
    return {
        "settings": settings.flat,
        "sources": settings.sources,
        "parameters": parameters(built),
        "steps": steps,
        "versions": versions(),
        "data": {split: dataset.fingerprint() for split, dataset in samples.items() if dataset is not None},
    }
