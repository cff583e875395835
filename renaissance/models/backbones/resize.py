"""Carries weights into a model built for another picture size, resizing its position tables once.

The tables then train at the new size, and no forward pass pays for an interpolation.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from renaissance.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .family import Family


def carry_weights(source: nn.Module, target: nn.Module, family: Family) -> None:
    """Copies `source`'s parameters and buffers into `target`, which differs from it only in the picture's size.

    Raises:
        UserError: a parameter has another shape and the family's row does not say how to resize it.
    """
    old, parameters = source.state_dict(), dict(target.named_parameters())
    for name, value in target.state_dict().items():
        if name in old and old[name].shape == value.shape:
            value.copy_(old[name])
        elif name in parameters:
            value.copy_(_resized(name, old[name], value, family))


def _resized(name: str, old: Tensor, new: Tensor, family: Family) -> Tensor:
    resized = resize_position(name, old, new.shape, family)
    if resized is None:
        raise UserError(
            f"image_size: {name} has shape {tuple(old.shape)} in the pretrained model and {tuple(new.shape)} at this "
            "image_size, and cannot be resized: keep the pretrained image_size."
        )
    return resized


def resize_position(name: str, old: Tensor, shape: torch.Size, family: Family) -> Tensor | None:
    """A position table brought to another shape by its family's row; None where `name` is no such table, or of another width."""
    if old.shape[-1] != shape[-1]:
        return None
    for pattern, prefix in family.grids.items():
        if re.search(pattern, name):
            return resize_grid(old, shape, prefix)
    for pattern, suffix in family.tables.items():
        if re.search(pattern, name):
            return resize_table(old, shape, suffix)
    return None


def resize_grid(table: Tensor, shape: torch.Size, prefix: int) -> Tensor:
    """Resizes an absolute position table, (prefix + g * g, D) or with a leading 1, bicubically to `shape`.

    The `prefix` rows (CLS, distillation token) stay as they are. Bicubic without align_corners, as ViT and DINO do
    (facebookresearch/dino, vision_transformer.py, interpolate_pos_encoding).
    """
    rows, new_rows = table.reshape(-1, table.shape[-1]), math.prod(shape[:-1])
    old_side, new_side = math.isqrt(max(0, len(rows) - prefix)), math.isqrt(new_rows - prefix)
    if not old_side or old_side**2 != len(rows) - prefix or new_side**2 != new_rows - prefix:
        raise UserError(f"image_size: a position table of {len(rows)} rows is not a square grid and cannot be resized.")
    return torch.cat([rows[:prefix], _interpolated(rows[prefix:], old_side, new_side, "bicubic")]).reshape(shape)


def resize_table(table: Tensor, shape: torch.Size, suffix: int) -> Tensor:
    """Resizes a relative position table, ((2g-1)^2 + suffix, heads), to `shape`; bilinearly, as BEiT does."""
    grid = len(table) - suffix
    if grid < 1 or math.isqrt(grid) ** 2 != grid:
        raise UserError(
            f"image_size: a position table of {len(table)} rows is not a square grid and cannot be resized."
        )
    resized = _interpolated(table[:grid], math.isqrt(grid), math.isqrt(shape[0] - suffix), "bilinear")
    return torch.cat([resized, table[grid:]]).reshape(shape)


def _interpolated(rows: Tensor, old_side: int, new_side: int, mode: str) -> Tensor:
    """(old_side^2, D) -> (new_side^2, D)."""
    grid = rows.reshape(1, old_side, old_side, -1).permute(0, 3, 1, 2)
    resized = functional.interpolate(grid, size=(new_side, new_side), mode=mode, align_corners=False)
    return resized.permute(0, 2, 3, 1).reshape(new_side**2, -1)
