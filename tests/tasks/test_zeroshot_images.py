"""Classes without training: against plain loops, CLIP_benchmark's files, what is computed once, and whole commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import small_run
import small_tasks
from exchange.checkpoints import write_checkpoint
from renaissance.core.errors import UserError
from renaissance.core.types import Batch, LabelTargets
from renaissance.data.text import encode
from renaissance.evaluation.ranking import FullSplit
from renaissance.tasks import Context, Encodings
from renaissance.tasks.zeroshot_images import ZeroshotImages
from small_tasks import values
from tiny_models import (
    MAX_TEXT_LEN,
    VOCAB,
    counted_parts,
    one_tower,
    pictures,
    same,
    stirred,
    texts,
    tokenizer,
    two_tower,
)

LABELS = ("red_circle", "blue square", "green")
TEMPLATES = ["the {c}", "two small {c} images above the {c}"]


def settings_of(data_root: Path | str = ".", **given: object) -> SimpleNamespace:
    objectives = {"class_names": None, "templates": None, "probe_score": None, "loss_names": {"zeroshot_images": 1.0}}
    return SimpleNamespace(
        data=SimpleNamespace(datasets=given.get("datasets", ("images",)), data_root=str(data_root)),
        objectives=SimpleNamespace(**objectives | {key: given[key] for key in objectives.keys() & given.keys()}),
        model=SimpleNamespace(max_text_len=MAX_TEXT_LEN),
        run=SimpleNamespace(test_only=given.get("test_only", True)),
    )


def task_of(model: nn.Module, scored_by: str = "itc", **given: object) -> ZeroshotImages:
    task = stirred(ZeroshotImages(model, Context(settings_of(**given), VOCAB, LABELS, tokenizer())))
    task.use_loaded({scored_by}, "load_path=x")
    return task


def batch_of(size: int, seed: int = 2) -> Batch:
    targets = LabelTargets(torch.arange(size) % 3, tuple({"id": n, "target": LABELS[n % 3]} for n in range(size)))
    return Batch(torch.arange(size), texts((2,) * size), pictures(size, seed=seed), {"x": targets}, (1,) * size)


def templates_file(folder: Path, content: object = {"images": TEMPLATES, "cifar10": ["a {c}"]}) -> str:
    path = folder / "templates.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("make", [two_tower, lambda: one_tower("image")], ids=["two-tower", "one-tower"])
@pytest.mark.parametrize("scored_by", ["itc", "itm"])
@torch.no_grad()
def test_scores_are_those_of_a_loop_over_images_and_texts(make: Callable, scored_by: str, tmp_path: Path):
    model = make()
    task, batch = task_of(model, scored_by, templates=templates_file(tmp_path)), batch_of(4)
    logits = task(Encodings(model, batch), batch.targets["x"]).logits
    expected = torch.zeros(4, 3)
    for row in range(4):
        image = model.embed_image(batch.images._replace(pixels=batch.images.pixels[row : row + 1]))
        for column, name in enumerate(("red circle", "blue square", "green")):
            found = []
            for words in ("the " + name, f"two small {name} images above the {name}"):
                text = model.embed_text(encode(tokenizer(), [words], MAX_TEXT_LEN, multiple=1)[1])
                if scored_by == "itc":
                    found.append(task.itc.vectors(model.unimodal(text, "text"), "text")[0])
                else:
                    odds = task.itm.head(model.fuse(text, image, 0, {"pooled"}).pooled).softmax(-1)[0]
                    found.append((odds[1] / odds[0]).log())
            if scored_by == "itc":
                mean = sum(found) / len(found)
                vector = task.itc.vectors(model.unimodal(image, "image"), "image")[0]
                cosine = F.cosine_similarity(vector, mean, dim=0)
                expected[row, column] = task.itc.log_scale.exp() * cosine
            else:
                expected[row, column] = sum(found) / len(found)
    same(logits, expected, 2e-4)
    assert logits.std() > 1e-3


@pytest.mark.parametrize("scored_by", ["itc", "itm"])
@torch.no_grad()
def test_texts_are_encoded_once(scored_by: str, monkeypatch: pytest.MonkeyPatch):
    model = two_tower()
    task, calls = task_of(model, scored_by), counted_parts(model, monkeypatch)
    first, second = batch_of(4), batch_of(3, seed=9)
    for batch in (first, second):
        whole = task(Encodings(model, batch), batch.targets["x"]).logits
    assert calls["embed_text"] == 1 and calls["embed_image"] == 2 and calls["fuse"] == (0 if scored_by == "itc" else 2)
    monkeypatch.setattr("renaissance.tasks.zero_shot.pairs_at_once", lambda *_: 2)
    monkeypatch.setattr("renaissance.tasks.zeroshot_images._TEXTS", 2)
    other = task_of(model, scored_by)
    same(other(Encodings(model, second), second.targets["x"]).logits, whole, 1e-4)  # however it is cut


@torch.no_grad()
def test_what_the_fusion_of_all_pairs_takes_is_said_once_and_early(monkeypatch: pytest.MonkeyPatch):
    """17 images of which one process of two has 9: three in a batch, with one text after the other."""
    monkeypatch.setattr("renaissance.tasks.zeroshot_images._TEXTS", 1)
    clock = iter([100.0, 160.0])  # before the second part, and before the fifth
    monkeypatch.setattr("renaissance.evaluation.pair_pace.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    model, said = two_tower(), []
    for parts in ({"itm", "itc"}, {"itc"}):
        task = stirred(ZeroshotImages(model, Context(settings_of(), VOCAB, LABELS, tokenizer())))
        task.use_loaded(parts, "load_path=x")
        collate = SimpleNamespace(source=SimpleNamespace(dataset=range(17)))
        task.split_begins(FullSplit(collate, 0, 0, 2, lambda each: [each], said.append))
        for _ in range(3):
            batch = batch_of(3)
            task(Encodings(model, batch), batch.targets["x"])
    # 9 of 27 pairs take 60 seconds.
    assert said == ["scoring 17 images with 3 texts of classes: 27 pairs on this process, about 3 minutes"]


@torch.no_grad()
def test_metrics_are_those_of_a_loop():
    model = two_tower()
    task, batch = task_of(model), batch_of(11)  # 4, 4 and 3 of a class
    out = task(Encodings(model, batch), batch.targets["x"])
    right: dict[int, list[bool]] = {}
    for row, label in zip(out.logits.tolist(), out.labels.tolist(), strict=True):
        right.setdefault(label, []).append(row.index(max(row)) == label)
    total = sum(map(sum, right.values())) / 11
    recall = sum(sum(each) / len(each) for each in right.values()) / 3
    found = task.score(pd.DataFrame(task.rows(out, batch.targets["x"])))
    assert values(found) == pytest.approx({"accuracy": total, "mean_per_class_recall": recall}) and total != recall
    assert {name: each.baseline for name, each in found.items()} == dict.fromkeys(found, ("chance", 1 / 3))
    low, high = found["mean_per_class_recall"].record()["interval"]
    assert low <= recall <= high


def test_what_the_files_say_is_checked(tmp_path: Path, folder_of_images: Path):
    def problem(content: object, key: str = "templates") -> str:
        path = templates_file(tmp_path, content)
        with pytest.raises(UserError) as error:
            settings = settings_of(folder_of_images, **{key: path})
            labels = ZeroshotImages.label_names(settings)
            ZeroshotImages(two_tower(), Context(settings, VOCAB, labels, tokenizer()))
        return str(error.value).replace(path, "FILE")

    assert problem(["a photo"]) == (
        "templates=FILE has ['a photo'] without {c}, the place of a class's name; write it into each."
    )
    assert "templates=FILE has nothing for 'images' (it has cifar10)" in problem({"cifar10": ["a {c}"]})
    assert "templates=FILE has no text for 'images'" in problem([])
    assert "templates=FILE[0] is 3, but has to be text" in problem([3])
    labels = ZeroshotImages.label_names(settings_of(folder_of_images))
    assert f"class_names=FILE names 1 classes, and the files have {len(labels)}" in problem(["a"], "class_names")
    turned = [*labels[1:], labels[0]]
    assert "class_names=FILE names the classes in another order" in problem(turned, "class_names")
    names = templates_file(tmp_path, {"images": [f"kind {n}" for n in range(len(labels))]})
    settings = settings_of(folder_of_images, class_names=names)
    assert ZeroshotImages.label_names(settings) == labels  # which the predictions go by
    task = ZeroshotImages(two_tower(), Context(settings, VOCAB, labels, tokenizer()))
    assert task.texts[:2] == ["a photo of a kind 0.", "a photo of a kind 1."]


def test_texts_of_classes_that_are_cut_are_counted(tmp_path: Path):
    templates = templates_file(tmp_path, {"images": ["the {c}", "the {c} above " * 9]})
    task = ZeroshotImages(two_tower(), Context(settings_of(templates=templates), VOCAB, LABELS, tokenizer()))
    said = task.use_loaded({"itc"}, "load_path=x")
    assert said[1:] == [f"3 of 6 texts are longer than max_text_len={MAX_TEXT_LEN} tokens, and cut"]


def test_without_the_heads_it_is_refused():
    model = two_tower()
    task = ZeroshotImages(model, Context(settings_of(), VOCAB, LABELS, tokenizer()))
    with pytest.raises(UserError, match="load_path=x has no trained head of itm or itc, which this task scores"):
        task.use_loaded(set(), "load_path=x")
    assert task.use_loaded({"itm", "itc"}, "") and task.scored_by == "itm"
    asked = ZeroshotImages(model, Context(settings_of(probe_score="itc"), VOCAB, LABELS, tokenizer()))
    with pytest.raises(
        UserError, match="probe_score=itc: load_path=x has no trained head of itc; give probe_score=itm"
    ):
        asked.use_loaded({"itm"}, "load_path=x")
    with pytest.raises(UserError, match="'vqa', which holds questions, not classes; give the name of your own classes"):
        ZeroshotImages.label_names(settings_of(datasets=("vqa",)))
    with pytest.raises(UserError, match="cannot run together"):
        both = settings_of(loss_names={"zeroshot_images": 1, "itm": 1})
        ZeroshotImages(model, Context(both, VOCAB, LABELS, tokenizer()))


@pytest.fixture(scope="module")
def folder_of_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_tasks.arrows("images", tmp_path_factory.mktemp("zeroshot"))


@pytest.mark.slow
def test_two_processes_give_what_one_gives(folder_of_images: Path, tmp_path: Path, run_cli):
    path = write_checkpoint(tmp_path / "model", {"text_encoder": "bert", "image_encoder": "vit"}, ("itm", "itc"))
    asked = ("with", "task_zeroshot_images", f"data_root={folder_of_images}", f"load_path={path}", "num_workers=0",
             "eval_batch_size=3", "accelerator=cpu", f"log_dir={tmp_path / 'runs'}")  # fmt: skip
    for head in ("itm", "itc"):
        tables, found = [], []
        for processes in (1, 2):
            name = f"{head}_{processes}"
            done = run_cli(*asked, f"probe_score={head}", f"num_gpus={processes}", f"exp_name={name}")
            assert done.code == 0, done.stderr
            run = tmp_path / "runs" / name / "version_0"
            found.append(small_run.results(run))
            tables.append(pd.read_parquet(run / "predictions" / "zeroshot_images_test.parquet"))
        pd.testing.assert_frame_equal(*tables, atol=1e-5)
        for split, each in found[0].items():
            assert found[1][split]["zeroshot_images"] == pytest.approx(each["zeroshot_images"], abs=1e-5)


def test_a_command_from_a_pretrained_checkpoint_to_its_numbers(folder_of_images: Path, tmp_path: Path, capsys):
    for heads in (("mlm", "itm", "itc"), ("mlm",)):
        write_checkpoint(tmp_path / "-".join(heads), {"text_encoder": "bert", "image_encoder": "vit"}, heads)
    asked = ("task_zeroshot_images", f"data_root={folder_of_images}", f"log_dir={tmp_path / 'runs'}", "num_workers=0")
    path, without = (f"load_path={tmp_path / name / 'model.ckpt'}" for name in ("mlm-itm-itc", "mlm"))
    found = {}
    for head in ("itm", "itc"):
        ended = small_run.command(capsys, *asked, path, *(["probe_score=itc"] if head == "itc" else []))
        assert ended.code == 0, ended.err
        assert f"note: probe_score={head}: " in ended.out and "a guess among the candidates" in ended.out
        run = Path(ended.out.rsplit("run folder: ", 1)[1].splitlines()[0])
        found[head] = {split: each["zeroshot_images"] for split, each in small_run.results(run).items()}
        assert {*found[head]} == {"val", "test"} and (run / "report.html").exists()
        for each in found[head].values():
            assert {"accuracy", "mean_per_class_recall", "ece", "brier"} <= each.keys()
    assert found["itm"] != found["itc"]
    refused = small_run.command(capsys, *asked, without).sentence()
    assert f"{without} (its heads: mlm) has no trained head of itm or itc" in refused
    idle = small_run.command(capsys, "task_mlm", "max_steps=1", "probe_score=itc", *small_run.TOWERS).sentence()
    assert "probe_score=itc would change nothing: it is for probe and zeroshot_images; leave it out." in idle
