"""SNLI-VE: what is read of files new and old, the loss, accuracy and confusion matrix."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from sklearn.metrics import confusion_matrix
from torch.nn import functional as F

from data.foreign_files import FOREIGN, by_pandas, write
from data.prepare import raw_snli
from renaissance.core.types import Batch, LabelTargets
from renaissance.data.prepare.snli import make_arrow
from renaissance.tasks.base import Context, Encodings
from renaissance.tasks.snli import CLASSES, Snli
from small_tasks import values
from tiny_models import VOCAB, one_tower, pictures, stirred, texts, two_tower


def settings(data_root: Path) -> SimpleNamespace:
    return SimpleNamespace(data=SimpleNamespace(data_root=str(data_root), datasets=("snli",)))


@torch.no_grad()
@pytest.mark.parametrize("make", [two_tower, lambda: one_tower("text")], ids=["two-tower", "one-tower"])
def test_the_loss_is_that_of_one_pair_at_a_time(make):
    model = make()
    task = stirred(Snli(model, Context(None, VOCAB, CLASSES)))
    lengths, labels = (7, 4, 6), torch.tensor([2, -100, 0])
    made = LabelTargets(labels, ({"id": 1}, {"id": 2}, {"id": 3}))
    text, images = texts(lengths), pictures(3)
    out = task(Encodings(model, Batch(torch.arange(3), text, images, {}, (1, 1, 1))), made)
    expected = 0.0
    for row in (0, 2):
        alone = type(text)(*(part[row : row + 1, : lengths[row]] for part in text))
        fused = model.fuse(model.embed_text(alone), model.embed_image(type(images)(images.pixels[row : row + 1])))
        expected += float(F.cross_entropy(task.head(fused.pooled), labels[row : row + 1]))
    assert float(out.loss) == pytest.approx(expected, abs=1e-4) and float(out.count) == 2
    rows = task.rows(out, made)
    assert [row["id"] for row in rows] == [1, 2, 3] and rows[1]["score"] is None
    assert all(row["prediction"] == CLASSES[int(logits.argmax())] for row, logits in zip(rows, out.logits, strict=True))


def test_the_hypothesis_is_read_and_the_premise_is_not(tmp_path: Path):
    raw_snli.write(tmp_path / "raw", raw_snli.build())
    make_arrow(tmp_path / "raw", tmp_path / "arrow", workers=1)
    assert Snli.splits(settings(tmp_path / "arrow")) == ("val", "test")
    for split, lines in (("train", "train"), ("val", "dev"), ("test", "test")):
        samples = Snli.open(settings(tmp_path / "arrow"), split, CLASSES)
        found = [samples[index] for index in range(len(samples))]
        expected = {(" ".join(line["sentence2"].split()), line["gold_label"]) for line in raw_snli.build()[lines]}
        assert {(sample.text, sample.metadata["target"]) for sample in found} == expected
        assert all(CLASSES[sample.label] == sample.metadata["target"] for sample in found)
        assert len({sample.metadata["id"] for sample in found}) == len(found)


def test_old_files_are_read(tmp_path: Path):
    write(tmp_path / "snli_dev.arrow", by_pandas(FOREIGN["snli"].rows))
    samples = Snli.open(settings(tmp_path), "val", CLASSES)
    stored = [
        (pair[1], label)
        for row in FOREIGN["snli"].rows
        for pair, label in zip(row["sentences"], row["labels"], strict=True)
    ]
    assert [(samples[index].text, samples[index].label) for index in range(len(samples))] == stored


def test_the_confusion_matrix_is_scikit_learns():
    draw = random.Random(0)
    right, guesses = (
        [draw.choice(CLASSES[:top]) for _ in range(200)] for top in (3, 2)
    )  # one class is never predicted
    frame = pd.DataFrame({"target": right, "prediction": guesses})
    frame["score"] = (frame["target"] == frame["prediction"]).astype(float)
    found = values(Snli(two_tower(), Context(None, VOCAB, CLASSES)).score(frame))
    expected = confusion_matrix(right, guesses, labels=CLASSES)
    for row, target in enumerate(CLASSES):
        assert [found[f"{target}_as_{guess}"] for guess in CLASSES] == expected[row].tolist()
    assert found["accuracy"] == pytest.approx(expected.trace() / 200)
    assert Snli.baseline(frame) == ("majority", max(right.count(name) for name in CLASSES) / 200)
