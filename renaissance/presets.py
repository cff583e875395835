"""Reads config.py: defaults, their comments, and presets with recipes joined."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Mapping
from typing import Any

from sacred import Experiment

from . import config


def presets() -> dict[str, dict[str, Any]]:
    """Every task, part and recipe of config.py, each as the dictionary that it sets."""
    known = {**config.TASKS, **config.PARTS}
    for name, joined in config.RECIPES.items():
        merged: dict[str, Any] = {}
        for part in joined.split():
            merge(merged, known[part])
        known[name] = merged
    return known


def defaults_of(ex: Experiment) -> dict[str, Any]:
    """The defaults of an experiment, by key."""
    return {key: value for key, value in ex.configurations[0]().items() if key != "__doc__"}


def comments_of(ex: Experiment) -> dict[str, str]:
    """The comment behind each default of an experiment, as written (Sacred keeps one of its own for `seed`)."""
    return {key: comment for key, comment in re.findall(r"^    (\w+) = .+?  # (.+)$", _source(ex), re.MULTILINE)}


def headings_of(ex: Experiment) -> dict[str, str]:
    """The comment line above each group of defaults, by the group's first key."""
    return {key: heading for heading, key in re.findall(r"^    # (.+)\n    (\w+) = ", _source(ex), re.MULTILINE)}


def _source(ex: Experiment) -> str:
    return inspect.getsource(ex.configurations[0]._func)


def merge(into: dict[str, Any], update: Mapping[str, Any]) -> None:
    """Merges a preset into another in place, dictionaries key by key, as Sacred does."""
    for key, value in update.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = copy.deepcopy(value)
