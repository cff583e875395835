"""Copies weights into a model built for another image size, with its position tables resized once.

The tables then train at the new size, and no forward pass pays for an interpolation.
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor, nn
from torch.nn import functional

from renaissance.core.errors import require

from .family import Family


def copy_weights(source: nn.Module, target: nn.Module, family: Family) -> None:
    """Copies `source`'s parameters and buffers into `target`, which differs from it only in the image size.

    Raises:
        UserError: a parameter has another shape, and the family's row has no way to resize it.
    """
    old, parameters = source.state_dict(), dict(target.named_parameters())
    for name, value in target.state_dict().items():
        if name in old and old[name].shape == value.shape:
            value.copy_(old[name])
        elif name in parameters:
            resized = resize_position(name, old[name], value.shape, family)
            require(
                resized is not None,
                f"image_size: {name} has shape {tuple(old[name].shape)} in the pretrained model and {tuple(value.shape)} at this "
                "image_size, and cannot be resized: keep the pretrained image_size.",
            )
            value.copy_(resized)


def resize_position(
    name: str, old: Tensor, shape: torch.Size, family: Family, *, bilinear: bool = False
) -> Tensor | None:
    """Resizes a position table by its family's row; None if `name` is no such table, or of another width.

    Absolute positions, (prefix + g * g, D) or with a leading 1, are resized bicubically without align_corners, as ViT and
    DINO do (facebookresearch/dino, vision_transformer.py, interpolate_pos_encoding); relative ones, ((2g-1)^2 + suffix,
    heads), bilinearly, as BEiT does. The rows before and after the grid stay as they are. bilinear: absolute ones as in ViLT.
    """
    if old.shape[-1] != shape[-1]:
        return None
    for pattern, prefix in family.grids.items():
        if re.search(pattern, name):
            return _resize(old, shape, prefix, 0, "bilinear" if bilinear else "bicubic", aligned=bilinear)
    for pattern, suffix in family.tables.items():
        if re.search(pattern, name):
            return _resize(old, shape, 0, suffix, "bilinear")
    return None


def _resize(table: Tensor, shape: torch.Size, prefix: int, suffix: int, mode: str, *, aligned: bool = False) -> Tensor:
    rows = table.reshape(-1, table.shape[-1])
    before, grid, after = rows[:prefix], rows[prefix : len(rows) - suffix], rows[len(rows) - suffix :]
    new = math.prod(shape[:-1]) - prefix - suffix
    old_side, new_side = math.isqrt(len(grid)), math.isqrt(max(new, 0))
    square = len(grid) and old_side**2 == len(grid) and new_side**2 == new
    require(square, f"image_size: a position table of {len(rows)} rows is not a square grid and cannot be resized.")
    grid = grid.reshape(1, old_side, old_side, -1).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid, size=(new_side, new_side), mode=mode, align_corners=aligned)
    return torch.cat([before, grid.permute(0, 2, 3, 1).reshape(new, -1), after]).reshape(shape)


def resize_grid(position: Tensor, rows: int, columns: int) -> Tensor:
    """Learned positions (1,D,h,w) on another grid, bilinear as in ViLT."""
    if position.shape[-2:] == (rows, columns):
        return position
    return functional.interpolate(position, size=(rows, columns), mode="bilinear", align_corners=True)
