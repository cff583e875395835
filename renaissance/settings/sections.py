"""One frozen, checked `Settings`: what every room reads. A `ConfigResolver` makes it of a command; nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any


@dataclass(frozen=True)
class TowerSettings:
    """One pretrained encoder.

    Attributes:
        random: whether it starts from random weights, where no checkpoint brings others.
        manual: whether its sizes are set, and not the model's own.
        dimensions: sizes by their plain names, `keys.DIMENSIONS`.
    """

    name: str
    random: bool
    manual: bool
    frozen: bool
    dimensions: dict[str, Any]


class Section(SimpleNamespace):
    """The settings of one section of config.py, as attributes that nobody may set.

    That of the model has `encoder` as `TowerSettings` for one-tower; `image_encoder`, `text_encoder` so and `fusion` with the
    names of `keys.FUSION` for two-tower; the others are None. `loss_names` has the weights above 0 alone; `processes` of the
    machine are those of all nodes.
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
