"""NLVR2: the loss against one pair at a time, what is read of files new and old, and the numbers by the published rule."""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from data.foreign_files import by_pandas, write
from data.prepare import raw_nlvr2
from data.prepare.raw_files import photograph, read_rows
from renaissance.core.errors import UserError
from renaissance.core.types import Batch, LabelTargets, TaskOutput
from renaissance.data.collate import MicroBatch, Source
from renaissance.data.prepare.nlvr2 import make_arrow
from renaissance.data.sampler import Draw
from renaissance.data.samples import TaskDataset
from renaissance.data.transforms import make_transform
from renaissance.tasks.base import Context, Encodings
from renaissance.tasks.nlvr2 import ANSWERS, Nlvr2
from small_tasks import values
from tiny_models import MODELS, VOCAB, counted_parts, every_model, pictures, same, stirred, texts, two_tower

LENGTHS = (7, 4, 6)


def task_for(model: nn.Module) -> Nlvr2:
    return stirred(Nlvr2(model, Context(None, VOCAB, ANSWERS)))


def a_batch(labels: tuple[int, ...] = (1, 0, 1)) -> Batch:
    count = len(LENGTHS)
    targets = LabelTargets(torch.tensor(labels), tuple({"id": place} for place in range(count)))
    return Batch(torch.arange(count), texts(LENGTHS), pictures(2 * count), {"nlvr2": targets}, (2,) * count)


# -- the loss --------------------------------------------------------------------------------------------------------


@every_model
def test_each_pair_is_fused_as_if_it_were_alone(name: str):
    model, batch = MODELS[name](), a_batch()
    task = task_for(model)
    out = task(Encodings(model, batch), batch.targets["nlvr2"])
    expected = torch.tensor(0.0)
    for row, label in enumerate(batch.targets["nlvr2"].labels.tolist()):
        pooled = []
        for place in (0, 1):
            text = batch.text._replace(
                **{part: getattr(batch.text, part)[row : row + 1, : LENGTHS[row]] for part in batch.text._fields}
            )
            own = 2 * row + place
            picture = batch.images._replace(pixels=batch.images.pixels[own : own + 1])
            pooled.append(model.fuse(model.embed_text(text), model.embed_image(picture), slot=place).pooled)
        logits = task.head(torch.cat(pooled, dim=-1))
        same(out.logits[row : row + 1], logits, 1e-5)
        expected = expected - logits.log_softmax(-1)[0, label]
    same(out.loss, expected, 1e-5)
    assert out.count == task.count(batch.targets["nlvr2"]) == 3
    assert task.head[0].weight.shape == (2 * model.width, 2 * model.pooled_size)  # ViLT's and METER's


@torch.no_grad()
@every_model
def test_left_and_right_are_told_apart(name: str):
    """By their token types too: where the classifier reads both sides alike, a swap still changes what it says."""
    model, batch = MODELS[name](), a_batch()
    task = task_for(model)
    first = task.head[0].weight
    first.copy_(first[:, : model.pooled_size].repeat(1, 2))
    swapped = batch.images.pixels.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)

    def difference() -> float:
        pair = [batch, batch._replace(images=batch.images._replace(pixels=swapped))]
        here, there = (task(Encodings(model, each), each.targets["nlvr2"]).logits for each in pair)
        return float((here - there).abs().amax(1).min())

    assert difference() > 1e-3
    model.token_types.copy_image_row()
    assert difference() < 1e-5


@every_model
def test_nothing_is_computed_twice(name: str, monkeypatch: pytest.MonkeyPatch):
    model, batch = MODELS[name](), a_batch()
    seen = counted_parts(model, monkeypatch)
    task_for(model)(Encodings(model, batch), batch.targets["nlvr2"])
    assert seen == {"embed_text": 1, "embed_image": 1, "fuse": 1}


def test_hidden_answers_count_for_nothing():
    model, batch = two_tower(), a_batch((1, -100, 0))
    task, targets = task_for(model), batch.targets["nlvr2"]
    out = task(Encodings(model, batch), targets)
    known = [place for place, label in enumerate(targets.labels.tolist()) if label >= 0]
    losses = -out.logits.log_softmax(-1)
    same(out.loss, sum(losses[place, targets.labels[place]] for place in known), 1e-5)
    assert out.count == 2
    rows = task.rows(out, targets)
    assert [row["id"] for row in rows] == [0, 1, 2]
    assert [row["prediction"] for row in rows] == [ANSWERS[guess] for guess in out.logits.argmax(-1)]
    assert [row["score"] is None for row in rows] == [False, True, False]


# -- what is read ----------------------------------------------------------------------------------------------------


