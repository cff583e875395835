"""The task: one class of the answers' vocabulary, scored by GQA's official accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from renaissance.core.types import Example, LabelTargets, TaskOutput
from renaissance.data.datasets import open_samples
from renaissance.data.samples import Sample
from renaissance.evaluation.metrics import MetricDetails, mean_score
from renaissance.settings.sections import Settings
from renaissance.tasks import Classification

from . import SAMPLE_KIND


class Gqa(Classification):
    """Cross-entropy over the answers of train and val on the pooled vector."""

    sample_kind, label_column, labels_in_data = SAMPLE_KIND, "answers", 1_878

    @classmethod
    def label_names(cls, settings: Settings, known: Sequence[str] = ()) -> tuple[str, ...] | None:
        """The vocabulary, which every file holds."""
        split = cls.splits(settings)[0] if settings.run.test_only else "train"
        file = open_samples(cls.data_name(settings), split, settings.data.data_root, sample_kind=SAMPLE_KIND)
        return tuple(file.schema_metadata()[0]["labels"])

    @classmethod
    def read(cls, labels: Sequence[str], sample: Sample) -> Example:
        """One question. An answer outside the vocabulary teaches nothing; the question counts all the same."""
        values = sample.values
        metadata = {"id": values["question_id"], "group": sample.row, "structural": values["structural"]}
        label = labels.index(values["answers"]) if values["answers"] in labels else None
        return Example(
            sample.id,
            sample.images,
            values["questions"],
            where=sample.where,
            label=label,
            metadata=metadata | {"target": values["answers"]},
        )

    def rows(self, output: TaskOutput, targets: LabelTargets) -> list[dict[str, Any]]:
        """As GQA's eval.py: an answer is right where it is the annotated one, letter for letter."""
        return [row | {"score": row["score"] or 0.0} for row in super().rows(output, targets)]

    def score(self, frame: pd.DataFrame) -> dict[str, MetricDetails]:
        """Accuracy, and that of open questions, which ask for a word, and of binary ones, which offer the answers."""
        is_open = frame["structural"] == "query"
        return super().score(frame) | {
            "accuracy_open": mean_score(frame, frame["score"].where(is_open)),
            "accuracy_binary": mean_score(frame, frame["score"].where(~is_open)),
        }
