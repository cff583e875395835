"""Every downstream task from its command to its files: what is evaluated, written, and evaluated again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

import small_run
from data.prepare import raw_files
from renaissance.core.registry import TASKS as TABLE
from renaissance.core.types import TaskOutput
from renaissance.data.prepare import images
from renaissance.tasks import Downstream, task_class
from renaissance.tasks.irtr import Irtr
from renaissance.tasks.vqa import Vqa
from small_tasks import TASKS, words

CASES = [(task, "two-tower") for task in TASKS] + [("vqa", "one-tower"), ("nlvr2", "one-tower"), ("irtr", "one-tower")]


def test_no_downstream_task_is_left_out():
    learning = {name for name in TABLE if task_class(name).learns}  # the others have tests of their own
    assert {*TASKS} == {name for name in learning if issubclass(task_class(name), Downstream)}


@pytest.fixture(scope="module")
def folder(hub_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tasks")


@pytest.mark.parametrize(("task", "kind"), CASES, ids=[f"{task}-{kind}" for task, kind in CASES])
def test_a_finetuning_ends_with_each_labelled_split(task: str, kind: str, folder: Path, capsys, tmp_path: Path):
    """And the same checkpoint gives the same numbers when it is evaluated again, and predictions of hidden splits."""
    small = TASKS[task]
    run = small_run.train(capsys, *words(task, folder, kind, tmp_path))
    results = small_run.results(run)
    assert set(results) == set(small.splits)
    for split in small.splits:
        rows = pd.read_parquet(run / "predictions" / f"{task}_{split}.parquet")
        assert {"id", "prediction", "target", "score", "position"} <= set(rows) and rows["id"].is_unique
        assert rows["position"].tolist() == list(range(len(rows)))
    assert not any((run / "predictions" / f"{task}_{split}.parquet").exists() for split in small.hidden)
    details = json.loads((run / "results_details.json").read_text(encoding="utf-8"))
    for split, values in results.items():
        assert {name: list(of) for name, of in details[split].items()} == {
            name: list(of) for name, of in values.items()
        }
        for metric, value in values[task].items():
            told = details[split][task][metric]
            low, high = told["interval"] or (-math.inf, math.inf)
            assert value is None or low - 1e-9 <= value <= high + 1e-9, metric
            assert told["files"] and told["examples"] and told["eval_limit"] is None
        assert any(told["baseline"] for told in details[split][task].values())

    best = run / "checkpoints" / "best.ckpt"
    again = [word for word in words(task, folder, kind, tmp_path) if not word.startswith("max_steps")]
    ended = small_run.command(capsys, *again, "test_only=True", f"load_path={best}", "eval_batch_size=3")
    assert ended.code == 0, ended.err
    second = Path(ended.out.rsplit("run folder: ", 1)[1].splitlines()[0])
    same(small_run.results(second), results)
    for split in small.hidden:
        rows = pd.read_parquet(second / "predictions" / f"{task}_{split}.parquet")
        assert len(rows) and rows["score"].isna().all() and rows["target"].isna().all()


def same(one: dict, two: dict) -> None:
    """Two nested results hold the same names and, but for the order of additions, the same numbers."""
    assert set(one) == set(two)
    for key, value in one.items():
        if isinstance(value, dict):
            same(value, two[key])
        else:
            assert value == pytest.approx(two[key], abs=1e-5, nan_ok=True), key


@pytest.mark.parametrize(
    "task",
    [
        "vqa",
        *(pytest.param(task, marks=pytest.mark.slow) for task in ("nlvr2", "snli", "ref", "irtr", "images", "glue")),
    ],
)
def test_two_processes_evaluate_like_one(task: str, folder: Path, capsys, tmp_path: Path, run_cli):
    """Odd sizes, so that one process has a batch more, or a shorter one; by file and number, hidden splits too."""
    run = small_run.train(capsys, *words(task, folder, "two-tower", tmp_path))
    evaluation = [word for word in words(task, folder, "two-tower", tmp_path) if not word.startswith("max_steps")]
    evaluation += ["test_only=True", f"load_path={run / 'checkpoints' / 'best.ckpt'}", "eval_batch_size=3"]
    done = run_cli("with", *evaluation, "num_gpus=2")
    assert done.code == 0, done.stderr
    second = tmp_path / done.stdout.rsplit("run folder: ", 1)[1].splitlines()[0]
    same(small_run.results(second), small_run.results(run))
    for split in (*TASKS[task].splits, *TASKS[task].hidden):
        rows = pd.read_parquet(second / "predictions" / f"{task}_{split}.parquet")
        assert rows["position"].tolist() == list(range(len(rows))) and rows["id"].is_unique
        if split in TASKS[task].splits:
            one = pd.read_parquet(run / "predictions" / f"{task}_{split}.parquet")
            assert rows[["id", "prediction", "target"]].equals(one[["id", "prediction", "target"]])


def test_without_a_checkpoint_it_is_said(folder: Path, capsys, tmp_path: Path):
    small_run.train(capsys, *words("snli", folder, log=tmp_path))
    assert "note: no load_path" in (tmp_path / "finetune_snli" / "version_0" / "log.txt").read_text()


def test_what_a_command_repeats_must_agree_and_what_it_changes_is_adapted(folder: Path, capsys, tmp_path: Path):
    """From a checkpoint of another task: towers and fusion load, the head is new; image and text sizes follow."""
    before = small_run.train(capsys, *words("snli", folder, log=tmp_path)) / "checkpoints" / "best.ckpt"
    given = [
        word for word in words("nlvr2", folder, log=tmp_path) if not word.startswith(("image_size", "max_text_len"))
    ]
    ended = small_run.command(capsys, *given, f"load_path={before}", "image_size=48", "max_text_len=20")
    assert ended.code == 0, ended.err
    for line in (
        "note: image_size=48 (the checkpoint has 32): the weights are adapted",
        "note: max_text_len=20 (the checkpoint has 16): the weights are adapted",
        "new, random weights: 6 (nlvr2.head.0.weight, nlvr2.head.0.bias, nlvr2.head.1.weight, nlvr2.head.1.bias and 2 more)",
        "not used: 6 (snli.head.0.weight",
        "resized: 1 (image_tower.",
    ):
        assert line in ended.out, line
    refused = small_run.command(capsys, *given, f"load_path={before}", "num_cross_layers=2")
    assert "num_cross_layers=2 contradicts the checkpoint, which has num_cross_layers=1" in refused.sentence()
    other = ["task_finetune_nlvr2", "encoder=facebook/dino-vits16", f"load_path={before}", f"data_root={folder}"]
    sentence = small_run.command(capsys, *other).sentence()
    assert (
        sentence
        == "encoder means something to one-tower models only: the checkpoint holds a two-tower model; leave it out."
    )


def test_answers_that_differ_from_the_checkpoints_are_refused(folder: Path, capsys, tmp_path: Path):
    run = small_run.train(capsys, *words("images", folder, log=tmp_path))
    path = run / "checkpoints" / "best.ckpt"
    other = tmp_path / "other" / "arrow"
    for number, name in enumerate(("train", "val", "test")):
        for kind in ("ant", "bee"):
            place = tmp_path / "other" / "raw" / name / kind
            place.mkdir(parents=True)
            (place / "a.png").write_bytes(raw_files.photograph(3 * number))
    images.make_arrow(tmp_path / "other" / "raw", other, workers=1)
    command = [word for word in words("images", folder, log=tmp_path) if not word.startswith("data_root")]
    sentence = small_run.command(capsys, *command, f"data_root={other}", f"load_path={path}").sentence()
    assert "The answers of images differ" in sentence and "2 (ant, bee)" in sentence and str(path) in sentence


def test_a_head_that_was_never_trained_is_not_evaluated(folder: Path, capsys, tmp_path: Path):
    before = small_run.train(capsys, *words("snli", folder, log=tmp_path)) / "checkpoints" / "best.ckpt"
    given = [word for word in words("nlvr2", folder, log=tmp_path) if not word.startswith("max_steps")]
    refused = small_run.command(capsys, *given, f"load_path={before}", "test_only=True")
    assert f"load_path={before} (its heads: snli) has no trained head of this task" in refused.sentence()


def test_what_is_no_number_is_not_right():
    """Neither for the class with the highest logit, where NaN is the highest, nor by comparisons, which are all False."""
    logits, metadata = torch.tensor([[0.0, 1.0], [float("nan")] * 2]), SimpleNamespace(metadata=[{}, {}])
    for label in (0, 1):
        output = TaskOutput(torch.zeros(()), torch.zeros(()), logits, torch.tensor([1, label]))
        rows = Downstream.rows(SimpleNamespace(labels=("a", "b")), output, metadata)
        assert [row["score"] for row in rows] == [1.0, 0.0]
    output = TaskOutput(torch.zeros(()), torch.zeros(()), logits.flip(1), torch.zeros(2, dtype=torch.long))
    assert [row["score"] for row in Irtr.rows(SimpleNamespace(false_texts=1), output, metadata)] == [1.0, 0.0]
    raw = SimpleNamespace(metadata=[{"raw_answers": ("b",) * 10}, {"raw_answers": ("a",) * 10}])
    assert [
        row["score"] for row in Vqa.rows(SimpleNamespace(labels=("a", "b")), output._replace(logits=logits), raw)
    ] == [1, 0]
