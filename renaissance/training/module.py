"""The loop over tasks: one loader item is one optimizer step of this process, a list of micro-batches.

    for each micro-batch, for each task: out = task(encodings, targets);  out.loss is a SUM over out.count items
    total = sum over tasks of weight * out.loss / (the task's count over all micro-batches and processes of this step)

So the gradient does not depend on how a batch is cut into micro-batches and processes. The counts are known before anything is
computed; one all-reduce brings them together. Gradients are synchronised on the last micro-batch only. The learning rate and the
dropout masks are functions of the step, so a resumed run needs no random state.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import pandas as pd
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torchmetrics import Metric

from renaissance.core.errors import UserError, shortened
from renaissance.core.signals import ASKING, StopSignals
from renaissance.core.types import Batch, TaskOutput
from renaissance.evaluation import gather_rows
from renaissance.settings.sections import Settings
from renaissance.tasks import Downstream, Encodings

from .optim import learning_rate, load_state, make_optimizer, parameter_groups, random_towers, set_learning_rate

SELECTING = "val/the_metric"
_SHOWN = 16  # samples that a sentence names


class MeanLoss(Metric):
    """The mean loss of all items, which is no number where one of them is none.

    torchmetrics' own mean leaves such items out, or, told not to look for them (1.9), all the weights.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("loss", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, loss: Tensor, count: Tensor) -> None:
        """Adds the sum of the losses of `count` items, both ()."""
        self.loss += loss
        self.count += count

    def compute(self) -> Tensor:
        """() the mean, NaN without an item."""
        return self.loss / self.count


