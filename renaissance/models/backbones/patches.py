"""Leaves out patches between the embeddings of an image model and its blocks."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from .family import Family


def keep_patches(tokens: Tensor, kept: Tensor, patches: int) -> Tensor:
    """Leaves out all patches but those that are kept; tokens before the patches ([CLS], registers) stay.

    Args:
        tokens: (B, N, D), of which the last are the patches.
        kept: (B, K) int64, counted from the first patch.
        patches: of an image.

    Returns:
        (B, N - patches + K, D).
    """
    before = tokens.shape[1] - patches
    index = kept.unsqueeze(2).expand(-1, -1, tokens.shape[2])
    return torch.cat([tokens[:, :before], tokens[:, before:].gather(1, index)], dim=1)


def needs_all_patches(model: nn.Module, family: Family, patch_size: int | None) -> str:
    """Why no patch can be left out of a tower; "" where its embeddings add all that says where a patch lies."""
    if family.grids and not family.tables and patch_size and hasattr(model, "embeddings"):
        masks = "patch_attention_mask" in inspect.signature(model.embeddings.forward).parameters
        return "its blocks get a mask of all patches" if masks else ""
    reason = family.one_tower if isinstance(family.one_tower, str) else ""
    return reason or "its family's row names no table of positions that it adds before its blocks"
