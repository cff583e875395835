"""One file an objective or downstream task.

The tasks, found by their file names: `tasks/<name>.py` holds one subclass of `Task`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from renaissance.core.checks import TASK_NAMES
from renaissance.core.errors import UserError

from .base import Context, Downstream, Encodings, Task

__all__ = ["Context", "Downstream", "Encodings", "Task", "reading_task", "task_class"]


def task_class(name: str) -> type[Task]:
    """The `Task` of the file `tasks/<name>.py`; `name` is one of `rules.TASK_NAMES`."""
    assert name in TASK_NAMES, name
    module = importlib.import_module(f"{__name__}.{name}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Task) and value.__module__ == module.__name__
    )


def reading_task(names: Iterable[str]) -> str | None:
    """The one of these tasks that reads a data set of its own, or None where all learn from any picture with its text.

    Raises:
        UserError: two that do, or objectives beside one whose samples are not one picture with a text.
    """
    names = list(names)
    reading = [name for name in names if task_class(name).reads]
    if len(reading) > 1:
        raise UserError(f"loss_names: {' and '.join(reading)} read a data set of their own each; turn on one of them.")
    if not reading:
        return None
    others = [name for name in names if name not in reading]
    if others and task_class(reading[0]).pictures != 1:
        raise UserError(
            f"loss_names: {', '.join(others)} beside {reading[0]} learn from one picture with its text, which the samples of "
            f"{reading[0]} are not; turn {', '.join(others)} off."
        )
    return reading[0]
