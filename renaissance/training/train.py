"""One run from settings to results. The only file that builds a Trainer.

Draft -> resolve -> open data -> build -> fit (train and validate) -> evaluate best.ckpt on every labelled split -> results.json
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pytorch_lightning import Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from renaissance.core.checks import seconds_of
from renaissance.core.errors import Stopped, UserError, is_defect
from renaissance.core.launch import launched
from renaissance.core.signals import StopSignals
from renaissance.evaluation import BlindRun
from renaissance.models.execution import compile_stacks
from renaissance.runs import checkpoint, resuming
from renaissance.runs.report import RunFolder, forget_after, nested_results
from renaissance.settings.bounds import refuse_huge_batches
from renaissance.settings.draft import Draft
from renaissance.settings.keys import AUTO, PLACE_KEYS
from renaissance.settings.sections import Settings
from renaissance.tasks import reading_task

from . import machine, summary
from .assembly import Built, Resolved, build, build_shape, resolve
from .final import Final, blind_run_of
from .labels import same_benchmark
from .loading import Data, Loaders, read_data
from .loop import Loop
from .meeting import first_goes_first
from .module import VisionLanguageModule, gathered
from .optim import total_steps, validation_interval
from .progress import Progress
from .reach import freeze_unread
from .saving import Saving, storing

# Lightning's own notices (devices, tips, "Trainer.fit stopped") say less than the screen that summary.py prints.
for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero", "lightning_fabric"):
    logging.getLogger(name).setLevel(logging.WARNING)


class _Ready(NamedTuple):
    """All that a run needs; `start`: see `_load`; `blind`: see `final.blind_run_of`."""

    resolved: Resolved
    data: Data
    built: Built
    start: dict[str, Any]
    steps: int
    blind: BlindRun | None
    folder: RunFolder


def run(draft: Draft, data_of: Callable[[Resolved], Data] = read_data) -> RunFolder:
    """Does what a command says: trains, or evaluates with test_only.

    Args:
        draft: the settings of the command.
        data_of: opens the data; the demo passes its own, everybody else reads arrow files.

    Returns:
        The run's folder.

    Raises:
        UserError: whatever is wrong with the command, before training starts where that can be seen.
    """
    machine.check_start(draft["num_nodes"])
    began = time.monotonic()
    with StopSignals() as signals:
        signals.alarm(_left(draft["max_time"], began))
        with first_goes_first(draft["num_nodes"]) as told, _alone(draft):
            ready = _ready(draft, data_of, told)
        signals.alarm(_left(ready.resolved.settings.run.max_time, began))  # again: the checkpoint may have it
        try:
            return _run(draft, ready, signals)
        except BaseException as error:
            ready.folder.keep("".join(traceback.format_exception(error)) if is_defect(error) else f"{error}")
            raise
        finally:
            ready.folder.close()


def _left(max_time: str | None, began: float) -> float | None:
    """The seconds of max_time that are left of a command that began then."""
    return None if max_time is None else seconds_of(max_time) - (time.monotonic() - began)


def _run(draft: Draft, ready: _Ready, signals: StopSignals) -> RunFolder:
    resolved, data, built, start, steps, blind, folder = ready
    settings = resolved.settings
    signals.speaks = folder.speaks
    folder.say(summary.screen(built, resolved, data.samples, steps, start["step"]))
    folder.write_json(
        "settings.json", summary.record(built, resolved, data.samples) | resuming.origin(draft.raw, folder.path)
    )
    if settings.machine.compile:
        compile_stacks(built.model, folder.say)
    module = VisionLanguageModule(built.model, built.heads, settings, steps, start["step"])
    module.optimizer_state = start["optimizer"]
    interval = validation_interval(settings.optim, len(data.samples["train"] or ()), settings.data.batch_size)
    validates = data.samples["val"] is not None
    saving = Saving(folder, storing(built, resolved), start, interval, validates, settings.run)
    progress = Progress(folder, settings.run.log_every_n_steps, settings.data.batch_size)
    loop = Loop(folder, progress, saving, settings.run.max_bad_steps)
    trainer = _trainer(settings, loop, interval, validates=validates)
    module.signals = signals
    module.loaders = Loaders(resolved, data, trainer, folder, asked=lambda: signals.asked is not None)
    final = Final(trainer, module, folder, blind)
    try:
        with machine.together(settings.machine.processes):
            results = final.evaluate(data.evaluated) if settings.run.test_only else _fit(final, built, saving)
        folder.write_json("results_details.json", final.record(results))
        folder.write_json("results.json", nested_results(results))
        folder.say(summary.closing(results, module.frames, folder.path))
    except Stopped as stop:
        raise Stopped(f"{stop}{folder.to_go_on()}", stop.status, alone=stop.alone) from None
    except UserError as error:
        raise UserError(f"{str(error).removesuffix('.')}{folder.to_go_on()}.") from error
    except BaseException:
        folder.say(f"error: a defect ended the run{folder.to_go_on()}.")
        raise
    finally:
        signals.waits = False
        module.loaders.close()
    return folder


def _ready(draft: Draft, data_of: Callable[[Resolved], Data], told: dict[str, Any]) -> _Ready:
    """Everything that can be refused, done."""
    resolved = prepare_run(draft, told)
    settings = resolved.settings
    data = data_of(resolved)
    if settings.run.test_only and not data.evaluated:
        raise UserError(
            f"test_only=True, but {', '.join(settings.data.datasets)} have neither a validation nor a test split in "
            f"data_root={settings.data.data_root}."
        )
    steps = _steps(resolved, len(data.samples["train"] or ()))
    built = build(resolved)
    start = _load(built, resolved)
    freeze_unread(built, resolved, data.makers)
    blind = blind_run_of(settings, data.evaluated)
    folder = _folder(resolved, draft, start, built.notes)  # only now: a command that is refused leaves nothing behind
    return _Ready(resolved, data, built, start, steps, blind, folder)


def prepare_run(draft: Draft, told: dict[str, Any] | None = None, *, reads_data: bool = True) -> Resolved:
    """Everything that can be refused before samples are read: machine, checkpoint, models, vocabularies of answers.

    Args:
        draft: the settings of a command. told: see `meeting.first_goes_first`. reads_data: see `assembly.resolve`.
    """
    machine.check_devices(draft)
    draft, said = _resuming_automatically(draft, {} if told is None else told)
    setting = "load_path" if draft["load_path"] else "resume_from"
    stored = _stored(draft[setting], setting) if draft[setting] else None
    if draft["resume_from"]:
        draft.answer("checkpoint", RunFolder.place_of(draft["resume_from"]), free=PLACE_KEYS)
    resolved = resolve(draft, stored, reads_data=reads_data)
    machine.check_devices(draft)  # again: the checkpoint of a resumed run has answered
    if not resolved.settings.run.fast_dev_run:
        RunFolder.refuse_unwritable(resolved.settings.run.log_dir, resolved.settings.run.exp_name)
    build_shape(resolved)
    refuse_huge_batches(resolved.settings)
    resolved.notes[:0] = said
    return resolved


def _alone(draft: Draft) -> contextlib.AbstractContextManager[None]:
    """Keeps the same command out while this one, with resume_from=auto, becomes a run or finds its own."""
    automatic = draft["resume_from"] == AUTO and not draft["fast_dev_run"]
    return resuming.alone(draft.raw) if automatic and launched().first else contextlib.nullcontext()


def _resuming_automatically(draft: Draft, told: dict[str, Any]) -> tuple[Draft, list[str]]:
    """The draft of a command with resume_from=auto, and what is said of it: goes on with a run, or starts one."""
    if draft["resume_from"] != AUTO:
        return draft, []
    if "resume_from" in told:  # by the first process; on another machine its folder may not be seen yet as it is
        return draft.resuming(told["resume_from"]), []
    found = resuming.newest(draft.raw)
    told["resume_from"] = str(found.path) if found else None
    if found is None:
        where = f"{draft['log_dir']}/{draft['exp_name']}"
        return draft.resuming(None), [f"resume_from=auto: {where} has no run of this command to go on with; it starts"]
    return draft.resuming(told["resume_from"]), [*found.damaged, f"resume_from=auto: goes on with {found.path}"]


def _stored(path: str, setting: str) -> checkpoint.Stored:
    try:
        return checkpoint.read(path, setting)
    except UserError as error:
        before = resuming.whole_before(Path(path)) if setting == "resume_from" else None
        if before is None:
            raise
        raise UserError(f"{error} {before} is whole: give resume_from={before}.") from None


def _fit(final: Final, built: Built, saving: Saving) -> dict[str, float]:
    """Trains to the end, then evaluates the best checkpoint, or the last where there is no validation.

    Args:
        final: evaluates. built: what is trained. saving: of the run.
    """
    trainer, module, folder = final.trainer, final.module, final.folder
    if module.step < module.steps or saving.pending:  # a validation is still to come, be it of the last step
        trainer.fit(module)
        best = folder.checkpoints / "best.ckpt" if folder.checkpoints else None
        has_best = best and (os.path.lexists(best) or saving.best_step is not None)
        path = trainer.strategy.broadcast(str(best) if has_best else "")
    else:  # it was stopped between its last step and the evaluation that ends it
        best = Path(module.settings.run.resume_from).with_name("best.ckpt")
        path = str(best) if os.path.lexists(best) else ""
    loaders = module.loaders
    labelled = [split for split in loaders.data.evaluated if loaders.labelled(split)]
    if module.settings.run.fast_dev_run or not module.settings.run.final_test:
        return module.evaluated or final.evaluate(split for split in labelled if split == "val")
    stored = _selected(path, built, final) if path else None
    if stored is None:  # nothing selected a checkpoint: the last one stands
        return final.evaluate(labelled)
    validated = stored.training["step"] == module.step  # the model is the best one, and has just been validated
    if module.evaluated and validated and not any(task.selects_by_less for task in built.heads.values()):
        return final.tell("val") | final.evaluate(split for split in labelled if split != "val")
    built.model.load_state_dict(stored.model)
    built.heads.load_state_dict(stored.heads)
    return final.evaluate(labelled)


def _selected(path: str, built: Built, final: Final) -> checkpoint.Stored | None:
    """What best.ckpt holds; None, with a warning, where it is of another model, or one of the processes cannot read it."""
    stored, why = resuming.read_unasked(Path(path))
    if stored is not None and _shapes(stored.model) != _shapes(built.model.state_dict()):
        why = f"{path} is of another model."
    if not any(reasons := gathered(why)):
        return stored
    first = next(filter(None, reasons))
    final.folder.say(f"warning: {first} The last checkpoint is evaluated in place of the best one.")
    return None


def _shapes(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tensor.shape for name, tensor in state.items()}


def _steps(resolved: Resolved, samples: int) -> int:
    """Optimizer steps of the whole run, those done before a resume included; 0 where nothing is trained."""
    settings = resolved.settings
    if settings.run.test_only:
        return 0
    steps = settings.run.fast_dev_run or total_steps(settings.optim, samples, settings.data.batch_size)
    path = settings.run.resume_from
    if path and (done := resolved.stored.training["step"]) >= steps and _finished(path):
        if settings.sources["resume_from"] == AUTO:
            raise Stopped(
                f"{RunFolder.of_checkpoint(path).path} has done its {done} steps and has its results; nothing is left",
                0,
            )
        raise UserError(
            f"resume_from={path} has done {done} steps and the run ends at {steps}: it is finished. Give a larger max_steps "
            "(or max_epoch) to go on."
        )
    return steps


def _finished(path: str) -> bool:
    """Whether the run of a checkpoint has its results, whole; a checkpoint outside of a run folder can have no more."""
    folder = RunFolder.of_checkpoint(path)
    if folder is None:
        return True
    try:
        return (folder.path / "results.json").read_bytes().rstrip().endswith(b"}")
    except OSError:
        return False


def _load(built: Built, resolved: Resolved) -> dict[str, Any]:
    """Copies the checkpoint's weights; a resumed run also takes its step, optimizer and best value."""
    fresh = {"step": 0, "optimizer": None, "best": None, "best_step": None, "pending": False, "scaler": None}
    run_settings = resolved.settings.run
    if resolved.stored is None:
        return fresh
    path, stored = run_settings.resume_from or run_settings.load_path, resolved.stored
    other = [name for name in built.heads if not same_benchmark(name, stored, resolved.settings)]
    taken = {key: tensor for key, tensor in stored.heads.items() if key.partition(".")[0] not in other}
    report = checkpoint.load_weights(built.model, built.heads, stored._replace(heads=taken), path)
    built.notes += str(report).splitlines()
    reading = reading_task(list(built.heads))
    if run_settings.test_only and reading and any(name.startswith(f"{reading}.") for name in report.missing):
        there = ", ".join(sorted({key.partition(".")[0] for key in stored.heads} - {*other})) or "none"
        raise UserError(
            f"load_path={path} has no trained head of {reading} (its heads: {there}), so there is nothing to evaluate; leave "
            "test_only out to finetune it first."
        )
    if run_settings.resume_from is None:
        return fresh
    report.refuse_missing("resume_from")
    built.notes += [
        f"{key}={resolved.settings.flat[key]} (the run began with {stored.settings[key]}): from here on the schedule of the "
        "learning rate spans the new length"
        for key in ("max_steps", "max_epoch")
        if resolved.settings.flat[key] != stored.settings[key]
    ]
    return fresh | stored.training


