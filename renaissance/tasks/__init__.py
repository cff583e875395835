"""One file an objective or downstream task.

`tasks/<name>.py` holds the subclass `<Name>` of `Task`.
"""

from __future__ import annotations

from collections.abc import Iterable

from renaissance.core.errors import UserError, require
from renaissance.core.registry import TASKS
from renaissance.settings.resolver import ConfigResolver

from .base import Classification, Context, Downstream, Encodings, Task

__all__ = [
    "Classification",
    "Context",
    "Downstream",
    "Encodings",
    "Task",
    "downstream_task",
    "settle_first_datasets",
    "task_class",
]


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


def settle_first_datasets(resolver: ConfigResolver) -> None:
    """Leaves `first_datasets` out of a run that trains on one data set of its task's own, where a preset has it for other tasks.

    Raises:
        UserError: the command itself gives it.
    """
    reading = downstream_task(name for name, weight in resolver["loss_names"].items() if weight)
    if reading is None or not resolver["first_datasets"]:
        return
    require(
        resolver.sources["first_datasets"].startswith("preset"),
        f"first_datasets={resolver['first_datasets']} is for objectives alone, such as mlm and itm, and {reading} trains on "
        "datasets; leave it out.",
    )
    resolver.set("first_datasets", None, f"{reading}, which has none")
