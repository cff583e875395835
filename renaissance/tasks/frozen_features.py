"""Tasks whose classifiers learn from frozen features: what the vectors of a checkpoint tell of classes.

    splits -> model, once -> <cache_dir>/<checkpoint>-<hash of it and of what decides the vectors>/<file>-<hash of its content>/
    training examples     -> draws -> classifiers -> rows of each split

So what is there is right for every classifier, draw and seed, and is never that of another model, setting or file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from renaissance.core.checks import require_writable
from renaissance.core.errors import require
from renaissance.core.plugins import code_digest
from renaissance.core.types import Example, LabelTargets, TaskOutput
from renaissance.data.dataset_specs import CLASSES, ENTAILMENT, IMAGE_PAIRS
from renaissance.data.datasets import named_specs
from renaissance.data.limited import DatasetView
from renaissance.data.samples import TaskDataset
from renaissance.evaluation.calibration import calibration_metrics
from renaissance.evaluation.classifiers import LabelledFeatures, draw_examples
from renaissance.evaluation.frames import gather_rows
from renaissance.evaluation.metrics import MetricDetails, mean_recall, mean_score
from renaissance.evaluation.ranking import FullSplit
from renaissance.evaluation.split_vectors import SplitVectors
from renaissance.models.heads import pool
from renaissance.runs.exported import model_digest
from renaissance.settings.keys import model_keys
from renaissance.settings.sections import Settings

from .base import Context, Downstream, Encodings
from .images import ImageClasses, class_names
from .nlvr2 import Nlvr2, pooled_pairs
from .snli import Snli
from .zero_shot import Untrained

TEXT, IMAGE, FUSED = "text", "image", "fused"
FOLDER = "features"  # in data_root
_VERSION = 1  # of what a part holds
# What reads the samples, and the features of which there is one for each sample; the first is the default.
_READERS: dict[str, tuple[type[Downstream], tuple[str, ...]]] = {
    CLASSES: (ImageClasses, (IMAGE,)),
    ENTAILMENT: (Snli, (FUSED, TEXT)),
    IMAGE_PAIRS: (Nlvr2, (FUSED, TEXT)),
}
# Settings beside those of the model that decide a vector.
_DECIDING = ("val_transform_keys", "blind", "precision", "float32_matmul_precision")


class FrozenFeatures(Untrained):
    """A task whose classifier learns from the vectors of the training split, and answers for the others.

    Attributes:
        chooses: whether examples apart from those of training choose something.
        side: of which features: "image", "text" or "fused".
        place: folder of the vectors, once the weights are in.
        chosen_on_val: whether the examples that choose are those of the validation split, once it learns.
    """

    sample_kind, labels_in_data, has_loss = CLASSES, ImageClasses.labels_in_data, False
    chooses: ClassVar[bool] = False

    def __init__(self, model: nn.Module, context: Context):
        super().__init__(model, context)
        self.settings, self.side = context.settings, _side(context.settings)
        self.place: Path | None = None
        self.chosen_on_val = False
        self._learned: list[Callable[[Tensor], Tensor]] = []  # of each draw: vectors (n,F) -> logits (n,classes)

    def learn(
        self, pool: LabelledFeatures, every: LabelledFeatures, held_out: LabelledFeatures | None
    ) -> Callable[[Tensor], Tensor]:
        """A classifier: vectors (n,F) -> logits (n,classes).

        Args:
            pool: training examples. every: all of them, those that choose included. held_out: those that choose.
        """
        raise NotImplementedError

    @property
    def method(self) -> str:
        """How the classifiers were found, in words."""
        raise NotImplementedError

    def remarks(self) -> list[str]:
        """What the user should know of how they were found."""
        return []

    @classmethod
    def splits(cls, settings: Settings) -> tuple[str, ...]:
        return _reader(settings).splits(settings)

    @classmethod
    def open(cls, settings: Settings, split: str, labels: Sequence[str] | None) -> TaskDataset:
        return _reader(settings).open(settings, split, labels)

    @classmethod
    def label_names(cls, settings: Settings, known: Sequence[str] = ()) -> tuple[str, ...]:
        """The names of the classes.

        Raises:
            UserError: the data have none, or other ones in each file; there are no training examples, or too few for the shots.
        """
        reader, name, side = _reader(settings), cls.data_name(settings), _side(settings)
        labels = reader.classes
        if reader is ImageClasses:
            labels = class_names(name, settings.data.data_root, ("train", *cls.splits(settings)))
        own = "do not name their classes; write them with `python run.py prepare with dataset=images`"
        require(labels, f"the files of datasets=['{name}'] {own}.")
        train = reader.open(settings, "train", labels, images=False)
        require(train.labelled, f"datasets=['{name}'] has no labels in train, so {side} features teach nothing.")
        if settings.objectives.shots_per_class:
            holds = cls.chooses and cls._chosen_on(settings, labels) is None
            known = np.array([train[number].label for number in range(len(train))])
            draw_examples(known, labels, settings.objectives.shots_per_class, settings.run.seed, 0, holds=holds)
        return labels

    @classmethod
    def _chosen_on(cls, settings: Settings, names: Sequence[str]) -> TaskDataset | None:
        """The validation split, where it has labels."""
        val = cls.open(settings, "val", names) if "val" in cls.splits(settings) else None
        return val if val is not None and val.labelled else None

    def needs_batches(self, selecting: bool) -> bool:
        return False

    def use_loaded(self, parts: Set[str], where: str) -> list[str]:
        """Finds the folder of the vectors; no head is needed."""
        flat, path = self.settings.flat, self.settings.run.load_path
        how = {key: flat[key] for key in (*sorted(model_keys()), *_DECIDING)}
        how |= {"version": _VERSION, "features": self.side, "model": model_digest(path), "plugins": code_digest()}
        content = hashlib.sha256(json.dumps(how, sort_keys=True, default=str).encode()).hexdigest()[:16]
        data = self.settings.data
        self.place = Path(data.cache_dir or Path(data.data_root) / FOLDER) / f"{Path(path).stem[-60:]}-{content}"
        if not self.place.exists():  # what others have made can be read
            require_writable(self.place, "features", "cache_dir")
        return [f"features of {self.side}, computed once: {self.place}"]

    def features(self, encodings: Encodings) -> Tensor:
        """(B,F) vectors of a batch: pooled as the encoder pools, or by the fusion."""
        if self.side != FUSED:
            return pool(encodings.encoder_output(self.side), encodings.model.unimodal_pooling[self.side])
        if _reader(self.settings) is Nlvr2:
            return pooled_pairs(encodings)
        return encodings.fuse(encodings.text(), encodings.images(), needs={"pooled"}).pooled

    @torch.no_grad()
    def evaluate_full_split(
        self, model: nn.Module, heads: nn.ModuleDict, split: FullSplit
    ) -> tuple[dict[str, pd.DataFrame], dict[str, MetricDetails]]:
        """Learns from the training split at the first call. The tables have a row for each sample, of each draw, too."""
        device, samples = next(model.parameters()).device, split.collate.source.dataset

        def read(of: Any) -> tuple[LabelledFeatures, list[Mapping[str, Any]]]:
            vectors = SplitVectors(self.place, TextsAlone(of) if self.side == TEXT else of)
            vectors.fill(split, lambda batch: self.features(Encodings(model, batch)), device)
            with torch.inference_mode(False):
                return vectors.read(device)

        # Vectors are of one precision, whichever run makes them; a mode without gradients does not hold for what learns.
        with torch.autocast(device.type, enabled=False):
            if not self._learned:
                self._learn(read, split.say)
            features, metadata = read(samples)
            with torch.inference_mode(False):
                logits = [classify(features.vectors) for classify in self._learned]
                frames = [self._frame(each, features.labels, metadata) for each in logits]
        metrics = self._metrics(frames) if samples.labelled else {}
        if len(frames) == 1:
            return {"": frames[0]}, metrics
        return {"": _mean(frames)} | {f"_draw{number}": frame for number, frame in enumerate(frames)}, metrics

    def _learn(self, read: Callable[[Any], tuple[LabelledFeatures, Any]], say: Callable[[str], None]) -> None:
        settings, names = self.settings, self.labels
        every, _ = read(self.open(settings, "train", names))
        val = self._chosen_on(settings, names) if self.chooses else None
        chosen_on = None if val is None else read(val)[0]
        labels, shots = every.labels.cpu().numpy(), settings.objectives.shots_per_class
        self.chosen_on_val, holds = val is not None, self.chooses and val is None
        with torch.inference_mode(False):
            for number in range(settings.objectives.shot_draws):
                places = draw_examples(labels, names, shots, settings.run.seed, number, holds=holds)
                held_out = every.select(places.held_out) if len(places.held_out) else chosen_on
                self._learned.append(self.learn(every.select(places.pool), every, held_out))
        for remark in self.remarks():
            say(f"note: {remark}")

    def _frame(self, logits: Tensor, labels: Tensor, metadata: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
        none = logits.new_zeros(())
        rows = self.rows(TaskOutput(none, none, logits, labels), LabelTargets(labels, tuple(metadata)))
        rows = [{"position": position, "id": position, **row} for position, row in enumerate(rows)]
        return gather_rows(rows, lambda own: [own], len(rows))

    def _metrics(self, frames: list[pd.DataFrame]) -> dict[str, MetricDetails]:
        """The means over draws; intervals are over the examples, whose scores are means over draws."""
        frame, classes = _mean(frames), len(self.labels)
        how = {"baseline": ("chance", 1 / classes), "candidates": classes, "method": self.method}
        found = {"accuracy": mean_score(frame, **how), "mean_per_class_recall": mean_recall(frame, **how)}
        if len(frames) == 1:
            return found | calibration_metrics(frames[0])
        draws = [float(each["score"].mean()) for each in frames]
        return found | {"accuracy_std": MetricDetails(float(np.std(draws, ddof=1)), method="over the draws")}

    def notes(self, frame: pd.DataFrame, dataset: Any) -> list[str]:
        if "draws" not in frame:
            return [self.method]
        draws = f"a score is the share of {frame['draws'].iloc[0]} draws, a prediction the most frequent of theirs"
        return [self.method, draws]


def _mean(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """The rows with their mean score over the draws, and the most frequent prediction."""
    if len(frames) == 1:
        return frames[0]
    score = sum(frame["score"] for frame in frames) / len(frames)
    answers = pd.concat([frame["prediction"] for frame in frames], axis=1).mode(axis=1)[0]
    plain = frames[0].drop(columns=["confidence", "brier"])  # of one draw
    return plain.assign(score=score, prediction=answers, draws=len(frames))


class TextsAlone(DatasetView):
    """A data set without its images, which no text encoder sees."""

    def __getitem__(self, index: int) -> Example:
        return self._whole[index]._replace(images=())


def _kind(settings: Settings) -> str:
    """What the samples are.

    Raises:
        UserError: they have no classes.
    """
    name = Downstream.data_name(settings)
    kind = named_specs()[name].sample_kind if name in named_specs() else CLASSES
    asked = ", ".join(settings.objectives.loss_names)
    require(
        kind in _READERS,
        f"datasets=['{name}'] has {kind}, no classes for {asked}; give images with classes, SNLI-VE or NLVR2.",
    )
    return kind


def _reader(settings: Settings) -> type[Downstream]:
    return _READERS[_kind(settings)][0]


def _side(settings: Settings) -> str:
    """The features that are asked for, or those that the data have.

    Raises:
        UserError: there is not one of them for each sample.
    """
    sides, side = _READERS[_kind(settings)][1], settings.objectives.frozen_features
    name = settings.data.datasets[0]
    require(
        side in (None, *sides),
        f"frozen_features={side}: datasets=['{name}'] has none for each sample; give {' or '.join(sides)}.",
    )
    return side or sides[0]
