"""The data of a run, opened and checked, and the loaders of each process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning import LightningDataModule, Trainer
from torch import Tensor

from renaissance.core.errors import UserError
from renaissance.data.collate import Collate, Samples, Source, TargetBuilder
from renaissance.data.dataset_specs import CAPTIONS, DATASETS
from renaissance.data.datasets import open_pairs, splits_of
from renaissance.data.encoded import refuse_without_decoder
from renaissance.data.glue.specs import GLUE
from renaissance.data.limited import limited
from renaissance.data.loader import StepLoader
from renaissance.data.pairs import PairDataset
from renaissance.data.sampler import EvalBatches, Pool, TrainSteps
from renaissance.data.text import COMPILED_PAD_MULTIPLE, PAD_MULTIPLE
from renaissance.data.workers import remove_socket_folder
from renaissance.evaluation.ranking import FullSplit
from renaissance.runs.report import RunFolder
from renaissance.settings.sections import Settings
from renaissance.tasks import downstream_task, task_class

from .devices import all_gather
from .image_inputs import patch_drop, transform_of
from .optim import steps_of
from .overview import splits_not_there
from .resolution import Resolved

if TYPE_CHECKING:
    from .frozen_tokens import TokenCache


@dataclass
class RunData:
    """What a run reads.

    Attributes:
        samples: the data sets by split, evaluation splits in the order in which they are evaluated; None where there is
            no such split, or the run does not read it.
        target_builders: builds the targets of each task.
        epoch_size: number of training samples of an epoch: those of `datasets`.
        first: positions of the training samples of `first_datasets`.
        tokens: of the images, where they are read instead of these.
    """

    samples: dict[str, Samples | None]
    target_builders: dict[str, TargetBuilder]
    epoch_size: int
    first: tuple[range, ...] = ()
    tokens: TokenCache | None = None

    @property
    def evaluated(self) -> tuple[str, ...]:
        """The evaluation splits."""
        return tuple(split for split, samples in self.samples.items() if split != "train" and samples is not None)

    def pool(self, settings: Settings, steps: int) -> Pool:
        """What the steps of a run of so many show; of the first stage at least one, and of what follows, too."""
        first = max(1, steps_of(settings.data.first_steps, steps)) if self.first else 0
        return Pool(self.epoch_size, min(first, steps - 1) if settings.run.fast_dev_run else first, self.first)


def read_data(resolved: Resolved) -> RunData:
    """Opens what the run reads; every file is checked before anything is computed.

    What `test_only` does not find is left out, and noted for the screen.
    """
    settings = resolved.settings
    names, limit = settings.objectives.loss_names, settings.data.eval_limit
    target_builders = {name: task_class(name).target_builder(settings, resolved.tokenizer) for name in names}
    reading = downstream_task(names)
    task = None if reading is None else task_class(reading)
    if task is None:
        splits, opened = ("val", "test"), partial(_pairs, settings)
    else:
        splits, opened = task.splits(settings), partial(task.open, settings, labels=resolved.labels.get(reading))
    samples: dict[str, Samples | None] = {"train": None, "val": None}
    if not settings.run.test_only:
        samples["train"] = opened(split="train")
    samples |= {split: opened(split=split) for split in splits}
    if settings.run.test_only:
        absent, where = splits_not_there(settings.data.datasets, {**DATASETS, **GLUE}, samples), settings.data.data_root
        if absent:
            resolved.notes.append(f"not in data_root={where}, so not evaluated: {', '.join(absent)}")
    by_image = task is not None and task.limited_by_image
    train, data, first = samples["train"], settings.data, ()
    epoch_size = len(train or ())
    if data.first_datasets and train:
        first, epoch_size = train.ids_of(data.first_datasets), sum(map(len, train.ids_of(data.datasets)))
    return RunData(
        {split: limited(each, None if split == "train" else limit, by_image) for split, each in samples.items()},
        target_builders,
        epoch_size,
        first,
    )


def _pairs(settings: Settings, split: str) -> PairDataset | None:
    """A split of the mix of captions; an evaluation alone makes do with the data sets that have it."""
    data, names = settings.data, settings.data.datasets
    if settings.run.test_only:
        there = {name: splits_of(name, data.data_root, sample_kind=CAPTIONS) for name in names}
        if {"val", "test"} & {split for each in there.values() for split in each}:
            names = [name for name in names if split in there[name]]
    if not names:
        return None
    return open_pairs(
        names,
        split,
        data.data_root,
        first=data.first_datasets,
        allow_missing_shards=data.allow_missing_shards,
        image_column=data.image_column,
        caption_column=data.caption_column,
    )


class Loaders(LightningDataModule):
    """Makes the loaders of a process, when Lightning has given it its rank.

    Args:
        resolved, data: of the run. folder: where evaluations of a whole split print.
        steps: the first and the last step of training.
        stop_requested: whether the run was asked to stop.
        split: of `test_dataloader`.
    """

    def __init__(
        self,
        resolved: Resolved,
        data: RunData,
        folder: RunFolder,
        steps: tuple[int, int] = (0, 0),
        stop_requested: Callable[[], bool] = lambda: False,
        split: str = "test",
    ):
        super().__init__()
        self.settings, self.tokenizer, self.data, self.folder = resolved.settings, resolved.tokenizer, data, folder
        self.steps, self.stop_requested, self.split = steps, stop_requested, split
        self.made: list[StepLoader] = []
        self.copies: torch.cuda.Stream | None = None
        self.blind = resolved.image["mean"] if resolved.settings.objectives.blind else None

    def setup(self, stage: str) -> None:
        """Called by Lightning on every process: makes what is missing of the tokens that are read in the place of images."""
        if self.data.tokens is not None:
            model, device = self.trainer.lightning_module.model, self.trainer.strategy.root_device
            self.data.tokens.fill(model, device, self.trainer.global_rank, self.trainer.world_size)

    def of_split(self, split: str) -> Loaders:
        """The same, whose `test_dataloader` is that of a split."""
        other = copy(self)
        other.split = split
        return other

    def train_dataloader(self) -> StepLoader:
        """The rest of the run; an "epoch" of Lightning is the whole run."""
        first, last = self.steps
        data = self.settings.data
        if self.settings.machine.decode_on_gpu:
            refuse_without_decoder(self.trainer.strategy.root_device)
        sampler = TrainSteps(
            self.data.pool(self.settings, last),
            data.batch_size,
            data.per_gpu_batchsize,
            self.trainer.global_rank,
            self.trainer.world_size,
            self.settings.run.seed,
            # With a loader of no steps, Lightning would leave out a validation that is still to come as well.
            min(first, last - 1),
            last,
        )
        return self._loader(sampler, "train", data.per_gpu_batchsize, raises=False)

    def val_dataloader(self) -> StepLoader | list[Any]:
        return self._evaluation("val", selecting=True) if self.data.samples["val"] is not None else []

    def test_dataloader(self) -> StepLoader:
        return self._evaluation(self.split, selecting=False)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Images may be decoded on their way (`decode_on_gpu`): one that cannot be ends the run as it would in a loader."""
        try:
            if device.type != "cuda":
                return super().transfer_batch_to_device(batch, device, dataloader_idx)
            # The processor is a step ahead, so on a stream of their own the copies run beside the step before.
            self.copies = self.copies or torch.cuda.Stream(device)
            with torch.cuda.stream(self.copies):
                moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        except UserError as error:
            return error
        stream = torch.cuda.current_stream(device)
        stream.wait_stream(self.copies)
        apply_to_collection(
            moved, Tensor, lambda tensor: tensor.record_stream(stream)
        )  # until then its memory is taken
        return moved

    def _evaluation(self, split: str, *, selecting: bool) -> StepLoader:
        """Loads a split once; where no task evaluates batches, a single one of no samples, as every process has to meet."""
        batches = self.trainer.lightning_module.batch_tasks(selecting=selecting)
        count, size = len(self.data.samples[split]) if batches else 0, self.settings.data.eval_batch_size
        sampler = EvalBatches(count, size, self.trainer.global_rank, self.trainer.world_size)
        return self._loader(sampler, split, size, raises=not selecting)

    def close(self) -> None:
        """Ends all loader processes, whatever they are doing."""
        for loader in self.made:
            loader.kill()
        self.made.clear()
        remove_socket_folder()

    def labelled(self, split: str) -> bool:
        """Whether a split has the right answers."""
        return self.data.samples[split].labelled

    def full_split(self, split: str, trainer: Trainer) -> FullSplit:
        """A split for tasks that evaluate it as a whole."""
        collate = self._collate(split, self.settings.data.eval_batch_size, {})
        workers, say = self.settings.data.num_workers, self.folder.say
        return FullSplit(collate, workers, trainer.global_rank, trainer.world_size, all_gather, say, split)

    def source(self, split: str) -> Source:
        """The samples of a split with the transform of their images."""
        # An evaluation decodes as everywhere else, so that its numbers do not depend on the decoder.
        on_device = split == "train" and self.settings.machine.decode_on_gpu
        transform, pool = transform_of(self.settings, split), None
        if split == "train":
            pool = self.data.pool(self.settings, self.steps[1])
        return Source(self.data.samples[split], transform, self.blind, on_device=on_device, pool=pool)

    def _collate(self, split: str, micro: int, builders: Mapping[str, TargetBuilder]) -> Collate:
        train = split == "train"
        return Collate(
            self.tokenizer,
            self.settings.model.max_text_len,
            micro,
            builders,
            self.source(split),
            multiple=COMPILED_PAD_MULTIPLE if self.settings.machine.compile and train else PAD_MULTIPLE,
            patch_drop=patch_drop(self.settings, self.steps[1]) if train else None,
        )

    def _loader(self, sampler: Any, split: str, micro: int, *, raises: bool = True) -> StepLoader:
        collate = self._collate(split, micro, self.data.target_builders)
        pin = self.trainer.strategy.root_device.type == "cuda"
        workers = self.settings.data.num_workers
        self.made.append(StepLoader(sampler, collate, workers, pin, raises=raises, stop_requested=self.stop_requested))
        return self.made[-1]
