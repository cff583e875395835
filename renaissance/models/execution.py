"""Gradient checkpointing and compilation of the stacks of a model. Neither changes what is learned.

A checkpointed layer keeps its inputs only and is computed again in the backward pass: less memory for activations, about a
third more time (Chen et al. 2016). The second pass has the same dropout masks.

Stacks are compiled for static shapes. Training pads every text to `max_text_len`, so a stack meets few shapes. Evaluation is
not compiled, so no published number depends on it.
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

_MOST_REASON = 200  # most characters of a compiler's message that are repeated
MOST_SHAPES = 4  # that one stack is compiled for; masked and whole texts, one and two images an example, are fewer

checkpointed = partial(checkpoint, use_reentrant=False)


def stacks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The towers, blocks and fusion of a model, with their names."""
    kinds = backbones.Tower | backbones.Blocks | FusionStack
    return ((name, part) for name, part in model.named_children() if isinstance(part, kinds))


def enable_gradient_checkpointing(model: nn.Module) -> dict[str, int]:
    """Turns gradient checkpointing on, but for frozen stacks, which keep no activations anyway.

    Returns:
        Number of checkpointed layers of each stack; 0 if its family supports none.
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
    """Compiles each stack of a model on its first training step.

    Args:
        model: runs compiled in training mode only; its state dict keeps its keys.
        say: called with a warning for a stack that cannot be compiled, which then runs uncompiled.
        backend: of torch.compile.
    """
    # DDP splits graphs for a model that is compiled as a whole.
    torch._dynamo.config.optimize_ddp = False
    for name, part in stacks(model):
        part.forward = _compiled(part.forward, model, name, say, backend)


def _compiled(plain: Callable[..., Any], model: nn.Module, name: str, say: Callable[[str], None], backend: str) -> Any:
    """A forward that is compiled for each shape of its inputs in training, at most `MOST_SHAPES`."""
    fast = torch.compile(plain, dynamic=False, backend=backend)
    shapes: set[Any] = set()
    given_up = False

    def forward(*inputs: Any) -> Any:
        nonlocal given_up
        if given_up or not model.training:
            return plain(*inputs)
        if (shape := _shape(inputs)) in shapes:
            return fast(*inputs)
        why = f"meets more than {MOST_SHAPES} shapes of inputs"
        if len(shapes) < MOST_SHAPES:
            try:
                outputs = fast(*inputs)
            except Exception as error:  # dynamo, a backend and a missing compiler raise errors of their own types
                reason = " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__
                why = f"cannot be compiled ({reason[:_MOST_REASON]})"
            else:
                shapes.add(shape)
                return outputs
        outputs = plain(*inputs)  # before the warning: an error of the model itself is raised as it is
        given_up = True
        say(f"warning: compile=True: the {name} {why}; it runs as written.")
        return outputs

    return forward


def _shape(value: Any) -> Any:
    """What a compiled graph depends on: shape and dtype of tensors, other inputs by value."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    return tuple(map(_shape, value)) if isinstance(value, tuple) else value
