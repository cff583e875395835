"""One run from settings to results. The only file that builds a Trainer.

Draft -> resolve -> open data -> build -> fit (train and validate) -> evaluate best.ckpt on test -> results.json
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from . import checkpoint, summary
from .assembly import Built, Resolved, build, build_shape, resolve, stored_of
from .callbacks import Progress, Saving
from .data.collate import Collate, Maker, Pairs, Source
from .data.datasets import open_pairs
from .data.loader import StepLoader
from .data.sampler import EvalBatches, TrainSteps
from .data.transforms import make_transform
from .errors import UserError
from .module import VisionLanguageModule
from .optim import total_steps, validation_interval
from .reach import freeze_unread
from .report import RunFolder, forget_after, nested_results
from .settings import Draft, Settings
from .tasks import task_class

# Lightning's own notices (devices, tips, "Trainer.fit stopped") say less than the screen that summary.py prints.
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
SPLITS = ("train", "val", "test")


@dataclass
class Data:
    """What a run reads.

    Attributes:
        pairs: the data sets by split, None where the mix has none or the run does not read it.
        makers: the maker of targets of each task.
        train_steps: makes the order of training, with the arguments of `TrainSteps`.
    """

    pairs: dict[str, Pairs | None]
    makers: dict[str, Maker]
    train_steps: Callable[..., TrainSteps] = TrainSteps


def read_data(resolved: Resolved) -> Data:
    """Opens what the run reads; every file is checked before anything is computed."""
    settings = resolved.settings
    read = SPLITS[1:] if settings.run.test_only else SPLITS
    makers = {name: task_class(name).maker(settings, resolved.tokenizer) for name in settings.objectives.loss_names}
    data = settings.data
    pairs = {
        split: open_pairs(data.datasets, split, data.data_root, allow_missing_shards=data.allow_missing_shards)
        for split in read
    }
    return Data({"train": None, **pairs}, makers)


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
    data = data_of(resolved)
    if settings.run.test_only and data.pairs["val"] is None and data.pairs["test"] is None:
        raise UserError(
            f"test_only=True, but {', '.join(settings.data.datasets)} have neither a validation nor a test split."
        )
    train_pairs = len(data.pairs["train"] or ())
    steps = _steps(resolved, train_pairs)
    built = build(resolved)
    start = _load(built, resolved)
    freeze_unread(built, resolved, data.makers)
    folder = _folder(settings, start)  # only now: a command that is refused leaves nothing behind
    folder.say(summary.screen(built, resolved, data.pairs, steps, start["step"]))
    folder.write_json("settings.json", summary.record(resolved, data.pairs))
    module = VisionLanguageModule(built.model, built.heads, settings, steps, start["step"])
    module.optimizer_state = start["optimizer"]
    interval = validation_interval(settings.optim, train_pairs, settings.data.batch_size)
    every = interval if data.pairs["val"] is None else None
    saving = Saving(folder, partial(stored_of, built, resolved), start["best"], every)
    progress = Progress(folder, settings.run.log_every_n_steps, settings.data.batch_size)
    trainer = _trainer(settings, [saving, progress], interval, validates=data.pairs["val"] is not None)
    loaders = Loaders(resolved, data, trainer)
    try:
        if settings.run.test_only:
            results = _evaluate(trainer, module, loaders, ("val", "test"))
        else:
            results = _fit(trainer, module, loaders, built, folder)
        folder.write_json("results.json", nested_results(results))
        folder.say(summary.closing(results, folder.path))
    finally:
        folder.close()
    return folder


def prepare_run(draft: Draft) -> Resolved:
    """Everything that can be refused before data is read: machine, checkpoint, models."""
    _check_machine(draft)
    setting = "load_path" if draft["load_path"] else "resume_from"
    stored = checkpoint.read(draft[setting], setting) if draft[setting] else None
    resolved = resolve(draft, stored)
    _check_machine(draft)  # again: the checkpoint of a resumed run has answered
    if not resolved.settings.run.fast_dev_run:
        RunFolder.refuse_unwritable(resolved.settings.run.log_dir, resolved.settings.run.exp_name)
    build_shape(resolved)
    return resolved


class Loaders:
    """Makes the loaders once the processes know their ranks.

    Args:
        resolved, data: of the run. trainer: knows rank and number of processes.
    """

    def __init__(self, resolved: Resolved, data: Data, trainer: Trainer):
        self.settings, self.tokenizer, self.data, self.trainer = resolved.settings, resolved.tokenizer, data, trainer

    def train(self, first_step: int, last_step: int) -> StepLoader:
        data, settings = self.settings.data, self.settings
        sampler = self.data.train_steps(
            len(self.data.pairs["train"]),
            data.batch_size,
            data.per_gpu_batchsize,
            self.trainer.global_rank,
            self.trainer.world_size,
            settings.run.seed,
            first_step,
            last_step,
        )
        return self._loader(sampler, "train", data.train_transform, data.per_gpu_batchsize)

    def evaluation(self, split: str) -> StepLoader | None:
        pairs, data = self.data.pairs[split], self.settings.data
        if pairs is None:
            return None
        sampler = EvalBatches(len(pairs), data.eval_batch_size, self.trainer.global_rank, self.trainer.world_size)
        return self._loader(sampler, split, data.val_transform, data.eval_batch_size)

    def _loader(self, sampler: Any, split: str, transform_key: str, micro: int) -> StepLoader:
        model, settings = self.settings.model, self.settings
        transform = make_transform(
            transform_key,
            model.image_size,
            patch_size=model.patch_size or 1,
            seed=settings.run.seed,
            train=split == "train",
        )
        source = Source(self.data.pairs[split], transform)
        collate = Collate(self.tokenizer, model.max_text_len, micro, self.data.makers, source)
        pin = self.trainer.strategy.root_device.type == "cuda"
        return StepLoader(sampler, collate, settings.data.num_workers, pin)


def _fit(
    trainer: Trainer, module: VisionLanguageModule, loaders: Loaders, built: Built, folder: RunFolder
) -> dict[str, float]:
    """Trains to the end, then evaluates the best checkpoint, or the last where there is no validation."""
    settings = module.settings
    module.loaders = loaders
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found .* in eval mode")  # a frozen tower has to be
        # What torch 2.14 names instead has no counterpart in older ones.
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
        trainer.fit(module)
    path = trainer.strategy.broadcast(str(folder.checkpoints / "best.ckpt") if folder.checkpoints else "")
    if not path or not settings.run.final_test:
        return module.evaluated
    if loaders.data.pairs["val"] is None:
        return _evaluate(trainer, module, loaders, ("test",))
    stored = checkpoint.read(path)
    if stored.training["step"] == module.step:  # the model is the best one, and has just been validated
        return module.evaluated | _evaluate(trainer, module, loaders, ("test",))
    built.model.load_state_dict(stored.model)
    built.heads.load_state_dict(stored.heads)
    return _evaluate(trainer, module, loaders, ("val", "test"))


def _evaluate(
    trainer: Trainer, module: VisionLanguageModule, loaders: Loaders, splits: tuple[str, ...]
) -> dict[str, float]:
    results: dict[str, float] = {}
    module.loaders = loaders
    for split in splits:
        if loaders.data.pairs[split] is not None:
            evaluate = trainer.validate if split == "val" else trainer.test
            evaluate(module, verbose=False)
            results |= module.evaluated
    return results


def _steps(resolved: Resolved, pairs: int) -> int:
    """Optimizer steps of the whole run, those done before a resume included; 0 where nothing is trained."""
    settings = resolved.settings
    if settings.run.test_only:
        return 0
    steps = settings.run.fast_dev_run or total_steps(settings.optim, pairs, settings.data.batch_size)
    if settings.run.resume_from and resolved.stored.training["step"] >= steps:
        raise UserError(
            f"resume_from={settings.run.resume_from} has done {resolved.stored.training['step']} steps and the run ends at "
            f"{steps}: it is finished. Give a larger max_steps (or max_epoch) to go on."
        )
    return steps


def _load(built: Built, resolved: Resolved) -> dict[str, Any]:
    """Copies the checkpoint's weights; a resumed run also takes its step, optimizer and best value."""
    fresh = {"step": 0, "optimizer": None, "best": None}
    run_settings = resolved.settings.run
    if resolved.stored is None:
        return fresh
    path = run_settings.resume_from or run_settings.load_path
    report = checkpoint.load_weights(built.model, built.heads, resolved.stored, path)
    built.notes += str(report).splitlines()
    if run_settings.resume_from is None:
        return fresh
    return dict(resolved.stored.training)


