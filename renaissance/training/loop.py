"""What happens around the steps of a run, from top to bottom: the one callback that Lightning calls.

step        -> logged -> saved, where due -> the end of the run, where asked
validation  -> logged -> saved            -> ...

A step is logged when the next one has been handed to the device, or before a save, a validation and the end of the run.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from pytorch_lightning import Callback, Trainer

from renaissance.core.errors import Stopped, UserError, require
from renaissance.core.signals import exit_status, stop_reason
from renaissance.evaluation.examples import ValidationExamples
from renaissance.runs.report import RunFolder

from .checkpointing import CheckpointSaver
from .devices import all_gather
from .lightning_state import start_counting_at, validate_now
from .loading import Loaders
from .module import EvaluationOutput, StepResult, VisionLanguageModule
from .progress import Progress
from .split_evaluation import SplitEvaluation, SplitResult

_LAST_STEP = 20  # seconds that a run which fails waits for its device, which may wait for a process that has died


class Loop(Callback):
    """Logs, evaluates, saves, and ends a run that was asked to stop or that no longer learns; either way it is saved first.

    Args:
        folder: the run's. loaders: its data. progress: logs. saver: saves.
        max_bad_steps: steps skipped in a row that end the run.

    Attributes:
        result: of the last validation or evaluation, None before the first.
    """

    def __init__(
        self, folder: RunFolder, loaders: Loaders, progress: Progress, saver: CheckpointSaver, max_bad_steps: int
    ):
        self.folder, self.loaders, self.progress, self.saver = folder, loaders, progress, saver
        self.max_bad_steps, self.skipped_in_a_row, self.learns_no_more = max_bad_steps, 0, ""
        self.evaluation: SplitEvaluation | None = None
        self.result: SplitResult | None = None
        self.examples: ValidationExamples | None = None  # of a validation that goes on

    def on_train_start(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        start_counting_at(trainer, module.step)
        self.progress.training_starts(module)
        self.saver.training_starts(trainer)
        module.signals.install_handlers()  # Lightning has replaced the handlers
        module.signals.waits_for_step = True
        _refuse_different_starts(module)
        if self.saver.pending:  # the run was stopped between a step and its validation
            validate_now(trainer)
            trainer.should_stop = module.step == module.steps or self.saver.stops_early

    def on_train_batch_start(self, trainer: Trainer, module: VisionLanguageModule, batch: Any, batch_idx: int) -> None:
        self.progress.step_starts()

    def on_train_batch_end(
        self, trainer: Trainer, module: VisionLanguageModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        result: StepResult = outputs["step"]
        saves = False
        if result.data_error is None:  # else there was no step
            self.progress.step_done(module)
            saves = self.saver.saves_step(module, due=result.save_due)
        ends = result.stop_signal is not None or result.data_error is not None or module.step == module.steps
        # All is told before a save, so that no row of a saved step can be lost; else nothing waits for the device.
        self._report(module, running=0 if saves or ends or self.saver.validates_step(module) else 1)
        if saves:
            self.saver.save(trainer, module)
        if result.stop_signal is not None:  # before all else: a signal may have ended the loaders too
            self.saver.save_now(trainer, module, pending=result.data_error is None)
            self._stop(module, result.stop_signal)
        if result.data_error is not None:
            self.saver.save_now(trainer, module, pending=False)
            raise result.data_error
        if self.learns_no_more:
            self.saver.save_now(trainer, module)
            raise UserError(
                f"max_bad_steps={self.max_bad_steps}: that many steps in a row were skipped, the last because "
                f"{self.learns_no_more}; give a lower learning_rate, gradient_clip_val=1, or precision=32."
            )
        self.progress.loads()

    def _report(self, module: VisionLanguageModule, *, running: int, local: bool = False) -> None:
        """Logs the steps that are done; arguments as of `finished_steps`. While steps are skipped, each is reported at once."""
        for report in module.finished_steps(running=running, local=local):
            self.progress.step_finished(module, report)
            if report.skipped:
                self.folder.say(f"warning: step {report.step} is skipped: {report.skipped}")
            self.skipped_in_a_row = self.skipped_in_a_row + 1 if report.skipped else 0
            if self.skipped_in_a_row >= self.max_bad_steps:
                self.learns_no_more = self.learns_no_more or report.skipped
        if running and self.skipped_in_a_row:
            self._report(module, running=0, local=local)

    def on_validation_start(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        self.saver.validation_starts(trainer, module)
        module.signals.waits_for_step = self.saver.saved != module.step
        self.evaluation = SplitEvaluation(module, self.loaders, "val", selecting=True)
        if self.folder.shows_examples:
            shown = {name: task.shown for name, task in module.heads.items()}
            self.examples = ValidationExamples(shown, self.loaders.tokenizer)

    def on_validation_batch_end(
        self, trainer: Trainer, module: VisionLanguageModule, outputs: EvaluationOutput, *_: Any
    ) -> None:
        self.evaluation.update(outputs)
        if self.examples is not None and not isinstance(outputs, UserError):
            for micro_batch in outputs:
                self.examples.update(*micro_batch)

    def on_validation_epoch_end(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        self.result, self.evaluation = self.evaluation.compute(), None

    def on_validation_end(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        module.signals.waits_for_step = True
        if self.result.data_error is not None:
            self.saver.save_now(trainer, module)
            raise self.result.data_error
        self.progress.validated(module, self.result)
        if self.examples is not None:
            self.folder.log_examples(module.step, self.examples.found)
            self.examples = None
        self.saver.validated(trainer, module, self.result)
        if self.saver.stops_early:
            trainer.should_stop = True
        self.progress.loads()

    def on_train_end(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        self.progress.close()
        self.saver.training_ends(trainer, module)
        module.signals.waits_for_step = False
        if (number := module.stop_signal_of_any()) is not None:  # nobody has asked since the last validation
            self._stop(module, number)

    def on_test_start(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        module.signals.install_handlers()  # Lightning's handler of SIGTERM would make processes wait for each other for ever
        self.evaluation = SplitEvaluation(module, self.loaders, trainer.datamodule.split, selecting=False)

    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end

    def on_exception(self, trainer: Trainer, module: VisionLanguageModule, exception: BaseException) -> None:
        with contextlib.suppress(Exception):  # of a device that has failed, say; the first error is what counts
            ends = time.monotonic() + _LAST_STEP
            while not module.device_is_done and time.monotonic() < ends:
                time.sleep(0.01)
            self._report(module, running=0, local=True)
        self.progress.close()
        self.saver.rescue(trainer, module, exception)
        self.loaders.close()  # before Lightning waits some seconds for each process of them

    def _stop(self, module: VisionLanguageModule, number: int) -> None:
        unsaved = "" if self.saver.saved == module.step else ", which is not saved (see above)"
        raise Stopped(f"{stop_reason(number)} after step {module.step}{unsaved}", exit_status(number))


def _refuse_different_starts(module: VisionLanguageModule) -> None:
    steps = all_gather(module.step)
    found = ", ".join(f"{step} by process {rank}" for rank, step in enumerate(steps))
    require(
        len(set(steps)) == 1,
        f"The processes of this run would go on from different steps ({found}): log_dir must lie on a disk that all machines "
        "share, or give resume_from a checkpoint that each of them has.",
    )