def _folder(resolved: Resolved, draft: Draft, start: dict[str, Any], notes: list[str]) -> RunFolder:
    """The folder of this run; a resumed one goes on in its own, where its checkpoint is the newest that lies there."""
    settings, speaks = resolved.settings, rank_zero_only.rank == 0
    if settings.run.fast_dev_run or not speaks:
        return RunFolder(None, speaks=speaks)
    path = settings.run.resume_from
    if path and (kept := RunFolder.of_checkpoint(path)):
        kept.hold()
        try:
            own = kept.checkpoints / Path(path).name  # or a link from elsewhere names it
            later = _go_on(kept, own.name if own.exists() else Path(path).resolve().name, start, resolved.stored)
        except OSError as error:
            raise UserError(
                f"The run in '{kept.path}' cannot go on ('{error.filename}': {error.strerror}); make its folder writable, or "
                "give resume_from a copy of the checkpoint that lies in no run folder."
            ) from error
        if later is None:
            return kept
        kept.close()
        if settings.sources["resume_from"] == AUTO:
            raise UserError(
                f"{kept.path} has gone on to step {later} since this command has read {path}; give it again."
            )
        notes.append(f"{kept.path} has been at step {later}; what goes on from {path} gets a folder of its own")
    start["best"] = start["best_step"] = None  # a new folder has no best.ckpt yet
    folder = RunFolder.create(settings.run.log_dir, settings.run.exp_name).hold()
    # What `resuming` looks for; `summary.record` follows.
    folder.write_json("settings.json", {"settings": settings.flat} | resuming.origin(draft.raw, None))
    return folder


