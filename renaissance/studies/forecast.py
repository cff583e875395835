"""What the runs of a study will take: time, by the speeds of runs like them, and disk, by their sizes."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from .pace import Pace, kind
from .state import DONE, RunState

if TYPE_CHECKING:
    from .check import Size

_LENGTHS = ("max_steps", "max_epoch")
_MOMENTS = {"sgd": 1}  # tensors of a parameter's size that an optimizer keeps of it; two of all others
_BYTES = {"64": 8, "64-true": 8}  # of a parameter, by precision; 4 in all others


def seconds_left(
    states: Mapping[str, RunState], sizes: Mapping[str, Size], paces: Iterable[Pace]
) -> dict[str, float | None]:
    """Seconds of training that each run is still to take; None where they are not known."""
    alike: dict[str, list[Pace]] = {}
    for each in paces:
        alike.setdefault(kind(each.settings), []).append(each)
    return {
        name: 0.0 if state.kind == DONE else _left(state, sizes[name], alike.get(kind(sizes[name].settings), ()))
        for name, state in states.items()
    }


def _left(state: RunState, size: Size, alike: Iterable[Pace]) -> float | None:
    if size.settings["test_only"]:
        return None
    seconds = [each.seconds for each in alike if each.seconds is not None]
    lengths = [each.steps for each in alike if all(each.settings.get(key) == size.settings[key] for key in _LENGTHS)]
    steps = size.steps if isinstance(size.steps, int) else next(filter(None, lengths), None)
    step = 0 if state.outdated else state.step() or 0
    return statistics.median(seconds) * max(0, steps - step) if seconds and steps else None


def checkpoint_bytes(size: Size) -> int:
    """What the checkpoints of a run take at most: weights and the optimizer's state in `keep_last` files and best.ckpt."""
    settings = size.settings
    if settings["test_only"] or settings["fast_dev_run"]:
        return 0
    width, moments = _BYTES.get(str(settings["precision"]), 4), _MOMENTS.get(settings["optim_type"], 2)
    return width * (size.parameters + moments * size.trainable) * (settings["keep_last"] + 1)
