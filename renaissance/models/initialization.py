"""Random weights, with a scale that follows the width.

BERT's and ViT's standard deviation of 0.02 was chosen for width 768. At width 128 it is far too small: with it the demo's
models learn nothing in minutes, with 1/sqrt(fan-in) (LeCun et al. 1998) they do. At width 768 the two differ by less than a
factor of 2.
"""

from __future__ import annotations

import math

import torch
from torch import nn


@torch.no_grad()
def initialize(module: nn.Module, initializer_range: float | None = None) -> None:
    """Initialises all weights of `module` in place.

    Args:
        module: linear and convolution layers and embeddings get normal weights, biases zero, norms one.
        initializer_range: one standard deviation for all; None = 1/sqrt(fan-in) for layers (less for RESIDUAL_WRITERS),
            1/sqrt(width) for embeddings, and PATCH_POSITION_SCALE for learned positions of patches.
    """
    layers = {name: each for name, each in module.named_modules() if isinstance(each, _LAYERS)}
    writers = [name for name in layers if name.removesuffix(".convolution").endswith(RESIDUAL_WRITERS)]
    for name, each in module.named_modules():
        _initialize_layer(each, initializer_range)
        if initializer_range is None:
            if isinstance(each, nn.Embedding) and any(part in name for part in SMALL_EMBEDDINGS):
                each.weight *= SMALL_SCALE
            if name in writers:
                each.weight /= math.sqrt(len(writers))
    for name, parameter in module.named_parameters():
        if name.rpartition(".")[2] in PATCH_POSITIONS:
            nn.init.normal_(parameter, std=initializer_range or PATCH_POSITION_SCALE)


# Layers whose output is added to the residual, by their names in transformers. Their weights are divided by the square root of
# their number (GPT-2, Radford et al. 2019): otherwise the tokens of post-norm stacks become alike within a few layers.
RESIDUAL_WRITERS = (".output.dense", ".o_proj", ".out_proj", ".mlp.fc2", ".attn.proj")
# Position and token-type embeddings are scaled down beside word embeddings. At the same scale they outweigh the words, and
# image-text matching stays at chance for long.
SMALL_EMBEDDINGS = ("position", "token_type", "segment")
SMALL_SCALE = 0.25
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
# Parameters that hold learned positions of patches, and [CLS] tokens, by the names that vision transformers give them.
PATCH_POSITION_SCALE = 2.0
PATCH_POSITIONS = ("position", "cls_position", "position_embeddings", "cls_token")


def _initialize_layer(layer: nn.Module, initializer_range: float | None) -> None:
    if isinstance(layer, _LAYERS):
        fan_in = layer.weight[0].numel()
        nn.init.normal_(layer.weight, std=initializer_range or 1 / math.sqrt(fan_in))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif isinstance(layer, nn.Embedding):
        nn.init.normal_(layer.weight, std=initializer_range or 1 / math.sqrt(layer.embedding_dim))
        if layer.padding_idx is not None:
            layer.weight[layer.padding_idx].zero_()
    elif isinstance(layer, (nn.LayerNorm, nn.BatchNorm2d, nn.GroupNorm)) and layer.weight is not None:
        nn.init.ones_(layer.weight)
        if layer.bias is not None:  # ModernBERT's norms have none
            nn.init.zeros_(layer.bias)
