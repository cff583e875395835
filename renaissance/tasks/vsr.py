"""VSR: is what the sentence says of places in the image true? (Liu et al., TACL 2023)

Finetuning learns the two answers by a head of its own; `task_probe_vsr` asks the head of image-text matching instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from renaissance.core.types import Example
from renaissance.data.dataset_specs import PROBES
from renaissance.data.samples import Sample
from renaissance.evaluation.metrics import MetricDetails, mean_score
from renaissance.evaluation.probes import category_metrics

from .base import Classification

CLASSES = ("false", "true")


class Vsr(Classification):
    """Two-class cross-entropy on the pooled vector; accuracy selects, and stands beside by relation."""

    sample_kind, label_column, classes = PROBES, "correct", CLASSES

    @classmethod
    def read(cls, labels: Sequence[str], sample: Sample) -> Example:
        """One sentence with its image."""
        [[label]], [text] = sample.values["correct"], sample.values["texts"]
        relation = sample.values["category"]
        metadata = {"id": sample.values["id"], "target": CLASSES[label], "relation": relation}
        return Example(sample.id, sample.images, text, where=sample.where, label=label, metadata=metadata)

    def score(self, frame: pd.DataFrame) -> dict[str, MetricDetails]:
        """Accuracy, and that of each relation: "accuracy_<relation>"."""
        names = category_metrics("accuracy", {*frame["relation"].dropna()} - {""})
        by_relation = {name: mean_score(frame[frame["relation"] == each]) for each, name in names.items()}
        return super().score(frame) | by_relation
