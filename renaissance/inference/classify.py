"""Classes by frozen features: what `classify` computes of the vectors that `encode` wrote, and the run folder that holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from torch import Tensor

from renaissance.core.errors import require, shortened
from renaissance.core.types import Example
from renaissance.data.dataset_specs import CLASSES, ENTAILMENT, IMAGE_PAIRS
from renaissance.data.datasets import named_specs, open_samples
from renaissance.data.samples import TaskDataset
from renaissance.evaluation.calibration import calibration_metrics
from renaissance.evaluation.frames import gather_rows, write_predictions
from renaissance.evaluation.metrics import MetricDetails, mean_recall, mean_score
from renaissance.evaluation.score_report import closing, score_lines
from renaissance.models.heads import brier_scores, confidences, predicted_classes
from renaissance.runs import checkpoint
from renaissance.runs.report import RunFolder, nested_results, versions
from renaissance.settings.resolver import ConfigResolver
from renaissance.settings.sections import Settings
from renaissance.tasks import downstream_task, task_class

from .classifiers import HELD_OUT, TEMPERATURE, LabelledFeatures, choose_decay, drawn, fit, neighbour_logits
from .inputs import FUSED, IMAGE, TEXT

TASKS = {CLASSES: "images", ENTAILMENT: "snli", IMAGE_PAIRS: "nlvr2"}  # that reads such samples
SIDES = {
    CLASSES: (IMAGE,),
    ENTAILMENT: (FUSED, TEXT),
    IMAGE_PAIRS: (FUSED, TEXT),
}  # of which there is one for each sample


class How(NamedTuple):
    """How examples are classified; attributes as the settings of `classify`."""

    classifier: str
    neighbours: int
    shots: int | None
    draws: int
    seed: int


class ProbeData(NamedTuple):
    """What is classified.

    Attributes:
        settings: of the checkpoint, reading this data. labels: names of the classes. side: of the features.
        samples: the labelled splits, "train" first. examples: of each, without images.
    """

    settings: Settings
    labels: tuple[str, ...]
    side: str
    samples: dict[str, TaskDataset]
    examples: dict[str, list[Example]]

    @property
    def task(self) -> str:
        """The task that reads such data, which the results are of, so that `compare` has them beside a finetuned model's."""
        return downstream_task(self.settings.objectives.loss_names)


def open_data(load_path: str, name: str, data_root: str, side: str | None) -> ProbeData:
    """Opens the labelled splits of a data set.

    Raises:
        UserError: it has no classes, not these features, or no split to learn from or to be measured on.
    """
    kind = named_specs()[name].sample_kind if name in named_specs() else CLASSES
    require(kind in TASKS, f"dataset={name} has {kind}, no classes; give images with classes, SNLI-VE or NLVR2.")
    side = side or SIDES[kind][0]
    require(
        side in SIDES[kind],
        f"features={side}: dataset={name} has none for each example; give {' or '.join(SIDES[kind])}.",
    )
    own = {"datasets": [name], "data_root": data_root, "loss_names": {TASKS[kind]: 1}, "test_only": True}
    settings = ConfigResolver.from_checkpoint(checkpoint.read(load_path).settings, load_path, **own).finalize()
    open_samples(name, "train", data_root, sample_kind=kind)  # says what is missing
    task = task_class(TASKS[kind])
    labels = task.label_names(settings)
    require(labels, f"the files of dataset={name} do not name their classes; write them with `python run.py prepare`.")
    samples = {split: task.open(settings, split, labels) for split in ("train", *task.splits(settings))}
    samples = {split: each for split, each in samples.items() if each.labelled}
    require(len(samples) > 1, f"dataset={name} has no split with labels beside train in data_root={data_root}.")
    examples = {
        split: [each[number]._replace(images=()) for number in range(len(each))] for split, each in samples.items()
    }
    return ProbeData(settings, tuple(labels), side, samples, examples)


def read_features(folder: Path, side: str, examples: Sequence[Example]) -> tuple[LabelledFeatures, list[Example]]:
    """The vectors that `encode` wrote of a split, with labels, and their examples; what it left out is not among them.

    A pair of images has a vector for each, one behind the other.
    """
    table = pq.read_table(str(folder / side), columns=["id", "vector"])
    ids, rows = table["id"].to_numpy(), table["vector"].combine_chunks()
    vectors = rows.flatten().to_numpy(zero_copy_only=False).reshape(len(ids), -1)
    known, counts = np.unique(ids, return_counts=True)
    whole = known[counts == counts.max()]
    order = np.argsort(ids, kind="stable")
    vectors = vectors[order[np.isin(ids[order], whole)]].reshape(len(whole), -1)
    kept = [examples[number] for number in whole.tolist()]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    labels = torch.tensor([each.label for each in kept], device=device)
    return LabelledFeatures(torch.from_numpy(vectors).to(device).double(), labels), kept


class Drawn(NamedTuple):
    """Training examples. Attributes: pool, places of those that classifiers learn from; held_out, of those that choose."""

    pool: np.ndarray
    held_out: np.ndarray


def draw_examples(data: ProbeData, labels: np.ndarray, how: How, draw: int) -> Drawn:
    """The training examples of a draw, the same for each model.

    Args:
        labels: (n,) of all training examples.

    Raises:
        UserError: a class has fewer examples than `shots`.
    """
    every = np.arange(len(labels))
    holds = how.classifier == "linear" and "val" not in data.samples  # some choose in the place of a validation split
    held = drawn(labels, HELD_OUT, [how.seed, 0]) if holds else every[:0]
    pool = np.setdiff1d(every, held)
    counts = np.bincount(labels[pool], minlength=len(data.labels)).tolist()
    few = [f"{name} ({count:,})" for name, count in zip(data.labels, counts, strict=True) if count < (how.shots or 0)]
    require(
        not few, f"shots={how.shots}: there are fewer training examples of {shortened(few)}; give a smaller number."
    )
    return Drawn(pool[drawn(labels[pool], how.shots, [how.seed, 1, draw])] if how.shots else pool, held)


