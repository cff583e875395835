"""One run from settings to results. The only file that builds a Trainer.

find_start -> resolve -> read data -> build -> fit (train and validate) -> evaluate best.ckpt on every labelled split -> results
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from renaissance.core.checks import seconds_of
from renaissance.core.errors import Stopped, UserError, is_defect, require
from renaissance.core.launch import launch_environment
from renaissance.core.signals import StopSignals
from renaissance.data.workers import start_fork_server
from renaissance.evaluation.runs import FinishedRun
from renaissance.evaluation.score_report import closing, summaries
from renaissance.models.execution import compile_stacks
from renaissance.runs.checkpoint_folder import BEST
from renaissance.runs.identity import identity_record
from renaissance.runs.loggers import refuse_missing
from renaissance.runs.report import RunFolder, nested_results
from renaissance.runs.start import Start, find_start, lock_command, open_folder, refuse_finished
from renaissance.runs.stored import TrainingState
from renaissance.settings.bounds import refuse_huge_batches
from renaissance.settings.keys import AUTO
from renaissance.settings.resolver import ConfigResolver
from renaissance.settings.sections import Settings

from . import devices, summary
from .assembly import Built, build, build_on_meta, load_weights
from .checkpointing import CheckpointSaver, checkpoint_content
from .final_evaluation import FinalEvaluation, all_values, blind_run_of, details_file
from .frozen_tokens import plan_tokens
from .loading import Loaders, RunData, read_data
from .loop import Loop
from .module import VisionLanguageModule
from .optim import total_steps, validation_interval
from .progress import Progress
from .rank_zero_first import rank_zero_first
from .resolution import Resolved, resolve
from .unused_parameters import freeze_unused_parameters

# Lightning's own notices (devices, tips, "Trainer.fit stopped") say less than the screen that summary.py prints.
for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero", "lightning_fabric"):
    logging.getLogger(name).setLevel(logging.WARNING)


class Prepared(NamedTuple):
    """A run before its first step. Attributes: start, where it starts; resolved; data; built, with its weights; steps, of all."""

    start: Start
    resolved: Resolved
    data: RunData
    built: Built
    steps: int


def run(resolver: ConfigResolver) -> RunFolder:
    """Runs a command: trains and evaluates, or only evaluates with test_only.

    Args:
        resolver: the settings of the command.

    Returns:
        The run's folder.

    Raises:
        UserError: whatever is wrong with the command, before training starts where that can be seen.
    """
    began = time.monotonic()
    begin(resolver)
    with StopSignals() as signals:
        signals.set_alarm(_left(resolver["max_time"], began))
        with rank_zero_first(resolver["num_nodes"]) as shared, _locked(resolver):
            start, resolved, data, built, steps = prepare_training(resolver, shared)
            settings = resolved.settings
            blind = blind_run_of(settings, data.evaluated)
            # Only now: a command that is refused leaves nothing behind.
            folder, state, notes = open_folder(start, settings, first=rank_zero_only.rank == 0)
            built.notes += notes
            folder.open_loggers(settings)
        signals.set_alarm(_left(settings.run.max_time, began))  # again: the checkpoint may have it
        signals.prints = folder.prints
        try:
            folder.say(summary.startup_report(built, resolved, data, steps, state.step))
            if folder.path is not None:
                record = summary.record(built, resolved, data.samples, steps)
                folder.write_json("settings.json", record | identity_record(start.command, folder.path))
            _run(_assemble(resolved, data, built, state, steps, folder, signals, blind))
        except BaseException as error:
            folder.write_log("".join(traceback.format_exception(error)) if is_defect(error) else f"{error}")
            raise
        finally:
            folder.close()
    return folder


def begin(resolver: ConfigResolver) -> None:
    """What comes first of all: refuses a start that cannot be, and starts what loaders of several processes are forked from."""
    devices.check_start(resolver["num_nodes"])
    if (resolver["num_gpus"] or 1) * resolver["num_nodes"] > 1 and resolver["num_workers"] != 0:
        start_fork_server()


def _left(max_time: str | None, began: float) -> float | None:
    """The seconds of max_time that are left of a command that began then."""
    return None if max_time is None else seconds_of(max_time) - (time.monotonic() - began)


def _locked(resolver: ConfigResolver) -> contextlib.AbstractContextManager[None]:
    """Keeps the same command out while this one, with resume_from=auto, starts or resumes its run."""
    automatic = resolver["resume_from"] == AUTO and not resolver["fast_dev_run"]
    return lock_command(resolver.raw) if automatic and launch_environment().is_rank_zero else contextlib.nullcontext()


def prepare_training(resolver: ConfigResolver, shared: dict[str, Any] | None = None) -> Prepared:
    """Reads and builds all that a run needs; nothing is written. Arguments as of `prepare_run`."""
    start, resolved, _ = prepare_run(resolver, shared)
    settings, data = resolved.settings, read_data(resolved)
    steps = _steps(settings, data.epoch_size)
    _refuse_nothing_to_do(start, settings, data, steps)
    built = build(resolved)
    load_weights(built, resolved)
    freeze_unused_parameters(built, resolved, data.target_builders)
    data.tokens = plan_tokens(built, resolved, data)
    return Prepared(start, resolved, data, built, steps)


def prepare_run(
    resolver: ConfigResolver, shared: dict[str, Any] | None = None, *, reads_data: bool = True
) -> tuple[Start, Resolved, Built]:
    """Refuses whatever can be refused before samples are read: devices, checkpoint, models, answer vocabularies.

    Args:
        resolver: the settings of a command.
        shared: of `rank_zero_first`, None for one process.
        reads_data: see `resolution.resolve`.

    Returns:
        Where it starts, what is built, and that on the meta device.
    """
    devices.check_devices(resolver)
    refuse_missing(resolver["logger"])
    start = find_start(resolver, shared)
    resolved = resolve(start.resolver, start.stored, reads_data=reads_data)
    refuse_missing(resolved.settings.run.logger)
    devices.check_devices(start.resolver)  # again: the checkpoint of a resumed run may have filled them in
    if not resolved.settings.run.fast_dev_run:
        RunFolder.refuse_unwritable(resolved.settings.run.log_dir, resolved.settings.run.exp_name)
    resolved.notes[:0] = [*start.notes, *devices.precision_notes(resolved.settings)]
    shape = build_on_meta(resolved)
    refuse_huge_batches(resolved.settings)
    if resolved.stored is not None and resolved.settings.run.test_only and not reads_data:
        guessed = resolved.labels.keys() - resolved.stored.labels.keys()  # a head for them may be of another size
        if not any(shape.heads[name].learns for name in guessed):
            load_weights(
                shape, resolved
            )  # nothing is copied to the meta device: says what is there, refuses what is not
    return start, resolved, shape


def _steps(settings: Settings, samples: int) -> int:
    """Optimizer steps of the whole run, those done before a resume included; 0 where nothing is trained."""
    if settings.run.test_only:
        return 0
    return settings.run.fast_dev_run or total_steps(settings.optim, samples, settings.data.batch_size)


def _refuse_nothing_to_do(start: Start, settings: Settings, data: RunData, steps: int) -> None:
    """Refuses an evaluation without a split, and to resume a run that is finished."""
    require(
        data.evaluated or not settings.run.test_only,
        f"test_only=True, but {', '.join(settings.data.datasets)} have neither a validation nor a test split in "
        f"data_root={settings.data.data_root}.",
    )
    if not settings.run.test_only:
        patience = settings.optim.early_stopping
        selects = data.samples["val"] is not None and data.samples["val"].labelled
        require(
            selects or not patience,
            f"early_stopping={patience} needs validations, and {', '.join(settings.data.datasets)} have no validation split with "
            f"labels in data_root={settings.data.data_root}; leave early_stopping out.",
        )
        require(
            data.pool(settings, steps).first_steps < steps,
            f"first_steps={settings.data.first_steps} leaves none of {steps:,} steps for datasets={[*settings.data.datasets]}; "
            "leave first_datasets out.",
        )
        refuse_finished(start, steps, patience)


def _assemble(
    resolved: Resolved,
    data: RunData,
    built: Built,
    state: TrainingState,
    steps: int,
    folder: RunFolder,
    signals: StopSignals,
    blind: FinishedRun | None,
) -> FinalEvaluation:
    """Puts module, loaders, callback and Trainer together; arguments as in the rooms they come from."""
    settings = resolved.settings
    if settings.machine.compile:
        compile_stacks(built.model, folder.say)
    interval = validation_interval(settings.optim, data.epoch_size, settings.data.batch_size)
    validates = data.samples["val"] is not None
    loaders = Loaders(resolved, data, folder, (state.step, steps), stop_requested=lambda: signals.received is not None)
    saver = CheckpointSaver(folder, checkpoint_content(built, resolved), state, interval, validates, settings)
    progress = Progress(folder, settings.run.log_every_n_steps, settings.data.batch_size)
    loop = Loop(folder, loaders, progress, saver, settings.run.max_bad_steps)
    module = VisionLanguageModule(
        built.model,
        built.heads,
        settings,
        steps,
        state.step,
        optimizer_state=state.optimizer,
        signals=signals,
        save_is_due=saver.is_due,
    )
    trainer = make_trainer(settings, loop, interval, validates=validates)
    return FinalEvaluation(trainer, module, loaders, loop, folder, blind)


def make_trainer(settings: Settings, callback: Callback, interval: int = 1, *, validates: bool = False) -> Trainer:
    """The Trainer of a run, whose one callback decides all. interval: steps between validations, where it `validates`."""
    with devices.ignore_known_warnings():
        return Trainer(
            **devices.trainer_arguments(settings),
            max_epochs=1,
            limit_val_batches=settings.run.fast_dev_run or None if validates else 0,
            limit_test_batches=settings.run.fast_dev_run or None,
            val_check_interval=interval,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            callbacks=[callback],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )


def _run(final: FinalEvaluation) -> None:
    """Trains, evaluates, and writes the results; what ends the run early also says how to go on."""
    folder, run = final.folder, final.module.settings.run
    try:
        with devices.lost_process_is_one_sentence(final.module.settings.machine.processes):
            reports = final.evaluate(final.loaders.data.evaluated) if run.test_only else final.best(_fit(final))
        values = all_values(reports)
        results, details = nested_results(values), details_file(reports)
        folder.write_json("results_details.json", details)
        folder.write_json("results.json", results)
        for name, content in summaries(final.module.heads, results, details).items():
            folder.write(name, content.encode())
        folder.log_results(final.module.step, values)
        folder.say(closing(values, {name for report in reports for name in report.result.metrics}, folder.path))
    except Stopped as stop:
        raise Stopped(f"{stop}{folder.resume_hint()}", stop.status, local_only=stop.local_only) from None
    except UserError as error:
        raise UserError(f"{str(error).removesuffix('.')}{folder.resume_hint()}.") from error
    except BaseException:
        folder.say(f"error: a defect ended the run{folder.resume_hint()}.")
        raise
    finally:
        final.module.signals.waits_for_step = False
        final.loaders.close()


def _fit(final: FinalEvaluation) -> str:
    """Trains to the end. Returns: the path of the best checkpoint, "" where nothing has selected one."""
    trainer, module, saver = final.trainer, final.module, final.loop.saver
    # A validation is still to come, be it of the last step.
    if (module.step < module.steps and not saver.stops_early) or saver.pending:
        trainer.fit(module, datamodule=final.loaders)
        best = final.folder.checkpoints and final.folder.checkpoints / BEST
        has_best = best and (os.path.lexists(best) or saver.best_step is not None)
        return trainer.strategy.broadcast(str(best) if has_best else "")
    # It was stopped between its last step and the evaluation that ends it.
    best = Path(module.settings.run.resume_from).with_name(BEST)
    return str(best) if os.path.lexists(best) else ""
