"""Renaissance: a command-line platform for vision-language encoders."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

# Sacred imports pkg_resources, and setuptools < 81 says so each time; nobody who imports this package can act on it.
warnings.filterwarnings("ignore", message="pkg_resources is deprecated", category=UserWarning, module="sacred")

if TYPE_CHECKING:
    from .inference.loaded import Loaded

__version__ = "0.1.0"


def load(path: str, device: Any = "cpu", *, plugins: Sequence[str] = ()) -> Loaded:
    """A trained model out of its checkpoint, for one's own images and texts; see `renaissance.inference.loaded.Loaded`.

    Args:
        plugins: that it was trained with, modules and files as the setting of this name has them.
    """
    from .core.plugins import load_plugins
    from .inference.loaded import Loaded  # here, because it imports torch

    load_plugins(plugins)
    return Loaded(path, device)
