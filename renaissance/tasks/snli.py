"""SNLI-VE: does the image entail the sentence, contradict it, or neither? (Xie et al., 2019)

The sentence is the hypothesis. The image replaces the premise, its caption, which is not read.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from renaissance.core.types import Example
from renaissance.data.dataset_specs import ENTAILMENT, SNLI_LABELS
from renaissance.data.samples import Sample
from renaissance.evaluation.metrics import MetricDetails

from .base import Classification

CLASSES = tuple(sorted(SNLI_LABELS, key=SNLI_LABELS.__getitem__))


class Snli(Classification):
    """Three-class cross-entropy on the pooled vector; accuracy selects, the confusion matrix is reported too."""

    sample_kind, label_column, classes = ENTAILMENT, "labels", CLASSES

    @classmethod
    def read(cls, labels: Sequence[str], sample: Sample) -> Example:
        """One hypothesis with its image."""
        label, (_, hypothesis), name = (sample.values[column] for column in ("labels", "sentences", "image_id"))
        metadata = {"id": sample.id if name is None else f"{name}#{sample.id}", "group": sample.row}
        if label is not None:
            metadata["target"] = CLASSES[label]
        return Example(sample.id, sample.images, hypothesis, where=sample.where, label=label, metadata=metadata)

    def score(self, frame: pd.DataFrame) -> dict[str, MetricDetails]:
        """Accuracy and confusion matrix: "<class>_as_<prediction>" is the number of such pairs."""
        counts = frame.groupby(["target", "prediction"]).size()
        return super().score(frame) | {
            f"{right}_as_{guess}": MetricDetails(float(counts.get((right, guess), 0)))
            for right in CLASSES
            for guess in CLASSES
        }

    @classmethod
    def notes(cls, frame: pd.DataFrame, dataset: object) -> list[str]:
        known = frame["target"].notna().any()
        return ["<class>_as_<prediction> are numbers of pairs: the confusion matrix"] if known else []
