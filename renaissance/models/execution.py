"""Gradient checkpointing and compilation of the stacks of a model. Neither changes what is learned.

Recomputed layers keep their inputs only, and are computed a second time in the backward pass: memory of activations falls from
all that a layer computes to what goes into it, for about a third more time (Chen et al. 2016). Dropout repeats itself.

Compiled stacks see static shapes: training pads every text to `max_text_len`, so each stack meets few, and each is compiled once.
Evaluation runs as written, so a number does not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from . import backbones
from .fusion import FusionStack

_REASON = 200  # most characters of a compiler's message that are repeated
MOST_SHAPES = 4  # that one stack is compiled for; masked and whole texts, one and two images an example, are fewer

checkpointed = partial(checkpoint, use_reentrant=False)


def stacks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The towers, blocks and fusion of a model, with their names."""
    kinds = backbones.Tower | backbones.Blocks | FusionStack
    return ((name, part) for name, part in model.named_children() if isinstance(part, kinds))


def enable_gradient_checkpointing(model: nn.Module) -> dict[str, int]:
    """Turns gradient checkpointing on; frozen parts keep no activations in any case.

    Returns:
        Number of checkpointed layers of each stack; 0 where its family supports none.
    """
    counts = {}
    for name, part in stacks(model):
        if not any(parameter.requires_grad for parameter in part.parameters()):
            continue
        if isinstance(part, FusionStack):
            part.around_layer = checkpointed
            counts[name] = len(part.layers)
        else:
            counts[name] = backbones.checkpoint_layers(part, checkpointed)
    return counts


def compile_stacks(model: nn.Module, say: Callable[[str], None], backend: str = "inductor") -> None:
    """Compiles each stack of a model, when the first training step reaches it.

    Args:
        model: runs compiled while it is in training mode. Names of its weights stay as they are.
        say: gets a line for a stack that cannot be compiled, which then runs as written.
        backend: of torch.compile.
    """
    # DDP splits graphs for a model that is compiled as a whole.
    torch._dynamo.config.optimize_ddp = False
    for name, part in stacks(model):
        part.forward = _compiled(part.forward, model, name, say, backend)


def _compiled(plain: Callable[..., Any], model: nn.Module, name: str, say: Callable[[str], None], backend: str) -> Any:
    """A forward that is compiled for each of the few shapes that it meets in training."""
    fast = torch.compile(plain, dynamic=False, backend=backend)
    shapes: set[Any] = set()
    given_up = False

    def forward(*inputs: Any) -> Any:
        if given_up or not model.training:
            return plain(*inputs)
        if (shape := _shape(inputs)) in shapes:
            return fast(*inputs)
        if len(shapes) == MOST_SHAPES:
            return as_written(inputs, f"meets more than {MOST_SHAPES} shapes of inputs")
        try:
            outputs = fast(*inputs)
        except Exception as error:  # dynamo, a backend and a compiler that is not there have types of their own
            reason = " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__
            return as_written(inputs, f"cannot be compiled ({reason[:_REASON]})")
        shapes.add(shape)
        return outputs

    def as_written(inputs: tuple[Any, ...], why: str) -> Any:
        nonlocal given_up
        outputs = plain(*inputs)  # first: an error of the model itself is raised as it is
        given_up = True
        say(f"warning: compile=True: the {name} {why}; it runs as written.")
        return outputs

    return forward


def _shape(value: Any) -> Any:
    """What a compiled graph depends on: shapes and types of tensors, all else by value."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    return tuple(map(_shape, value)) if isinstance(value, tuple) else value
