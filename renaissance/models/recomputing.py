"""Gradient checkpointing: layers that keep their inputs only, and are computed a second time in the backward pass.

Memory of activations falls from all that a layer computes to what goes into it, for about a third more time (Chen et al. 2016).
Dropout repeats itself, so nothing else changes.
"""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from . import backbones
from .fusion import CrossStack, MergedStack

recomputed = partial(checkpoint, use_reentrant=False)


def recompute_layers(model: nn.Module) -> dict[str, int]:
    """Makes a model recompute its layers while it trains; frozen parts keep nothing in any case.

    Returns:
        How many layers each part of the model recomputes, 0 where its family has none that can be.
    """
    counts = {}
    for name, part in model.named_children():
        if not any(parameter.requires_grad for parameter in part.parameters()):
            continue
        if isinstance(part, CrossStack | MergedStack):
            part.around_layer = recomputed
            counts[name] = len(part.layers)
        elif isinstance(part, backbones.TextTower | backbones.VisionTower | backbones.Blocks):
            counts[name] = backbones.recompute(part, recomputed)
    return counts
