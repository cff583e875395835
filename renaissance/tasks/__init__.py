"""One file an objective or downstream task.

`tasks/<name>.py` holds the subclass `<Name>` of `Task`.
"""

from __future__ import annotations

from collections.abc import Iterable

from renaissance.core.errors import UserError
from renaissance.core.registry import TASKS

from .base import Classification, Context, Downstream, Encodings, Task

__all__ = ["Classification", "Context", "Downstream", "Encodings", "Task", "downstream_task", "task_class"]


def task_class(name: str) -> type[Task]:
    """The task that `loss_names` calls so."""
    return TASKS[name]


def downstream_task(names: Iterable[str]) -> str | None:
    """The one downstream task among these tasks; None if all are objectives.

    Raises:
        UserError: two downstream tasks, or objectives beside one whose samples are not one image with a text.
    """
    names = list(names)
    reading = [name for name in names if task_class(name).has_dataset]
    if len(reading) > 1:
        raise UserError(f"loss_names: {' and '.join(reading)} read a data set of their own each; turn on one of them.")
    if not reading:
        return None
    others = [name for name in names if name not in reading]
    if others and task_class(reading[0]).images_per_sample != 1:
        raise UserError(
            f"loss_names: {', '.join(others)} beside {reading[0]} learn from one image with its text, which the samples of "
            f"{reading[0]} are not; turn {', '.join(others)} off."
        )
    return reading[0]
