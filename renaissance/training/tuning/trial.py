"""A try of a micro-batch size: the heaviest steps that a run can meet, in a process of its own."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_lightning.utilities.memory import is_oom_error
from torch import Tensor

from renaissance.core.errors import Stopped, UserError, require
from renaissance.core.plugins import load_plugins
from renaissance.core.signals import StopSignals
from renaissance.core.types import Example
from renaissance.data.limited import DatasetView
from renaissance.data.transforms import longest_side
from renaissance.data.workers import leave_socket_folder, start_worker
from renaissance.settings.resolver import ConfigResolver

from ..devices import on_gpu
from ..image_inputs import transform_of
from ..step_report import StepReport
from ..train import Prepared, prepare_training
from .steps import Steps, take_steps

GIB = 1 << 30
_SEEN, _SERVED = 2000, 16  # samples among which those of the most images are looked for; how many of these are shown


class Trial(NamedTuple):
    """What a size took. Attributes: memory, bytes at most (GPU: of torch's allocator; None = main memory, which others measure);
    speed, samples a second; limit, bytes that a GPU had."""

    memory: int | None
    speed: float
    limit: int | None


class HeaviestSamples(DatasetView):
    """A data set whose texts are all as long as the model reads, and whose samples have the most images there are.

    Args:
        whole: the data set. max_text_len: tokens.
        image_size: short side of the images where a batch is padded to its largest (`keeps_aspect`): then they are blank and of
            extreme shapes; None where they are all squares, and shown as they are.
    """

    def __init__(self, whole: Any, max_text_len: int, image_size: int | None = None):
        super().__init__(whole)
        self._length, self._side = max_text_len, image_size
        self._shown: list[int] | None = None
        if whole[0].boxes is not None:
            seen = np.linspace(0, len(whole) - 1, min(len(whole), _SEEN)).astype(int).tolist()
            self._shown = sorted(seen, key=lambda index: -len(whole[index].boxes))[:_SERVED]

    def __getitem__(self, index: int) -> Example:
        example = self._whole[index if self._shown is None else self._shown[index % len(self._shown)]]
        second = None if example.text_pair is None else self._long(example.text_pair)
        example = example._replace(text=self._long(example.text), text_pair=second)
        if self._side is None or not example.images:
            return example
        count = len(example.images if example.boxes is None else example.boxes)
        return example._replace(images=(self._blank(index),) * count, boxes=None)

    def text(self, index: int) -> str:
        return self._long(self._whole.text(index))

    def _long(self, text: str) -> str:
        """The text again and again: a word is one token at least."""
        return " ".join([text] * (1 + self._length // max(1, len(text.split())))) if text.strip() else text

    def _blank(self, index: int) -> Tensor:
        """(3, H, W): high or wide in turn, so that a batch is padded to a square of the long side."""
        sides = [longest_side(self._side), self._side]
        return torch.zeros(3, *(sides if index % 2 else sides[::-1]), dtype=torch.uint8)


def make_heaviest(prepared: Prepared) -> None:
    """Replaces training data and targets by the heaviest: longest texts, most images, and a false image for each sample."""
    settings, data = prepared.resolved.settings, prepared.data
    padded = transform_of(settings, "train").keeps_aspect
    side = settings.model.image_size if padded else None
    data.samples["train"] = HeaviestSamples(data.samples["train"], settings.model.max_text_len, side)
    for name, builder in data.target_builders.items():
        data.target_builders[name] = getattr(builder, "largest", lambda same=builder: same)()


def measure(resolver: ConfigResolver, steps: int, memory_limit: float | None) -> Trial:
    """Takes some steps of the run, the whole batch each, and measures them; the first one warms up.

    Args:
        memory_limit: GiB of a GPU; None = all that is free.

    Raises:
        UserError: as a run. RuntimeError: as `is_oom_error` knows it, where it does not fit.
    """
    prepared = prepare_training(resolver)
    make_heaviest(prepared)
    settings, limit = prepared.resolved.settings, None
    gpu, ends = on_gpu(settings), []
    if gpu:
        limit, whole = torch.cuda.mem_get_info()
        if memory_limit is not None:
            have = f"memory_limit={memory_limit}: this GPU has {limit / GIB:.1f} GiB free; give as much or less"
            require(memory_limit * GIB <= limit, have)
            limit = int(memory_limit * GIB)
            torch.cuda.set_per_process_memory_fraction(limit / whole)

    def told(_: StepReport) -> bool:
        ends.append(time.perf_counter())
        return True

    take_steps(prepared, Steps(steps, told), StopSignals(), from_end=True)
    speed = settings.data.batch_size * (steps - 1) / (ends[-1] - ends[0])
    return Trial(torch.cuda.max_memory_allocated() if gpu else None, speed, limit)


def in_own_process(
    values: Mapping[str, Any],
    sources: Mapping[str, str],
    steps: int,
    memory_limit: float | None,
    method: str,
    says: Connection,
) -> None:
    """Says the `Trial` of a command's settings, the `UserError` that refuses it, or None where it does not fit.

    Args:
        method: how loader processes start, as in the process of a run. The others as of `measure` and `ConfigResolver`.
    """
    multiprocessing.set_start_method(method, force=True)  # this one has come from a fork server
    leave_socket_folder()
    start_worker(0)  # it ends with the process that has started it
    try:
        load_plugins(values["plugins"] or ())
        says.send(measure(ConfigResolver(values, sources), steps, memory_limit))
    except UserError as error:
        says.send(UserError(str(error)))
    except Stopped:
        raise SystemExit(1) from None  # so is the one that has started it
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, (torch.OutOfMemoryError, MemoryError)) or is_oom_error(error)):
            raise
        says.send(None)
