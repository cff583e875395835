"""When the checkpoints of a run are written, and what they hold."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.trainer.states import TrainerFn

from renaissance.core.errors import Stopped, UserError, first_line
from renaissance.models.backbones import tokenizer_files
from renaissance.runs.checkpoint_folder import BEST, LAST, CheckpointFolder
from renaissance.runs.report import RunFolder
from renaissance.runs.stored import Stored, TrainingState
from renaissance.settings.sections import Settings

from .assembly import Built
from .lightning_state import gradient_scaler
from .module import VisionLanguageModule
from .optim import is_shared, whole_state
from .resolution import Resolved
from .split_evaluation import SplitResult

SHARE = 0.02  # of the time that saving may take where no setting says how often
LEAST_MINUTES = 10  # between two saves, where no setting says how often
LONG = 30  # seconds of a validation before which it is worth saving


class CheckpointSaver:
    """Saves at each validation, in between by steps and by the clock, and at the end.

    A signal that comes in a validation before which was saved ends it at once; the validation is repeated when the run is
    resumed. A full disk costs the save, not the run.

    Args:
        folder: the run's. content: makes the checkpoint from its part "training".
        state: that training starts from.
        interval: steps between two validations, or saves where the data have no validation.
        validates: whether they have.
        settings: of the run; of them how often, how many are kept, and after how many validations without a gain training ends.

    Attributes:
        without_gain: validations in a row that were not better than the best one, which best.ckpt is of.
    """

    def __init__(
        self,
        folder: RunFolder,
        content: Callable[[TrainingState], Stored],
        state: TrainingState,
        interval: int,
        validates: bool,
        settings: Settings,
    ):
        self.folder, self.content, self.interval, self.validates = folder, content, interval, validates
        self.files = None if folder.checkpoints is None else CheckpointFolder(folder.checkpoints)
        self.start = state
        self.best, self.best_step, self.pending = state.best, state.best_step, state.pending
        self.without_gain, self.patience = state.without_gain or 0, settings.optim.early_stopping
        run = settings.run
        self.steps, self.minutes, self.keep = run.save_every_steps, run.save_every_minutes, run.keep_last
        self.saved: int | None = None  # step of the last save
        self.failed: int | None = None  # step whose last save has failed
        self.warned: int | None = None  # step of the last warning
        self.saved_at = time.monotonic()
        self.save_seconds: float | None = None  # the longest save
        self.validation_seconds = math.inf  # the last validation
        self.validation_began = 0.0

    @property
    def stops_early(self) -> bool:
        """Whether so many validations in a row were without a gain that training ends; the same on every process."""
        return TrainingState(pending=self.pending, without_gain=self.without_gain).stops_early(self.patience)

    def training_starts(self, trainer: Trainer) -> None:
        """Before the first step."""
        self.saved_at = time.monotonic()
        there = self.files is not None and self.files.file(self.start.step).exists()
        self.saved = self.start.step if trainer.strategy.broadcast(there) else None  # as the first process has it
        if self.start.scaler is not None and (scaler := gradient_scaler(trainer)) is not None:
            scaler.load_state_dict(self.start.scaler)

    def is_due(self) -> bool:
        """Whether the clock of the process that writes asks for a save."""
        return self.files is not None and time.monotonic() - self.saved_at >= self._wait()

    def saves_step(self, module: VisionLanguageModule, *, due: bool) -> bool:
        """Whether the step that was just done is to be saved: one of every `save_every_steps`, or as the clock says (`due`)."""
        if self.validates_step(module):
            return False  # it is saved after its validation
        every = self.steps or (None if self.validates else self.interval)
        return bool(every and module.step % every == 0) or due

    def save(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        """Saves a step that `saves_step` has named."""
        self._save(trainer, module, [LAST])

    def validates_step(self, module: VisionLanguageModule) -> bool:
        """Whether the step that was just done is followed by a validation."""
        return self.validates and (module.step % self.interval == 0 or module.step == module.steps)

    def validation_starts(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        """Saves before a validation that may be long, or that reads a split as a whole: a signal may then end it at once."""
        whole = len(module.batch_tasks(selecting=True)) < len(module.heads)
        if trainer.strategy.broadcast(whole or self.validation_seconds > LONG):  # as the first process has it
            self.save_now(trainer, module)
        else:
            module.average_statistics()  # as a save does
        self.validation_began = time.monotonic()

    def validated(self, trainer: Trainer, module: VisionLanguageModule, result: SplitResult) -> None:
        """Saves a step with its validation, as best.ckpt too where it is the best."""
        self.pending = False
        self.validation_seconds = time.monotonic() - self.validation_began
        value = math.nan if result.selecting is None else result.selecting
        better = not math.isnan(value) and (self.best is None or value > self.best)
        before = self.best, self.best_step
        # As the first process has it, so that all end at one step.
        self.without_gain = trainer.strategy.broadcast(0 if better else self.without_gain + 1)
        if better:
            self.best, self.best_step = value, module.step
        if not self._save(trainer, module, [BEST, LAST] if better else [LAST]):
            self.best, self.best_step = before  # no file holds it

    def training_ends(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        """Saves the last step; `results.json` is not written without it.

        Raises:
            UserError: it cannot be saved.
        """
        if self.saved != module.step and not self._save(trainer, module, [LAST]):
            self.failed = module.step
            before = "The save before it is whole" if self.folder.resume_hint() else "Nothing of this run is saved"
            raise UserError(
                f"The last step of this run, {module.step}, is not saved (see above), so it has no results; free space first. "
                f"{before}."
            )

    def rescue(self, trainer: Trainer, module: VisionLanguageModule, exception: BaseException) -> None:
        """Saves what a defect, or the end of another process, would lose.

        The other processes are not asked for anything: they may be inside a step, or gone. So batch norms are those of this
        process, where they would else be the mean.
        """
        fitting = trainer.state.fn == TrainerFn.FITTING and self.files is not None
        if isinstance(exception, Stopped) or not fitting or module.step in (self.start.step, self.saved, self.failed):
            return
        optimizer = trainer.optimizers[0] if trainer.optimizers else None
        if module.in_update or optimizer is None or is_shared(optimizer):
            why = "it ended inside the step after" if module.in_update else "its optimizer is sharded (strategy=zero1)"
            self.folder.say(f"warning: step {module.step} cannot be saved: {why}.")
            return
        module.signals.waits_for_step = True
        self.pending = self.validates_step(module)
        try:
            if not module.device_is_done:
                self.folder.say(f"warning: step {module.step} cannot be saved: its device has not finished it.")
                return
            if self._write(module.step, self._state(module, trainer, whole_state(optimizer, first=True)), [LAST]):
                self.saved = module.step
        except Exception as error:  # of a device that has failed, say; the first error is what the user has to see
            self.folder.say(f"warning: step {module.step} cannot be saved ({first_line(error)}).")

    def save_now(self, trainer: Trainer, module: VisionLanguageModule, *, pending: bool = True) -> None:
        """Saves between two steps, unless this one is saved.

        Args:
            pending: whether its validation, if any, is still to come.
        """
        if self.saved != module.step:
            self.pending = pending and self.validates_step(module)
            self._save(trainer, module, [LAST])

    def _wait(self) -> float:
        """Seconds between two saves by the clock."""
        if self.minutes is not None:
            return self.minutes * 60
        return math.inf if self.steps else max(LEAST_MINUTES * 60, (self.save_seconds or 0) / SHARE)

    def _save(self, trainer: Trainer, module: VisionLanguageModule, names: list[str]) -> bool:
        """Saves under these names; returns whether it was written. Collective: call on all ranks."""
        began = time.monotonic()
        module.average_statistics()
        state = self._state(module, trainer, whole_state(trainer.optimizers[0], first=trainer.is_global_zero))
        written = trainer.strategy.broadcast(self._write(module.step, state, names))  # the first process knows
        self.saved = module.step if written else None
        self.saved_at = time.monotonic()
        self._print_cost(self.saved_at - began, module.step)
        return written

    def _state(self, module: VisionLanguageModule, trainer: Trainer, optimizer: Any) -> TrainingState:
        scaler = gradient_scaler(trainer)
        return TrainingState(
            step=module.step,
            optimizer=optimizer,
            best=self.best,
            best_step=self.best_step,
            pending=self.pending,
            scaler=scaler and scaler.state_dict(),
            without_gain=self.without_gain,
        )

    def _write(self, step: int, state: TrainingState, names: list[str]) -> bool:
        if self.files is None:
            return True
        self.folder.sync_rows()
        why = self.files.write(step, self.content(state), names, self.keep)
        if why is not None and self.warned != step:
            self.folder.say(f"warning: step {step} is not saved: {why}")
            self.warned = step
        return why is None

    def _print_cost(self, seconds: float, step: int) -> None:
        """Prints once what a save costs."""
        if self.save_seconds is None and self.files is not None and self.files.file(step).exists():
            size = self.files.file(step).stat().st_size / 2**20
            each = f"every {self._wait() / 60:.0f} minutes, " if self._wait() < math.inf else ""
            each += f"every {self.steps} steps, " if self.steps else ""
            self.folder.say(f"saved {size:,.0f} MiB in {seconds:.1f} s; saves come {each}at validations and at the end")
        self.save_seconds = max(seconds, self.save_seconds or 0)


# The part of a model that each tower's setting names.
TOWER_PARTS = {"encoder": "blocks", "image_encoder": "image_tower", "text_encoder": "text_tower"}


def checkpoint_content(built: Built, resolved: Resolved) -> Callable[[TrainingState], Stored]:
    """What makes the checkpoint of a model from its part "training"."""
    # Once: transformers writes a tokenizer by way of a temporary folder, which may be full in the middle of a run.
    tokenizer = tokenizer_files(resolved.tokenizer)

    def content(state: TrainingState) -> Stored:
        return Stored(
            settings=resolved.settings.flat,
            towers={key: getattr(built.model, TOWER_PARTS[key]).config.to_dict() for key in resolved.configs},
            tokenizer=tokenizer,
            image=resolved.image,
            labels={name: list(names) for name, names in resolved.labels.items()},
            model=built.model.state_dict(),
            heads=built.heads.state_dict(),
            training=state._asdict(),
        )

    return content
