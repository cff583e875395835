"""What a run tells while it goes on: the progress bar and the lines of metrics.csv."""

from __future__ import annotations

import sys
import time
from typing import Any

from pytorch_lightning import Callback, Trainer
from tqdm import tqdm

from renaissance.evaluation import nan_sentence
from renaissance.runs.report import RunFolder

from .module import VisionLanguageModule

# The losses come first behind the bar, because a narrow terminal cuts the line at its end.
_BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}"
_LOSSES_EVERY = 1.0  # seconds between two looks at the losses for the bar
_LINES_EVERY = 30.0  # seconds between two lines of progress where stderr is a file


class Progress(Callback):
    """A bar over the whole run: losses, samples/s, and the share of time spent waiting for data; and metrics.csv.

    Where nobody looks at a terminal there is no bar, but a line now and then.

    Args:
        folder: where lines are written. every: steps between two lines. batch_size: samples of a step, over all processes.

    Attributes:
        behind: a callback behind all others. A line is written before its step is saved, so that no line of a saved step can
            be lost; what comes after the line, saving above all, is work too, and no waiting for data.
    """

    def __init__(self, folder: RunFolder, every: int, batch_size: int):
        self.folder, self.every, self.batch_size = folder, every, batch_size
        self.bar: tqdm | None = None
        self.started = self.ended = 0.0
        self.waited = self.worked = 0.0
        self.done = 0
        self.behind = _Behind(self)
        self.warned: set[str] = set()
        self.shown_at = self.line_at = 0.0
        self.measured = ""  # speed and wait of the last line of metrics.csv

    def on_train_start(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        watched = self.folder.speaks and sys.stderr.isatty()
        self.bar = tqdm(
            total=module.steps, initial=module.step, bar_format=_BAR, dynamic_ncols=True, disable=not watched
        )
        self.began = self.line_at = self.ended = time.perf_counter()
        self.first_step = module.step

    def on_train_batch_start(self, trainer: Trainer, module: VisionLanguageModule, batch: Any, batch_idx: int) -> None:
        self.started = time.perf_counter()
        self.waited += self.started - self.ended

    def on_train_batch_end(
        self, trainer: Trainer, module: VisionLanguageModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if module.unread is not None:
            return  # there was no step
        logs = module.step % self.every == 0 or module.step == module.steps
        shows = self.folder.speaks and self._is_due(last=module.step == module.steps)
        if logs or shows:
            losses = {name: float(loss) for name, loss in module.losses.items()}
        self.has_worked()
        self.done += 1
        if logs:
            self._log(module, losses)
        if shows:
            self._show(module, losses)
        self.bar.update(1)

    def _is_due(self, *, last: bool) -> bool:
        """Whether the losses have to be shown again, in the bar or in a line."""
        now = time.perf_counter()
        if self.bar.disable:
            return last or now - self.line_at >= _LINES_EVERY
        return last or now - self.shown_at >= _LOSSES_EVERY

    def _show(self, module: VisionLanguageModule, losses: dict[str, float]) -> None:
        shown = "  ".join([*(f"{name} {loss:.3f}" for name, loss in losses.items()), self.measured]).rstrip()
        now = time.perf_counter()
        if not self.bar.disable:
            self.shown_at = now
            self.bar.set_postfix_str(shown, refresh=False)  # the bar is drawn again at once by `update`
            return
        self.line_at = now
        spent, done = now - self.began, module.step - self.first_step
        left = spent / done * (module.steps - module.step)
        times = f"[{tqdm.format_interval(spent)}<{tqdm.format_interval(left)}]"
        self.folder.say(f"{module.step / module.steps:4.0%} {module.step}/{module.steps} {times} {shown}")

    def _log(self, module: VisionLanguageModule, losses: dict[str, float]) -> None:
        spent = self.worked + self.waited
        speed, waiting = self.done * self.batch_size / spent, self.waited / spent
        self.measured = f"{speed:.1f}/s  data {waiting:.0%}"
        values = {f"{name}/train/loss": loss for name, loss in losses.items()}
        values |= {name: float(share) for name, share in module.tallies.items()}
        rate = module.learning_rate_of(module.step - 1)
        self.folder.log(
            module.step, {**values, "learning_rate": rate, "samples_per_second": speed, "data_wait_share": waiting}
        )
        self._warn(module, values, "train")
        self.waited, self.worked, self.done = 0.0, 0.0, 0

    def on_validation_end(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        if module.unread is not None:
            return
        self.folder.log(module.step, module.evaluated)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in module.evaluated.items() if name.count("/") == 2)
        self.folder.say(f"step {module.step}: {shown}")
        self._warn(module, module.evaluated, "val")
        for name in (name for name, task in module.heads.items() if task.reads):
            own = {key: value for key, value in module.evaluated.items() if key.startswith(f"{name}/")}
            for sentence in set(nan_sentence(name, "val", own)) - self.warned:
                self.warned.add(sentence)
                self.folder.say(f"warning: {sentence}")

    def has_worked(self) -> None:
        """Counts the time since the last count as work."""
        now = time.perf_counter()
        self.worked += now - self.started
        self.started = now

    def _warn(self, module: VisionLanguageModule, values: dict[str, float], split: str) -> None:
        """Says each task's remarks on a split once."""
        for remark in module.remarks(values, split):
            if (key := remark.split(":")[1]) not in self.warned:
                self.warned.add(key)
                self.folder.say(remark)

    def on_train_end(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        self.bar.close()

    def on_exception(self, trainer: Trainer, module: VisionLanguageModule, exception: BaseException) -> None:
        if self.bar is not None:
            self.bar.close()


class _Behind(Callback):
    """Notes when the loop goes back to its loader."""

    def __init__(self, progress: Progress):
        self.progress = progress

    def on_train_batch_end(
        self, trainer: Trainer, module: VisionLanguageModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.progress.has_worked()
        self.progress.ended = self.progress.started

    def on_validation_end(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        self.progress.ended = time.perf_counter()
