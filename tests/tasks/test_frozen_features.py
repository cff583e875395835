"""`task_linear_probe` and `task_knn`: whole commands, what is kept and when it is not read, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

import small_run
import small_tasks
from exchange.checkpoints import write_checkpoint
from renaissance.cli.main import main
from renaissance.core import plugins
from renaissance.data.prepare import images
from renaissance.evaluation.classifiers import LabelledFeatures, neighbour_logits
from renaissance.inference.loaded import Loaded
from renaissance.models.heads import pool
from small_run import Ended


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and images with classes with and without a validation split."""
    folder = tmp_path_factory.mktemp("frozen")
    write_checkpoint(folder / "two", {"text_encoder": "bert", "image_encoder": "vit"}, ("itm", "itc"))
    small_tasks.arrows("images", folder)
    raw = folder / "images" / "raw"
    (raw / "val").rename(folder / "val")
    (folder / "without").mkdir()
    images.make_arrow(raw, folder / "without", workers=1)
    small_tasks.arrows("snli", folder)
    return folder


def command(capsys: pytest.CaptureFixture[str], place: Path, log: Path, task: str, *words: str) -> Ended:
    given = [task, f"log_dir={log}", "num_workers=0", "eval_batch_size=5", "accelerator=cpu"]
    if not any(word.startswith("load_path=") for word in words):
        given.append(f"load_path={place / 'two' / 'model.ckpt'}")
    if not any(word.startswith("datasets=") for word in words):
        given += ["datasets=['images']", f"data_root={place / 'images' / 'arrow'}"]
    return small_run.command(capsys, *given, *words)


def folder_of(ended: Ended) -> Path:
    assert ended.code == 0, ended.err
    return Path(ended.out.rsplit("run folder: ", 1)[1].splitlines()[0])


def kept(cache: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in cache.rglob("*.parquet")}


def test_a_run_of_the_model_s_features_which_are_computed_once(place: Path, tmp_path: Path, capsys):
    cache = f"cache_dir={tmp_path / 'cache'}"
    linear = folder_of(command(capsys, place, tmp_path, "task_linear_probe", cache))
    before = kept(tmp_path / "cache")
    assert len(before) == 3
    every = command(capsys, place, tmp_path, "task_knn", cache, "knn_neighbours=1000")
    assert "note: 12 nearest neighbours (all) by cosine" in every.out
    ended = command(capsys, place, tmp_path, "task_knn", cache, "knn_neighbours=3")
    run = folder_of(ended)
    for words in (("shots_per_class=2", "shot_draws=2"), ("shots_per_class=2", "seed=3", "resume_from=auto")):
        again = command(capsys, place, tmp_path, "task_linear_probe", cache, *words)
        assert folder_of(again) != linear
    assert "resume_from=auto: test_only=True trains nothing; starts a new one" in again.out
    assert kept(tmp_path / "cache") == before and "encoding" not in ended.err
    data = place / "images" / "arrow"
    model, vectors, labels = Loaded(place / "two" / "model.ckpt"), {}, {}
    for split in ("train", "test"):
        source = pd.read_feather(data / f"images_{split}.arrow")
        with torch.no_grad():
            tokens = model.model.unimodal_image(model._shown(source["image"].tolist()))
        vectors[split] = pool(tokens, model.model.unimodal_pooling["image"])
        labels[split] = torch.tensor(source["label"].tolist())
    known = LabelledFeatures(vectors["train"], labels["train"])
    expected = neighbour_logits(known, vectors["test"], 3, 3).softmax(-1)
    frame = pd.read_parquet(run / "predictions" / "knn_test.parquet")
    assert frame["confidence"].tolist() == pytest.approx(expected.amax(-1).tolist(), abs=1e-4)
    assert frame["score"].tolist() == (expected.argmax(-1) == labels["test"]).double().tolist()
    found = small_run.results(run)["test"]["knn"]
    assert found["accuracy"] == frame["score"].mean() and {"mean_per_class_recall", "ece", "brier"} <= found.keys()
    details = json.loads((linear / "results_details.json").read_text())["test"]["linear_probe"]["accuracy"]
    assert details["baseline"] == {"chance": pytest.approx(1 / 3)} and details["interval"]
    assert "chosen on val, on features of image" in details["method"]
    assert (run / "settings.json").exists() and (run / "report.html").exists()
    runs = f'["{linear}","{tmp_path / "linear_probe" / "version_1"}"]'
    assert main(["compare", "with", f"runs={runs}", f"output={tmp_path / 'compared'}"]) == 0
    assert "paired bootstrap" in capsys.readouterr().out