def settings(folder: Path) -> Any:
    return SimpleNamespace(data=SimpleNamespace(datasets=["nlvr2"], data_root=str(folder)))


def opened(folder: Path, split: str) -> TaskDataset:
    return Nlvr2.open(settings(folder), split, ANSWERS)


def as_published() -> dict[str, list[dict]]:
    """Annotations in which, as in the real ones, a sentence is said of several pairs of a set, in the same words."""
    splits = raw_nlvr2.build()
    for example in (example for examples in splits.values() for example in examples):
        _, number, _, sentence = example["identifier"].split("-")
        example["sentence"] = f"There are {number} dögs, {sentence}."
    return splits


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    raw_nlvr2.write(tmp_path / "raw", as_published())
    make_arrow(tmp_path / "raw", tmp_path / "arrow", workers=1)
    return tmp_path / "arrow"


def older(rows: list[dict]) -> list[dict]:
    """Rows as older programs wrote them: no identifiers of sentences."""
    return [{name: value for name, value in row.items() if name != "identifiers"} for row in rows]


def test_reads_what_prepare_wrote(prepared: Path):
    names = {"train": "train", "val": "dev", "test": "test1"}
    names |= {name: name for name in raw_nlvr2.FILES if "balanced" in name}
    assert Nlvr2.splits(settings(prepared))[0] == "val"
    assert {"train", *Nlvr2.splits(settings(prepared))} == set(names)
    for split, name in names.items():
        data = opened(prepared, split)
        assert data.labelled
        samples = {sample.metadata["id"]: sample for sample in (data[number] for number in range(len(data)))}
        examples = {example["identifier"]: example for example in as_published()[name]}
        assert samples.keys() == examples.keys()
        for identifier, example in examples.items():
            sample, (left, right) = samples[identifier], raw_nlvr2.pictures(example)
            raw = prepared.parent / "raw"
            assert sample.images == ((raw / left).read_bytes(), (raw / right).read_bytes())
            assert (sample.text, sample.metadata["target"]) == (example["sentence"], example["label"])
            assert ANSWERS[sample.label] == example["label"]
            part = identifier.split("-")
            assert sample.metadata["group"] == f"{part[0]}-{part[1]}-{part[3]}"


def test_files_of_older_programs_give_the_same_groups(prepared: Path, tmp_path: Path):
    write(tmp_path / "nlvr2_dev.arrow", by_pandas(older(read_rows(prepared / "nlvr2_dev.arrow"))))
    assert Nlvr2.splits(settings(tmp_path)) == ("val",)
    ours, theirs = opened(prepared, "val"), opened(tmp_path, "val")
    groups = {(ours[number].metadata["group"], theirs[number].metadata["group"]) for number in range(len(ours))}
    assert len(groups) == len({new for new, _ in groups}) == len({old for _, old in groups})
    assert 1 < len(groups) < len(ours) == len(theirs)
    ids = [theirs[number].metadata["id"] for number in range(len(theirs))]
    assert len(set(ids)) == len(ids) and ids[0] == f"{read_rows(prepared / 'nlvr2_dev.arrow')[0]['identifier']}#0"
    assert Nlvr2.submission(pd.DataFrame({"id": ids, "prediction": "True"}), "val") == {}


def test_pictures_stay_left_and_right(prepared: Path):
    source = Source(opened(prepared, "val"), make_transform("vit", 32, patch_size=8, seed=0))
    example = source.example(Draw(0, 3))
    alone = [source.images(source.dataset[3]._replace(images=(image,)), 0)[0] for image in source.dataset[3].images]
    assert len(example.images) == 2 and not torch.equal(*example.images)
    assert all(torch.equal(*each) for each in zip(example.images, alone, strict=True))


