"""Gradient checkpointing and compilation of the stacks of a model. Neither changes what is learned.

A checkpointed layer keeps its inputs only and is computed again in the backward pass: less memory for activations, about a
third more time (Chen et al. 2016). The second pass has the same dropout masks.

A stack is compiled for the shapes of its first step, and once more for any size of what differs in a later one, such as the
length of texts. Evaluation is not compiled, so no published number depends on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from . import backbones
from .fusion import FusionStack

_MOST_REASON = 200  # most characters of a compiler's message that are repeated

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
    """A forward that is compiled in training; how long that took is said."""
    fast, statistics = torch.compile(plain, backend=backend), torch._dynamo.utils.counters["stats"]
    given_up = False

    def forward(*inputs: Any) -> Any:
        nonlocal given_up
        if given_up or not model.training:
            return plain(*inputs)
        before, began = statistics["unique_graphs"], time.monotonic()
        try:
            outputs = fast(*inputs)
        except Exception as error:  # dynamo, a backend and a missing compiler raise errors of their own types
            outputs = plain(*inputs)  # before the warning: an error of the model itself is raised as it is
            given_up = True
            reason = " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__
            say(f"warning: compile=True: the {name} cannot be compiled ({reason[:_MOST_REASON]}); it runs as written.")
        else:
            if statistics["unique_graphs"] > before:
                say(f"compile=True: compiled the {name} in {time.monotonic() - began:.0f} s")
        return outputs

    return forward
