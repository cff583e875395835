"""What a task is, and the encodings that all tasks of a step share.

A task turns the encodings of a micro-batch and its own targets into a loss. It names the parts of `Fused` that it
reads, so that nothing else is computed, and asks `Encodings`, never a tower. One file a task; `tasks.task_class` finds
it by its file name.

An *objective* (masked words, matching) learns from any picture with its text. A *downstream* task reads a data set of its
own, and its numbers come from the rows that it makes of each example, brought together over all processes: so they are
the same for any number of processes and any size of batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from typing import Any, ClassVar, NamedTuple

import pandas as pd
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from renaissance.core.errors import UserError
from renaissance.core.types import IGNORED, Batch, Example, Fused, LabelTargets, TaskOutput, TextInput, Tokens
from renaissance.data.collate import LabelTargetBuilder, TargetBuilder
from renaissance.data.dataset_specs import DATASETS
from renaissance.data.datasets import open_samples, splits_of
from renaissance.data.samples import ReadSamples, Sample
from renaissance.evaluation.metrics import MetricDetails, mean_score
from renaissance.evaluation.ranking import FullSplit
from renaissance.models.heads import ClassifierHead
from renaissance.settings.sections import Settings


class Encodings:
    """The encodings of one micro-batch, each computed on first use and kept for the step.

    Args:
        model: a `TwoTower` or `OneTower`.
        batch: the micro-batch, on the model's device.
    """

    def __init__(self, model: nn.Module, batch: Batch):
        self.model, self.batch = model, batch
        self._texts: dict[int, tuple[TextInput, Tokens]] = {}
        self._images: Tokens | None = None

    def text(self, of: Tensor | TextInput | None = None) -> Tokens:
        """Texts, embedded: the batch's as they are, with other `input_ids` (B,L), such as masked ones, or other texts."""
        text = of if isinstance(of, TextInput) else self.batch.text
        if isinstance(of, Tensor):
            text = text._replace(input_ids=of)
        # Found by identity, which a tensor that is kept alive shares with no other.
        if (key := id(text.input_ids)) not in self._texts:
            self._texts[key] = text, self.model.embed_text(text)
        return self._texts[key][1]

    def images(self, index: Tensor | None = None) -> Tokens:
        """The pictures, embedded, in one pass: all own ones, or those that `index` (n,) names among the M."""
        if self._images is None:
            self._images = self.model.embed_image(self.batch.images)
        if index is not None:
            return self._images.select(index)
        hidden, mask = self._images
        own = len(self.batch.ids) if self.batch.image_counts is None else sum(self.batch.image_counts)
        return Tokens(hidden[:own], None if mask is None else mask[:own])

    def fuse(self, text: Tokens | None, image: Tokens | None, needs: Set[str], slot: int | Tensor = 0) -> Fused:
        """Text and image tokens through the fusion.

        Args:
            needs: the parts of the result that will be read.
            slot: 0 for the first picture of an example, 1 for the second; or (B,) int64, one for each pair.
        """
        return self.model.fuse(text, image, slot, needs)

    def encoder_output(self, side: str) -> Tokens:
        """One modality without the other, as its encoder leaves it: (B,N,H) of `model.unimodal_size[side]`.

        Args:
            side: "text" or "image".
        """
        text, images = self.batch.text, self.batch.images
        return self.model.unimodal_text(text) if side == "text" else self.model.unimodal_image(images)

    def unimodal(self, side: str) -> Tokens:
        """One side's embedded tokens without the other side, from the pass that fusing them needs anyway: (B,N,D).

        Args:
            side: "text" or "image".
        """
        return self.model.unimodal(self.text() if side == "text" else self.images(), side)


class Context(NamedTuple):
    """What a head is built for. Attributes: settings; vocab_size, V; labels, the vocabulary of answers, None = none."""

    settings: Settings
    vocab_size: int
    labels: tuple[str, ...] | None = None


