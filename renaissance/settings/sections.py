"""One frozen, checked `Settings`: what every room reads. A `ConfigResolver` makes it of a command; nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any


class Section(SimpleNamespace):
    """The settings of one section of config.py, as attributes that nobody may set.

    That of the model has `encoder` for one-tower, `image_encoder`, `text_encoder` and `fusion` for two-tower as sections of their
    own, see `ConfigResolver.tower` and `keys.FUSION`; the others are None. `loss_names` has the weights above 0 alone,
    and `processes` of the machine are those of all nodes.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name} cannot be set: settings stay as they are")


@dataclass(frozen=True)
class Settings:
    """Everything a run needs, resolved. `flat` and `sources` are the same by key: its value, and where it came from."""

    run: Section
    data: Section
    model: Section
    objectives: Section
    optim: Section
    machine: Section
    flat: dict[str, Any]
    sources: dict[str, str]