def _folder(settings: Settings, start: dict[str, Any]) -> RunFolder:
    """The folder of this run; a resumed one goes on in its own, where its checkpoint still lies in it."""
    speaks = rank_zero_only.rank == 0
    if settings.run.fast_dev_run or not speaks:
        return RunFolder(None, speaks=speaks)
    if settings.run.resume_from and (kept := RunFolder.of_checkpoint(settings.run.resume_from)):
        forget_after(kept.path / "metrics.csv", start["step"])
        return kept
    start["best"] = None  # a new folder has no best.ckpt yet
    return RunFolder.create(settings.run.log_dir, settings.run.exp_name)


def _check_machine(draft: Draft) -> None:
    gpus = torch.cuda.device_count()
    wanted = draft["num_gpus"] or 1
    if draft["accelerator"] == "gpu" and not gpus:
        raise UserError(
            "accelerator=gpu, but this machine has no GPU that torch can use; leave accelerator out to run on CPU."
        )
    if gpus and draft["accelerator"] != "cpu" and wanted > gpus:
        raise UserError(f"num_gpus={wanted}, but this machine has {gpus}; give num_gpus={gpus} or less.")


def _trainer(settings: Settings, callbacks: list[Any], interval: int, *, validates: bool) -> Trainer:
    machine, gpu = settings.machine, summary.on_gpu(settings)
    torch.set_float32_matmul_precision(machine.float32_matmul_precision)
    strategy: Any = "auto"
    if machine.processes > 1:
        # Every parameter that a task does not reach is frozen (reach.py), so nothing unused has to be searched for.
        strategy = DDPStrategy(
            process_group_backend="nccl" if gpu else "gloo", broadcast_buffers=False, gradient_as_bucket_view=True
        )
        if not gpu:
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // machine.num_gpus))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
        return Trainer(
            accelerator="gpu" if gpu else "cpu",
            devices=machine.num_gpus,
            num_nodes=machine.num_nodes,
            strategy=strategy,
            precision=machine.precision,
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
