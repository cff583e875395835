"""What a step has done, reported once the device has done it: the processor waits for no step that it has just handed over.

step n      handed to the device; its losses and the norm of its gradient will be copied to the host behind it
step n + 1  handed over, so the device has enough to do; the copy of step n is there: `PendingStep.report` reads it
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from renaissance.core.errors import shortened

from .devices import all_gather

_SAMPLES = 16  # samples that a sentence names


class StepReport(NamedTuple):
    """A step that is done; the same on every process.

    Attributes:
        step: its number, from 1.
        losses: mean loss of each task over all micro-batches and processes.
        shares: shares that tasks log of their targets, by "<task>/train/<name>"; of this process.
        skipped: why the step was not applied, "" where it was.
    """

    step: int
    losses: dict[str, float]
    shares: dict[str, float]
    skipped: str


class HostCopy:
    """A copy of numbers of a device that is made while the processor goes on."""

    def __init__(self, values: Tensor):
        on_gpu = values.is_cuda
        self.values = torch.empty(values.shape, dtype=values.dtype, pin_memory=on_gpu)
        self.values.copy_(values, non_blocking=True)
        self.made = torch.cuda.Event() if on_gpu else None
        if self.made is not None:
            self.made.record()

    @property
    def is_done(self) -> bool:
        """Whether the numbers are there."""
        return self.made is None or self.made.query()

    def read(self) -> list[float]:
        """The numbers; waits until they are there."""
        if self.made is not None:
            self.made.synchronize()
        return self.values.tolist()


@dataclass
class PendingStep:
    """A step that was handed to the device, and is not reported yet.

    Attributes:
        step: its number, from 1. learning_rate. shares: as of `StepReport`.
        counts: number of items of each task, over all processes.
        ids: of the samples of each micro-batch of this process.
        numbers: of each task the sum of its losses over all processes, then those of each micro-batch of this process; then the
            norm of the gradient, where it decides whether the step is applied.
    """

    step: int
    learning_rate: float
    shares: dict[str, float]
    counts: dict[str, float]
    ids: Sequence[Sequence[int]]
    numbers: HostCopy

    def report(self, *, local: bool = False) -> StepReport:
        """What it has done. Collective where it was skipped: call on all ranks.

        Args:
            local: the other processes are not asked, so a sentence names samples of this one only.
        """
        numbers, width = self.numbers.read(), 1 + len(self.ids)
        sums = {name: numbers[place * width : (place + 1) * width] for place, name in enumerate(self.counts)}
        norm = numbers[len(sums) * width :]
        losses = {name: total / max(self.counts[name], 1.0) for name, (total, *_) in sums.items()}
        finite = all(map(math.isfinite, (*losses.values(), *norm)))
        return StepReport(self.step, losses, self.shares, "" if finite else self._why(sums, norm, local=local))

    def _why(self, sums: dict[str, list[float]], norm: list[float], *, local: bool) -> str:
        bad = [name for name, (total, *_) in sums.items() if not math.isfinite(total)]
        of_loss = f"the loss of {' and of '.join(bad)} is"
        what = of_loss if bad else f"the losses are, but the norm of the gradient is {norm[0]},"
        mine = [
            ids
            for place, ids in enumerate(self.ids, start=1)
            if not bad or any(not math.isfinite(sums[name][place]) for name in bad)
        ]
        parts = [mine] if local else all_gather(mine)
        ids = sorted({each for part in parts for micro_batch in part for each in micro_batch})
        return f"{what} not finite (samples {shortened(ids, _SAMPLES)}; learning rate {self.learning_rate:.2e})"
