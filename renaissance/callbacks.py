"""What happens around the steps: the progress bar, the lines of metrics.csv, and the checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from tqdm import tqdm

from . import checkpoint
from .atomic import name_again
from .module import SELECTING, VisionLanguageModule
from .report import RunFolder


class Progress(Callback):
    """A bar over the whole run: losses, samples/s, and the share of time spent waiting for data; and metrics.csv.

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

    def on_train_start(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        self.bar = tqdm(
            total=module.steps, initial=module.step, unit="step", dynamic_ncols=True, disable=not self.folder.speaks
        )
        self.ended = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, module: VisionLanguageModule, batch: Any, batch_idx: int) -> None:
        self.started = time.perf_counter()
        self.waited += self.started - self.ended

    def on_train_batch_end(
        self, trainer: Trainer, module: VisionLanguageModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if logs := module.step % self.every == 0 or module.step == module.steps:
            losses = module.mean_losses()  # waits for the device, so only now and then
        self.ended = time.perf_counter()
        self.worked += self.ended - self.started
        self.done += 1
        if logs:
            self._log(module, losses)
        self.bar.update(1)

    def _log(self, module: VisionLanguageModule, losses: dict[str, float]) -> None:
        spent = self.worked + self.waited
        speed, waiting = self.done * self.batch_size / spent, self.waited / spent
        shown = {name: f"{loss:.3f}" for name, loss in losses.items()}
        self.bar.set_postfix({**shown, "samples/s": f"{speed:.1f}", "data": f"{waiting:.0%}"}, refresh=False)
        values = {f"{name}/train/loss": loss for name, loss in losses.items()}
        values |= {name: float(share) for name, share in module.tallies.items()}
        self._warn(module, values, "train")
        rate = module.learning_rate_of(module.step - 1)
        self.folder.log(
            module.step, {**values, "learning_rate": rate, "samples_per_second": speed, "data_wait_share": waiting}
        )
        self.waited, self.worked, self.done = 0.0, 0.0, 0

    def on_validation_end(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        if not _trains(trainer):
            return
        self.folder.log(module.step, module.evaluated)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in module.evaluated.items() if name.count("/") == 2)
        self._say(f"step {module.step}: {shown}")
        self._warn(module, module.evaluated, "val")
        self.ended = time.perf_counter()

    def _warn(self, module: VisionLanguageModule, values: dict[str, float], split: str) -> None:
        """Says each task's remarks on a split once."""
        for remark in module.remarks(values, split):
            if (key := remark.split(":")[1]) not in self.warned:
                self.warned.add(key)
                self._say(remark)

    def _say(self, text: str) -> None:
        with self.bar.external_write_mode():
            self.folder.say(text)

    def on_train_end(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        self.bar.close()


class Saving(Callback):
    """Writes last.ckpt at each validation and at the end, and best.ckpt where the selecting metric is best.

    Args:
        folder: the run's. content: makes what is stored, from {"step", "optimizer", "best"}.
        best: selecting metric of the best validation so far, None where there was none.
        every: steps between two saves where the data have no validation; None where they have.
    """

    def __init__(
        self,
        folder: RunFolder,
        content: Callable[[dict[str, Any]], checkpoint.Stored],
        best: float | None,
        every: int | None,
    ):
        self.folder, self.content, self.best, self.every = folder, content, best, every
        self.saved: int | None = None  # step of the last save

    def on_train_batch_end(
        self, trainer: Trainer, module: VisionLanguageModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.every and module.step % self.every == 0:
            self._save(trainer, module, ["last.ckpt"])

    def on_validation_end(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        if not _trains(trainer):
            return
        value = module.evaluated[SELECTING]
        better = self.best is None or value > self.best
        if better:
            self.best = value
        # The best one first: killed between the two, the run resumes before this validation and finds it best again.
        self._save(trainer, module, ["best.ckpt", "last.ckpt"] if better else ["last.ckpt"])

    def on_train_end(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        if self.saved != module.step:
            self._save(trainer, module, ["last.ckpt"])

    def _save(self, trainer: Trainer, module: VisionLanguageModule, names: list[str]) -> None:
        self.saved = module.step
        if self.folder.checkpoints is None:
            return
        optimizer: torch.optim.Optimizer = trainer.optimizers[0]
        training = {"step": module.step, "optimizer": optimizer.state_dict(), "best": self.best}
        first, *others = (self.folder.checkpoints / name for name in names)
        checkpoint.save(first, self.content(training))
        for other in others:
            name_again(first, other, "log_dir")


def _trains(trainer: Trainer) -> bool:
    """Whether a validation belongs to training; the one of best.ckpt behind it writes no row and no checkpoint."""
    return trainer.state.fn == TrainerFn.FITTING
