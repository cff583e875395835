"""A few steps of a run, as the run itself would take them; nothing is kept."""

from __future__ import annotations

from collections.abc import Callable

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from renaissance.core.errors import Stopped
from renaissance.core.signals import StopSignals, exit_status, stop_reason
from renaissance.models.execution import compile_stacks
from renaissance.runs.report import RunFolder

from .. import devices
from ..loading import Loaders
from ..module import StepResult, VisionLanguageModule
from ..step_report import StepReport
from ..train import Prepared, make_trainer


class Steps(Callback):
    """Reports each step as soon as it is done, and ends the run after the last or when it is told to.

    Args:
        steps: how many. told: gets the report of each, and returns whether the next is wanted.
    """

    def __init__(self, steps: int, told: Callable[[StepReport], bool]):
        self.steps, self.told = steps, told

    def on_train_start(self, trainer: Trainer, module: VisionLanguageModule) -> None:
        module.signals.install_handlers()  # Lightning has replaced the handlers

    def on_train_batch_end(
        self, trainer: Trainer, module: VisionLanguageModule, outputs: dict[str, StepResult], *_: object
    ) -> None:
        asked = outputs["step"]
        if asked.data_error is not None:
            raise asked.data_error
        if (number := asked.stop_signal) is not None:
            raise Stopped(stop_reason(number), exit_status(number))
        wanted = [self.told(report) for report in module.finished_steps()]
        trainer.should_stop = module.step == self.steps or not all(wanted)


def take_steps(
    prepared: Prepared,
    callback: Steps,
    signals: StopSignals,
    *,
    schedule: Callable[[int], float] | None = None,
    from_end: bool = False,
) -> None:
    """Trains by the run's own module, data, optimizer and Trainer.

    Args:
        prepared: of `prepare_training`. callback: what is asked of each step. signals: what stops it.
        schedule: the learning rate at a step, in the place of the run's.
        from_end: takes the data of the run's last steps, which may see more patches than the first.

    Raises:
        UserError: the data cannot be read, or another process has ended.
    """
    settings, built = prepared.resolved.settings, prepared.built
    folder = RunFolder(None, prints=rank_zero_only.rank == 0)
    if settings.machine.compile:
        compile_stacks(built.model, folder.say)
    last = max(prepared.steps, callback.steps)
    span = (last - callback.steps if from_end else 0, last)
    loaders = Loaders(prepared.resolved, prepared.data, folder, span)
    module = VisionLanguageModule(built.model, built.heads, settings, last, signals=signals, schedule=schedule)
    try:
        with devices.lost_process_is_one_sentence(settings.machine.processes):
            make_trainer(settings, callback).fit(module, datamodule=loaders)
    finally:
        loaders.close()
