"""What keeps a run from being lost: its checkpoints, and the ways in which it ends early."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from tqdm import tqdm

from . import checkpoint
from .assembly import Built, Resolved
from .atomic import name_again
from .errors import Stopped, UserError
from .models.backbones import tokenizer_files
from .module import SELECTING, VisionLanguageModule
from .report import RunFolder
from .settings import RunSettings
from .signals import status_of, stopped

SHARE = 0.02  # of the time that saving may take where nobody says how often
LEAST_MINUTES = 10  # between two saves, where nobody says how often


class Saving(Callback):
    """Saves at each validation, in between by steps and by the clock, and at the end.

    Each save is a file of its own, `step_<step>.ckpt`, of which the newest `keep_last` stay; last.ckpt is another name of the
    newest, best.ckpt of the one whose validation is best. An old file is removed only when the new one is whole on the disk.
    A disk that is full costs the save, not the run.

    Args:
        folder: the run's. content: makes what is stored, from {"step", "optimizer", "best", "pending"}.
        start: "best", the selecting metric of the best validation so far, None where there was none; and "pending", whether
            the validation of the first step is still to come.
        interval: steps between two validations, or saves where the data have no validation.
        validates: whether they have.
        settings: how often, and how many are kept.
    """

    def __init__(
        self,
        folder: RunFolder,
        content: Callable[[dict[str, Any]], checkpoint.Stored],
        start: Mapping[str, Any],
        interval: int,
        validates: bool,
        settings: RunSettings,
    ):
        self.folder, self.content, self.interval, self.validates = folder, content, interval, validates
        self.best, self.pending = start["best"], start["pending"]
        self.steps, self.minutes, self.keep = settings.save_every_steps, settings.save_every_minutes, settings.keep_last
        self.saved: int | None = None  # step of the last save
        self.at = time.monotonic()  # when it was
        self.seconds: float | None = None  # what the dearest save has cost

    def on_train_start(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        self.at = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, module: VisionLanguageModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if module.unread is not None or self._validated_here(module):
            return  # there was no step, or it is saved behind its validation
        by_steps = module.step % (self.steps or self.interval) == 0 if self.steps or not self.validates else False
        if by_steps or time.monotonic() - self.at >= self._wait():
            self._save(trainer, module, ["last.ckpt"])

    def on_validation_end(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        value = module.evaluated.get(SELECTING, math.nan)
        better = self.best is None or value > self.best
        better &= not math.isnan(value)  # a metric that is no number selects nothing
        before, self.best = self.best, value if better else self.best
        # The best one first: killed between the two, the run resumes before this validation and finds it best again.
        if not self._save(trainer, module, ["best.ckpt", "last.ckpt"] if better else ["last.ckpt"]):
            self.best = before  # no file holds it

    def on_train_end(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        if self.saved != module.step:
            self._save(trainer, module, ["last.ckpt"])

    def save_now(self, trainer: Trainer, module: VisionLanguageModule, *, pending: bool = True) -> None:
        """Saves between two steps, whatever is due. `pending`: whether the validation of this one, if any, is to come."""
        self.pending = pending and self._validated_here(module)
        self._save(trainer, module, ["last.ckpt"])

    def _validated_here(self, module: VisionLanguageModule) -> bool:
        """Whether the step that was just done is followed by a validation."""
        return self.validates and (module.step % self.interval == 0 or module.step == module.steps)

    def _wait(self) -> float:
        """Seconds between two saves by the clock."""
        if self.minutes is not None:
            return self.minutes * 60
        return math.inf if self.steps else max(LEAST_MINUTES * 60, (self.seconds or 0) / SHARE)

    def _save(self, trainer: Trainer, module: VisionLanguageModule, names: list[str]) -> bool:
        """Saves under these names; whether there was room."""
        self.saved = module.step
        if self.folder.checkpoints is None:
            return True
        began = time.monotonic()
        optimizer: torch.optim.Optimizer = trainer.optimizers[0]
        training = {
            "step": module.step,
            "optimizer": optimizer.state_dict(),
            "best": self.best,
            "pending": self.pending,
        }
        path = self.folder.checkpoints / f"{checkpoint.NUMBERED}{module.step:09d}.ckpt"
        try:
            checkpoint.save(path, self.content(training))
            for name in names:
                name_again(path, self.folder.checkpoints / name, "log_dir")
        except UserError as error:
            with tqdm.external_write_mode():
                self.folder.say(f"warning: step {module.step} is not saved: {error} Training goes on.")
            self.saved = None
        else:
            for old in sorted(self.folder.checkpoints.glob(f"{checkpoint.NUMBERED}*.ckpt"))[: -self.keep]:
                old.unlink()
        self.at = time.monotonic()
        self._tell(self.at - began, path)
        return self.saved is not None

    def _tell(self, seconds: float, path: os.PathLike) -> None:
        """Says once what a save costs."""
        if self.seconds is None and os.path.exists(path):
            size = os.path.getsize(path) / 2**20
            each = f"every {self._wait() / 60:.0f} minutes, " if self._wait() < math.inf else ""
            each += f"every {self.steps} steps, " if self.steps else ""
            with tqdm.external_write_mode():
                self.folder.say(
                    f"saved {size:,.0f} MiB in {seconds:.1f} s; saves come {each}at validations and at the end"
                )
        self.seconds = max(seconds, self.seconds or 0)


def storing(built: Built, resolved: Resolved) -> Callable[[dict[str, Any]], checkpoint.Stored]:
    """What makes everything that a checkpoint of this model holds, from its part "training"."""
    parts = {"encoder": "blocks", "image_encoder": "image_tower", "text_encoder": "text_tower"}
    # Once: transformers writes a tokenizer by way of a temporary folder, which may be full in the middle of a run.
    tokenizer = tokenizer_files(resolved.tokenizer)

    def stored(training: dict[str, Any]) -> checkpoint.Stored:
        return checkpoint.Stored(
            settings=resolved.settings.flat,
            towers={key: getattr(built.model, parts[key]).config.to_dict() for key in resolved.configs},
            tokenizer=tokenizer,
            image=resolved.image,
            labels={name: list(names) for name, names in resolved.labels.items()},
            model=built.model.state_dict(),
            heads=built.heads.state_dict(),
            training=training,
        )

    return stored


class Stopping(Callback):
    """Ends a run that was asked to stop, or that no longer learns; either way it is saved first.

    Args:
        folder: the run's. saving: saves it. max_bad_steps: steps left out in a row that end the run.
    """

    def __init__(self, folder: RunFolder, saving: Saving, max_bad_steps: int):
        self.folder, self.saving, self.max_bad_steps = folder, saving, max_bad_steps

    def on_train_start(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        module.signals.listen()  # Lightning has put handlers of its own in their place
        module.signals.waits = True
        if self.saving.pending:  # the run was stopped between a step and its validation
            self.saving.pending = False
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True

    def on_train_batch_end(
        self, trainer: Trainer, module: VisionLanguageModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if module.unread is not None:
            if self.saving.saved != module.step:
                self.saving.save_now(trainer, module, pending=False)
            raise UserError(f"{str(module.unread).removesuffix('.')}{self.folder.to_go_on()}.")
        if module.bad:
            with tqdm.external_write_mode():
                self.folder.say(f"warning: step {module.step} is left out: {module.bad}")
        if module.bad_in_a_row >= self.max_bad_steps:
            self.saving.save_now(trainer, module)
            raise UserError(
                f"max_bad_steps={self.max_bad_steps}: that many steps in a row were left out, the last because {module.bad}; "
                f"give a lower learning_rate, gradient_clip_val=1, or precision=32{self.folder.to_go_on()}."
            )
        # The last step is followed by a validation that saves all there is.
        if module.stops_by is not None and module.step < module.steps:
            self.saving.save_now(trainer, module)
            self._stop(module.stops_by, module.step)

    def on_train_end(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        module.signals.waits = False
        if module.stops_by is not None:
            self._stop(module.stops_by, module.step)

    @staticmethod
    def _stop(number: int, step: int) -> None:
        raise Stopped(f"{stopped(number)} after step {step}", status_of(number))
