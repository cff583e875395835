"""`classify`: the linear probe against scikit-learn, neighbours against a loop, draws, and whole commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from renaissance.inference.classifiers import DECAYS, LabelledFeatures, choose_decay, drawn, fit, neighbour_logits
from sklearn.linear_model import LogisticRegression

import small_run
import small_tasks
from exchange.checkpoints import write_checkpoint
from renaissance.cli.main import main
from renaissance.data.prepare import images
from renaissance.inference.loaded import Loaded
from renaissance.models.heads import pool
from small_run import Ended

CLASSES = 3


def features(count: int, seed: int, noise: float = 1.5) -> LabelledFeatures:
    """Vectors around a point for each class."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, CLASSES, count)
    points = np.random.default_rng(0).normal(size=(CLASSES, 6))
    vectors = points[labels] + noise * draw.normal(size=(count, 6))
    return LabelledFeatures(torch.from_numpy(vectors), torch.from_numpy(labels))


@pytest.mark.parametrize("decay", [1.0, 1e-2, 1e-4])
def test_the_linear_probe_is_scikit_learns(decay: float):
    train, other = features(90, 1), features(40, 2)
    theirs = LogisticRegression(C=1 / (len(train.labels) * decay), tol=1e-9, max_iter=10_000)
    theirs.fit(train.vectors.numpy(), train.labels.numpy())
    expected = theirs.predict_proba(other.vectors.numpy())
    found = fit(train, CLASSES, decay).logits(other.vectors).softmax(-1)
    assert found.numpy() == pytest.approx(expected, abs=1e-4) and expected.std() > 0.1
    warm = fit(train, CLASSES, decay, fit(train, CLASSES, 1.0)).logits(other.vectors).softmax(-1)
    assert warm.numpy() == pytest.approx(expected, abs=1e-4)


def test_the_decay_is_that_of_the_best_accuracy_on_validation():
    train, val = features(30, 3, noise=3), features(200, 4, noise=3)
    accuracy = {
        decay: (fit(train, CLASSES, decay).logits(val.vectors).argmax(-1) == val.labels).double().mean().item()
        for decay in DECAYS
    }
    assert choose_decay(train, val, CLASSES) == max(accuracy, key=lambda decay: (accuracy[decay], decay))
    assert len(set(accuracy.values())) > 2


def test_neighbours_vote_as_in_a_loop():
    train, other = features(50, 5), features(20, 6)
    found = neighbour_logits(train, other.vectors, CLASSES, 7).softmax(-1)
    for row, vector in enumerate(other.vectors.numpy()):
        cosines = [
            (float(vector @ known / np.linalg.norm(vector) / np.linalg.norm(known)), int(label))
            for known, label in zip(train.vectors.numpy(), train.labels, strict=True)
        ]
        votes = np.zeros(CLASSES)
        for cosine, label in sorted(cosines, reverse=True)[:7]:
            votes[label] += np.exp(cosine / 0.07)
        assert found[row].numpy() == pytest.approx(votes / votes.sum(), abs=1e-9)
    assert neighbour_logits(train, other.vectors, CLASSES, 1000).isfinite().all()  # fewer are there