def test_features_of_another_model_setting_or_file_are_never_taken(place: Path, tmp_path: Path, capsys, monkeypatch):
    """Each of these has its own folder, and what is there is not touched."""
    data, cache = tmp_path / "data", tmp_path / "data" / "features"
    shutil.copytree(place / "images" / "arrow", data)
    other = shutil.copy(place / "two" / "model.ckpt", tmp_path / "model.ckpt")
    stored = torch.load(other, weights_only=True)
    stored["model"][next(iter(stored["model"]))] += 1
    torch.save(stored, other)
    asked = ("task_knn", f"data_root={data}", "datasets=['images']")
    seen = [{}]
    for words in ((), ("image_size=16",), ("precision=64",), (f"load_path={other}",)):
        folder_of(command(capsys, place, tmp_path, *asked, *words))
        seen.append(kept(cache))
        assert len(seen[-1]) == len(seen[-2]) + 3 and seen[-2].items() <= seen[-1].items()
    shutil.copy(data / "images_val.arrow", data / "images_test.arrow")
    folder_of(command(capsys, place, tmp_path, *asked))
    assert len(kept(cache)) == len(seen[-1]) + 1
    folder_of(command(capsys, place, tmp_path, *asked, "eval_limit=3"))
    assert len(kept(cache)) == len(seen[-1]) + 3
    size = (data / "images_test.arrow").stat().st_size
    relabel(data / "images_test.arrow", 5)
    run = folder_of(command(capsys, place, tmp_path, *asked))
    assert len(kept(cache)) == len(seen[-1]) + 4 and (data / "images_test.arrow").stat().st_size == size
    targets = pd.read_parquet(run / "predictions" / "knn_test.parquet")["target"]
    assert targets[5] == ("a dog", "cat", "Äpfel")[pd.read_feather(data / "images_test.arrow")["label"][5]]
    plugin = tmp_path / "mine.py"
    monkeypatch.setattr(plugins, "LOADED", {"mine": plugin})
    for count, code in ((7, "a = 1"), (10, "a = 2")):
        plugin.write_text(code)
        folder_of(command(capsys, place, tmp_path, *asked))
        assert len(kept(cache)) == len(seen[-1]) + count
    part = next(cache.glob("*/images_train-*/*.parquet"))
    for path in cache.glob("*/images_train-*/*.parquet"):
        path.write_bytes(b"x")
    sentence = command(capsys, place, tmp_path, *asked).sentence()
    assert part.name in sentence and "remove it, and give the command again" in sentence


def relabel(path: Path, row: int) -> None:
    """Gives a row of a file another label."""
    table = pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
    column, labels = table.schema.get_field_index("label"), table["label"].to_pylist()
    labels[row] = (labels[row] + 1) % 3
    changed = table.set_column(column, table.schema.field(column), pa.array(labels, table.schema.field(column).type))
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(changed)


def test_vectors_of_all_splits_are_of_one_precision(place: Path, tmp_path: Path, capsys):
    vectors = {}
    for precision in ("32", "bf16-mixed"):
        words = (f"precision={precision}", f"cache_dir={tmp_path / precision}")
        folder_of(command(capsys, place, tmp_path, "task_linear_probe", *words))
        parts = {path.parent.name: path for path in (tmp_path / precision).rglob("*.parquet")}
        vectors[precision] = {name: np.stack(pd.read_parquet(path)["vector"]) for name, path in parts.items()}
    assert len(vectors["32"]) == 3
    np.testing.assert_equal(vectors["bf16-mixed"], vectors["32"])


def test_shots_are_drawn_and_what_is_held_out_chooses(place: Path, tmp_path: Path, capsys):
    ended = command(capsys, place, tmp_path, "task_linear_probe", "shots_per_class=2", "shot_draws=3")
    run = folder_of(ended)
    frames = [pd.read_parquet(run / "predictions" / f"linear_probe_test_draw{number}.parquet") for number in range(3)]
    scores, found = [frame["score"].mean() for frame in frames], small_run.results(run)["test"]["linear_probe"]
    assert found["accuracy"] == pytest.approx(np.mean(scores))
    assert found["accuracy_std"] == pytest.approx(np.std(scores, ddof=1)) and "ece" not in found
    mean = pd.read_parquet(run / "predictions" / "linear_probe_test.parquet")
    assert mean["score"].tolist() == pytest.approx(np.mean([frame["score"] for frame in frames], axis=0))
    assert "note: a score is the share of 3 draws, a prediction the most frequent of theirs" in ended.out
    words = ("datasets=['images']", f"data_root={place / 'without'}")
    ended = command(capsys, place, tmp_path, "task_linear_probe", *words)
    assert ended.code == 0 and "chosen on 3 training examples, on features of image" in ended.out


