"""The tasks, found by their file names: `tasks/<name>.py` holds one subclass of `Task`."""

from __future__ import annotations

import importlib

from renaissance.rules import TASK_NAMES

from .base import Encodings, Task

__all__ = ["Encodings", "Task", "task_class"]


def task_class(name: str) -> type[Task]:
    """The `Task` of the file `tasks/<name>.py`; `name` is one of `rules.TASK_NAMES`."""
    assert name in TASK_NAMES, name
    module = importlib.import_module(f"{__name__}.{name}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Task) and value.__module__ == module.__name__
    )
