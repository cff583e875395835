"""The learning rate range test (Smith 2017): the loss while the learning rate grows from tiny to large in a few steps.

The rule is fastai's: losses are smoothed by an exponential mean of 0.98 whose start is corrected, the test ends where the
smoothed loss is four times its lowest, and what is suggested is the rate at which it falls most steeply over the logarithm of the
rate, the first tenth aside, and the last five steps where it has ended so (`lr_find` with `steep`; Lightning's Tuner smooths and
ends alike). Nothing is suggested where the smoothed loss falls by no more than three standard errors, or most steeply at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from renaissance.core.atomic import write_whole
from renaissance.core.console import say, table
from renaissance.core.errors import UserError
from renaissance.core.figures import write_figure
from renaissance.core.launch import launch_environment
from renaissance.core.progress import Bar
from renaissance.core.signals import StopSignals
from renaissance.settings.resolver import ConfigResolver

from ..rank_zero_first import rank_zero_first
from ..step_report import StepReport
from ..train import begin, prepare_training
from .steps import Steps, take_steps

_SMOOTHING, _DIVERGED = 0.98, 4.0
_LAST = 5  # steps at the end that decide nothing where the test has diverged
_ERRORS = 3  # standard errors of the smoothed loss that a fall has to be larger than
_ROWS = 20  # of the table, about


class Measured(NamedTuple):
    """A step. Attributes: learning_rate, before the multipliers of the groups; loss, weighted sum of the tasks'; smoothed."""

    learning_rate: float
    loss: float
    smoothed: float


class RangeTest:
    """Collects the losses, and finds where they diverge.

    Args:
        rate: the learning rate at a step. weights: of the losses of each task. bar: shows the steps.

    Attributes:
        measured: what there is.
        ended: why it has ended early, "" where it has not.
    """

    def __init__(self, rate: Callable[[int], float], weights: dict[str, float], bar: Bar):
        self.rate, self.weights, self.bar = rate, weights, bar
        self.measured: list[Measured] = []
        self.ended = ""
        self._mean = 0.0

    def __call__(self, report: StepReport) -> bool:
        rate = self.rate(report.step - 1)
        self.bar.update(1)
        if report.skipped:
            self.ended = f"loss or gradient are not finite at learning_rate={rate:.2e}"
            return False
        loss = sum(weight * report.losses[name] for name, weight in self.weights.items())
        self._mean = _SMOOTHING * self._mean + (1 - _SMOOTHING) * loss
        smoothed = self._mean / (1 - _SMOOTHING**report.step)
        self.measured.append(Measured(rate, loss, smoothed))
        if smoothed > _DIVERGED * min(each.smoothed for each in self.measured):
            self.ended = f"the smoothed loss is {_DIVERGED:g} times its lowest at learning_rate={rate:.2e}"
        return not self.ended


def exponential(lowest: float, highest: float, steps: int) -> Callable[[int], float]:
    """The learning rate at a step, 0-based: from the lowest at the first to the highest at the last."""
    low, high = math.log(lowest), math.log(highest)
    return lambda step: math.exp(low + (high - low) * min(1.0, step / (steps - 1)))


def steepest(measured: list[Measured], *, diverged: bool) -> Measured | None:
    """Where the smoothed loss falls most steeply over the logarithm of the rate.

    Returns:
        None where it falls by no more than three standard errors of it, or there are too few steps.
    """
    first = max(1, len(measured) // 10)
    kept = measured[first : -_LAST if diverged else None]
    if len(kept) < 3:
        return None
    smoothed = np.array([each.smoothed for each in kept])
    fall = float(np.max(np.maximum.accumulate(smoothed) - smoothed))
    scatter = np.std(np.diff([each.loss for each in kept])) / math.sqrt(2)
    # Of the mean at the first step that counts, where it is the most uncertain.
    error = scatter * math.sqrt((1 - _SMOOTHING) / (1 + _SMOOTHING) * (1 + _SMOOTHING**first) / (1 - _SMOOTHING**first))
    slopes = np.gradient(smoothed, np.log([each.learning_rate for each in kept]))
    return kept[int(slopes.argmin())] if fall > _ERRORS * error else None


def find_rate(resolver: ConfigResolver, min_lr: float, max_lr: float, num_training: int, output: Path | None) -> None:
    """Runs the test on the run of a command, and prints what it suggests.

    Raises:
        UserError: as a run, or nothing can be suggested.
    """
    begin(resolver)
    rate = exponential(min_lr, max_lr, num_training)
    with StopSignals() as signals:
        with rank_zero_first(resolver["num_nodes"]) as shared:
            prepared = prepare_training(resolver, shared)
            prepared.data.first = ()  # a rate for the data of most steps
        hidden = not launch_environment().is_rank_zero
        with Bar(total=num_training, desc="learning rates", leave=False, disable=hidden) as bar:
            test = RangeTest(rate, prepared.resolved.settings.objectives.loss_names, bar)
            take_steps(prepared, Steps(num_training, test), signals, schedule=rate)
    if rank_zero_only.rank == 0:
        _report(test, output)


def _report(test: RangeTest, output: Path | None) -> None:
    best, measured = steepest(test.measured, diverged=bool(test.ended)), test.measured
    every = max(1, len(measured) // _ROWS)
    rows = [("step", "learning rate", "loss", "smoothed")]
    rows += [(str(step), *_cells(each)) for step, each in enumerate(measured, 1) if step % every == 0 or each is best]
    say(table(rows, indent=""))
    if test.ended:
        say(f"ended after {len(measured)} steps: {test.ended}")
    if output is not None and measured:
        lines = ["step,learning_rate,loss,smoothed_loss"]
        lines += [",".join(map(repr, (step, *each))) for step, each in enumerate(measured, 1)]
        write_whole(output / "find_lr.csv", "\n".join([*lines, ""]).encode(), "output")
        files = write_figure(output, "output", "find_lr", lambda axes: _draw(axes, measured, best))
        say(f"written to {output}: {', '.join(['find_lr.csv', *files])}")
    if best is None:
        raise UserError(
            f"In {len(measured)} steps the loss falls at no rate by more than chance, so none is suggested; give another "
            "min_lr and max_lr, or a larger num_training."
        )
    if best is measured[-1]:
        raise UserError(
            f"The smoothed loss falls most steeply at the last rate, {best.learning_rate:.1e}, so that none is suggested; give a "
            "larger max_lr."
        )
    say(f"the smoothed loss falls most steeply at {best.learning_rate:.1e}; add to the words of the run:")
    say(f"learning_rate={best.learning_rate:.1e}")


def _cells(each: Measured) -> tuple[str, str, str]:
    return f"{each.learning_rate:.2e}", f"{each.loss:.4f}", f"{each.smoothed:.4f}"


def _draw(axes: Any, measured: list[Measured], best: Measured | None) -> None:
    rates, losses, smoothed = zip(*measured, strict=True)
    axes.plot(rates, losses, alpha=0.4, label="loss")
    axes.plot(rates, smoothed, label="smoothed loss")
    if best is not None:
        axes.plot(best.learning_rate, best.smoothed, "o", label=f"steepest: {best.learning_rate:.1e}")
    low = min(losses)
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(low - 0.05 * abs(low), 1.5 * max(smoothed)))
