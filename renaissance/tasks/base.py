"""Base classes of tasks.

A task turns the encodings of a micro-batch and its own targets into a loss. It names the parts of `Fused` that it reads, so
that nothing else is computed, and uses `Encodings`, never a tower.

An *objective* (masked language modelling, matching) learns from any image with its text. A *downstream* task reads a data
set of its own. It makes one row an example; the metrics are computed from the gathered rows of all processes, so they depend
neither on the number of processes nor on the batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from typing import Any, ClassVar, NamedTuple

import pandas as pd
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from renaissance.core.errors import require
from renaissance.core.types import IGNORED, Example, LabelTargets, TaskOutput
from renaissance.data.collate import TargetBuilder, label_targets
from renaissance.data.dataset_specs import DATASETS
from renaissance.data.datasets import open_samples, splits_of
from renaissance.data.samples import Sample, TaskDataset
from renaissance.evaluation.metrics import MetricDetails, mean_score
from renaissance.evaluation.ranking import FullSplit
from renaissance.models.heads import ClassifierHead, brier_scores, confidences, predicted_classes
from renaissance.settings.sections import Settings

from .encodings import Encodings


class Context(NamedTuple):
    """What heads are built from. Attributes: settings; vocab_size, V; labels, the vocabulary of answers; tokenizer."""

    settings: Settings
    vocab_size: int
    labels: tuple[str, ...] | None = None
    tokenizer: PreTrainedTokenizerBase | None = None


class Task(nn.Module):
    """One objective or downstream task with its head.

    Attributes:
        selecting: the metric whose sum over tasks selects the best checkpoint.
        learns: whether steps train it; else it is for `test_only` alone.
        has_loss: whether its loss is a number of an evaluation.
        has_dataset: whether it reads a data set of its own.
        keeps_rows: whether `rows` makes one row an example, for the predictions file.
        images_per_sample: images of each sample that it reads; None = any number. Objectives need one.
        partial_validation: whether validations during training compute less than the final evaluation.
        mean_metrics: names of the metrics that `measure` sums and counts, besides the loss.
        starts_from: part of this task -> "<task>.<part>" that initializes it, if a checkpoint lacks this task.
        answer_scores: for tasks that answer a text about an image: logits (classes,) -> score of each label; for
            `inference`.
    """

    selecting: ClassVar[str] = "accuracy"
    learns: ClassVar[bool] = True
    has_loss: ClassVar[bool] = True
    has_dataset: ClassVar[bool] = False
    keeps_rows: ClassVar[bool] = False
    images_per_sample: ClassVar[int | None] = 1
    partial_validation: ClassVar[bool] = False
    mean_metrics: ClassVar[tuple[str, ...]] = ()
    starts_from: ClassVar[Mapping[str, str]] = {}
    answer_scores: ClassVar[Callable[[Tensor], Tensor] | None] = None

    def __init__(self, model: nn.Module, context: Context):
        """Builds the head for `model`, which has `width` and `pooled_size`; the caller initialises its weights."""
        super().__init__()

    @staticmethod
    def target_builder(settings: Settings, tokenizer: PreTrainedTokenizerBase) -> TargetBuilder:
        """Builds the targets of a `data.collate.MicroBatch`; picklable, as it runs in loader processes."""
        raise NotImplementedError

    def count(self, targets: Any) -> Tensor:
        """() float, number of items that the loss sums over; of the targets alone, in training before they go to the device."""
        return (targets.labels != IGNORED).sum().float()

    def logits(self, encodings: Encodings, targets: Any) -> Tensor:
        """(B,classes) logits of `targets.labels`, for the default `forward`."""
        raise NotImplementedError

    def forward(self, encodings: Encodings, targets: Any) -> TaskOutput:
        """The cross-entropy of `logits`. In training it reads nothing of the device, to wait for nothing (ARCHITECTURE.md)."""
        logits = self.logits(encodings, targets)
        loss = F.cross_entropy(logits, targets.labels, reduction="sum")
        return TaskOutput(loss, self.count(targets), logits, targets.labels)

    @classmethod
    def means(cls) -> tuple[str, ...]:
        """Names of what an evaluation of batches sums and counts."""
        return (*["loss"] * cls.has_loss, *cls.mean_metrics)

    def measure(self, output: TaskOutput, targets: Any) -> dict[str, tuple[Tensor, Tensor]]:
        """Sum and count, both (), over a micro-batch, of each of `mean_metrics`."""
        return {}

    def shown(self, output: TaskOutput, targets: Any, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, str]]:
        """What loggers show of each example of a micro-batch besides picture and text, by heading; [] for nothing."""
        return []

    def target_shares(self, targets: Any) -> dict[str, Tensor]:
        """Shares in 0..1 that describe the targets, by name, before they go to the device; logged during training."""
        return {}

    def warnings(self, shares: Mapping[str, float]) -> list[str]:
        """Warnings about logged or evaluated shares."""
        return []

    def use_loaded(self, parts: Set[str], where: str) -> list[str]:
        """Called once before an evaluation without training (`test_only`), when the weights are in.

        Args:
            parts: names of its submodules and parameters ("head") that the checkpoint brought, directly or by `starts_from`.
            where: names the checkpoint and its heads, for sentences.

        Returns: lines for the report. Raises a UserError if it cannot be evaluated with these parts alone.
        """
        return []

    def check(self, heads: Mapping[str, Task]) -> None:
        """Raises a UserError if the heads cannot be evaluated, such as an untrained one."""

    def split_begins(self, split: FullSplit) -> None:
        """Called before the batches of a split are evaluated."""

    def needs_batches(self, selecting: bool) -> bool:
        """Whether the evaluation iterates over the batches of a split; else `evaluate_full_split` is called.

        Args:
            selecting: whether the result selects the best checkpoint during training.
        """
        return True


class Downstream(Task):
    """A task with a data set of its own and the metrics of its benchmark.

    Attributes:
        sample_kind: what a sample of its data set is (`dataset_specs.QUESTIONS` ...).
        label_column: the column that only a labelled split has.
        classes: the vocabulary of answers, if it is fixed.
        head_by_dataset: whether each data set has a head and answers of its own, such as the tasks of GLUE.
        labels_in_data: usual number of answers, if `label_names` reads them from data files; else 0.
        limited_by_image: whether `eval_limit` counts images, each with all of its samples.
        dummy_label: of `dummy_sample`.
        labels: the vocabulary of answers, None if there is none.
    """

    has_dataset = keeps_rows = True
    sample_kind: ClassVar[str]
    label_column: ClassVar[str] = ""
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
        require(len(names) == 1, f"datasets={list(names)}: this task reads one data set at a time; name one.")
        return names[0]

    @classmethod
    def splits(cls, settings: Settings) -> tuple[str, ...]:
        """The evaluation splits whose files exist; "val", which selects, is the first."""
        available = splits_of(cls.data_name(settings), settings.data.data_root, sample_kind=cls.sample_kind)
        return tuple(sorted((split for split in available if split != "train"), key=lambda split: split != "val"))

    @classmethod
    def open(cls, settings: Settings, split: str, labels: Sequence[str] | None, *, images: bool = True) -> TaskDataset:
        """Opens one split; its images may be left out.

        Raises:
            UserError: a missing, unusable or, for training, unlabelled file.
        """
        name, data = cls.data_name(settings), settings.data
        dataset = open_samples(name, split, data.data_root, sample_kind=cls.sample_kind, images=images)
        hidden = name in DATASETS and split in DATASETS[name].hidden_splits
        return TaskDataset(dataset, partial(cls.read, tuple(labels or ())), cls.label_column, hidden=hidden)

    @classmethod
    def read(cls, labels: Sequence[str], sample: Sample) -> Example:
        """A stored sample as an example of this task. `metadata` has "id", and "target" if it is known.

        Raises:
            UserError: the sample is not valid.
        """
        raise NotImplementedError

    @classmethod
    def label_names(cls, settings: Settings, known: Sequence[str] = ()) -> tuple[str, ...] | None:
        """The vocabulary of answers in the data, () if there is none; None if the data do not determine it.

        Args:
            settings: of the run. known: the vocabulary of its checkpoint, for labels that occur in no file.
        """
        return cls.classes

    @classmethod
    def dummy_sample(cls, image: bytes) -> Example:
        """An example for tracing which parameters the loss depends on."""
        boxes = [[0, 0, 8, 8], [4, 4, 8, 8]] if cls.images_per_sample is None else None
        images = (image,) * (1 if cls.images_per_sample is None else cls.images_per_sample)
        return Example(0, images, "two small images", label=cls.dummy_label, metadata={"id": 0}, boxes=boxes)

    @staticmethod
    def target_builder(settings: Settings, tokenizer: PreTrainedTokenizerBase) -> TargetBuilder:
        return label_targets

    def use_loaded(self, parts: Set[str], where: str) -> list[str]:
        require(
            parts >= {name.partition(".")[0] for name in self.state_dict()},
            f"{where} has no trained head of this task, so there is nothing to evaluate; leave test_only out to finetune it "
            "first.",
        )
        return []

    def rows(self, output: TaskOutput, targets: LabelTargets) -> list[dict[str, Any]]:
        """One row an example, for the metrics and the predictions file.

        Returns:
            The example's metadata with "prediction"; "confidence", its probability by the model; "score": its contribution to
            the selecting metric if that is a mean, None if the answer is hidden; and "brier" (`brier_scores`). Here: the
            class with the highest logit, and 1 if it is right, else 0; 0 if a logit is NaN.
        """
        columns = (
            predicted_classes(output.logits),
            confidences(output.logits),
            brier_scores(output.logits, output.labels),
        )
        return [
            {
                **metadata,
                "prediction": self.labels[guess] if self.labels else guess,
                "score": None if label == IGNORED else float(guess == label and number),
                "confidence": confidence,
                "brier": brier,
            }
            for metadata, label, (guess, number), confidence, brier in zip(
                targets.metadata, output.labels.tolist(), *columns, strict=True
            )
        ]

    def shown(
        self, output: TaskOutput, targets: LabelTargets, tokenizer: PreTrainedTokenizerBase
    ) -> list[dict[str, str]]:
        columns = ("target", "prediction")
        return [{key: str(row[key]) for key in columns if key in row} for row in self.rows(output, targets)]

    def score(self, frame: pd.DataFrame) -> dict[str, MetricDetails]:
        """All metrics of a labelled split, from its rows."""
        known = frame["candidates"][frame["target"].notna()] if "candidates" in frame else None
        return {"accuracy": mean_score(frame, candidates=None if known is None else float(known.mean()))}

    @classmethod
    def baseline(cls, frame: pd.DataFrame) -> tuple[str, float]:
        """Name and selecting metric of a baseline that sees no input: here the most frequent answer."""
        return "majority", float(frame["target"].value_counts(normalize=True).iloc[0])

    @classmethod
    def notes(cls, frame: pd.DataFrame, dataset: Any) -> list[str]:
        """Notes that are printed with the metrics."""
        return []

    @classmethod
    def submission(cls, frame: pd.DataFrame, split: str) -> dict[str, bytes]:
        """Files for the benchmark's server, by name; none if it does not score this split."""
        return {}

    @classmethod
    def summary(cls, metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, str]:
        """Files of the run folder about the metrics of all splits, by name; see `summaries`."""
        return {}

    def evaluate_full_split(
        self, model: nn.Module, heads: nn.ModuleDict, split: FullSplit
    ) -> tuple[dict[str, pd.DataFrame], dict[str, MetricDetails]]:
        """Evaluates a split as a whole, if `needs_batches` is False; all modules are in eval mode.

        Returns:
            The tables that predictions/ keeps, by the ending of their names ("": the rows), and the metrics.
        """
        raise NotImplementedError


class Classification(Downstream):
    """A downstream task that classifies the pooled vector of each text with its image, by the head of ViLT."""

    answer_scores = staticmethod(partial(F.softmax, dim=-1))

    def __init__(self, model: nn.Module, context: Context):
        super().__init__(model, context)
        self.head = ClassifierHead(model.pooled_size, 2 * model.width, len(self.labels))

    def logits(self, encodings: Encodings, targets: Any) -> Tensor:
        return self.head(encodings.fuse(encodings.text(), encodings.images(), needs={"pooled"}).pooled)
