"""What a run tells while it goes on: the progress bar and the lines of metrics.csv."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from renaissance.evaluation import nan_sentence
from renaissance.runs.report import RunFolder

from .module import VisionLanguageModule

# The losses come first behind the bar, because a narrow terminal cuts the line at its end.
_BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}"
_LOSSES_EVERY = 1.0  # seconds between two looks at the losses for the bar
_LINES_EVERY = 30.0  # seconds between two lines of progress where stderr is a file


class Progress:
    """A bar over the whole run: losses, samples/s, and the share of time spent waiting for data; and metrics.csv.

    Where nobody looks at a terminal there is no bar, but a line now and then.

    Args:
        folder: where lines are written. every: steps between two lines. batch_size: samples of a step, over all processes.
    """

    def __init__(self, folder: RunFolder, every: int, batch_size: int):
        self.folder, self.every, self.batch_size = folder, every, batch_size
        self.bar: tqdm | None = None
        self.started = self.ended = 0.0
        self.waited = self.worked = 0.0
        self.done = 0
        self.warned: set[str] = set()
        self.shown_at = self.line_at = 0.0
        self.measured = ""  # speed and wait of the last line of metrics.csv

    def starts(self, module: VisionLanguageModule) -> None:
        """Before the first step."""
        watched = self.folder.speaks and sys.stderr.isatty()
        self.bar = tqdm(
            total=module.steps, initial=module.step, bar_format=_BAR, dynamic_ncols=True, disable=not watched
        )
        self.began = self.line_at = self.ended = time.perf_counter()
        self.first_step = module.step

    def step_begins(self) -> None:
        """When its batch is there."""
        self.started = time.perf_counter()
        self.waited += self.started - self.ended

    def step_done(self, module: VisionLanguageModule) -> None:
        """Shows its losses and writes its line, where that is due."""
        logs = module.step % self.every == 0 or module.step == module.steps
        shows = self.folder.speaks and self._is_due(last=module.step == module.steps)
        if logs or shows:
            losses = {name: float(loss) for name, loss in module.losses.items()}
        self._has_worked()
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

    def validated(self, module: VisionLanguageModule) -> None:
        """Writes the line of a validation."""
        self.folder.log(module.step, module.evaluated)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in module.evaluated.items() if name.count("/") == 2)
        self.folder.say(f"step {module.step}: {shown}")
        self._warn(module, module.evaluated, "val")
        for name in (name for name, task in module.heads.items() if task.reads):
            own = {key: value for key, value in module.evaluated.items() if key.startswith(f"{name}/")}
            for sentence in set(nan_sentence(name, "val", own)) - self.warned:
                self.warned.add(sentence)
                self.folder.say(f"warning: {sentence}")

    def waits(self) -> None:
        """When the loop goes back to its loader: up to then all was work, saving too; a validation is neither."""
        if self.started > self.ended:
            self._has_worked()
        self.ended = time.perf_counter()

    def _has_worked(self) -> None:
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

    def close(self) -> None:
        """Takes the bar away."""
        if self.bar is not None:
            self.bar.close()