class VisionLanguageModule(LightningModule):
    """Trains and evaluates a model on the chosen tasks.

    Args:
        model: a `TwoTower` or `OneTower`.
        heads: the `Task` of each chosen objective by its name.
        settings: complete.
        steps: optimizer steps of the whole run, which the schedule spans.
        first_step: steps already done by the run that this one continues.

    Attributes:
        step: optimizer steps done.
        loaders: makes the loaders, `train(first_step, last_step)` and `evaluation(split)`; set before fit or evaluation.
        split: which one is evaluated: "val" while training goes on, whatever `train.py` says after it.
        evaluated: results of the last evaluation, {"<task>/<split>/<metric>": value, "<split>/the_metric": value}.
        frames: rows of the last evaluation, by task that makes them, a row an example in the order of the data set.
        losses: of the last step, by task: the mean over all micro-batches and processes.
        bad: why the last step was left out, "" where it was not; bad_in_a_row: steps left out up to now, one after another.
        signals: notes who asks the run to stop; stops_by: the signal that asked any process, None while none has.
        unread: why the data of the next step cannot be had, on this process or on another; None while they can.
        save_due: whether the clock of the first process asks for a save after the next step; then whether all of them save.
        whole: whether weights and optimizer are those of `step`, and not in the midst of becoming those of the next.
    """

    def __init__(self, model: nn.Module, heads: nn.ModuleDict, settings: Settings, steps: int, first_step: int = 0):
        super().__init__()
        self.automatic_optimization = False
        self.model, self.heads, self.settings = model, heads, settings
        self.steps, self.step = steps, first_step
        self.weights = settings.objectives.loss_names
        self.metrics = self._new_metrics()
        self.split = "val"
        self.evaluated: dict[str, float] = {}
        self.frames: dict[str, pd.DataFrame] = {}
        self.rows: dict[str, list[dict[str, Any]]] = {name: [] for name in heads}
        self.losses: dict[str, Tensor] = {}
        self.bad, self.bad_in_a_row = "", 0
        self.signals = StopSignals()
        self.stops_by: int | None = None
        self.unread: UserError | None = None
        self.save_due = False
        self.whole = True
        self.tallies: dict[str, Tensor] = {}
        self.optimizer_state: dict[str, Any] | None = None
        self.loaders: Any = None

    def train_dataloader(self) -> Any:
        """The rest of the run; an "epoch" of Lightning is the whole run, and its counters start where this run starts."""
        loop = self.trainer.fit_loop.epoch_loop
        loop.batch_progress.total.ready = self.step  # validation comes at multiples of steps counted from 0
        # With a loader of no steps, Lightning would leave out a validation that is still to come as well.
        return self.loaders.train(min(self.step, self.steps - 1), self.steps)

    def val_dataloader(self) -> Any:
        return self.loaders.evaluation("val", batches=bool(self.by_batches), raises=False) or []

    def test_dataloader(self) -> Any:
        return self.loaders.evaluation(self.split, batches=bool(self.by_batches))

    @property
    def selecting(self) -> bool:
        """Whether what is evaluated now selects the best checkpoint, while training goes on."""
        return self.trainer.state.fn == TrainerFn.FITTING

    @property
    def by_batches(self) -> list[str]:
        """The tasks whose evaluation goes through the batches of the split, and does not find all in it as a whole."""
        every = self.settings.run.fast_dev_run  # it sees a few batches, so no split is whole
        return [name for name, task in self.heads.items() if every or task.needs_batches(self.selecting)]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        fused = self.settings.machine.precision != "16-mixed"
        groups = parameter_groups(self.model, self.heads, self.settings.optim, random_towers(self.settings.model))
        shared = self.settings.machine.strategy == "zero1" and self.trainer.world_size > 1
        optimizer = make_optimizer(groups, self.settings.optim, fused=fused, shared=shared)
        if self.optimizer_state is not None:
            load_state(optimizer, self.optimizer_state, f"resume_from={self.settings.run.resume_from}")
            self.optimizer_state = None
        return optimizer

    def training_step(self, micro_batches: list[Batch] | UserError, _: int) -> None:
        if isinstance(micro_batches, UserError):
            self.unread, micro_batches = micro_batches, []
        counts = self._counts(micro_batches)
        if self.unread is not None:
            return  # and nothing has changed: whoever listens saves, and ends the run
        optimizer = self.optimizers()
        set_learning_rate(optimizer.optimizer, self.learning_rate_of(self.step))
        torch.manual_seed(_mixed(self.settings.run.seed, self.step, self.global_rank))
        sums: dict[str, list[Tensor]] = {name: [] for name in self.heads}
        with self._statistics_as_they_were():
            for number, batch in enumerate(micro_batches):
                last = number == len(micro_batches) - 1
                with nullcontext() if last else self._without_sync():
                    self.manual_backward(self._loss(batch, counts, sums))
            self.losses = self._mean_losses(counts, sums)
            norm = None if self._scaled else self._gradient_norm(optimizer)
            self.bad = self._not_finite(micro_batches, sums, norm)
        self.bad_in_a_row = self.bad_in_a_row + 1 if self.bad else 0
        if not self.bad:
            if norm is not None:
                self._clip(optimizer, norm)
            self.whole = False
            optimizer.step()
        self.step += 1
        self.whole = True
        optimizer.zero_grad(set_to_none=True)
        self.tallies = {
            f"{name}/train/{tally}": value
            for name, task in self.heads.items()
            for tally, value in task.tally(micro_batches[-1].targets[name]).items()
        }
        if self.step == self.steps:
            self.trainer.should_stop = True  # makes Lightning validate once more, wherever the interval stands

    def learning_rate_of(self, step: int) -> float:
        """The learning rate of a step, before the groups' multipliers."""
        return learning_rate(step, self.steps, self.settings.optim)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """In 16-mixed gradients are unscaled only here."""
        if self._scaled and self.settings.optim.gradient_clip_val:
            self._clip(optimizer, self._gradient_norm(optimizer))

    def validation_step(self, micro_batches: list[Batch] | UserError, _: int) -> None:
        """Evaluates a batch, of validation while training goes on or of any split after it."""
        if isinstance(micro_batches, UserError):
            self.unread = self.unread or micro_batches
        if self.unread is not None:
            return
        names = self.by_batches
        for batch in micro_batches if names else ():
            encodings = Encodings(self.model, batch)
            for name in names:
                task, targets = self.heads[name], batch.targets[name]
                out: TaskOutput = task(encodings, targets)
                self.metrics[name]["loss"].update(out.loss, out.count)
                task.update_metrics(self.metrics[name], out, targets)
                if task.reads:
                    rows = zip(batch.ids.tolist(), task.rows(out, targets), strict=True)
                    self.rows[name] += [{"position": position, **row} for position, row in rows]

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Brings the evaluation of all batches and processes together, where each could read its own."""
        self._agree_on_unread(float(self._summed(torch.tensor(float(self.unread is not None), device=self.device))))
        if self.unread is not None:
            return  # whoever listens saves, and ends the run
        values: dict[str, float] = {}
        for name, task in self.heads.items():
            found = {key: _computed(metric) for key, metric in self.metrics[name].items() if name in self.by_batches}
            for metric in self.metrics[name].values():
                metric.reset()
            if task.reads:
                found |= self._of_rows(name, task)
                if not self.loaders.labelled(self.split):
                    found = {}
            values |= {f"{name}/{self.split}/{metric_name}": value for metric_name, value in found.items()}
        selecting = [f"{name}/{self.split}/{task.selecting}" for name, task in self.heads.items()]
        if all(name in values for name in selecting):
            values[f"{self.split}/the_metric"] = sum(values[name] for name in selecting)
        self.evaluated = values

    on_test_epoch_end = on_validation_epoch_end

    def ask_all(self) -> None:
        """Finds out whether any process was asked to stop since the last step; every process has to ask."""
        asked = self._summed(torch.tensor(self.signals.flags(), device=self.device))
        self.stops_by = _first_asked(asked.tolist())

    def remarks(self, values: Mapping[str, float], split: str) -> list[str]:
        """What the tasks have to say of values named "<task>/<split>/<name>"."""
        said = []
        for name, task in self.heads.items():
            start = f"{name}/{split}/"
            shares = {key.removeprefix(start): value for key, value in values.items() if key.startswith(start)}
            said += [f"warning: {name}, {split}: {remark}" for remark in task.remarks(shares)]
        return said

    def _counts(self, micro_batches: Iterable[Batch]) -> dict[str, Tensor]:
        """The number of items of each task over all micro-batches and processes of this step.

        The same message tells all processes whether one of them was asked to stop, could not read its data, or wants to save.
        """
        counts = [
            sum(
                (task.count(batch.targets[name]).float() for batch in micro_batches),
                torch.zeros((), device=self.device),
            )
            for name, task in self.heads.items()
        ]
        mine = [*self.signals.flags(), float(self.unread is not None), float(self.save_due)]
        flags = torch.tensor(mine, device=self.device)
        message = torch.cat([torch.stack(counts), flags])
        counts, flags = self._summed(message).split([len(counts), len(flags)])
        *asked, unread, save_due = flags.tolist()
        self.stops_by, self.save_due = _first_asked(asked), save_due > 0
        self._agree_on_unread(unread)
        return dict(zip(self.heads, counts, strict=True))

    def _agree_on_unread(self, processes: float) -> None:
        if processes and self.unread is None:
            self.unread = UserError("Another process of this run could not read its data, as it says.")

    def average_statistics(self) -> None:
        """Gives all processes the mean of their batch norms' statistics, which each has of its own samples; all have to ask.

        Training does not read them. They are running means, so it makes no difference when they are averaged.
        """
        own = [buffer for buffer in self._statistics() if buffer.is_floating_point()]
        if own and self.trainer.world_size > 1:
            mean = self._summed(torch.cat(own)) / self.trainer.world_size
            for buffer, part in zip(own, mean.split([len(buffer) for buffer in own]), strict=True):
                buffer.copy_(part)

    def _statistics(self) -> list[Tensor]:
        """The buffers that a forward pass of training changes: those of the batch norms that are not frozen."""
        return [buffer for module in self._batch_norms for buffer in module.buffers()]

    @cached_property
    def _batch_norms(self) -> tuple[nn.Module, ...]:
        """Found once: each step asks, and a model has hundreds of modules."""
        frozen = {module for part in self.model.frozen for module in part.modules()}
        norms = (module for module in self.model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
        return tuple(module for module in norms if module not in frozen)

    @contextmanager
    def _statistics_as_they_were(self) -> Iterator[None]:
        """Around a step until it is known whether it counts: one that fails, or is left out (`bad`), has changed nothing."""
        before = [(buffer, buffer.clone()) for buffer in self._statistics()]
        self.bad = "not known yet"
        try:
            yield
        finally:
            if self.bad:
                for buffer, value in before:
                    buffer.copy_(value)

    def _mean_losses(self, counts: Mapping[str, Tensor], sums: Mapping[str, list[Tensor]]) -> dict[str, Tensor]:
        """The mean loss of each task over the whole batch, the same on every process."""
        total = self._summed(torch.stack([torch.stack(losses).sum() for losses in sums.values()]))
        return {name: loss / counts[name].clamp(min=1) for name, loss in zip(sums, total, strict=True)}

    def _summed(self, values: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(values, reduce_op="sum")

    @property
    def _scaled(self) -> bool:
        """Whether losses are scaled up before they are differentiated, so that gradients may rightly overflow."""
        return self.settings.machine.precision == "16-mixed"

    def _gradient_norm(self, optimizer: torch.optim.Optimizer) -> Tensor:
        """() norm of the whole gradient; the same on every process, as the gradients are."""
        return nn.utils.get_total_norm(
            p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None
        )

    def _clip(self, optimizer: torch.optim.Optimizer, norm: Tensor) -> None:
        if limit := self.settings.optim.gradient_clip_val:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grads_with_norm_(parameters, limit, norm)

    def _not_finite(self, micro_batches: Iterable[Batch], sums: Mapping[str, list[Tensor]], norm: Tensor | None) -> str:
        """Why this step must not be applied, "" where it may; every process says the same."""
        means = torch.stack(list(self.losses.values()))
        every = means if norm is None else torch.cat([means, norm.to(means)[None]])
        if every.isfinite().all():
            return ""
        bad = [name for name, finite in zip(sums, means.isfinite().tolist(), strict=True) if not finite]
        what = (
            f"the loss of {' and of '.join(bad)} is"
            if bad
            else f"the losses are, but the norm of the gradient is {float(norm)},"
        )
        ids = [
            batch.ids.tolist()
            for number, batch in enumerate(micro_batches)
            if not bad or any(not sums[name][number].isfinite() for name in bad)
        ]
        ids = sorted({each for part in gathered(ids) for batch in part for each in batch})
        return f"{what} not finite (samples {shortened(ids, _SHOWN)}; learning rate {self.learning_rate_of(self.step):.2e})"

    def _loss(self, batch: Batch, counts: dict[str, Tensor], sums: dict[str, list[Tensor]]) -> Tensor:
        encodings = Encodings(self.model, batch)
        total = 0.0
        for name, task in self.heads.items():
            out = task(encodings, batch.targets[name])
            sums[name].append(out.loss.detach())
            # Gradients of processes are averaged, and the counts are those of all processes together.
            total = total + self.weights[name] * out.loss * self.trainer.world_size / counts[name].clamp(min=1)
        return total

    def _without_sync(self) -> AbstractContextManager:
        block = getattr(self.trainer.strategy, "block_backward_sync", nullcontext)
        return block() if self.trainer.world_size > 1 else nullcontext()

    def _of_rows(self, name: str, task: Downstream) -> dict[str, float]:
        """The metrics of a task that makes rows, over those of all processes, which are kept in `frames`."""
        whole = self.loaders.whole(self.split, self)
        with self.trainer.precision_plugin.forward_context():  # as Lightning does around a batch
            found, frame = task.whole(whole) if whole is not None else ({}, None)
        rows, self.rows[name] = self.rows[name], []
        if frame is None:
            frame = gather_rows(rows, gathered, None if whole is None else len(whole.source.dataset))
        self.frames[name] = frame
        return task.score(frame) | found if self.loaders.labelled(self.split) else {}

    def _new_metrics(self) -> nn.ModuleDict:
        return nn.ModuleDict(
            {name: nn.ModuleDict({"loss": MeanLoss(), **task.metrics()}) for name, task in self.heads.items()}
        )


def gathered(value: Any) -> list[Any]:
    """A value of each process, in the order of their ranks; every process has to ask."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def _computed(metric: Metric) -> float:
    with warnings.catch_warnings():
        # A process that got no batch of a small data set has not updated its share, which is right.
        warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
        return float(metric.compute())


def _first_asked(flags: Iterable[float]) -> int | None:
    return next((number for number, flag in zip(ASKING, flags, strict=True) if flag), None)


def _mixed(seed: int, step: int, rank: int) -> int:
    """One seed for torch out of three numbers, for the dropout masks of a step."""
    return hash((seed, step, rank)) & 0x7FFF_FFFF_FFFF_FFFF
