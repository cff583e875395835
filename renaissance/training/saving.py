"""What keeps a run from being lost: its checkpoints, and when they are written."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.trainer.states import TrainerFn

from renaissance.core.atomic import name_again
from renaissance.core.errors import Stopped, UserError, first_line
from renaissance.models.backbones import tokenizer_files
from renaissance.runs import checkpoint
from renaissance.runs.report import RunFolder
from renaissance.settings.sections import Section

from .assembly import Built, Resolved
from .module import SELECTING, VisionLanguageModule
from .optim import is_shared, whole_state

SHARE = 0.02  # of the time that saving may take where nobody says how often
LEAST_MINUTES = 10  # between two saves, where nobody says how often
LONG = 30  # seconds of a validation before which it is worth while to save


class Saving:
    """Saves at each validation, in between by steps and by the clock, and at the end.

    A signal that comes in a validation before which was saved ends it at once; it comes again when the run goes on.
    Each save is a file of its own, `step_<step>.ckpt`, of which the newest `keep_last` stay; last.ckpt is another name of the
    newest, best.ckpt of the one whose validation is best. An old file is removed only when the new one is whole on the disk.
    A disk that is full costs the save, not the run.

    Args:
        folder: the run's. content: makes what is stored, from its part "training" (`checkpoint.Stored`).
        start: that part of the checkpoint from which the run goes on.
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
        settings: Section,
    ):
        self.folder, self.content, self.interval, self.validates = folder, content, interval, validates
        self.best, self.best_step = start["best"], start["best_step"]
        self.pending, self.scaler = start["pending"], start["scaler"]
        self.steps, self.minutes, self.keep = settings.save_every_steps, settings.save_every_minutes, settings.keep_last
        self.first_step = start["step"]  # of this process; a resumed run's is saved already
        self.saved: int | None = None  # step of the last save
        self.failed: int | None = None  # step whose last save has failed
        self.at = time.monotonic()  # when it was
        self.seconds: float | None = None  # what the dearest save has cost
        self.validation = math.inf  # seconds that the last validation took
        self.began = 0.0  # when it did

    def starts(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        """Before the first step."""
        self.at = time.monotonic()
        there = self.folder.checkpoints is not None and self._path(self.first_step).exists()
        self.saved = self.first_step if trainer.strategy.broadcast(there) else None  # as the first process has it
        if self.scaler is not None and (scaler := _scaler(trainer)) is not None:
            scaler.load_state_dict(self.scaler)

    def is_due(self) -> bool:
        """Whether the clock of this process asks for a save."""
        return time.monotonic() - self.at >= self._wait()

    def step_done(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        """Saves a step, where that is due."""
        if self._validated_here(module):
            return  # it is saved behind its validation
        every = self.steps or (None if self.validates else self.interval)
        if (every and module.step % every == 0) or module.save_due:
            self._save(trainer, module, ["last.ckpt"])

    def validates_now(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        """Saves before a validation that may be long, or that loads for itself: whatever ends the run in it costs nothing."""
        whole = len(module.by_batches) < len(module.heads)
        if trainer.strategy.broadcast(whole or self.validation > LONG):  # as the first process has it
            self.save_now(trainer, module)
        else:
            module.average_statistics()  # as a save does
        self.began = time.monotonic()

    def validated(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        """Saves a step with its validation, as best.ckpt too where it is."""
        self.pending = False
        self.validation = time.monotonic() - self.began
        value = module.evaluated.get(SELECTING, math.nan)
        better = self.best is None or value > self.best
        better &= not math.isnan(value)  # a metric that is no number selects nothing
        before = self.best, self.best_step
        if better:
            self.best, self.best_step = value, module.step
        if not self._save(trainer, module, ["best.ckpt", "last.ckpt"] if better else ["last.ckpt"]):
            self.best, self.best_step = before  # no file holds it

    def ends(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        """A run that ends with results has its last step, too; `results.json` is not written without it."""
        if self.saved != module.step and not self._save(trainer, module, ["last.ckpt"]):
            self.failed = module.step
            raise UserError(
                f"The last step of this run, {module.step}, is not saved (see above), so it has no results; free space first. "
                "The save before it is whole"
            )

    def rescue(self, trainer: Trainer, module: VisionLanguageModule, exception: BaseException) -> None:
        """Saves what a defect, or the end of another process, would take along.

        The other processes are not asked for anything: they may be in the midst of a step, or gone. So batch norms are those of
        this process, where they would else be the mean.
        """
        fitting = trainer.state.fn == TrainerFn.FITTING and self.folder.checkpoints is not None
        if isinstance(exception, Stopped) or not fitting or module.step in (self.first_step, self.saved, self.failed):
            return
        optimizer = trainer.optimizers[0] if trainer.optimizers else None
        if not module.whole or optimizer is None or is_shared(optimizer):
            why = (
                "it shares its optimizer out (strategy=zero1)"
                if module.whole
                else "it ended in the midst of the step after"
            )
            self.folder.say(f"warning: step {module.step} cannot be saved: {why}.")
            return
        module.signals.waits = True
        self.pending = self._validated_here(module)
        try:
            if self._write(
                module.step, self._training(module, trainer, whole_state(optimizer, first=True)), ["last.ckpt"]
            ):
                self.saved = module.step
        except Exception as error:  # of a device that has failed, say; the first error is what the user has to see
            self.folder.say(f"warning: step {module.step} cannot be saved ({first_line(error)}).")

    def save_now(self, trainer: Trainer, module: VisionLanguageModule, *, pending: bool = True) -> None:
        """Saves between two steps, whatever is due, unless this one is saved.

        Args:
            pending: whether its validation, if any, is to come.
        """
        if self.saved != module.step:
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
        """Saves under these names, which all processes have to ask for; whether there was room."""
        began = time.monotonic()
        module.average_statistics()
        optimizer = whole_state(trainer.optimizers[0], first=trainer.is_global_zero)
        training = self._training(module, trainer, optimizer)
        written = self.folder.checkpoints is None or self._write(module.step, training, names)
        written = trainer.strategy.broadcast(written)  # the first process knows
        self.saved = module.step if written else None
        self.at = time.monotonic()
        self._tell(self.at - began, module.step)
        return written

    def _training(self, module: VisionLanguageModule, trainer: Trainer, optimizer: Any) -> dict[str, Any]:
        """The part "training" of a checkpoint."""
        scaler = _scaler(trainer)
        return {
            "step": module.step,
            "optimizer": optimizer,
            "best": self.best,
            "best_step": self.best_step,
            "pending": self.pending,
            "scaler": scaler and scaler.state_dict(),
        }

    def _write(self, step: int, training: dict[str, Any], names: list[str]) -> bool:
        path = self._path(step)
        self.folder.bring_rows_to_the_disk()
        try:
            checkpoint.save(path, self.content(training))
            for name in names:
                name_again(path, path.with_name(name), "log_dir")
        except (UserError, OSError) as error:
            self.folder.say(f"warning: step {step} is not saved: {first_line(error)}")
            return False
        for old in sorted(path.parent.glob(f"{checkpoint.NUMBERED}*.ckpt"))[: -self.keep]:
            try:
                old.unlink(missing_ok=True)
            except OSError as error:
                self.folder.say(f"warning: {old} cannot be removed ({error.strerror}).")
        return True

    def _path(self, step: int) -> Path:
        return self.folder.checkpoints / f"{checkpoint.NUMBERED}{step:09d}.ckpt"

    def _tell(self, seconds: float, step: int) -> None:
        """Says once what a save costs."""
        if self.seconds is None and self.folder.checkpoints is not None and self._path(step).exists():
            size = self._path(step).stat().st_size / 2**20
            each = f"every {self._wait() / 60:.0f} minutes, " if self._wait() < math.inf else ""
            each += f"every {self.steps} steps, " if self.steps else ""
            self.folder.say(f"saved {size:,.0f} MiB in {seconds:.1f} s; saves come {each}at validations and at the end")
        self.seconds = max(seconds, self.seconds or 0)


def _scaler(trainer: Trainer) -> Any:
    """What scales losses up in 16-mixed, on a GPU; None elsewhere."""
    return getattr(trainer.precision_plugin, "scaler", None)


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
