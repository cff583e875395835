"""The evaluation of one split: takes the outputs of its batches, brings those of all processes together, gives the metrics."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pandas as pd
import torch

from renaissance.core.errors import UserError
from renaissance.evaluation.calibration import calibration_metrics
from renaissance.evaluation.frames import gather_rows
from renaissance.evaluation.metrics import SELECTING, MetricDetails
from renaissance.tasks import Downstream

from .devices import all_gather, sum_on_device, sum_on_host
from .loading import Loaders
from .module import EvaluationOutput, VisionLanguageModule, data_error_of_any


class SplitResult(NamedTuple):
    """What the evaluation of a split has found.

    Attributes:
        split: its name.
        values: {"<task>/<split>/<metric>": value, "<split>/the_metric": sum of the selecting metrics}.
        tables: of each downstream task what predictions/ has, by what the names of the files end with; "": a row an example.
        rows: of each objective that keeps rows what gathers them, collectively; only what is written down needs them.
        metrics: of each downstream task its metrics; none where the answers are hidden.
        data_error: why the data cannot be read, on this process or another; then there is nothing else.
    """

    split: str
    values: dict[str, float] = {}
    tables: dict[str, dict[str, pd.DataFrame]] = {}
    rows: dict[str, Callable[[], pd.DataFrame]] = {}
    metrics: dict[str, dict[str, MetricDetails]] = {}
    data_error: UserError | None = None

    @property
    def selecting(self) -> float | None:
        """The value that selects the best checkpoint; None where a task has no selecting metric here."""
        return self.values.get(f"{self.split}/{SELECTING}")


class SplitEvaluation:
    """One pass over a split.

    Args:
        module: evaluates batches. loaders: of the run. split: name of the split.
        selecting: whether the result selects the best checkpoint while training goes on.
    """

    def __init__(self, module: VisionLanguageModule, loaders: Loaders, split: str, *, selecting: bool):
        self.module, self.loaders, self.split = module, loaders, split
        names = module.batch_tasks(selecting=selecting)
        for name in names:
            module.heads[name].split_begins(loaders.full_split(split, module.trainer))
        # Of each task and metric that is a mean, the sum and the count.
        self.sums = {
            name: {key: torch.zeros(2, device=module.device) for key in module.heads[name].means()} for name in names
        }
        self.rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        self.data_error: UserError | None = None

    def update(self, output: EvaluationOutput) -> None:
        """Adds a batch; where it could not be read, no more are."""
        if isinstance(output, UserError):
            self.data_error = self.data_error or output
        if self.data_error is not None:
            return
        for batch, outputs in output:
            for name, out in outputs.items():
                task, targets = self.module.heads[name], batch.targets[name]
                measured = {"loss": (out.loss, out.count), **task.measure(out, targets)}
                for key, sums in self.sums[name].items():
                    sums += torch.stack(measured[key])
                if task.keeps_rows:
                    rows = zip(batch.ids.tolist(), task.rows(out, targets), strict=True)
                    self.rows[name] += [{"position": position, "id": position, **row} for position, row in rows]

    def compute(self) -> SplitResult:
        """The result over all processes. Collective: call on all ranks."""
        [failed] = sum_on_host([float(self.data_error is not None)])
        if (error := data_error_of_any(self.data_error, failed)) is not None:
            return SplitResult(self.split, data_error=error)
        heads, labelled = self.module.heads, self.loaders.labelled(self.split)
        result = SplitResult(self.split, {}, {}, {}, {})
        for name, task in heads.items():
            found = self._means(name)
            if task.has_dataset:
                result.tables[name], result.metrics[name] = self._score(name, task, labelled=labelled)
                found = found | {key: each.value for key, each in result.metrics[name].items()} if labelled else {}
            elif task.keeps_rows:
                result.rows[name] = partial(self._frame, name)
            result.values.update({f"{name}/{self.split}/{metric}": value for metric, value in found.items()})
        selecting = [f"{name}/{self.split}/{task.selecting}" for name, task in heads.items()]
        if all(name in result.values for name in selecting):
            result.values[f"{self.split}/{SELECTING}"] = sum(result.values[name] for name in selecting)
        return result

    def _means(self, name: str) -> dict[str, float]:
        """The means over all processes; NaN where an item is, or where there is none."""
        if not (sums := self.sums.get(name)):
            return {}
        total = sum_on_device(torch.stack([*sums.values()]))
        return dict(zip(sums, (total[:, 0] / total[:, 1]).tolist(), strict=True))

    def _score(
        self, name: str, task: Downstream, *, labelled: bool
    ) -> tuple[dict[str, pd.DataFrame], dict[str, MetricDetails]]:
        """The rows of a downstream task over all processes, and its metrics where the answers are there."""
        if name not in self.rows:
            with self.module.trainer.precision_plugin.forward_context():  # as Lightning does around a batch
                full = self.loaders.full_split(self.split, self.module.trainer)
                return task.evaluate_full_split(self.module.model, self.module.heads, full)
        frame = self._frame(name)
        return {"": frame}, task.score(frame) | calibration_metrics(frame) if labelled else {}

    def _frame(self, name: str) -> pd.DataFrame:
        """The rows of a task over all processes."""
        count = None if self.module.settings.run.fast_dev_run else len(self.loaders.data.samples[self.split])
        return gather_rows(self.rows[name], all_gather, count)