class Task(nn.Module):
    """One objective or downstream task with its head.

    Attributes:
        selecting: the metric whose sum over tasks selects the best checkpoint.
        has_dataset: whether it reads a data set of its own.
        images_per_sample: own images of each sample that it reads; None = any number. Objectives need one.
        partial_validation: whether its validations during training leave out what the final one computes.
        means: names of the metrics that `measure` measures, beside the loss.
        starts_from: part of this task -> "<task>.<part>" of a checkpoint that it starts from where the checkpoint does
            not have this task.
        answer_scores: of a task that answers questions about images: logits (classes,) -> a score of each label; asked by
            `inference`.
    """

    selecting: ClassVar[str] = "accuracy"
    has_dataset: ClassVar[bool] = False
    images_per_sample: ClassVar[int | None] = 1
    partial_validation: ClassVar[bool] = False
    means: ClassVar[tuple[str, ...]] = ()
    starts_from: ClassVar[Mapping[str, str]] = {}
    answer_scores: ClassVar[Callable[[Tensor], Tensor] | None] = None

    def __init__(self, model: nn.Module, context: Context):
        """Builds the head for `model`, which has `width` and `pooled_size`; weights are drawn by the caller."""
        super().__init__()

    @staticmethod
    def target_builder(settings: Settings, tokenizer: PreTrainedTokenizerBase) -> TargetBuilder:
        """What builds this task's targets out of a `data.collate.MicroBatch`, in a loader process."""
        raise NotImplementedError

    def count(self, targets: Any) -> Tensor:
        """() float, how many items the loss of these targets sums over; known before anything is computed."""
        return (targets.labels != IGNORED).sum().float()

    def logits(self, encodings: Encodings, targets: Any) -> Tensor:
        """(B,classes) logits of `targets.labels`, for the default `forward`."""
        raise NotImplementedError

    def forward(self, encodings: Encodings, targets: Any) -> TaskOutput:
        """The cross-entropy of `logits`."""
        logits = self.logits(encodings, targets)
        loss = F.cross_entropy(logits, targets.labels, reduction="sum")
        return TaskOutput(loss, self.count(targets), logits, targets.labels)

    def measure(self, output: TaskOutput, targets: Any) -> dict[str, tuple[Tensor, Tensor]]:
        """Of each of `means`, a metric that is a mean, the sum and the count over a micro-batch, both ()."""
        return {}

    def target_shares(self, targets: Any) -> dict[str, Tensor]:
        """Shares in 0..1 that tell something of the targets themselves, by name; logged while training."""
        return {}

    def warnings(self, shares: Mapping[str, float]) -> list[str]:
        """Sentences that a user should read about tallied or evaluated shares."""
        return []

    def check(self, heads: Mapping[str, Task]) -> None:
        """Refuses, with a `UserError`, an evaluation that these heads, as they are now, cannot give a number for."""

    def needs_batches(self, selecting: bool) -> bool:
        """Whether a split's batches are evaluated; not where `evaluate_full_split` does it.

        Args:
            selecting: whether the result selects the best checkpoint while training goes on.
        """
        return True


