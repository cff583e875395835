"""One run from settings to results. The only file that builds a Trainer.

Draft -> resolve -> open data -> build -> fit (train and validate) -> evaluate best.ckpt on every labelled split -> results.json
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from . import checkpoint, machine, resuming, summary
from .assembly import Built, Resolved, build, build_shape, resolve
from .callbacks import Progress
from .data.collate import Collate, Maker, Samples, Source
from .data.datasets import open_pairs
from .data.loader import StepLoader
from .data.sampler import EvalBatches, TrainSteps
from .data.transforms import make_transform
from .draft import Draft
from .errors import Stopped, UserError
from .final import Final, blind_run_of
from .keys import AUTO
from .labels import same_benchmark
from .module import VisionLanguageModule, gathered
from .optim import total_steps, validation_interval
from .reach import freeze_unread
from .report import RunFolder, forget_after, nested_results
from .saving import Saving, Stopping, storing
from .settings import Settings
from .signals import StopSignals
from .tasks import WholeSplit, reading_task, task_class

# Lightning's own notices (devices, tips, "Trainer.fit stopped") say less than the screen that summary.py prints.
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
SPLITS = ("train", "val", "test")


@dataclass
class Data:
    """What a run reads.

    Attributes:
        samples: the data sets by split, evaluation splits in the order in which they are evaluated; None where there is
            no such split, or the run does not read it.
        makers: the maker of targets of each task.
        train_steps: makes the order of training, with the arguments of `TrainSteps`.
    """

    samples: dict[str, Samples | None]
    makers: dict[str, Maker]
    train_steps: Callable[..., TrainSteps] = TrainSteps

    @property
    def evaluated(self) -> tuple[str, ...]:
        """The evaluation splits."""
        return tuple(split for split, samples in self.samples.items() if split != "train" and samples is not None)


def read_data(resolved: Resolved) -> Data:
    """Opens what the run reads; every file is checked before anything is computed."""
    settings = resolved.settings
    names, data = settings.objectives.loss_names, settings.data
    makers = {name: task_class(name).maker(settings, resolved.tokenizer) for name in names}
    reading = reading_task(names)
    if reading is None:
        splits = SPLITS[1:]
        opened = partial(
            open_pairs, data.datasets, data_root=data.data_root, allow_missing_shards=data.allow_missing_shards
        )
    else:
        task = task_class(reading)
        splits = task.splits(settings)
        opened = partial(task.open, settings, labels=resolved.labels.get(reading))
    read = splits if settings.run.test_only else ("train", *splits)
    return Data({"train": None, "val": None, **{split: opened(split=split) for split in read}}, makers)


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
    resolved = prepare_run(draft)
    settings = resolved.settings
    machine.check_start(settings.machine)
    data = data_of(resolved)
    if settings.run.test_only and not data.evaluated:
        raise UserError(
            f"test_only=True, but {', '.join(settings.data.datasets)} have neither a validation nor a test split in "
            f"data_root={settings.data.data_root}."
        )
    train_samples = len(data.samples["train"] or ())
    steps = _steps(resolved, train_samples)
    built = build(resolved)
    start = _load(built, resolved)
    freeze_unread(built, resolved, data.makers)
    blind = blind_run_of(settings, data.evaluated)
    folder = _folder(settings, start)  # only now: a command that is refused leaves nothing behind
    folder.say(summary.screen(built, resolved, data.samples, steps, start["step"]))
    folder.write_json(
        "settings.json", summary.record(built, resolved, data.samples) | resuming.origin(draft.raw, folder.path)
    )
    module = VisionLanguageModule(built.model, built.heads, settings, steps, start["step"])
    module.optimizer_state = start["optimizer"]
    interval = validation_interval(settings.optim, train_samples, settings.data.batch_size)
    validates = data.samples["val"] is not None
    saving = Saving(folder, storing(built, resolved), start, interval, validates, settings.run)
    progress = Progress(folder, settings.run.log_every_n_steps, settings.data.batch_size)
    stopping = Stopping(folder, saving, settings.run.max_bad_steps)
    trainer = _trainer(settings, [saving, progress, stopping], interval, validates=validates)
    module.loaders = Loaders(resolved, data, trainer, folder)
    final = Final(trainer, module, folder, blind)
    try:
        together = machine.together(settings.machine.processes, folder.to_go_on)
        with together, StopSignals(speaks=folder.speaks) as module.signals:
            results = final.evaluate(data.evaluated) if settings.run.test_only else _fit(final, built)
        folder.write_json("results.json", nested_results(results))
        folder.say(summary.closing(results, module.frames, folder.path))
    except Stopped as stop:
        raise Stopped(f"{stop}{folder.to_go_on()}", stop.status) from None
    finally:
        folder.close()
    return folder


def prepare_run(draft: Draft, *, reads_data: bool = True) -> Resolved:
    """Everything that can be refused before samples are read: machine, checkpoint, models, vocabularies of answers.

    Args:
        draft: the settings of a command. reads_data: see `assembly.resolve`.
    """
    machine.check_devices(draft)
    draft, said = _resuming_automatically(draft)
    setting = "load_path" if draft["load_path"] else "resume_from"
    stored = _stored(draft[setting], setting) if draft[setting] else None
    resolved = resolve(draft, stored, reads_data=reads_data)
    machine.check_devices(draft)  # again: the checkpoint of a resumed run has answered
    if not resolved.settings.run.fast_dev_run:
        RunFolder.refuse_unwritable(resolved.settings.run.log_dir, resolved.settings.run.exp_name)
    build_shape(resolved)
    resolved.notes[:0] = said
    return resolved


def _resuming_automatically(draft: Draft) -> tuple[Draft, list[str]]:
    """The draft of a command with resume_from=auto, and what is said of it: goes on with a run, or starts one."""
    if draft["resume_from"] != AUTO:
        return draft, []
    found = resuming.newest(draft.raw)
    if found is None:
        where = f"{draft['log_dir']}/{draft['exp_name']}"
        return draft.resuming(None), [f"resume_from=auto: {where} has no run of this command to go on with; it starts"]
    return draft.resuming(str(found.path)), [*found.damaged, f"resume_from=auto: goes on with {found.path}"]


def _stored(path: str, setting: str) -> checkpoint.Stored:
    try:
        return checkpoint.read(path, setting)
    except UserError as error:
        before = resuming.whole_before(Path(path)) if setting == "resume_from" and Path(path).is_file() else None
        raise UserError(f"{error} {before} is whole: give resume_from={before}.") from None if before else error


class Loaders:
    """Makes the loaders once the processes know their ranks.

    Args:
        resolved, data: of the run. trainer: knows rank and number of processes. folder: where the run speaks.
    """

    def __init__(self, resolved: Resolved, data: Data, trainer: Trainer, folder: RunFolder):
        self.settings, self.tokenizer, self.data, self.trainer = resolved.settings, resolved.tokenizer, data, trainer
        self.folder = folder
        self.blind = resolved.image["mean"] if resolved.settings.objectives.blind else None

    def train(self, first_step: int, last_step: int) -> StepLoader:
        data, settings = self.settings.data, self.settings
        sampler = self.data.train_steps(
            len(self.data.samples["train"]),
            data.batch_size,
            data.per_gpu_batchsize,
            self.trainer.global_rank,
            self.trainer.world_size,
            settings.run.seed,
            first_step,
            last_step,
        )
        return self._loader(sampler, "train", data.per_gpu_batchsize, raises=False)

    def evaluation(self, split: str, *, batches: bool = True) -> StepLoader | None:
        """Loads a split once; without `batches`, a single one of no samples, as every process has to evaluate one."""
        samples, size = self.data.samples[split], self.settings.data.eval_batch_size
        if samples is None:
            return None
        sampler = EvalBatches(len(samples) if batches else 0, size, self.trainer.global_rank, self.trainer.world_size)
        return self._loader(sampler, split, size)

    def labelled(self, split: str) -> bool:
        """Whether a split has the right answers."""
        return self.data.samples[split].labelled

    def whole(self, split: str, module: VisionLanguageModule) -> WholeSplit | None:
        """What evaluates a split as a whole; None where a run for a look sees only some batches of it."""
        if self.settings.run.fast_dev_run:
            return None
        data, trainer = self.settings.data, self.trainer
        return WholeSplit(
            *(module.model, module.heads, self.source(split), self.tokenizer, self.settings.model.max_text_len),
            *(data.eval_batch_size, data.num_workers, trainer.strategy.root_device),
            *(trainer.global_rank, trainer.world_size, gathered, self.folder.say),
            *(split, module.selecting),
        )

    def source(self, split: str) -> Source:
        """The samples of a split with the transform of their pictures."""
        model, data, train = self.settings.model, self.settings.data, split == "train"
        key = data.train_transform if train else data.val_transform
        seed, patch = self.settings.run.seed, model.patch_size or 1
        transform = make_transform(key, model.image_size, patch_size=patch, seed=seed, train=train)
        return Source(self.data.samples[split], transform, self.blind)

    def _loader(self, sampler: Any, split: str, micro: int, *, raises: bool = True) -> StepLoader:
        collate = Collate(self.tokenizer, self.settings.model.max_text_len, micro, self.data.makers, self.source(split))
        pin = self.trainer.strategy.root_device.type == "cuda"
        return StepLoader(sampler, collate, self.settings.data.num_workers, pin, raises=raises)


def _fit(final: Final, built: Built) -> dict[str, float]:
    """Trains to the end, then evaluates the best checkpoint, or the last where there is no validation."""
    trainer, module, folder = final.trainer, final.module, final.folder
    if module.step < module.steps:
        trainer.fit(module)
        best = folder.checkpoints / "best.ckpt" if folder.checkpoints else None
        path = trainer.strategy.broadcast(str(best) if best and best.exists() else "")
    else:  # it was stopped between its last step and the evaluation that ends it
        best = Path(module.settings.run.resume_from).with_name("best.ckpt")
        path = str(best) if best.exists() else ""
    loaders = module.loaders
    labelled = [split for split in loaders.data.evaluated if loaders.labelled(split)]
    if module.settings.run.fast_dev_run or not module.settings.run.final_test:
        return module.evaluated or final.evaluate(split for split in labelled if split == "val")
    if not path:  # nothing selected a checkpoint: the last one stands
        return final.evaluate(labelled)
    stored = checkpoint.read(path)
    validated = stored.training["step"] == module.step  # the model is the best one, and has just been validated
    if module.evaluated and validated and not any(task.selects_by_less for task in built.heads.values()):
        return final.tell("val") | final.evaluate(split for split in labelled if split != "val")
    built.model.load_state_dict(stored.model)
    built.heads.load_state_dict(stored.heads)
    return final.evaluate(labelled)


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
    """Whether the run of a checkpoint has its results; a checkpoint outside of a run folder can have no more."""
    folder = RunFolder.of_checkpoint(path)
    return folder is None or (folder.path / "results.json").exists()


def _load(built: Built, resolved: Resolved) -> dict[str, Any]:
    """Copies the checkpoint's weights; a resumed run also takes its step, optimizer and best value."""
    fresh = {"step": 0, "optimizer": None, "best": None, "pending": False}
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
    built.notes += [
        f"{key}={resolved.settings.flat[key]} (the run began with {stored.settings[key]}): from here on the schedule of the "
        "learning rate spans the new length"
        for key in ("max_steps", "max_epoch")
        if resolved.settings.flat[key] != stored.settings[key]
    ]
    return fresh | stored.training


def _folder(settings: Settings, start: dict[str, Any]) -> RunFolder:
    """The folder of this run; a resumed one goes on in its own, where its checkpoint still lies in it."""
    speaks = rank_zero_only.rank == 0
    if settings.run.fast_dev_run or not speaks:
        return RunFolder(None, speaks=speaks)
    if settings.run.resume_from and (kept := RunFolder.of_checkpoint(settings.run.resume_from)):
        kept.hold()
        forget_after(kept.path / "metrics.csv", start["step"])
        (kept.path / "results.json").unlink(missing_ok=True)  # it is unfinished again
        return kept
    start["best"] = None  # a new folder has no best.ckpt yet
    return RunFolder.create(settings.run.log_dir, settings.run.exp_name).hold()


def _trainer(settings: Settings, callbacks: list[Any], interval: int, *, validates: bool) -> Trainer:
    with machine.quiet():
        return Trainer(
            **machine.placed(settings),
            max_epochs=1,
            limit_val_batches=settings.run.fast_dev_run or None if validates else 0,
            limit_test_batches=settings.run.fast_dev_run or None,
            val_check_interval=interval,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
