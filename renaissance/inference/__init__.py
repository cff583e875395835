"""A checkpoint for your own images and texts.

A trained model for one's own pictures and texts: `model = renaissance.load("best.ckpt")`; see `loaded.Loaded`.

This file imports no torch, so that `python run.py predict` answers a wrong setting at once.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from .loaded import Loaded


def load(path: str | os.PathLike, device: str | torch.device = "cpu", *, trust_remote_code: bool = False) -> Loaded:
    """A trained model out of its checkpoint; arguments as `loaded.Loaded`."""
    from .loaded import Loaded

    return Loaded(path, device, trust_remote_code=trust_remote_code)


def __getattr__(name: str) -> Any:
    if name != "Loaded":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import renaissance.inference.loaded as module

    return module.Loaded
