"""The loop over tasks: one loader item is one optimizer step of this process, a list of micro-batches.

    for each micro-batch, for each task: out = task(encodings, targets);  out.loss is a SUM over out.count items
    total = sum over tasks of weight * out.loss / (the task's count over all micro-batches and processes of this step)

So the gradient does not depend on how a batch is cut into micro-batches and processes. The counts are known before anything is
computed; one all-reduce brings them together. Gradients are synchronised on the last micro-batch only. The learning rate and the
dropout masks are functions of the step, so a resumed run needs no random state.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from .optim import learning_rate, make_optimizer, parameter_groups, set_learning_rate
from .settings import Settings
from .tasks import Encodings
from .types import Batch, TaskOutput

SPLITS = ("val", "test")
SELECTING = "val/the_metric"


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
        evaluated: results of the last evaluation, {"<task>/<split>/<metric>": value, "<split>/the_metric": value}.
        losses: of the last step, by task: the sum over this process's micro-batches.
        counts: of the last step, by task: the items over all processes.
    """

    def __init__(self, model: nn.Module, heads: nn.ModuleDict, settings: Settings, steps: int, first_step: int = 0):
        super().__init__()
        self.automatic_optimization = False
        self.model, self.heads, self.settings = model, heads, settings
        self.steps, self.step = steps, first_step
        self.weights = settings.objectives.loss_names
        self.metrics = nn.ModuleDict({split: self._new_metrics() for split in SPLITS})
        self.evaluated: dict[str, float] = {}
        self.losses: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}
        self.tallies: dict[str, Tensor] = {}
        self.optimizer_state: dict[str, Any] | None = None
        self.loaders: Any = None

    def train_dataloader(self) -> Any:
        """The rest of the run; an "epoch" of Lightning is the whole run, and its counters start where this run starts."""
        loop = self.trainer.fit_loop.epoch_loop
        loop.batch_progress.total.ready = self.step  # validation comes at multiples of steps counted from 0
        return self.loaders.train(self.step, self.steps)

    def val_dataloader(self) -> Any:
        return self.loaders.evaluation("val") or []

    def test_dataloader(self) -> Any:
        return self.loaders.evaluation("test") or []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        fused = self.settings.machine.precision != "16-mixed"
        groups = parameter_groups(self.model, self.heads, self.settings.optim)
        optimizer = make_optimizer(groups, self.settings.optim, fused=fused)
        if self.optimizer_state is not None:
            optimizer.load_state_dict(self.optimizer_state)
            self.optimizer_state = None
        return optimizer

    def training_step(self, micro_batches: list[Batch], _: int) -> None:
        optimizer = self.optimizers()
        set_learning_rate(optimizer.optimizer, self.learning_rate_of(self.step))
        torch.manual_seed(_mixed(self.settings.run.seed, self.step, self.global_rank))
        counts = self._counts(micro_batches)
        sums: dict[str, list[Tensor]] = {name: [] for name in self.heads}
        for number, batch in enumerate(micro_batches):
            last = number == len(micro_batches) - 1
            with nullcontext() if last else self._without_sync():
                self.manual_backward(self._loss(batch, counts, sums))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.tallies = {
            f"{name}/train/{tally}": value
            for name, task in self.heads.items()
            for tally, value in task.tally(micro_batches[-1].targets[name]).items()
        }
        self.losses = {name: torch.stack(losses).sum() for name, losses in sums.items()}
        self.counts = counts
        self.step += 1
        if self.step == self.steps:
            self.trainer.should_stop = True  # makes Lightning validate once more, wherever the interval stands

    def learning_rate_of(self, step: int) -> float:
        """The learning rate of a step, before the groups' multipliers."""
        return learning_rate(step, self.steps, self.settings.optim)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clips here, where gradients are complete and, in 16-mixed, unscaled."""
        if limit := self.settings.optim.gradient_clip_val:
            nn.utils.clip_grad_norm_((p for group in optimizer.param_groups for p in group["params"]), limit)

    def validation_step(self, micro_batches: list[Batch], _: int) -> None:
        self._evaluate("val", micro_batches)

    def test_step(self, micro_batches: list[Batch], _: int) -> None:
        self._evaluate("test", micro_batches)

    def on_validation_epoch_end(self) -> None:
        self._finish_evaluation("val")

    def on_test_epoch_end(self) -> None:
        self._finish_evaluation("test")

    def mean_losses(self) -> dict[str, float]:
        """The last step's mean loss of each task over the whole batch; every process must ask."""
        sums = self.trainer.strategy.reduce(torch.stack(list(self.losses.values())), reduce_op="sum")
        return {
            name: float(loss / self.counts[name].clamp(min=1)) for name, loss in zip(self.losses, sums, strict=True)
        }

    def remarks(self, values: Mapping[str, float], split: str) -> list[str]:
        """What the tasks have to say of values named "<task>/<split>/<name>"."""
        said = []
        for name, task in self.heads.items():
            start = f"{name}/{split}/"
            shares = {key.removeprefix(start): value for key, value in values.items() if key.startswith(start)}
            said += [f"warning: {name}, {split}: {remark}" for remark in task.remarks(shares)]
        return said

    def _counts(self, micro_batches: Iterable[Batch]) -> dict[str, Tensor]:
        """The number of items of each task over all micro-batches and processes of this step."""
        counts = torch.stack(
            [
                torch.stack([task.count(b.targets[name]) for b in micro_batches]).sum()
                for name, task in self.heads.items()
            ]
        )
        counts = self.trainer.strategy.reduce(counts, reduce_op="sum")
        return dict(zip(self.heads, counts, strict=True))

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

    def _evaluate(self, split: str, micro_batches: list[Batch]) -> None:
        for batch in micro_batches:
            encodings = Encodings(self.model, batch)
            for name, task in self.heads.items():
                targets = batch.targets[name]
                out: TaskOutput = task(encodings, targets)
                metrics = self.metrics[split][name]
                metrics["loss"].update(out.loss / out.count.clamp(min=1), weight=out.count)
                task.update_metrics(metrics, out, targets)

    def _finish_evaluation(self, split: str) -> None:
        values: dict[str, float] = {}
        for name, metrics in self.metrics[split].items():
            for metric_name, metric in metrics.items():
                values[f"{name}/{split}/{metric_name}"] = _computed(metric)
                metric.reset()
        values[f"{split}/the_metric"] = sum(
            values[f"{name}/{split}/{task.selecting}"] for name, task in self.heads.items()
        )
        self.evaluated = values

    def _new_metrics(self) -> nn.ModuleDict:
        return nn.ModuleDict(
            {name: nn.ModuleDict({"loss": MeanMetric(), **task.metrics()}) for name, task in self.heads.items()}
        )


def _computed(metric: Metric) -> float:
    with warnings.catch_warnings():
        # A process that got no batch of a small data set has not updated its share, which is right.
        warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
        return float(metric.compute())


def _mixed(seed: int, step: int, rank: int) -> int:
    """One seed for torch out of three numbers, for the dropout masks of a step."""
    return hash((seed, step, rank)) & 0x7FFF_FFFF_FFFF_FFFF