class Downstream(Task):
    """A task with a data set of its own, and with the metrics that its benchmark defines.

    Attributes:
        sample_kind: what a sample of its data set is (`dataset_specs.QUESTIONS` ...).
        answer: the column without which a split is unlabelled.
        classes: the vocabulary of answers where it is always the same.
        head_by_dataset: whether its data sets share no head and no answers, such as the tasks of GLUE.
        labels_in_data: 0 where `label_names` needs no data file; else how many answers there usually are.
        limited_by_image: whether `eval_limit` counts pictures, each with all of its samples.
        dummy_label: of `dummy_sample`.
        labels: the vocabulary of answers, None where there is none.
    """

    has_dataset = True
    sample_kind: ClassVar[str]
    answer: ClassVar[str] = ""
    classes: ClassVar[tuple[str, ...]] = ()
    head_by_dataset: ClassVar[bool] = False
    labels_in_data: ClassVar[int] = 0
    limited_by_image: ClassVar[bool] = False
    dummy_label: ClassVar[Any] = 0

    def __init__(self, model: nn.Module, context: Context):
        super().__init__(model, context)
        self.labels = context.labels

    @classmethod
    def data_name(cls, settings: Settings) -> str:
        """The one data set that the run reads.

        Raises:
            UserError: `datasets` names several.
        """
        names = settings.data.datasets
        if len(names) != 1:
            raise UserError(f"datasets={list(names)}: this task reads one data set at a time; name one.")
        return names[0]

    @classmethod
    def splits(cls, settings: Settings) -> tuple[str, ...]:
        """The evaluation splits that are there; "val", which selects, comes first where there is one."""
        there = splits_of(cls.data_name(settings), settings.data.data_root, sample_kind=cls.sample_kind)
        return tuple(sorted((split for split in there if split != "train"), key=lambda split: split != "val"))

    @classmethod
    def open(cls, settings: Settings, split: str, labels: Sequence[str] | None) -> ReadSamples:
        """Opens one split.

        Raises:
            UserError: a missing, unusable or, for training, unlabelled file.
        """
        name, data = cls.data_name(settings), settings.data
        dataset = open_samples(name, split, data.data_root, sample_kind=cls.sample_kind)
        hidden = name in DATASETS and split in DATASETS[name].hidden_splits
        return ReadSamples(dataset, partial(cls.read, tuple(labels or ())), cls.answer, hidden=hidden)

    @classmethod
    def read(cls, labels: Sequence[str], sample: Sample) -> Example:
        """What a stored sample is to this task. `metadata` hold "id", and "target" where it is known.

        Raises:
            UserError: the sample holds what no file of the data set does.
        """
        raise NotImplementedError

    @classmethod
    def label_names(cls, settings: Settings, known: Sequence[str] = ()) -> tuple[str, ...] | None:
        """The vocabulary of answers as the data have it, () where there is none; None where the data cannot tell.

        Args:
            settings: of the run. known: the vocabulary of its checkpoint, for what the data leave open.
        """
        return cls.classes

    @classmethod
    def dummy_sample(cls, image: bytes) -> Example:
        """A made-up sample, by which it is traced what the loss depends on."""
        count, boxes = (
            (1, [[0, 0, 8, 8], [4, 4, 8, 8]]) if cls.images_per_sample is None else (cls.images_per_sample, None)
        )
        text, images = "two small pictures", (image,) * count
        return Example(0, images, text, label=cls.dummy_label, metadata={"id": 0}, boxes=boxes)

    @staticmethod
    def target_builder(settings: Settings, tokenizer: PreTrainedTokenizerBase) -> TargetBuilder:
        return LabelTargetBuilder()

    def rows(self, output: TaskOutput, targets: LabelTargets) -> list[dict[str, Any]]:
        """One row an example, for the metrics and the predictions file.

        Returns:
            The example's metadata with "prediction" and "score": what it adds to the selecting metric where that is a mean,
            None where the answer is hidden. Here: the class with the highest logit, and whether it is right, which nothing is
            where a logit is no number.
        """
        found = zip(targets.metadata, output.labels.tolist(), guesses(output.logits), strict=True)
        return [
            {
                **metadata,
                "prediction": self.labels[guess] if self.labels else guess,
                "score": None if label == IGNORED else float(guess == label and number),
            }
            for metadata, label, (guess, number) in found
        ]

    def score(self, frame: pd.DataFrame) -> dict[str, MetricDetails]:
        """Every metric of a labelled split, from its rows."""
        known = frame["candidates"][frame["target"].notna()] if "candidates" in frame else None
        return {"accuracy": mean_score(frame, candidates=None if known is None else float(known.mean()))}

    @classmethod
    def baseline(cls, frame: pd.DataFrame) -> tuple[str, float]:
        """What a model that sees nothing gets in the selecting metric: here the most frequent answer, always."""
        return "majority", float(frame["target"].value_counts(normalize=True).iloc[0])

    @classmethod
    def notes(cls, frame: pd.DataFrame, dataset: Any) -> list[str]:
        """Sentences that belong beside the numbers."""
        return []

    @classmethod
    def submission(cls, frame: pd.DataFrame, split: str) -> dict[str, bytes]:
        """The files that the benchmark's server accepts, by name; none where it has no server for this split."""
        return {}

    def evaluate_full_split(
        self, model: nn.Module, heads: nn.ModuleDict, split: FullSplit
    ) -> tuple[dict[str, pd.DataFrame], dict[str, MetricDetails]]:
        """Evaluates a split of which `needs_batches` needs none; all modules are in eval mode.

        Returns:
            What predictions/ keeps, by what the names of the files end with ("": the rows), and the metrics.
        """
        raise NotImplementedError


class Classification(Downstream):
    """A downstream task that classifies the pooled vector of each text with its image, by the head of ViLT."""

    def __init__(self, model: nn.Module, context: Context):
        super().__init__(model, context)
        self.head = ClassifierHead(model.pooled_size, 2 * model.width, len(self.labels))

    def logits(self, encodings: Encodings, targets: Any) -> Tensor:
        return self.head(encodings.fuse(encodings.text(), encodings.images(), needs={"pooled"}).pooled)


def guesses(logits: Tensor) -> list[tuple[int, bool]]:
    """For each row of logits (B, C) the class with the highest, and whether all of them are numbers."""
    numbers = ~logits.isnan().any(-1)
    return list(zip(logits.argmax(-1).tolist(), numbers.tolist(), strict=True))
