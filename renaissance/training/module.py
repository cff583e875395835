"""One optimizer step over all tasks: one loader item is one step of this process, a list of micro-batches.

    for each micro-batch, for each task: out = task(encodings, targets);  out.loss is a SUM over out.count items
    total = sum over tasks of weight * out.loss / (the task's count over all micro-batches and processes of this step)

So the gradient does not depend on how a batch is cut into micro-batches and processes. The counts are known before anything is
computed; one all-reduce adds them up. Gradients are synchronised on the last micro-batch only. The learning rate and the
dropout masks are functions of the step, so a resumed run needs no random state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import cached_property
from typing import Any, NamedTuple

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from renaissance.core.errors import UserError, shortened
from renaissance.core.signals import STOP_SIGNALS, StopSignals
from renaissance.core.types import Batch, TaskOutput
from renaissance.settings.sections import Settings
from renaissance.tasks import Encodings

from .devices import all_gather
from .optim import learning_rate, load_state, make_optimizer, parameter_groups, random_towers, set_learning_rate

_SAMPLES = 16  # samples that a sentence names


class StepResult(NamedTuple):
    """What a step has done; the same on every process but for `data_error`'s text.

    Attributes:
        losses: () mean loss of each task over all micro-batches and processes; none where the data could not be read.
        shares: () shares that tasks log of their targets, by "<task>/train/<name>".
        skipped: why the step was not applied, "" where it was.
        data_error: why the data cannot be read, on this process or another; then nothing was computed.
        stop_signal: the signal that asked any process to stop.
        save_due: whether the first process wants this step saved.
    """

    losses: dict[str, Tensor] = {}
    shares: dict[str, Tensor] = {}
    skipped: str = ""
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
    ):
        super().__init__()
        self.automatic_optimization = False
        self.model, self.heads, self.settings = model, heads, settings
        self.steps, self.step, self.in_update = steps, first_step, False
        self.weights = settings.objectives.loss_names
        self.signals, self.save_is_due = signals or StopSignals(), save_is_due
        self._optimizer_state = optimizer_state

    def batch_tasks(self, *, selecting: bool) -> list[str]:
        """The tasks that evaluate the batches of a split; the others find their numbers in the split as a whole.

        Args:
            selecting: whether the evaluation selects the best checkpoint while training goes on.
        """
        every = self.settings.run.fast_dev_run  # it sees a few batches, so no split is whole
        return [name for name, task in self.heads.items() if every or task.needs_batches(selecting)]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        fused = self.settings.machine.precision != "16-mixed"
        groups = parameter_groups(self.model, self.heads, self.settings.optim, random_towers(self.settings.model))
        shared = self.settings.machine.strategy == "zero1" and self.trainer.world_size > 1
        optimizer = make_optimizer(groups, self.settings.optim, fused=fused, shared=shared)
        if self._optimizer_state is not None:
            load_state(optimizer, self._optimizer_state, f"resume_from={self.settings.run.resume_from}")
            self._optimizer_state = None
        return optimizer

    def training_step(self, micro_batches: list[Batch] | UserError, _: int) -> dict[str, StepResult]:
        """One optimizer step. Lightning hands what it returns to the callback, and wants a dictionary for that."""
        error = micro_batches if isinstance(micro_batches, UserError) else None
        micro_batches = [] if error else micro_batches
        counts, asked = self._all_reduce_counts(micro_batches, error)
        if asked.data_error is not None:
            return {"step": asked}  # and nothing has changed
        optimizer = self.optimizers()
        set_learning_rate(optimizer.optimizer, self.learning_rate_of(self.step))
        torch.manual_seed(_mixed(self.settings.run.seed, self.step, self.global_rank))
        sums: dict[str, list[Tensor]] = {name: [] for name in self.heads}
        with ExitStack() as undo:  # a step that fails, or is skipped, changes nothing
            undo.callback(self._restore_statistics, [buffer.clone() for buffer in self._statistics()])
            for number, batch in enumerate(micro_batches):
                last = number == len(micro_batches) - 1
                with nullcontext() if last else self._without_sync():
                    self.manual_backward(self._loss(batch, counts, sums))
            losses = self._mean_losses(counts, sums)
            norm = None if self._scaled else self._gradient_norm(optimizer)
            if not (skipped := self._not_finite(micro_batches, sums, losses, norm)):
                undo.pop_all()
        if not skipped:
            if norm is not None:
                self._clip(optimizer, norm)
            self.in_update = True
            optimizer.step()
        self.step += 1
        self.in_update = False
        optimizer.zero_grad(set_to_none=True)
        if self.step == self.steps:
            self.trainer.should_stop = True  # makes Lightning validate once more, wherever the interval stands
        shares = {
            f"{name}/train/{share}": value
            for name, task in self.heads.items()
            for share, value in task.target_shares(micro_batches[-1].targets[name]).items()
        }
        return {"step": asked._replace(losses=losses, shares=shares, skipped=skipped)}

    def learning_rate_of(self, step: int) -> float:
        """The learning rate of a step, before the groups' multipliers."""
        return learning_rate(step, self.steps, self.settings.optim)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """In 16-mixed gradients are unscaled only here."""
        if self._scaled and self.settings.optim.gradient_clip_val:
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
        return _first_asked(self.all_reduce_sum(self.signals.flags()).tolist())

    def all_reduce_sum(self, values: Tensor | list[float]) -> Tensor:
        """Sum of the values over all processes. Collective: call on all ranks."""
        return self.trainer.strategy.reduce(torch.as_tensor(values, device=self.device), reduce_op="sum")

    def _all_reduce_counts(
        self, micro_batches: Iterable[Batch], error: UserError | None
    ) -> tuple[dict[str, Tensor], StepResult]:
        """The number of items of each task over all micro-batches and processes of this step; and what any process asks for.

        One message has both: whether one of them was asked to stop, could not read its data, or wants to save.
        """
        counts = [
            sum(
                (task.count(batch.targets[name]).float() for batch in micro_batches),
                torch.zeros((), device=self.device),
            )
            for name, task in self.heads.items()
        ]
        mine = [*self.signals.flags(), float(error is not None), float(self.save_is_due())]
        flags = torch.tensor(mine, device=self.device)
        counts, flags = self.all_reduce_sum(torch.cat([torch.stack(counts), flags])).split([len(counts), len(flags)])
        *asked, unread, save_due = flags.tolist()
        result = StepResult(
            data_error=data_error_of_any(error, unread), stop_signal=_first_asked(asked), save_due=save_due > 0
        )
        return dict(zip(self.heads, counts, strict=True)), result

    def average_statistics(self) -> None:
        """Gives all processes the mean of their batch norms' statistics, which each has of its own samples. Collective.

        Training does not read them. They are running means, so it makes no difference when they are averaged.
        """
        own = [buffer for buffer in self._statistics() if buffer.is_floating_point()]
        if own and self.trainer.world_size > 1:
            mean = self.all_reduce_sum(torch.cat(own)) / self.trainer.world_size
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

    def _restore_statistics(self, values: list[Tensor]) -> None:
        for buffer, value in zip(self._statistics(), values, strict=True):
            buffer.copy_(value)

    def _mean_losses(self, counts: Mapping[str, Tensor], sums: Mapping[str, list[Tensor]]) -> dict[str, Tensor]:
        """The mean loss of each task over the whole batch, the same on every process."""
        total = self.all_reduce_sum(torch.stack([torch.stack(losses).sum() for losses in sums.values()]))
        return {name: loss / counts[name].clamp(min=1) for name, loss in zip(sums, total, strict=True)}

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

    def _not_finite(
        self,
        micro_batches: Iterable[Batch],
        sums: Mapping[str, list[Tensor]],
        losses: Mapping[str, Tensor],
        norm: Tensor | None,
    ) -> str:
        """Why this step must not be applied, "" where it may; the same on every process."""
        means = torch.stack(list(losses.values()))
        every = means if norm is None else torch.cat([means, norm.to(means)[None]])
        if every.isfinite().all():
            return ""
        bad = [name for name, finite in zip(sums, means.isfinite().tolist(), strict=True) if not finite]
        of_loss = f"the loss of {' and of '.join(bad)} is"
        what = of_loss if bad else f"the losses are, but the norm of the gradient is {float(norm)},"
        ids = [
            batch.ids.tolist()
            for number, batch in enumerate(micro_batches)
            if not bad or any(not sums[name][number].isfinite() for name in bad)
        ]
        ids = sorted({each for part in all_gather(ids) for batch in part for each in batch})
        return f"{what} not finite (samples {shortened(ids, _SAMPLES)}; learning rate {self.learning_rate_of(self.step):.2e})"

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
