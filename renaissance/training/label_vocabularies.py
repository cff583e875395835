"""The vocabulary of answers that a task's head is built for: data and checkpoint must agree on it."""

from __future__ import annotations

from renaissance.core.errors import require, shortened
from renaissance.runs.checkpoint import Stored
from renaissance.settings.sections import Settings
from renaissance.tasks import reading_task, task_class


def label_vocabularies(
    settings: Settings, stored: Stored | None, reads_data: bool, notes: list[str]
) -> dict[str, tuple[str, ...]]:
    """The vocabulary of answers of the task that has one, by the task's name.

    Args:
        settings, stored: of the run and of the checkpoint that it starts from.
        reads_data: False takes a vocabulary that only data files know to be of its usual size.
        notes: for the report.

    Raises:
        UserError: the data have other answers than the checkpoint.
    """
    name = reading_task(settings.objectives.loss_names)
    if name is None:
        return {}
    task = task_class(name)
    known = tuple(stored.labels.get(name, ())) if stored and same_benchmark(name, stored, settings) else ()
    found = task.label_names(settings, known) if reads_data or not task.labels_in_data else None
    where = settings.run.resume_from or settings.run.load_path
    require(
        not known or not found or known == found,
        f"The answers of {name} differ: the checkpoint {where} has {len(known):,} ({shortened(known)}), "
        f"data_root={settings.data.data_root} has {len(found or ()):,} ({shortened(found or ())}); take the data that the "
        "checkpoint was trained on, or start from a checkpoint of another task.",
    )
    labels = known if found is None else found
    if not labels and not reads_data and task.labels_in_data:
        labels = tuple(map(str, range(task.labels_in_data)))
        notes.append(f"{name}: no data is read; the number of answers is taken to be {len(labels):,}")
    return {name: labels} if labels else {}


def same_benchmark(name: str, stored: Stored, settings: Settings) -> bool:
    """Whether a checkpoint's head of a task is of the benchmark that the run reads, so that it can be taken over."""
    task = task_class(name)
    shared = not (task.reads and task.head_by_dataset)
    return shared or list(stored.settings["datasets"]) == list(settings.data.datasets)