def test_draws_depend_on_seed_and_class_alone():
    labels = np.array([0, 1] * 10 + [2] * 4)
    first = drawn(labels, 3, [0, 1, 0])
    assert np.bincount(labels[first]).tolist() == [3, 3, 3] and (np.diff(first) > 0).all()
    assert drawn(labels, 3, [0, 1, 0]).tolist() == first.tolist() != drawn(labels, 3, [0, 1, 1]).tolist()
    assert np.bincount(labels[drawn(labels, 0.2, [0])]).tolist() == [2, 2, 1]
    more = np.append(labels, [3, 3, 3])
    assert drawn(more, 3, [0, 1, 0])[:9].tolist() == first.tolist()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and images with classes with and without a validation split."""
    folder = tmp_path_factory.mktemp("classify")
    write_checkpoint(folder / "two", {"text_encoder": "bert", "image_encoder": "vit"}, ("itm", "itc"))
    small_tasks.arrows("images", folder)
    raw = folder / "images" / "raw"
    (raw / "val").rename(folder / "val")
    (folder / "without").mkdir()
    images.make_arrow(raw, folder / "without", workers=1)
    small_tasks.arrows("snli", folder)
    return folder


def classify(capsys: pytest.CaptureFixture[str], place: Path, output: Path, *words: str) -> Ended:
    capsys.readouterr()
    given = [f"load_path={place / 'two' / 'model.ckpt'}", f"output={output}", "num_workers=0"]
    if not any(word.startswith("dataset=") for word in words):
        given += ["dataset=images", f"data_root={place / 'images' / 'arrow'}"]
    code = main(["classify", "with", *given, *words])
    return Ended(code, *capsys.readouterr())


def test_a_command_leaves_a_run_of_the_model_s_features(place: Path, tmp_path: Path, capsys):
    output = tmp_path / "out"
    assert classify(capsys, place, output).code == 0
    before = {path: path.stat().st_mtime_ns for path in (output / "features").rglob("*.parquet")}
    assert classify(capsys, place, output, "classifier=knn", "neighbours=3").code == 0
    assert before == {path: path.stat().st_mtime_ns for path in (output / "features").rglob("*.parquet")} != {}
    data = place / "images" / "arrow"
    model, vectors, labels = Loaded(place / "two" / "model.ckpt"), {}, {}
    for split in ("train", "test"):
        source = pd.read_feather(data / f"images_{split}.arrow")
        with torch.no_grad():
            tokens = model.model.unimodal_image(model._shown(source["image"].tolist()))
        vectors[split] = pool(tokens, model.model.unimodal_pooling["image"]).double()
        labels[split] = torch.tensor(source["label"].tolist())
    known = LabelledFeatures(vectors["train"], labels["train"])
    expected = neighbour_logits(known, vectors["test"], 3, 3).softmax(-1)
    run = output / "knn" / "version_0"
    frame = pd.read_parquet(run / "predictions" / "images_test.parquet")
    assert frame["confidence"].tolist() == pytest.approx(expected.amax(-1).tolist(), abs=1e-4)
    assert frame["score"].tolist() == (expected.argmax(-1) == labels["test"]).double().tolist()
    found = small_run.results(run)["test"]["images"]
    assert found["accuracy"] == frame["score"].mean() and {"mean_per_class_recall", "ece", "brier"} <= found.keys()
    details = json.loads((output / "linear" / "version_0" / "results_details.json").read_text())["test"]["images"]
    assert details["accuracy"]["baseline"] == {"chance": pytest.approx(1 / 3)} and details["accuracy"]["interval"]
    assert "chosen on val, on features of image" in details["accuracy"]["method"]
    assert (run / "report.html").exists()
    runs = f'["{output / "linear" / "version_0"}","{run}"]'
    assert main(["compare", "with", f"runs={runs}", f"output={tmp_path / 'compared'}"]) == 0
    assert "paired bootstrap" in capsys.readouterr().out


def test_shots_are_drawn_and_what_is_held_out_chooses(place: Path, tmp_path: Path, capsys):
    ended = classify(capsys, place, tmp_path / "out", "shots=2", "draws=3")
    assert ended.code == 0, ended.err
    run = tmp_path / "out" / "linear" / "version_0"
    frames = [pd.read_parquet(run / "predictions" / f"images_test_draw{number}.parquet") for number in range(3)]
    scores, found = [frame["score"].mean() for frame in frames], small_run.results(run)["test"]["images"]
    assert found["accuracy"] == pytest.approx(np.mean(scores))
    assert found["accuracy_std"] == pytest.approx(np.std(scores, ddof=1))
    ended = classify(capsys, place, tmp_path / "held", "dataset=images", f"data_root={place / 'without'}")
    assert ended.code == 0 and "chosen on 3 training examples, on features of image" in ended.out
    ended = classify(capsys, place, tmp_path / "snli", "dataset=snli", f"data_root={place / 'snli' / 'arrow'}")
    assert ended.code == 0 and "snli, test" in ended.out and "on features of fused" in ended.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("shots=9",),
            "shots=9: there are fewer training examples of a dog (4), cat (4), Äpfel (4); give a smaller number.",
        ),
        (("draws=2",), "draws=2 would change nothing: shots=None takes all training examples; give both."),
        (("neighbours=3",), "neighbours=3 would change nothing: it is for classifier=knn."),
        (("features=text",), "features=text: dataset=images has none for each example; give image."),
        (("dataset=coco", "data_root=x"), "dataset=coco has captions, no classes; give images with classes"),
        (("load_path=nowhere.ckpt",), "load_path=nowhere.ckpt is not a file"),
        (("dataset=birds", "data_root=."), "birds_train.arrow"),
    ],
)
def test_what_cannot_be_classified_is_refused_before_anything_is_written(words, sentence, place, tmp_path, capsys):
    refused = classify(capsys, place, tmp_path / "out", *words).sentence()
    assert sentence in refused and not (tmp_path / "out").exists()
