"""GLUE: nine tasks about a sentence or a pair of sentences, with the metrics and the submission files of its server.

It measures a text encoder's knowledge of language after training with images. With `text_only` the text passes its encoder
only (in a one-tower model, the blocks); else also the fusion, without an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from renaissance.core.types import IGNORED, Example, LabelTargets, TaskOutput
from renaissance.data.columns import clean
from renaissance.data.glue import GlueDataset, glue_splits, glue_task
from renaissance.data.glue.specs import GLUE, GLUE_SCORES
from renaissance.data.samples import Sample, TaskDataset
from renaissance.evaluation.metrics import MetricDetails
from renaissance.models.heads import Pooler
from renaissance.settings.sections import Section, Settings

from .base import Context, Downstream, Encodings

DROP_RATE = 0.1  # of the head, if the encoder has no dropout probability (BERT's)
_POSITIVE = 1  # the class that F1 counts: equivalent, duplicate


class Glue(Downstream):
    """Cross-entropy over the classes of the task that `datasets` names, or, for STS-B, the squared error of its score.

    The head is that of BERT (Devlin et al. 2019): pooler, dropout, linear. If a task has two metrics, their mean selects, as
    GLUE averages them.
    """

    sample_kind, label_column, images_per_sample, head_by_dataset = "sentences", "label", 0, True

    def __init__(self, model: nn.Module, context: Context):
        super().__init__(model, context)
        settings = context.settings
        self.task = glue_task(self.data_name(settings))
        self.selecting = "_and_".join(self.task.metrics)
        text_only = settings.objectives.text_only
        size = model.unimodal_size["text"] if text_only else model.pooled_size
        self.pooler = Pooler(size, model.unimodal_pooling["text"]) if text_only else None
        self.dropout = nn.Dropout(_drop_rate(settings.model, text_only))
        self.classifier = nn.Linear(size, len(self.task.labels) or 1)

    @classmethod
    def splits(cls, settings: Settings) -> tuple[str, ...]:
        available = glue_splits(cls.data_name(settings), settings.data.data_root)
        return tuple(split for split in available if split != "train")

    @classmethod
    def open(cls, settings: Settings, split: str, labels: Sequence[str] | None) -> TaskDataset:
        samples = GlueDataset(settings.data.data_root, cls.data_name(settings), split, training=split == "train")
        return TaskDataset(samples, partial(_read, samples.name), cls.label_column)

    @classmethod
    def label_names(cls, settings: Settings, known: Sequence[str] = ()) -> tuple[str, ...] | None:
        return glue_task(cls.data_name(settings)).labels

    def logits(self, encodings: Encodings, targets: LabelTargets) -> Tensor:
        if self.pooler is None:
            pooled = encodings.fuse(encodings.text(), None, needs={"pooled"}).pooled
        else:
            pooled = self.pooler(encodings.encoder_output("text"))
        logits = self.classifier(self.dropout(pooled)).float()
        return logits if self.task.labels else logits.squeeze(-1)

    def forward(self, encodings: Encodings, targets: LabelTargets) -> TaskOutput:
        if self.task.labels:
            return super().forward(encodings, targets)
        scores, labels = self.logits(encodings, targets), targets.labels
        loss = torch.where(labels != IGNORED, scores - labels, 0).square().sum()
        return TaskOutput(loss, self.count(targets), scores, labels)

    def rows(self, output: TaskOutput, targets: LabelTargets) -> list[dict[str, Any]]:
        """As `Downstream.rows`; for STS-B "score" is the negative squared error, so that more is better."""
        if self.task.labels:
            return super().rows(output, targets)
        examples = zip(targets.metadata, output.logits.tolist(), output.labels.tolist(), strict=True)
        return [
            {**metadata, "prediction": guess, "score": None if score == IGNORED else -((guess - score) ** 2)}
            for metadata, guess, score in examples
        ]

    def score(self, frame: pd.DataFrame) -> dict[str, MetricDetails]:
        """The metrics of the task, and the mean of two.

        With constant predictions a correlation is NaN; Matthews' correlation and F1 are 0, as in scikit-learn.
        """
        return {
            name: MetricDetails(value, (frame,), None if name == "accuracy" else partial(_value, name))
            for name, value in _values(frame).items()
        }

    @classmethod
    def baseline(cls, frame: pd.DataFrame) -> tuple[str, float]:
        """Always the most frequent answer; for correlations with scores 0, the mean of random scores."""
        if not GLUE[frame["task"].iloc[0]].labels:
            return "random", 0.0
        frequent = frame["target"].value_counts().sort_index().idxmax()
        return "majority", next(iter(_values(frame.assign(prediction=frequent)).values()))

    @classmethod
    def notes(cls, frame: pd.DataFrame, dataset: GlueDataset) -> list[str]:
        notes = []
        if dataset.broken:
            notes.append(f"{dataset.broken:,} lines of the file lack columns and are left out")
        official = GLUE[dataset.name].test_rows.get(dataset.split, len(dataset))
        if len(dataset) != official:
            notes.append(
                f"the official {dataset.split} has {official:,} rows; GLUE's server will refuse the submission"
            )
        return notes

    @classmethod
    def submission(cls, frame: pd.DataFrame, split: str) -> dict[str, bytes]:
        """The .tsv of GLUE's server: one line a test example, by index.

        Source: gluebenchmark.com/faq; STS-B's scores are cut off at 0 and 5.
        """
        row = GLUE[frame["task"].iloc[0]]
        if split not in row.test_rows:
            return {}
        ending = {"test": "-m", "test_mismatched": "-mm"}[split] if len(row.test_rows) > 1 else ""
        answers = frame["prediction"]
        if not row.labels:
            lowest, highest = GLUE_SCORES
            answers = answers.clip(lowest, highest).map("{:.3f}".format)
        elif not row.by_name:
            answers = answers.map(row.labels.index)
        table = pd.DataFrame({"index": frame["id"], "prediction": answers}).sort_values("index")
        return {f"{row.folder}{ending}.tsv": table.to_csv(sep="\t", index=False).encode()}


def _read(name: str, sample: Sample) -> Example:
    """A stored sample as an example of the GLUE task `name`."""
    labels, values = GLUE[name].labels, sample.values
    metadata, label = {"id": values["id"], "task": name}, values["label"]
    if label is not None:
        metadata["target"] = labels[label] if labels else label
    text, second = clean(values["text"]), values["second"] and clean(values["second"])
    return Example(sample.id, (), text, where=sample.where, text_pair=second, label=label, metadata=metadata)


def _values(frame: pd.DataFrame) -> dict[str, float]:
    row = GLUE[frame["task"].iloc[0]]
    guesses, answers = (_numbers(frame[column], row.labels) for column in ("prediction", "target"))
    values = {name: _METRICS[name](guesses, answers) for name in row.metrics}
    return values if len(values) == 1 else {"_and_".join(values): sum(values.values()) / len(values), **values}


def _value(name: str, frame: pd.DataFrame) -> float:
    return _values(frame)[name]


def _drop_rate(model: Section, text_only: bool) -> float:
    tower = model.encoder or (model.text_encoder if text_only else None)
    rate = tower.dimensions["drop_rate"] if tower else model.fusion.drop_rate
    return DROP_RATE if rate is None else rate


def _numbers(column: pd.Series, labels: Sequence[str]) -> np.ndarray:
    """Class indices of class names, or scores as they are. Vectorised, because a bootstrap calls it hundreds of times."""
    if not labels:
        return column.to_numpy(float)
    return sum(index * (column == name).to_numpy(int) for index, name in enumerate(labels))


def _accuracy(guesses: np.ndarray, answers: np.ndarray) -> float:
    return float((guesses == answers).mean())


def _f1(guesses: np.ndarray, answers: np.ndarray) -> float:
    hits = ((guesses == _POSITIVE) & (answers == _POSITIVE)).sum()
    total = (guesses == _POSITIVE).sum() + (answers == _POSITIVE).sum()
    return float(2 * hits / total) if total else 0.0


def _pearson(guesses: np.ndarray, answers: np.ndarray) -> float:
    if len(guesses) < 2 or np.ptp(guesses) == 0 or np.ptp(answers) == 0:
        return math.nan
    return float(np.corrcoef(guesses, answers)[0, 1])


def _spearman(guesses: np.ndarray, answers: np.ndarray) -> float:
    """Pearson's correlation of the ranks; ties get their mean rank."""
    if np.isnan(guesses).any():
        return math.nan
    return _pearson(pd.Series(guesses).rank().to_numpy(), pd.Series(answers).rank().to_numpy())


def _matthews(guesses: np.ndarray, answers: np.ndarray) -> float:
    """Pearson's correlation of two classes (Matthews 1975)."""
    return float(np.nan_to_num(_pearson(guesses, answers)))


_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
}
