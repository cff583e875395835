"""Freezes the parameters that no chosen task uses; they are kept and saved.

So a checkpoint's keys never depend on its tasks, and DDP need not search for unused parameters at each step.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import torch
from PIL import Image
from torch import Tensor

from renaissance.core.types import Batch, Example
from renaissance.data.collate import Collate, Source, TargetBuilder
from renaissance.data.sampler import Draw
from renaissance.data.transforms import make_transform
from renaissance.tasks import Encodings, downstream_task, task_class

from .assembly import Built
from .image_inputs import patch_drop
from .resolution import Resolved


def freeze_unused_parameters(
    built: Built, resolved: Resolved, target_builders: Mapping[str, TargetBuilder]
) -> list[str]:
    """Freezes every trainable parameter that no chosen task's loss depends on.

    The losses of two dummy samples are computed once, and their graph is followed to its parameters. The model is
    left in train mode.

    Returns:
        The names of the parameters frozen here.
    """
    built.model.eval()  # in train mode, batch norms would take the dummy images into their statistics
    built.heads.eval()
    encodings = Encodings(built.model, dummy_batch(resolved, target_builders))
    with torch.enable_grad():
        tasks = {name: task for name, task in built.heads.items() if task.learns}
        losses = [task(encodings, encodings.batch.targets[name]).loss for name, task in tasks.items()]
    built.model.train()
    built.heads.train()
    used = used_by(losses)
    frozen = []
    for module in (built.model, built.heads):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and id(parameter) not in used:
                parameter.requires_grad_(False)
                frozen.append(name)
    return frozen


def used_by(losses: list[Tensor]) -> set[int]:
    """The `id` of every leaf that the losses' graph ends in."""
    found: set[int] = set()
    seen: set[object] = set()
    open_nodes = [loss.grad_fn for loss in losses if loss.grad_fn is not None]
    while open_nodes:
        node = open_nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        open_nodes += [following for following, _ in node.next_functions if following is not None]
    return found


class _DummySamples:
    """A data set of samples alike, that target builders may draw more from."""

    def __init__(self, sample: Example, count: int):
        self.sample, self.count, self.labelled = sample, count, True

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        return self.sample._replace(id=index, image_key=index)

    def text(self, index: int) -> str:
        return self.sample.text


def dummy_batch(
    resolved: Resolved, target_builders: Mapping[str, TargetBuilder], count: int = 2, *, words: int | None = None
) -> Batch:
    """Samples with the same words and grey images, through the real reading and collation.

    Args:
        count: of samples. words: at least so many of each; None takes three.
    """
    model = resolved.settings.model
    grey = io.BytesIO()
    Image.new("RGB", (model.image_size, model.image_size), (127, 127, 127)).save(grey, "PNG")
    reading = downstream_task(resolved.settings.objectives.loss_names)
    sample = Example(0, (grey.getvalue(),), "two small images")
    if reading is not None:
        sample = task_class(reading).dummy_sample(grey.getvalue())
    if words is not None:
        sample = sample._replace(text=" ".join([sample.text] * words))
    transform = make_transform("imagenet", model.image_size, patch_size=model.patch_size or 1, seed=0)
    source = Source(_DummySamples(sample, count), transform)
    drop = patch_drop(resolved.settings, 1)
    collate = Collate(resolved.tokenizer, model.max_text_len, count, target_builders, source, patch_drop=drop)
    return collate([source.example(Draw(0, index)) for index in range(count)])[0]