def _go_on(kept: RunFolder, name: str, start: dict[str, Any], stored: checkpoint.Stored) -> int | None:
    """Brings a run's folder to the checkpoint that it goes on from; the step of a later one, where nothing is done."""
    step, best = start["step"], start["best_step"]
    later = resuming.make_newest(kept.checkpoints / name, step, best=best == step)
    if later is not None:
        return later
    warnings = forget_after(
        kept.path / "metrics.csv", step, pending=start["pending"], every=stored.settings.get("log_every_n_steps")
    )
    (kept.path / "results.json").unlink(missing_ok=True)  # it is unfinished again
    # Its own step has just got that name; a version that did not tell the step is believed.
    if best != step and (best is not None or start["best"] is None):
        warnings += filter(None, [resuming.lose_best(kept.checkpoints, best)])
    if not (kept.checkpoints / "best.ckpt").exists():
        start["best"] = start["best_step"] = None
    for warning in warnings:
        kept.say(f"warning: {warning}")
    return None


def _trainer(settings: Settings, loop: Loop, interval: int, *, validates: bool) -> Trainer:
    with machine.quiet():
        return Trainer(
            **machine.placed(settings),
            max_epochs=1,
            limit_val_batches=settings.run.fast_dev_run or None if validates else 0,
            limit_test_batches=settings.run.fast_dev_run or None,
            val_check_interval=interval,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            callbacks=[loop],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
