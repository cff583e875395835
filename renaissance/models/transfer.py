"""Numbers that the processor knows, brought to a device without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def async_tensor(values: Sequence[Any], device: torch.device) -> Tensor:
    """Whole numbers, in lists of any depth, as int64 on a device.

    torch.tensor(values, device=device) would wait until a GPU has done all that was asked of it before.
    """
    return torch.tensor(values, dtype=torch.int64, pin_memory=device.type == "cuda").to(device, non_blocking=True)
