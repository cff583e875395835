"""Renaissance: a command-line platform for vision-language encoders."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

# Sacred imports pkg_resources, and setuptools < 81 says so each time; nobody who imports this package can act on it.
warnings.filterwarnings("ignore", message="pkg_resources is deprecated", category=UserWarning, module="sacred")

if TYPE_CHECKING:
    from .inference import Loaded

__version__ = "0.1.0"


def load(path: str, device: Any = "cpu") -> Loaded:
    """A trained model out of its checkpoint, for one's own pictures and texts; see `renaissance.inference.Loaded`."""
    from . import inference  # here, because it imports torch

    return inference.load(path, device)
