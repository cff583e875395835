"""A model of another program in the terms of this one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedConfig

from .key_map import Renamed


@dataclass
class Converted:
    """What a program's file makes a checkpoint of.

    Attributes:
        program: its name. tower_configs: configuration of each tower by its setting.
        renamed: its tensors; parts "model" and "heads" by our names, and one for each tower by the names that transformers'
            files have.
        settings: of ours, by key.
        image: {"mean", "std"} of the pixels.
        answers: of VQA, where the file names them.
        notes: how it differs from what the program computes, for the user.
    """

    program: str
    tower_configs: dict[str, PreTrainedConfig]
    renamed: Renamed
    settings: dict[str, Any]
    image: dict[str, Sequence[float]]
    answers: Sequence[str] = ()
    notes: list[str] = field(default_factory=list)