@pytest.mark.parametrize(("data", "side"), [("snli", "fused"), ("snli", "text"), ("nlvr2", "fused")])
def test_features_of_texts_are_encode_s(data: str, side: str, place: Path, tmp_path: Path, capsys):
    root = small_tasks.arrows(data, place)
    words = (f"datasets=['{data}']", f"data_root={root}", f"cache_dir={tmp_path / 'cache'}", f"frozen_features={side}")
    ended = command(capsys, place, tmp_path, "task_knn", *words)
    assert ended.code == 0 and f"{data}_test" in ended.out and f"on features of {side}" in ended.out, ended.err
    [part] = (tmp_path / "cache").glob("*/*train-*/part_00000.parquet")
    asked = [f"load_path={place / 'two' / 'model.ckpt'}", f'datasets=["{data}"]', "split=train", f"data_root={root}"]
    assert main(["encode", "with", *asked, f"what={side}", f"output={tmp_path / 'vectors'}", "num_workers=0"]) == 0
    rows = pd.concat(map(pd.read_parquet, sorted((tmp_path / "vectors" / side).glob("*.parquet"))))
    expected = np.stack(rows.sort_values(["id", "place"], kind="stable")["vector"])
    found = np.stack(pd.read_parquet(part)["vector"])
    assert found == pytest.approx(expected.reshape(len(found), -1), abs=1e-5)


@pytest.mark.slow
def test_two_processes_find_what_one_finds(place: Path, tmp_path: Path, capsys, run_cli):
    one = folder_of(command(capsys, place, tmp_path, "task_knn", f"cache_dir={tmp_path / 'one'}"))
    words = ["task_knn", "num_workers=0", "accelerator=cpu", f"load_path={place / 'two' / 'model.ckpt'}", "num_gpus=2"]
    words += ["datasets=['images']", f"data_root={place / 'images' / 'arrow'}", f"cache_dir={tmp_path / 'two'}"]
    done = run_cli("with", *words)
    assert done.code == 0, done.stderr
    two = tmp_path / done.stdout.rsplit("run folder: ", 1)[1].splitlines()[0]
    assert small_run.results(two)["test"]["knn"] == pytest.approx(small_run.results(one)["test"]["knn"], abs=1e-5)


@pytest.mark.parametrize("action", ["plan", pytest.param("run", marks=pytest.mark.slow)])
def test_a_study_probes_what_a_stage_has_trained(action: str, place: Path, tmp_path: Path, capsys):
    (tmp_path / "probes.yaml").write_text(
        f"""
base: {{data_root: {place / "images" / "arrow"}, datasets: [images], num_workers: 0, accelerator: cpu}}
seeds: [0]
stages:
  finetune: {{presets: [task_finetune_images], load_path: {place / "two" / "model.ckpt"}, max_steps: 2, batch_size: 4}}
  probe: {{presets: [task_linear_probe], load_path: "stage:finetune.best"}}
metrics: [linear_probe/test/accuracy]
"""
    )
    words = [f"study={tmp_path / 'probes.yaml'}", f"log_dir={tmp_path}"]
    assert main(["study", "with", *words, f"action={action}"]) == 0, capsys.readouterr().err
    if action == "run":
        assert main(["study", "with", *words, "action=table"]) == 0
        assert "linear_probe/test/accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("shots_per_class=9",),
            "shots_per_class=9: there are fewer training examples of a dog (4), cat (4), Äpfel (4); give a smaller number.",
        ),
        (("shot_draws=2",), "shot_draws=2 would change nothing: shots_per_class=None takes all examples; give both."),
        (
            ("task_linear_probe", "knn_neighbours=3"),
            "knn_neighbours=3 would change nothing: it is for knn; leave it out.",
        ),
        (("frozen_features=text",), "frozen_features=text: datasets=['images'] has none for each sample; give image."),
        (("datasets=['coco']", "data_root=x"), "datasets=['coco'] has captions, no classes for knn; give images with"),
        (("load_path=nowhere.ckpt",), "load_path=nowhere.ckpt is not a file"),
        (("datasets=['birds']", "data_root=."), "birds_train.arrow"),
        (("cache_frozen=True",), "knn and linear_probe keep the features of all images already; leave it out."),
        (("fast_dev_run=1",), "fast_dev_run: knn learns from all of train, not from some batches; leave it out"),
        (("test_only=False",), "knn trains no part of the model, so test_only=False has nothing to do"),
        (
            ("task_finetune_images", "shots_per_class=1", "test_only=True"),
            "it is for knn and linear_probe; leave it out.",
        ),
        (
            ("cache_dir=/proc/version/x",),
            "features: /proc/version cannot be written; give another folder with cache_dir=",
        ),
    ],
)
def test_what_cannot_be_classified_is_refused_before_anything_is_written(words, sentence, place, tmp_path, capsys):
    refused = command(capsys, place, tmp_path / "runs", "task_knn", *words).sentence()
    assert sentence in refused and not (tmp_path / "runs").exists()
