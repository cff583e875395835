"""The progress bar of training and the rows of metrics.csv."""

from __future__ import annotations

import time

from renaissance.core.progress import Bar
from renaissance.evaluation.score_report import nan_sentence
from renaissance.runs.report import RunFolder

from .module import VisionLanguageModule
from .split_evaluation import SplitResult
from .step_report import StepReport

# The losses come first behind the bar, because a narrow terminal cuts the line at its end.
_BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}"
_LOSSES_EVERY = 1.0  # seconds between two updates of the losses in the bar


class Progress:
    """A bar over the whole run: losses, samples/s, and the share of time spent waiting for data; and metrics.csv.

    Where stderr is no terminal there is no bar, but lines now and then, in log.txt too.

    Args:
        folder: where rows are written. every: steps between two rows. batch_size: samples of a step, over all processes.
    """

    def __init__(self, folder: RunFolder, every: int, batch_size: int):
        self.folder, self.every, self.batch_size = folder, every, batch_size
        self.bar: Bar | None = None
        self.started = self.ended = 0.0
        self.waited = self.worked = 0.0
        self.done = 0
        self.warned: set[str] = set()
        self.shown_at = 0.0
        self.measured: dict[int, dict[str, float]] = {}  # speed and wait, by the steps that are still to be told
        self.speed = ""  # of the last line of metrics.csv

    def training_starts(self, module: VisionLanguageModule) -> None:
        """Before the first step."""
        hidden, say = not self.folder.prints, self.folder.say
        self.bar = Bar(total=module.steps, initial=module.step, bar_format=_BAR, disable=hidden, say=say)
        self.shown_at = self.ended = time.perf_counter()

    def step_starts(self) -> None:
        """When its batch has been loaded."""
        self.started = time.perf_counter()
        self.waited += self.started - self.ended

    def step_done(self, module: VisionLanguageModule) -> None:
        """When the processor is done with it."""
        self._has_worked()
        self.done += 1
        if module.step % self.every == 0 or module.step == module.steps:
            spent = self.worked + self.waited
            speed, waiting = self.done * self.batch_size / spent, self.waited / spent
            self.measured[module.step] = {"samples_per_second": speed, "data_wait_share": waiting}
            self.waited, self.worked, self.done = 0.0, 0.0, 0
        self.bar.update(1)

    def step_finished(self, module: VisionLanguageModule, report: StepReport) -> None:
        """Shows the losses of a step and writes its row, where that is due."""
        if report.step in self.measured:
            self._log(module, report)
        if self.folder.prints and self._is_due(last=report.step == module.steps):
            self._show(module, report)

    def _is_due(self, *, last: bool) -> bool:
        """Whether the losses have to be shown again."""
        return last or time.perf_counter() - self.shown_at >= _LOSSES_EVERY

    def _show(self, module: VisionLanguageModule, report: StepReport) -> None:
        shown = "  ".join([*(f"{name} {loss:.3f}" for name, loss in report.losses.items()), self.speed]).rstrip()
        self.shown_at = time.perf_counter()
        self.bar.set_postfix_str(shown, refresh=report.step == module.steps)  # else `update` draws it soon

    def _log(self, module: VisionLanguageModule, report: StepReport) -> None:
        measured = self.measured.pop(report.step)
        self.speed = f"{measured['samples_per_second']:.1f}/s  data {measured['data_wait_share']:.0%}"
        values = {f"{name}/train/loss": loss for name, loss in report.losses.items()} | report.shares
        rate = module.learning_rate_of(report.step - 1)
        self.folder.log(report.step, {**values, "learning_rate": rate, **measured})
        self._warn(module, values, "train")

    def validated(self, module: VisionLanguageModule, result: SplitResult) -> None:
        """Writes the row of a validation."""
        self.folder.log(module.step, result.values)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in result.values.items() if name.count("/") == 2)
        self.folder.say(f"step {module.step}: {shown}")
        self._warn(module, result.values, "val")
        for name in (name for name, task in module.heads.items() if task.has_dataset):
            own = {key: value for key, value in result.values.items() if key.startswith(f"{name}/")}
            for sentence in set(nan_sentence(name, "val", own)) - self.warned:
                self.warned.add(sentence)
                self.folder.say(f"warning: {sentence}")

    def loads(self) -> None:
        """When the loop asks its loader for the next batch: up to then all was work, saving too; a validation is neither."""
        if self.started > self.ended:
            self._has_worked()
        self.ended = time.perf_counter()

    def _has_worked(self) -> None:
        """Counts the time since the last count as work."""
        now = time.perf_counter()
        self.worked += now - self.started
        self.started = now

    def _warn(self, module: VisionLanguageModule, values: dict[str, float], split: str) -> None:
        """Prints each task's warnings of a split once."""
        for name, task in module.heads.items():
            start = f"{name}/{split}/"
            shares = {key.removeprefix(start): value for key, value in values.items() if key.startswith(start)}
            if (key := f"{name}, {split}") not in self.warned and (warnings := task.warnings(shares)):
                self.warned.add(key)
                self.folder.say(f"warning: {key}: {warnings[0]}")

    def close(self) -> None:
        """Takes the bar away."""
        if self.bar is not None:
            self.bar.close()
