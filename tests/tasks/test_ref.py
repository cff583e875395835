"""Referring expressions: the loss against one expression at a time, which crops are seen, what is read and refused."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from data.foreign_files import by_pandas, write
from data.prepare import raw_refcoco
from data.prepare.raw_files import photograph, read_rows
from renaissance.core.errors import UserError
from renaissance.core.types import Batch, Example, LabelTargets
from renaissance.data.collate import Source, crop
from renaissance.data.images import decode
from renaissance.data.prepare.refcoco import make_arrow
from renaissance.data.sampler import Draw
from renaissance.data.samples import TaskDataset
from renaissance.data.transforms import make_transform
from renaissance.tasks.base import Context, Encodings
from renaissance.tasks.ref import Ref
from small_tasks import values
from tiny_models import MODELS, VOCAB, counted_parts, every_model, pictures, same, stirred, texts, two_tower

LENGTHS = (7, 4, 6, 5)
CANDIDATES = (3, 1, 5, 2)
LABELS = (2, 0, 1, 0)


def task_for(model: nn.Module) -> Ref:
    return stirred(Ref(model, Context(None, VOCAB)))


def a_batch(chosen: tuple[int, ...] = (0, 1, 2, 3)) -> Batch:
    """Some of four expressions with their candidates."""
    text, images = texts(LENGTHS), pictures(sum(CANDIDATES))
    crops = images.pixels.split(CANDIDATES)
    targets = LabelTargets(
        torch.tensor([LABELS[row] for row in chosen]), tuple({"id": row, "target": LABELS[row]} for row in chosen)
    )
    return Batch(
        torch.tensor(chosen),
        text._replace(**{part: getattr(text, part)[list(chosen)] for part in text._fields}),
        images._replace(pixels=torch.cat([crops[row] for row in chosen])),
        {"ref": targets},
        tuple(CANDIDATES[row] for row in chosen),
    )


def result(model: nn.Module, task: Ref, batch: Batch) -> Any:
    return task(Encodings(model, batch), batch.targets["ref"])


# -- the loss --------------------------------------------------------------------------------------------------------


@every_model
def test_each_expression_chooses_among_its_own_candidates(name: str):
    model, batch = MODELS[name](), a_batch()
    task = task_for(model)
    out = result(model, task, batch)
    assert out.logits.shape == (len(CANDIDATES), max(CANDIDATES))
    expected, first = torch.tensor(0.0), 0
    for row, (own, label) in enumerate(zip(CANDIDATES, LABELS, strict=True)):
        text = batch.text._replace(
            **{part: getattr(batch.text, part)[row : row + 1, : LENGTHS[row]] for part in batch.text._fields}
        )
        scores = []
        for place in range(first, first + own):
            picture = batch.images._replace(pixels=batch.images.pixels[place : place + 1])
            scores.append(task.head(model.fuse(model.embed_text(text), model.embed_image(picture)).pooled)[0, 0])
        scores, first = torch.stack(scores), first + own
        same(out.logits[row, :own], scores, 1e-5)
        assert torch.isneginf(out.logits[row, own:]).all()
        same(out.logits[row].softmax(-1)[:own], scores.softmax(-1), 1e-5)
        expected = expected - scores.log_softmax(-1)[label]
    same(out.loss, expected, 1e-5)
    assert out.count == task.count(batch.targets["ref"]) == len(LABELS)
    rows = task.rows(out, batch.targets["ref"])
    guesses = [int(scores[:own].argmax()) for scores, own in zip(out.logits, CANDIDATES, strict=True)]
    sure = [scores[:own].softmax(-1).max() for scores, own in zip(out.logits, CANDIDATES, strict=True)]
    same(torch.tensor([row.pop("confidence") for row in rows]), torch.stack(sure), 1e-6)
    classes = [scores[:own].softmax(-1) for scores, own in zip(out.logits, CANDIDATES, strict=True)]
    missed = [((p - torch.eye(len(p))[label]) ** 2).sum() for p, label in zip(classes, LABELS, strict=True)]
    same(torch.tensor([row.pop("brier") for row in rows]), torch.stack(missed), 1e-6)
    assert rows == [
        {"id": row, "target": label, "prediction": guess, "score": float(guess == label)}
        for row, (label, guess) in enumerate(zip(LABELS, guesses, strict=True))
    ]


@torch.no_grad()
@every_model
def test_other_expressions_change_nothing(name: str):
    """Fewer, more and other candidates beside it leave the scores of an expression as they are."""
    model = MODELS[name]()
    task = task_for(model)
    alone = {row: result(model, task, a_batch((row,))) for row in range(len(CANDIDATES))}
    for chosen in ((0, 1), (1, 2, 3), (3, 0, 2, 1)):
        out = result(model, task, a_batch(chosen))
        for place, row in enumerate(chosen):
            same(out.logits[place, : CANDIDATES[row]], alone[row].logits[0], 1e-5)
        same(out.loss, sum(alone[row].loss for row in chosen), 1e-5)
    assert alone[1].loss == 0  # a single candidate cannot be missed


def test_what_an_expression_has_not_takes_no_gradient():
    model, batch = two_tower(), a_batch()
    task = task_for(model)
    pieces = [a_batch((row,)) for row in range(len(CANDIDATES))]
    gradients: list[list[Tensor]] = []
    for batches in ([batch], pieces):
        model.zero_grad()
        for each in batches:
            result(model, task, each).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 50
    for together, apart in zip(*gradients, strict=True):
        same(together, apart, 1e-4)


@every_model
def test_nothing_is_computed_twice(name: str, monkeypatch: pytest.MonkeyPatch):
    model, batch = MODELS[name](), a_batch()
    seen = counted_parts(model, monkeypatch)
    result(model, task_for(model), batch)
    assert seen == {"embed_text": 1, "embed_image": 1, "fuse": 1}


# -- which crops -----------------------------------------------------------------------------------------------------

# (left, top, right, bottom) of what is seen of `raw_refcoco.BOXES` in an image of 128 x 96.
SEEN = [(0, 0, 37, 28), (10, 10, 11, 70), (1, 2, 21, 22), (90, 50, 128, 96), (5, 5, 6, 12), (127, 9, 128, 14)]
FURTHER = [  # boxes beyond every border, and turned round
    ([-50.0, 20, 10, 5], (0, 20, 1, 25)),
    ([20, -9.5, 4, 3.25], (20, 0, 24, 1)),
    ([3, 500, 4, 5], (3, 95, 7, 96)),
    ([0, 0, 128, 96], (0, 0, 128, 96)),
    ([-1e12, -1e12, 3e12, 3e12], (0, 0, 128, 96)),
    ([8, 8, -3, -3], (8, 8, 9, 9)),
]


@pytest.mark.parametrize(("box", "seen"), [*zip(raw_refcoco.BOXES, SEEN, strict=True), *FURTHER])
def test_a_candidate_is_what_of_its_box_lies_in_the_picture(box: list[float], seen: tuple[int, ...]):
    picture = decode(photograph(), "")
    left, top, right, bottom = seen
    assert picture.shape == (3, 96, 128)
    assert np.array_equal(crop(picture, box), picture.numpy()[:, top:bottom, left:right])


def test_every_box_becomes_a_picture_of_the_models_size():
    boxes = raw_refcoco.BOXES + [box for box, _ in FURTHER]
    raw = Example(7, (photograph(),), "the red one", boxes=boxes)
    transform = make_transform("vit", 32, patch_size=8, seed=0)
    found = Source([raw], transform).example(Draw(0, 0)).images
    assert [picture.shape for picture in found] == [(3, 32, 32)] * len(boxes)
    picture = decode(photograph(), "")
    for (left, top, right, bottom), seen in zip(SEEN, found, strict=False):
        assert torch.equal(seen, transform(picture[:, top:bottom, left:right].contiguous(), 0, 7))
    blind = Source([raw], transform, blind=(0.5, 0.25, 0.0)).example(Draw(0, 0)).images
    assert len(blind) == len(boxes) and blind[0][:, 0, 0].tolist() == [128, 64, 0]


# -- what is read ----------------------------------------------------------------------------------------------------


def settings(folder: Path, name: str) -> Any:
    return SimpleNamespace(data=SimpleNamespace(datasets=[name], data_root=str(folder)))


def opened(folder: Path, name: str, split: str) -> TaskDataset:
    return Ref.open(settings(folder, name), split, None)


def prepared(folder: Path, dataset: str, split_by: str) -> tuple[list[dict], dict]:
    references, instances = raw_refcoco.build(split_by)
    raw_refcoco.write(folder / "raw", references, instances, dataset, split_by)
    make_arrow(folder / "raw", folder / "arrow", dataset=dataset, split_by=split_by, workers=1)
    return references, instances


@pytest.mark.parametrize(
    ("name", "dataset", "split_by", "splits"),
    [
        ("refcoco", "refcoco", "unc", ("val", "testA", "testB")),
        ("refcoco+", "refcoco+", "unc", ("val", "testA", "testB")),
        ("refcocog", "refcocog", "umd", ("val", "test")),
        ("refcocog_google", "refcocog", "google", ("val",)),
    ],
)
def test_reads_what_prepare_wrote(tmp_path: Path, name: str, dataset: str, split_by: str, splits: tuple[str, ...]):
    references, instances = prepared(tmp_path, dataset, split_by)
    folder = tmp_path / "arrow"
    assert Ref.splits(settings(folder, name)) == splits
    for split in ("train", *splits):
        data = opened(folder, name, split)
        assert data.labelled
        samples = [data[number] for number in range(len(data))]
        own = [each for each in references if each["split"] == split]
        assert [sample.text for sample in samples] == [text["sent"] for each in own for text in each["sentences"]]
        for place, sample in enumerate(samples):
            reference = own[place // 2]
            boxes = {each["id"]: each["bbox"] for each in instances["annotations"]}
            assert sample.boxes[sample.label] == boxes[reference["ann_id"]]
            assert sample.metadata == {
                "id": f"{reference['ref_id']}#{place}",
                "target": sample.label,
                "candidates": len(raw_refcoco.BOXES),
                "group": place // 2,
            }
        frame = pd.DataFrame([dict(sample.metadata) for sample in samples])
        assert Ref.notes(frame, data.dataset) == [
            "the candidates are the ground-truth boxes of the image; accuracy among detected boxes is another task"
        ]


def test_reads_files_of_older_programs_and_says_what_they_leave_open(tmp_path: Path):
    prepared(tmp_path, "refcoco+", "unc")
    rows = read_rows(tmp_path / "arrow" / "refcoco+_unc_val.arrow")
    kept = ("image", "sentences", "bboxes", "labels")
    older = [{name: row[name] for name in kept} for row in rows]
    for split in ("val", "test"):
        write(tmp_path / "old" / f"refcoco_unc_{split}.arrow", by_pandas(older))
    assert Ref.splits(settings(tmp_path / "old", "refcoco+")) == ("val", "test")
    ours, theirs = opened(tmp_path / "arrow", "refcoco+", "val"), opened(tmp_path / "old", "refcoco+", "val")
    assert len(ours) == len(theirs)
    for number in range(len(ours)):
        expected = ours[number]
        metadata = expected.metadata | {"id": number}
        assert theirs[number] == expected._replace(metadata=metadata, where=theirs[number].where)
    said = Ref.notes(None, opened(tmp_path / "old", "refcoco+", "test").dataset)
    assert said[1:] == [
        "refcoco_unc_test.arrow has a name that older programs gave to every variant: only you know that it is refcoco+",
        "it merges testA (people) and testB (objects), which are reported apart; prepare them anew",
    ]
    assert len(Ref.notes(None, theirs.dataset)) == 2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"bboxes": [[-math.inf, 0.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0]]}, "row 2 has -inf in 'bboxes'"),
        ({"bboxes": [[0.0, 0.0, 1.0, 1.0], [1.0, 2.0, math.inf, 4.0]]}, "row 2 has inf in 'bboxes'"),
        ({"image": b"<html>"}, "The image of refcoco_unc_val.arrow row 2 cannot be decoded"),
    ],
)
def test_refuses_what_is_no_sample(tmp_path: Path, change: dict, sentence: str):
    boxes = [[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 20.5, 9.0]]
    rows = [
        {"image": photograph(number), "sentences": ["the red one"], "bboxes": boxes, "labels": 1} for number in range(4)
    ]
    write(tmp_path / "refcoco_unc_val.arrow", by_pandas(rows[:2] + [rows[2] | change] + rows[3:]))
    transform = make_transform("vit", 32, patch_size=8, seed=0)
    with pytest.raises(UserError) as error:
        source = Source(opened(tmp_path, "refcoco", "val"), transform)
        for place in range(4):
            source.example(Draw(0, place))
    assert sentence in str(error.value) and "refcoco_unc_val.arrow" in str(error.value)
    assert "\n" not in str(error.value)
    for place in (0, 1, 3) if "image" in change else ():
        assert len(source.example(Draw(0, place)).images) == 2


def test_refuses_another_kind_of_data(tmp_path: Path):
    with pytest.raises(UserError, match="'coco', which holds captions, not boxes; give refcoco, refcoco"):
        Ref.splits(settings(tmp_path, "coco"))


# -- the numbers -----------------------------------------------------------------------------------------------------


def test_the_baseline_is_a_guess_among_the_candidates():
    frame = pd.DataFrame({"candidates": [1, 2, 4, 10], "score": [1.0, 0.0, 1.0, 1.0], "target": [0, 1, 2, 3]})
    assert Ref.baseline(frame) == ("chance", pytest.approx((1 + 1 / 2 + 1 / 4 + 1 / 10) / 4))
    assert values(Ref.score(None, frame)) == {"accuracy": 0.75}
