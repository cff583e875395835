"""Image classification: CIFAR-10, or any folder of class folders, as `prepare` writes them.

With `image_only` an image passes its encoder only (in a one-tower model, the blocks); else also the fusion, without a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from torch import Tensor, nn

from renaissance.core.errors import require, shortened
from renaissance.core.types import Example, LabelTargets, TaskOutput
from renaissance.data.dataset_specs import CLASSES
from renaissance.data.datasets import open_samples
from renaissance.data.samples import Sample
from renaissance.evaluation.metrics import MetricDetails, mean_score
from renaissance.models.heads import pool
from renaissance.settings.sections import Settings

from .base import Context, Downstream, Encodings

TOP = 5  # top-5 accuracy is a metric if there are more classes


class ImageClasses(Downstream):
    """A task whose samples are images with a class each."""

    sample_kind, label_column, labels_in_data = CLASSES, "label", 10  # CIFAR-10's

    def __init__(self, model: nn.Module, context: Context):
        super().__init__(model, context)
        settings = context.settings
        names = [*settings.objectives.loss_names]
        require(len(names) == 1, f"loss_names: {', '.join(names)} cannot run together: images of classes have no text.")
        require(
            self.labels,
            f"The files of datasets={list(settings.data.datasets)} do not name their classes; write them with "
            "`python run.py prepare with dataset=images`.",
        )

    @classmethod
    def read(cls, labels: Sequence[str], sample: Sample) -> Example:
        """One image; its class is hidden if the file has no labels."""
        label, name = sample.values["label"], sample.values["image_id"]
        metadata = {"id": sample.id if name is None else name}
        if label is not None:
            known = 0 <= label < len(labels)
            require(known, f"{sample.where} has the label {label}; the {len(labels):,} classes are numbered from 0.")
            metadata["target"] = labels[label]
        return Example(sample.id, sample.images, "", where=sample.where, label=label, metadata=metadata)

    @classmethod
    def label_names(cls, settings: Settings, known: Sequence[str] = ()) -> tuple[str, ...] | None:
        """The class names in the files of the run.

        Raises:
            UserError: files have different ones, or an evaluation has none.
        """
        name, root = cls.data_name(settings), settings.data.data_root
        splits = cls.splits(settings) if settings.run.test_only else ("train", *cls.splits(settings))
        require(
            splits,
            f"data_root='{root}' has no {name}_val.arrow or {name}_test.arrow; `python run.py prepare with dataset=images "
            f"name={name} root=<its download> data_root={root}` writes them.",
        )
        return class_names(name, root, splits)

    def rows(self, output: TaskOutput, targets: LabelTargets) -> list[dict[str, Any]]:
        """As `Downstream.rows`; if there are more than five classes also "top_5": whether the class is among the top five."""
        rows = super().rows(output, targets)
        if len(self.labels) > TOP:
            among = (output.logits.topk(TOP).indices == output.labels[:, None]).any(-1).tolist()
            for row, hit in zip(rows, among, strict=True):
                row["top_5"] = None if row["score"] is None else hit
        return rows

    def score(self, frame: pd.DataFrame) -> dict[str, MetricDetails]:
        """Top-1 and top-5 accuracy."""
        candidates = len(self.labels)
        metrics = {"accuracy": mean_score(frame, candidates=candidates)}
        if "top_5" in frame:
            majority = "majority", float(frame["target"].value_counts(normalize=True).iloc[:TOP].sum())
            metrics["accuracy_top_5"] = mean_score(frame, frame["top_5"], baseline=majority, candidates=candidates)
        return metrics


def class_names(name: str, root: str, splits: Sequence[str]) -> tuple[str, ...] | None:
    """The names of the classes in the files of these splits; None where they have none.

    Raises:
        UserError: files have different ones.
    """
    by_file: dict[str, tuple[str, ...]] = {}
    for split in splits:
        dataset = open_samples(name, split, root, sample_kind=CLASSES)
        for file, metadata in zip(dataset.describe(), dataset.schema_metadata(), strict=True):
            if metadata.get("labels"):
                by_file[file.file] = tuple(map(str, metadata["labels"]))
    first, expected = next(iter(by_file.items()), (None, None))
    for file, labels in by_file.items():
        require(
            labels == expected,
            f"The classes of {file} are {shortened(labels, 5)}, those of {first} are {shortened(expected or (), 5)}; "
            "prepare all splits in one go.",
        )
    return expected


class Images(ImageClasses):
    """Cross-entropy over the classes of a linear layer on the pooled image."""

    def __init__(self, model: nn.Module, context: Context):
        super().__init__(model, context)
        settings = context.settings
        self.image_only = settings.objectives.image_only
        require(
            self.image_only or not settings.model.fusion or model.image_pooler is not None,
            "image_only=False: pooler_type=single sums up the text alone, and these images have none; give "
            "pooler_type=double, or image_only=True.",
        )
        self.pooling = model.unimodal_pooling["image"]
        self.classifier = nn.Linear(
            model.unimodal_size["image"] if self.image_only else model.pooled_size, len(self.labels)
        )

    def logits(self, encodings: Encodings, targets: LabelTargets) -> Tensor:
        if self.image_only:
            pooled = pool(encodings.encoder_output("image"), self.pooling)
        else:
            pooled = encodings.fuse(None, encodings.images(), needs={"pooled"}).pooled
        return self.classifier(pooled).float()
