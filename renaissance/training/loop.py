"""What happens around the steps of a run, from top to bottom: the one callback that Lightning calls.

step        -> its line and the bar -> its save, where due -> the end of the run, where asked
validation  -> its line             -> its save            -> ...
"""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback, Trainer

from renaissance.core.errors import Stopped, UserError
from renaissance.core.signals import status_of, stopped
from renaissance.runs.report import RunFolder

from .module import VisionLanguageModule, gathered
from .progress import Progress
from .saving import Saving


class Loop(Callback):
    """Tells, saves, and ends a run that was asked to stop or that no longer learns; either way it is saved first.

    Args:
        folder: the run's. progress: tells. saving: saves. max_bad_steps: steps left out in a row that end the run.
    """

    def __init__(self, folder: RunFolder, progress: Progress, saving: Saving, max_bad_steps: int):
        self.folder, self.progress, self.saving, self.max_bad_steps = folder, progress, saving, max_bad_steps

    def on_train_start(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        self.progress.starts(module)
        self.saving.starts(trainer, module)
        module.signals.listen()  # Lightning has put handlers of its own in their place
        module.signals.waits = True
        _refuse_different_starts(module)
        if self.saving.pending:  # the run was stopped between a step and its validation
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True
            trainer.should_stop = module.step == module.steps

    def on_train_batch_start(self, trainer: Trainer, module: VisionLanguageModule, batch: Any, batch_idx: int) -> None:
        module.save_due = trainer.is_global_zero and self.saving.is_due()
        self.progress.step_begins()

    def on_train_batch_end(
        self, trainer: Trainer, module: VisionLanguageModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if module.unread is None:  # else there was no step
            self.progress.step_done(module)  # before it is saved, so that no line of a saved step can be lost
            self.saving.step_done(trainer, module)
        if module.stops_by is not None:  # before all else: a signal may have ended the loaders too
            self.saving.save_now(trainer, module, pending=module.unread is None)
            self._stop(module)
        if module.unread is not None:
            self.saving.save_now(trainer, module, pending=False)
            raise module.unread
        if module.bad:
            self.folder.say(f"warning: step {module.step} is left out: {module.bad}")
        if module.bad_in_a_row >= self.max_bad_steps:
            self.saving.save_now(trainer, module)
            raise UserError(
                f"max_bad_steps={self.max_bad_steps}: that many steps in a row were left out, the last because {module.bad}; "
                "give a lower learning_rate, gradient_clip_val=1, or precision=32."
            )
        self.progress.waits()

    def on_validation_start(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        self.saving.validates_now(trainer, module)
        module.signals.waits = self.saving.saved != module.step

    def on_validation_end(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        module.signals.waits = True
        if module.unread is not None:
            self.saving.save_now(trainer, module)
            raise module.unread
        self.progress.validated(module)
        self.saving.validated(trainer, module)
        self.progress.waits()

    def on_train_end(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        self.progress.close()
        self.saving.ends(trainer, module)
        module.signals.waits = False
        module.ask_all()  # a signal in the last validation has found nobody to ask yet
        if module.stops_by is not None:
            self._stop(module)

    def on_test_start(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        module.signals.listen()  # as above; Lightning's handler of SIGTERM makes processes wait for each other for ever

    def on_exception(self, trainer: Trainer, module: VisionLanguageModule, exception: BaseException) -> None:
        self.progress.close()
        self.saving.rescue(trainer, module, exception)
        if module.loaders is not None:
            module.loaders.close()  # before Lightning waits some seconds for each process of them

    def _stop(self, module: VisionLanguageModule) -> None:
        unsaved = "" if self.saving.saved == module.step else ", which is not saved (see above)"
        raise Stopped(f"{stopped(module.stops_by)} after step {module.step}{unsaved}", status_of(module.stops_by))


def _refuse_different_starts(module: VisionLanguageModule) -> None:
    steps = gathered(module.step)
    if len(set(steps)) > 1:
        found = ", ".join(f"{step} by process {rank}" for rank, step in enumerate(steps))
        raise UserError(
            f"The processes of this run would go on from different steps ({found}): log_dir must lie on a disk that all machines "
            "share, or give resume_from a checkpoint that each of them has."
        )
