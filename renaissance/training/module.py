"""One optimizer step over all tasks: one loader item is one step of this process, a list of micro-batches.

    for each micro-batch, for each task: out = task(encodings, targets);  out.loss is a SUM over out.count items
    total = sum over tasks of weight * out.loss / (the task's count over all micro-batches and processes of this step)

So the gradient does not depend on how a batch is cut into micro-batches and processes. The counts are known before anything is
computed; one all-reduce adds them up. Gradients are synchronised on the last micro-batch only. The learning rate and the
dropout masks are functions of the step, so a resumed run needs no random state.

Nothing here reads a tensor of the device, which would make the processor wait for it: the counts are taken before the batch goes
there, a step that is not finite is skipped by the optimizer's kernels, and `finished_steps` reports each a step later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from renaissance.core.errors import UserError
from renaissance.core.signals import STOP_SIGNALS, StopSignals
from renaissance.core.types import Batch, TaskOutput
from renaissance.settings.sections import Settings
from renaissance.tasks import Encodings

from .devices import sum_on_device, sum_on_host
from .lightning_state import gradient_scaler
from .optim import (
    learning_rate,
    load_state,
    make_optimizer,
    parameter_groups,
    random_towers,
    scale_kept,
    set_learning_rate,
    skip_step,
    unscale,
)
from .step_report import HostCopy, PendingStep, StepReport


class StepItem(NamedTuple):
    """The micro-batches of a step, with what the processor has to know of them, read before they go to the device.

    Attributes:
        micro_batches: of this process.
        counts: number of items of each task in them.
        shares: that tasks log of the targets of the last one, by "<task>/train/<name>".
        ids: of the samples of each.
    """

    micro_batches: list[Batch]
    counts: list[float]
    shares: dict[str, float]
    ids: list[list[int]]


class StepResult(NamedTuple):
    """What the processes ask for at a step; the same on each of them but for `data_error`'s text.

    Attributes:
        data_error: why the data cannot be read, on this process or another; then nothing was computed.
        stop_signal: the signal that asked any process to stop.
        save_due: whether the first process wants this step saved.
    """

    data_error: UserError | None = None
    stop_signal: int | None = None
    save_due: bool = False


# A batch of an evaluation: of each micro-batch, of each task that evaluates batches, its output; or why it cannot be read.
EvaluationOutput = list[tuple[Batch, dict[str, TaskOutput]]] | UserError


class VisionLanguageModule(LightningModule):
    """Trains a model on the chosen tasks, and computes their outputs on the batches of an evaluation.

    Args:
        model: a `TwoTower` or `OneTower`.
        heads: the `Task` of each chosen objective by its name.
        settings: complete.
        steps: optimizer steps of the whole run, which the schedule spans.
        first_step: steps already done by the run that this one continues.
        optimizer_state: of the optimizer at that step, None for a new one.
        signals: notes who asks this process to stop.
        save_is_due: whether this process wants the next step saved.
        schedule: the learning rate at a step, where it is not that of the settings.

    Attributes:
        step: optimizer steps done.
        in_update: whether the optimizer is changing the weights, so that they are of no step.
    """

    def __init__(
        self,
        model: nn.Module,
        heads: nn.ModuleDict,
        settings: Settings,
        steps: int,
        first_step: int = 0,
        *,
        optimizer_state: dict[str, Any] | None = None,
        signals: StopSignals | None = None,
        save_is_due: Callable[[], bool] = lambda: False,
        schedule: Callable[[int], float] | None = None,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.model, self.heads, self.settings = model, heads, settings
        self.steps, self.step, self.in_update = steps, first_step, False
        self.weights = settings.objectives.loss_names
        self.signals, self.save_is_due = signals or StopSignals(), save_is_due
        self._schedule = schedule or partial(learning_rate, total=steps, optim=settings.optim)
        self._optimizer_state = optimizer_state
        self._pending: deque[PendingStep] = deque()
        self._skipped: Tensor | None = None  # () bool, whether this step is

    def batch_tasks(self, *, selecting: bool) -> list[str]:
        """The tasks that evaluate the batches of a split; the others find their numbers in the split as a whole.

        Args:
            selecting: whether the evaluation selects the best checkpoint while training goes on.
        """
        every = self.settings.run.fast_dev_run  # it sees a few batches, so no split is whole
        return [name for name, task in self.heads.items() if every or task.needs_batches(selecting)]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups = parameter_groups(self.model, self.heads, self.settings.optim, random_towers(self.settings.model))
        shared = self.settings.machine.strategy == "zero1" and self.trainer.world_size > 1
        optimizer = make_optimizer(groups, self.settings.optim, shared=shared)
        if self._optimizer_state is not None:
            load_state(optimizer, self._optimizer_state, f"resume_from={self.settings.run.resume_from}")
            self._optimizer_state = None
        return optimizer

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Counts on the processor, while the batch is there still."""
        if not self.trainer.training or isinstance(batch, UserError):
            return batch
        return StepItem(
            batch,
            [float(sum(task.count(each.targets[name]) for each in batch)) for name, task in self.heads.items()],
            {
                f"{name}/train/{share}": float(value)
                for name, task in self.heads.items()
                for share, value in task.target_shares(batch[-1].targets[name]).items()
            },
            [each.ids.tolist() for each in batch],
        )

    def training_step(self, item: StepItem | UserError, _: int) -> dict[str, StepResult]:
        """One optimizer step. Lightning hands what it returns to the callback, and wants a dictionary for that."""
        counts, asked = self._agree(item)
        if asked.data_error is not None:
            return {"step": asked}  # and nothing has changed
        optimizer = self.optimizers()
        rate = self.learning_rate_of(self.step)
        set_learning_rate(optimizer.optimizer, rate)
        torch.manual_seed(_mixed(self.settings.run.seed, self.step, self.global_rank))
        sums: dict[str, list[Tensor]] = {name: [] for name in self.heads}
        with ExitStack() as undo:  # a step that fails changes nothing
            statistics = [buffer.clone() for buffer in self._statistics()]
            undo.callback(self._restore_statistics, statistics)
            for number, batch in enumerate(item.micro_batches):
                last = number == len(item.micro_batches) - 1
                with nullcontext() if last else self._without_sync():
                    self.manual_backward(self._loss(batch, counts, sums))
            own = torch.stack([torch.stack(losses) for losses in sums.values()])
            totals = sum_on_device(own.sum(1))
            norm = [] if self._scaled else [self._gradient_norm(optimizer).to(totals)]
            self._skipped = ~torch.cat([totals, *(each[None] for each in norm)]).isfinite().all()
            undo.pop_all()
        self._restore_statistics(statistics, self._skipped)  # nor does one that is skipped
        for each in norm:
            self._clip(optimizer, each)
        self.in_update = True
        self._update(optimizer)
        self.step += 1
        self.in_update = False
        optimizer.zero_grad(set_to_none=True)
        numbers = HostCopy(torch.cat([torch.cat([totals[:, None], own], 1).flatten(), *(each[None] for each in norm)]))
        self._pending.append(PendingStep(self.step, rate, item.shares, counts, item.ids, numbers))
        if self.step == self.steps:
            self.trainer.should_stop = True  # makes Lightning validate once more, wherever the interval stands
        return {"step": asked}

    @property
    def device_is_done(self) -> bool:
        """Whether the device has done all steps."""
        return all(each.numbers.is_done for each in self._pending)

    def finished_steps(self, *, running: int = 0, local: bool = False) -> Iterator[StepReport]:
        """Reports the steps that were not reported yet, but for the last `running` of them. Collective: call on all ranks.

        Args:
            running: 1 where the device may be computing the last step still: nothing waits for it.
            local: the other processes are not asked, and what the device has not done is not waited for.
        """
        while len(self._pending) > running and (not local or self._pending[0].numbers.is_done):
            report = self._pending[0].report(local=local)
            self._pending.popleft()
            yield report

    def learning_rate_of(self, step: int) -> float:
        """The learning rate of a step, before the groups' multipliers."""
        return self._schedule(step)

    def _update(self, optimizer: Any) -> None:
        """The optimizer's step, which changes nothing where the step is skipped."""
        if self._scaled:  # `on_before_optimizer_step` says so to the scaler
            with scale_kept(gradient_scaler(self.trainer), self._skipped):
                optimizer.step()
        else:
            skip_step(optimizer.optimizer, self._skipped)
            optimizer.step()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """In 16-mixed gradients are unscaled only here."""
        if self._scaled:
            unscale(gradient_scaler(self.trainer), optimizer, self._skipped)
            if self.settings.optim.gradient_clip_val:
                self._clip(optimizer, self._gradient_norm(optimizer))

    def validation_step(self, micro_batches: list[Batch] | UserError, _: int) -> EvaluationOutput:
        """The outputs of a batch, in a validation of training or in any evaluation after it."""
        if isinstance(micro_batches, UserError):
            return micro_batches
        names = self.batch_tasks(selecting=self.trainer.state.fn == TrainerFn.FITTING)
        outputs = []
        for batch in micro_batches if names else ():
            encodings = Encodings(self.model, batch)
            outputs.append((batch, {name: self.heads[name](encodings, batch.targets[name]) for name in names}))
        return outputs

    test_step = validation_step

    def stop_signal_of_any(self) -> int | None:
        """The signal that has asked any process to stop since the last step. Collective: call on all ranks."""
        return _first_asked(sum_on_host(self.signals.flags()))

    def _agree(self, item: StepItem | UserError) -> tuple[dict[str, float], StepResult]:
        """The number of items of each task over all micro-batches and processes of this step; and what any process asks for.

        One message has both: whether one of them was asked to stop, could not read its data, or wants to save. It goes from
        processor to processor, on the side of what the devices do.
        """
        error = item if isinstance(item, UserError) else None
        counts = [0.0] * len(self.heads) if error else item.counts
        mine = [*self.signals.flags(), float(error is not None), float(self.save_is_due())]
        total = sum_on_host([*counts, *mine])
        counts, (*asked, unread, save_due) = total[: len(counts)], total[len(counts) :]
        result = StepResult(data_error_of_any(error, unread), _first_asked(asked), save_due > 0)
        return dict(zip(self.heads, counts, strict=True)), result

    def average_statistics(self) -> None:
        """Gives all processes the mean of their batch norms' statistics, which each has of its own samples. Collective.

        Training does not read them. They are running means, so it makes no difference when they are averaged.
        """
        own = [buffer for buffer in self._statistics() if buffer.is_floating_point()]
        if own and self.trainer.world_size > 1:
            mean = sum_on_device(torch.cat(own)) / self.trainer.world_size
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

    def _restore_statistics(self, values: list[Tensor], where: Tensor | None = None) -> None:
        """Gives them these values; only if `where` () bool is True, which the device alone looks at."""
        for buffer, value in zip(self._statistics(), values, strict=True):
            buffer.copy_(value if where is None else torch.where(where, value, buffer))

    @property
    def _scaled(self) -> bool:
        """Whether losses are scaled up before they are differentiated, so that gradients may rightly overflow."""
        return gradient_scaler(self.trainer) is not None

    def _gradient_norm(self, optimizer: torch.optim.Optimizer) -> Tensor:
        """() norm of the whole gradient; the same on every process, as the gradients are."""
        return nn.utils.get_total_norm(
            p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None
        )

    def _clip(self, optimizer: torch.optim.Optimizer, norm: Tensor) -> None:
        if limit := self.settings.optim.gradient_clip_val:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grads_with_norm_(parameters, limit, norm)

    def _loss(self, batch: Batch, counts: Mapping[str, float], sums: dict[str, list[Tensor]]) -> Tensor:
        encodings = Encodings(self.model, batch)
        total = 0.0
        for name, task in self.heads.items():
            out = task(encodings, batch.targets[name])
            sums[name].append(out.loss.detach())
            # Gradients of processes are averaged, and the counts are those of all processes together.
            total = total + self.weights[name] * out.loss * self.trainer.world_size / max(counts[name], 1.0)
        return total

    def _without_sync(self) -> AbstractContextManager:
        block = getattr(self.trainer.strategy, "block_backward_sync", nullcontext)
        return block() if self.trainer.world_size > 1 else nullcontext()


def data_error_of_any(own: UserError | None, processes: float) -> UserError | None:
    """Why the data cannot be read, where that is so on any process.

    Args:
        own: what this process met. processes: how many processes met something.
    """
    if processes and own is None:
        return UserError("Another process of this run could not read its data, as it says.")
    return own


def _first_asked(flags: Iterable[float]) -> int | None:
    return next((number for number, flag in zip(STOP_SIGNALS, flags, strict=True) if flag), None)


def _mixed(seed: int, step: int, rank: int) -> int:
    """One seed for torch out of three numbers, for the dropout masks of a step."""
    return hash((seed, step, rank)) & 0x7FFF_FFFF_FFFF_FFFF