def refuse_few(data: ProbeData, how: How) -> None:
    """Refuses more shots than there are examples, before anything is computed."""
    draw_examples(data, np.array([each.label for each in data.examples["train"]]), how, 0)


def classify(data: ProbeData, how: How, features: Path) -> tuple[dict[str, list[pd.DataFrame]], str]:
    """The rows of each split, a frame for each draw, and how they were found. features: the folder of those of each split."""
    read = {split: read_features(features / split, data.side, each) for split, each in data.examples.items()}
    vectors, decays = {split: each for split, (each, _) in read.items()}, []
    frames: dict[str, list[pd.DataFrame]] = {split: [] for split in read if split != "train"}
    for draw in range(how.draws):
        places = draw_examples(data, vectors["train"].labels.cpu().numpy(), how, draw)
        logits, decay = classified(vectors, places, len(data.labels), how)
        decays.append(decay)
        for split, each in logits.items():
            frames[split].append(frame_of(each, vectors[split].labels, read[split][1], data.labels))
    return frames, f"{_method(decays, how, len(places.held_out))} on features of {data.side}"


def _method(decays: Sequence[float | None], how: How, held_out: int) -> str:
    if how.classifier == "knn":
        return f"{how.neighbours} nearest neighbours by cosine, temperature {TEMPERATURE}"
    span = " to ".join(f"{decay:g}" for decay in sorted({min(decays), max(decays)}))
    where = f"{held_out:,} training examples" if held_out else "val"
    return f"logistic regression, weight decay {span} chosen on {where},"


def classified(
    features: Mapping[str, LabelledFeatures], places: Drawn, classes: int, how: How
) -> tuple[dict[str, Tensor], float | None]:
    """Logits (n,classes) of each split but "train", and the weight decay of a linear probe; features are by split."""
    train, every = features["train"].select(places.pool), features["train"]
    others = {split: each for split, each in features.items() if split != "train"}
    if how.classifier == "knn":
        return {
            split: neighbour_logits(train, each.vectors, classes, how.neighbours) for split, each in others.items()
        }, None
    val = every.select(places.held_out) if len(places.held_out) else features["val"]
    # Features of any model on one scale, so that one grid of decays serves all.
    scale = train.vectors.mean(0), train.vectors.std(0, correction=0).clamp(min=1e-6)
    decay = choose_decay(train.standardized(*scale), val.standardized(*scale), classes)
    probe = fit((train if how.shots else every).standardized(*scale), classes, decay)
    return {split: probe.logits(each.standardized(*scale).vectors) for split, each in others.items()}, decay


def frame_of(logits: Tensor, labels: Tensor, examples: Sequence[Example], names: Sequence[str]) -> pd.DataFrame:
    """One row an example, as a run writes them."""
    columns = predicted_classes(logits), labels.tolist(), confidences(logits), brier_scores(logits, labels)
    rows = [
        {
            "position": each.id,
            **each.metadata,
            "prediction": names[guess],
            "score": float(guess == label),
            "confidence": sure,
            "brier": brier,
        }
        for each, (guess, _), label, sure, brier in zip(examples, *columns, strict=True)
    ]
    return gather_rows(rows, lambda own: [own], len(rows))


def metrics_of(frames: list[pd.DataFrame], classes: int, method: str) -> dict[str, MetricDetails]:
    """The means over draws; intervals are over the examples, whose scores are means over draws."""
    mean = frames[0].assign(score=sum(frame["score"] for frame in frames) / len(frames))
    chance = {"baseline": ("chance", 1 / classes), "candidates": classes, "method": method}
    found = {"accuracy": mean_score(mean, **chance), "mean_per_class_recall": mean_recall(mean, **chance)}
    if len(frames) > 1:
        draws = [float(frame["score"].mean()) for frame in frames]
        return found | {"accuracy_std": MetricDetails(float(np.std(draws, ddof=1)), method="over the draws")}
    return found | calibration_metrics(mean)


def write_results(
    folder: RunFolder, data: ProbeData, own: Mapping[str, Any], frames: Mapping[str, list[pd.DataFrame]], method: str
) -> None:
    """Prints the metrics of each split, and writes what a run leaves.

    Args:
        own: settings of the command. frames: of each split one for each draw. method: how they were found.
    """
    values, details, task = {}, {}, data.task
    for split, draws in frames.items():
        files = [file.file for file in data.samples[split].describe()]
        metrics = metrics_of(draws, len(data.labels), method)
        details[split] = {task: {name: {**each.record(), "files": files} for name, each in metrics.items()}}
        values |= {f"{task}/{split}/{name}": each.value for name, each in metrics.items()}
        for number, frame in enumerate(draws):
            write_predictions(folder, task, f"{split}_draw{number}" if len(draws) > 1 else split, frame)
        plain = {name: each.value for name, each in metrics.items()}
        lines = score_lines(task, split, files, draws[0], plain, "accuracy", details[split][task], notes=[method])
        folder.say("\n".join(lines))
    prints = {split: each.fingerprint() for split, each in data.samples.items()}
    record = {"settings": data.settings.flat, "sources": data.settings.sources, "versions": versions(), "data": prints}
    folder.write_json("settings.json", record | {"classify": dict(own)})
    folder.write_json("results_details.json", details)
    folder.write_json("results.json", nested_results(values))
    folder.say(closing(values, {task}, folder.path))