def test_hidden_answers_are_read_as_hidden(prepared: Path, tmp_path: Path):
    rows = [row | {"answers": []} for row in older(read_rows(prepared / "nlvr2_test1.arrow"))]
    write(tmp_path / "nlvr2_test1.arrow", by_pandas(rows))
    data = opened(tmp_path, "test")
    assert not data.labelled
    assert data[0].label is None and "target" not in data[0].metadata
    examples = [SimpleNamespace(label=each.label, metadata=each.metadata) for each in (data[0], data[1])]
    made = Nlvr2.target_builder(None, None)(MicroBatch(examples, None, None, None, []))
    assert made.labels.tolist() == [-100, -100] and made.metadata == (data[0].metadata, data[1].metadata)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"answers": ["true"]}, "row 2 has true in 'answers'; expected one of True, False"),
        ({"answers": [""]}, "row 2 has nothing in 'answers'; expected one of"),
        ({"identifiers": ["dev-2-0"]}, "row 2 has the identifier 'dev-2-0'; those of NLVR2 are <split>-<set>-<pair>-"),
        ({"identifiers": [""], "identifier": "dev-2-0-1"}, "row 2 has the identifier 'dev-2-0-1'"),
        ({"identifiers": [None], "identifier": None}, "row 2 has the identifier ''"),
        ({"image_1": b""}, "row 2 has no image in 'image_1': write the file again"),
        ({"image_1": b"<html>"}, "The image of nlvr2_dev.arrow row 2 cannot be decoded"),
    ],
)
def test_refuses_what_is_no_sample(tmp_path: Path, change: dict, sentence: str):
    rows = [
        {"image_0": photograph(number), "image_1": photograph(number + 9), "questions": ["red"], "answers": ["True"]}
        | {"identifier": f"dev-{number}-0", "identifiers": [f"dev-{number}-0-1"]}
        for number in range(4)
    ]
    write(tmp_path / "nlvr2_dev.arrow", by_pandas(rows[:2] + [rows[2] | change] + rows[3:]))
    with pytest.raises(UserError) as error:
        source = Source(opened(tmp_path, "val"), make_transform("vit", 32, patch_size=8, seed=0))
        for place in range(4):
            source.example(Draw(0, place))
    assert sentence in str(error.value) and "nlvr2_dev.arrow" in str(error.value)
    assert "\n" not in str(error.value)


# -- the numbers -----------------------------------------------------------------------------------------------------


def published(csv: str, examples: list[dict]) -> tuple[float, float]:
    """Accuracy and consistency, as `nlvr2/eval/metrics.py` describes them: predictions by identifier, one a line."""
    predictions = dict(line.strip().split(",") for line in csv.splitlines())
    assert len(predictions) == len(examples)
    correct, all_correct = 0, {}
    for example in examples:
        parts = example["identifier"].split("-")
        parts[2] = ""
        sentence = "-".join(parts)
        hit = predictions[example["identifier"]].lower() == example["label"].lower()
        correct += hit
        all_correct[sentence] = all_correct.get(sentence, True) and hit
    return correct / len(examples), sum(all_correct.values()) / len(all_correct)


def test_the_numbers_are_those_of_the_published_rule(prepared: Path):
    data = opened(prepared, "val")
    samples = [data[number] for number in range(len(data))]
    task = task_for(two_tower())
    draw = random.Random(0)
    guesses = [sample.label if draw.random() < 0.7 else 1 - sample.label for sample in samples]
    targets = LabelTargets(
        torch.tensor([sample.label for sample in samples]), tuple(sample.metadata for sample in samples)
    )
    out = TaskOutput(None, None, nn.functional.one_hot(torch.tensor(guesses)).float(), targets.labels)
    frame = pd.DataFrame(task.rows(out, targets))
    files = Nlvr2.submission(frame, "val")
    assert list(files) == ["nlvr2_dev.csv"]
    accuracy, consistency = published(files["nlvr2_dev.csv"].decode(), as_published()["dev"])
    assert 0 < consistency < accuracy < 1
    assert values(task.score(frame)) == pytest.approx({"accuracy": accuracy, "consistency": consistency})
    assert list(Nlvr2.submission(frame, "balanced_dev")) == ["nlvr2_balanced_dev.csv"]
    labels = Counter(example["label"] for example in as_published()["dev"])
    assert Nlvr2.baseline(frame) == ("majority", pytest.approx(max(labels.values()) / len(frame)))

    hidden = frame.assign(score=frame["score"].mask(frame.index == 0))
    rest = frame[frame.index != 0]
    assert values(task.score(hidden)) == values(task.score(rest))  # a hidden answer is no wrong one
    assert all(each.frames[0]["score"].mean() == each.value for each in task.score(hidden).values())


@pytest.mark.parametrize(
    ("groups", "right", "expected"),
    [
        ("aab", [1, 1, 1], 1.0),
        ("aab", [1, 0, 1], 0.5),
        ("aab", [0, 1, 0], 0.0),
        ("abac", [1, 1, 0, 1], 2 / 3),  # a group need not stand together
        ("a", [1], 1.0),
        ("abcd", [1, 0, 0, 0], 0.25),  # groups of one: the accuracy
        ("", [], math.nan),
    ],
)
def test_a_group_counts_when_all_of_it_is_right(groups: str, right: list[int], expected: float):
    frame = pd.DataFrame({"group": list(groups), "score": np.array(right, float)})
    assert task_for(two_tower()).score(frame)["consistency"].value == pytest.approx(expected, nan_ok=True)
