"""Whole runs through the command line, in this process: what they leave, that they resume exactly, what they refuse."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from conftest import OFFLINE, ROOT
from renaissance.runs.checkpoint import read
from renaissance.training import checkpointing
from renaissance.training.checkpointing import CheckpointSaver
from small_run import (
    COCO,
    FOUR_STEPS,
    FUSION,
    NO_DROPOUT,
    SMALL,
    TOWERS,
    command,
    curve,
    equal_state,
    results,
    rows,
    train,
    write_coco_vg,
    write_pairs,
)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_cache: Path) -> Path:
    """A working folder with small COCO and VG files in the default data_root."""
    monkeypatch.chdir(tmp_path)
    write_coco_vg(tmp_path / "data" / "arrow")
    return tmp_path


@pytest.fixture
def kept_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Keeps a copy of every last.ckpt that is written, as `<folder>/step_<n>.ckpt`: what a killed run leaves."""
    save = CheckpointSaver._save

    def save_and_keep(self, trainer, module, names):
        saved = save(self, trainer, module, names)
        shutil.copyfile(self.folder.checkpoints / "last.ckpt", tmp_path / f"step_{module.step}.ckpt")
        return saved

    monkeypatch.setattr(CheckpointSaver, "_save", save_and_keep)
    return tmp_path


def test_a_resumed_run_ends_as_if_it_had_never_stopped(work, kept_last, capsys):
    words = ("task_mlm_itm", *SMALL, "max_steps=6", "val_check_interval=3", "train_transform_keys=['imagenet_randaug']")
    whole = train(capsys, *words)
    whole_rows, whole_results = rows(whole), results(whole)
    assert [row["step"] for row in whole_rows] == ["1", "2", "3", "3", "4", "5", "6", "6"]

    # The same folder after a kill at step 5: last.ckpt is of step 3, metrics.csv has lines behind it.
    killed = work / "result" / "mlm_itm" / "version_1"
    shutil.copytree(whole, killed)
    shutil.copyfile(kept_last / "step_3.ckpt", killed / "checkpoints" / "last.ckpt")
    (killed / "checkpoints" / "step_000000006.ckpt").unlink()
    (killed / "results.json").unlink()
    resumed = train(capsys, f"resume_from={killed}/checkpoints/last.ckpt")

    assert resumed.resolve() == killed.resolve()  # it goes on in its own folder
    ended, again = (read(folder / "checkpoints" / "last.ckpt") for folder in (whole, resumed))
    assert equal_state(ended.model, again.model) and equal_state(ended.heads, again.heads)
    assert equal_state(ended.training["optimizer"], again.training["optimizer"])
    assert (again.training["step"], again.training["best"]) == (6, ended.training["best"])
    assert rows(resumed) == whole_rows
    assert results(resumed) == whole_results

    # Trained a little: a run that changed nothing would pass all of the above.
    assert not equal_state(read(kept_last / "step_3.ckpt").model, ended.model)


def test_last_keeps_the_last_weights_though_best_is_evaluated(work, kept_last, capsys):
    # At this rate the second validation is no better than the first, so best.ckpt stays that of step 1.
    folder = train(capsys, "task_mlm", *SMALL, "max_steps=2", "val_check_interval=1", "learning_rate=1e-9")
    last, best = (read(folder / "checkpoints" / f"{name}.ckpt") for name in ("last", "best"))
    assert (last.training["step"], best.training["step"]) == (2, 1)
    assert equal_state(last.model, read(kept_last / "step_2.ckpt").model)
    assert not equal_state(last.model, best.model)
    assert results(folder)["val"]["mlm"]["loss"] == curve(folder, "mlm/val/loss")[0]
    assert len(curve(folder, "mlm/val/loss")) == 2  # the evaluation behind training adds no line


def test_the_same_content_is_written_once(work, capsys, monkeypatch):
    written = []
    monkeypatch.setattr(
        checkpointing, "LONG", math.inf
    )  # or the first validation, which may be long, would have a save before it
    serialise = torch.save
    monkeypatch.setattr(torch, "save", lambda content, file: written.append(serialise(content, file)))
    kept = train(capsys, "task_mlm", *SMALL, "max_steps=2", "val_check_interval=2", "final_test=False") / "checkpoints"
    assert len(written) == 1
    assert (kept / "best.ckpt").samefile(kept / "last.ckpt")
    assert sorted(file.name for file in kept.iterdir()) == ["best.ckpt", "last.ckpt", "step_000000002.ckpt"]


def test_a_checkpoint_copied_elsewhere_resumes_in_a_new_folder(work, kept_last, capsys):
    words = ("task_mlm", *SMALL, "max_steps=2", "val_check_interval=1", "learning_rate=1e-9")
    first = train(capsys, *words)
    resumed = train(capsys, f"resume_from={kept_last}/step_1.ckpt")
    assert resumed != first
    assert (resumed / "checkpoints" / "best.ckpt").is_file() and results(resumed).keys() == {"val", "test"}

    finished = command(capsys, f"resume_from={resumed}/checkpoints/last.ckpt").sentence()
    assert "has done 2 steps and the run ends at 2: it is finished" in finished and "max_steps" in finished
    contradiction = command(capsys, f"resume_from={kept_last}/step_1.ckpt", "learning_rate=0.5").sentence()
    assert "learning_rate=0.5 contradicts the checkpoint" in contradiction
    # Where it lies says nothing of a run, and what it stores does not decide where is written.
    assert resumed == Path("result/renaissance/version_0") and [path.name for path in first.parent.iterdir()] == [
        "version_0"
    ]


def test_evaluation_alone_gives_the_numbers_of_the_run(work, capsys):
    run = train(capsys, "task_mlm_itm", *SMALL, "max_steps=2", "seed=3", "mlm_prob=0.3")
    expected = results(run)
    assert expected.keys() == {"val", "test"} and expected["val"].keys() == {"mlm", "itm"}
    path = f"load_path={run}/checkpoints/best.ckpt"
    # The checkpoint answers what decides the numbers: seed, masking, groups. eval_batch_size does not decide them.
    for size in ("eval_batch_size=4", "eval_batch_size=12"):
        alone = train(capsys, "task_mlm_itm", path, "test_only=True", "num_workers=0", size)
        assert sorted(file.name for file in (alone / "checkpoints").iterdir()) == []
        for split, tasks in expected.items():
            for task, metrics in tasks.items():
                assert results(alone)[split][task] == pytest.approx(metrics, abs=2e-6), (split, task)
    for training_file in (COCO.format("train"), COCO.format("restval"), "vg.arrow"):
        (work / "data" / "arrow" / training_file).unlink()  # an evaluation does not read them
    other = train(capsys, "task_mlm_itm", path, "test_only=True", "num_workers=0", "seed=4")
    settings = json.loads((other / "settings.json").read_text(encoding="utf-8"))
    assert settings["data"].keys() == {"val", "test"}
    assert results(other) != expected


def test_weights_start_another_run(work, capsys, monkeypatch, tmp_path_factory):
    first = train(capsys, "task_mlm", *SMALL, "max_steps=1", "final_test=False")
    path = first / "checkpoints" / "last.ckpt"

    # With an empty Hugging Face home: the checkpoint knows towers, tokenizer and pixels.
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("empty-hf-home")))
    words = ("batch_size=8", "num_workers=0", "max_steps=1", "learning_rate=1e-12", "final_test=False")
    second = train(capsys, "task_mlm_itm", f"load_path={path}", *words, "image_size=48")
    log = (second / "log.txt").read_text(encoding="utf-8")
    assert re.search(r"note: loaded \d+ tensors from .*last\.ckpt", log)
    assert re.search(r"new, random weights: \d+ \(itm\.", log)  # the head of a task that the checkpoint does not know
    assert re.search(r"resized: 1 \(image_tower\.\S*position_embeddings\)", log)
    taken, given = read(second / "checkpoints" / "last.ckpt"), read(path)
    assert taken.settings["image_size"] == 48
    assert taken.towers["text_encoder"] == given.towers["text_encoder"]
    vocabularies = [json.loads(stored.tokenizer["tokenizer.json"])["model"]["vocab"] for stored in (taken, given)]
    assert vocabularies[0] == vocabularies[1] and len(vocabularies[0]) == 30522
    name = "text_tower.model.embeddings.word_embeddings.weight"
    torch.testing.assert_close(taken.model[name], given.model[name], atol=1e-9, rtol=0)

    third = train(capsys, "task_itm", f"load_path={path}", *words)
    assert re.search(r"not used: \d+ \(mlm\.", (third / "log.txt").read_text(encoding="utf-8"))

    before = sorted(path.name for path in Path("result").rglob("version_*"))
    other = command(capsys, "task_mlm", f"load_path={path}", *words, "cross_layer_hidden_size=64").sentence()
    assert "cross_layer_hidden_size=64 contradicts the checkpoint" in other
    assert "holds another model" not in other
    assert sorted(path.name for path in Path("result").rglob("version_*")) == before


def test_data_without_validation_keeps_the_last(work, capsys):
    folder = train(capsys, "task_mlm", *SMALL, "max_steps=2", 'datasets=["vg"]')
    assert sorted(file.name for file in (folder / "checkpoints").iterdir()) == ["last.ckpt", "step_000000002.ckpt"]
    assert "vg has no validation split; the last checkpoint is kept" in (folder / "log.txt").read_text(encoding="utf-8")
    assert results(folder) == {}
    nothing = command(
        capsys, "task_mlm", f"load_path={folder}/checkpoints/last.ckpt", "test_only=True", 'datasets=["vg"]'
    )
    assert "vg have neither a validation nor a test split" in nothing.sentence()

    for split in ("train", "test"):
        write_pairs(work / "data" / "arrow" / f"mine_{split}.arrow", 8)
    folder = train(capsys, "task_mlm", *SMALL, "max_steps=2", 'datasets=["mine"]')
    assert results(folder).keys() == {"test"}


def test_data_without_validation_are_saved_on_the_way(work, kept_last, capsys):
    train(capsys, "task_mlm", *SMALL, "max_steps=3", "val_check_interval=1", 'datasets=["vg"]')
    assert sorted(path.name for path in kept_last.glob("step_*.ckpt")) == ["step_1.ckpt", "step_2.ckpt", "step_3.ckpt"]


def test_dropout_given_with_a_checkpoint_is_the_models(work, capsys):
    first = train(capsys, "task_mlm", *SMALL, "max_steps=1")
    path = f"load_path={first}/checkpoints/last.ckpt"
    second = train(
        capsys, "task_mlm", path, "max_steps=1", "batch_size=4", "num_workers=0", "text_encoder_drop_rate=0.3"
    )
    assert read(second / "checkpoints" / "last.ckpt").towers["text_encoder"]["hidden_dropout_prob"] == 0.3


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _without_captions(path: Path) -> None:
    with pa.OSFile(str(path)) as source:
        table = pa.ipc.open_file(source).read_all().drop_columns(["caption"])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


DAMAGES = {
    "missing root": (
        lambda path: shutil.rmtree(path.parent),
        ["data_root='data/arrow", "cannot be read", "give a folder of arrow files"],
    ),
    "missing file": (
        Path.unlink,
        ["needs vg.arrow in data_root='data/arrow", "files there are: coco_caption_karpathy_"],
    ),
    "cut short": (_cut, ["vg.arrow' is not a whole Arrow file"]),
    "no such column": (_without_captions, ["vg.arrow' needs one column 'caption'", "its columns are image"]),
    "no rows": (lambda path: write_pairs(path, 0), ["vg.arrow' has no rows"]),
    "no captions": (lambda path: write_pairs(path, 3, captions=0), ["can be used: all are empty"]),
    "not arrow": (lambda path: path.write_text("PK is not arrow"), ["vg.arrow' is not a whole Arrow file", "PK is"]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_unusable_data_is_one_sentence_and_leaves_no_folder(work, capsys, damage):
    break_it, said = DAMAGES[damage]
    break_it(work / "data" / "arrow" / "vg.arrow")
    datasets = 'datasets=["vg"]' if damage == "no captions" else 'datasets=["coco","vg"]'
    sentence = command(capsys, "task_mlm", *SMALL, datasets, "max_steps=1").sentence()
    assert all(words in sentence for words in said), sentence
    assert not Path("result").exists()


def test_other_refusals_leave_no_folder(work, capsys):
    Path("file").write_text("", encoding="utf-8")
    assert (
        "log_dir=file cannot be written"
        in command(capsys, "task_mlm", *SMALL, "max_steps=1", "log_dir=file").sentence()
    )
    if not torch.cuda.is_available():
        assert "no GPU" in command(capsys, "task_mlm", *SMALL, "max_steps=1", "accelerator=gpu").sentence()
    assert (
        "load_path=... is not a file" in command(capsys, "task_mlm", *SMALL, "max_steps=1", "load_path=...").sentence()
    )
    Path("weights.ckpt").write_bytes(b"no checkpoint")
    assert "cannot be read" in command(capsys, "task_mlm", "max_steps=1", "load_path=weights.ckpt").sentence()
    assert not Path("result").exists()


VARIANTS = {
    "false images of the data set": ("task_itm", *SMALL, "draw_false_image=1", "per_gpu_batchsize=1", "batch_size=2"),
    "pixelbert": ("task_mlm_itm", "encoder=facebook/dino-vits16", "image_size=32", "batch_size=4", "num_workers=0",
                  "train_transform_keys=['pixelbert_randaug']", "val_transform_keys=['pixelbert']"),
    "pieces": ("task_mlm", *SMALL, "whole_word_masking=False", "mlm_prob=0.5"),
    "bf16": ("task_mlm_itm", *SMALL, "precision=bf16-mixed"),
    "clipped": ("task_mlm_itm", *SMALL, "gradient_clip_val=0.1"),
    "sgd": ("task_mlm_itm", *SMALL, "optim_type=sgd"),
    "cosine, frozen": ("task_mlm_itm", *SMALL, "decay_power=cosine", "freeze_text_encoder=True"),
    "workers": ("task_mlm", *TOWERS, *FUSION, "image_size=32", "batch_size=4", "num_workers=1"),
    "half of the patches": ("task_mlm_itm", *SMALL, "patch_drop=0.5", "gradient_checkpointing=True", "precision=bf16-mixed"),
    "separate": ("task_mlm_itm", *SMALL, "fusion=separate", "pooler_type=single"),
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_run_trains(work, capsys, variant):
    folder = train(
        capsys, *VARIANTS[variant], "max_steps=2", "warmup_steps=0", "log_every_n_steps=1", 'datasets=["coco"]'
    )
    found = results(folder)
    assert found.keys() == {"val", "test"}
    losses = [metrics["loss"] for tasks in found.values() for metrics in tasks.values()]
    assert losses and all(0 < loss < 20 for loss in losses)


def test_a_development_run_keeps_nothing(work, capsys):
    ended = command(capsys, "task_mlm_itm", *SMALL, "fast_dev_run=2")
    assert ended.code == 0, ended.err
    assert "mlm/val/loss" in ended.out
    assert sorted(path.name for path in work.iterdir()) == ["data"]


def test_a_run_imports_only_what_it_needs(work):
    """A start is imports: what no run needs stays out, and the collector does not search what the libraries have made."""
    program = (
        "import gc, json, sys\nfrom renaissance.cli.main import main\n"
        f"code = main({['with', 'task_mlm_itm', *SMALL, 'fast_dev_run=1']!r})\n"
        "print(json.dumps([code, gc.isenabled(), gc.get_freeze_count(), [*sys.modules]]))"
    )
    place = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{OFFLINE}"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=place)
    code, enabled, frozen, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0 and enabled and frozen > 500_000, done.stderr
    others = ("cli.check", "cli.compare", "cli.demo", "cli.predict", "data.check", "data.prepare", "demo", "inference")
    unneeded = {f"renaissance.{name}" for name in others}
    unneeded |= {"ijson", "torch._inductor.compile_fx", "torch.utils.tensorboard", "transformers.pipelines"}
    assert not unneeded & {*modules}


def test_accumulation_leaves_the_loss_curve_as_it_is(work, capsys):
    words = ("task_mlm_itm", *SMALL, *NO_DROPOUT, *FOUR_STEPS)
    one, four = (train(capsys, *words, f"per_gpu_batchsize={size}", "eval_batch_size=4") for size in (16, 4))
    for metric in ("mlm/train/loss", "itm/train/loss", "mlm/val/loss", "itm/val/loss"):
        assert curve(one, metric) == pytest.approx(curve(four, metric), abs=1e-4), metric
    assert len(set(curve(one, "mlm/train/loss"))) == 4


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "exact"), [("64", 1e-9), ("32", 1e-4)])
def test_micro_batches_and_processes_train_as_one(precision, exact, work, run_cli):
    """16 pairs at once, in two micro-batches, and in two processes: the same curve over 20 steps."""
    # The 18 pairs of the validation are one batch, so the second process has none; the 20 of the test are two.
    words = ("with", "task_mlm_itm", *SMALL, *NO_DROPOUT, "batch_size=16", "negative_group=2", "eval_batch_size=18",
             "max_steps=20", "val_check_interval=10", "learning_rate=1e-3", "accelerator=cpu",
             f"precision={precision}")  # fmt: skip
    folders = []
    for processes, micro in ((1, 16), (1, 8), (2, 8)):
        done = run_cli(*words, f"num_gpus={processes}", f"per_gpu_batchsize={micro}")
        assert done.code == 0, done.stderr
        folders.append(work / "result" / "mlm_itm" / f"version_{len(folders)}")
    one, cut, two = folders
    assert sorted(path.name for path in one.parent.iterdir()) == [
        path.name for path in folders
    ]  # rank 1 makes no folder
    for other in (cut, two):
        for metric in ("mlm/train/loss", "itm/train/loss", "mlm/val/loss", "itm/val/accuracy"):
            assert len(curve(other, metric)) == (20 if "train" in metric else 2)
            assert curve(other, metric) == pytest.approx(curve(one, metric), abs=exact), metric
        for split, tasks in results(one).items():
            for task, metrics in tasks.items():
                assert results(other)[split][task] == pytest.approx(metrics, abs=exact)
    weights, *others = (read(folder / "checkpoints" / "last.ckpt").model for folder in folders)
    # But for biases of keys: a softmax does not see them, their gradient is rounding alone, and Adam blows it up.
    names = [name for name in weights if "bias" not in name]
    assert max((weights[name] - other[name]).abs().max() for other in others for name in names) < (
        1e-9 if precision == "64" else 1e-3
    )
    assert COCO.format("val") in (two / "log.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("mask", [0o027, 0o077])
def test_what_a_run_writes_is_as_open_as_the_umask_says(mask, work, capsys):
    before = os.umask(mask)
    try:
        run = train(capsys, "task_mlm", *SMALL, "max_steps=1")
    finally:
        os.umask(before)
    modes = {path.relative_to(run): path.stat().st_mode & 0o777 for path in [run, *run.rglob("*")]}
    assert len(modes) > 6 and not {path: oct(mode) for path, mode in modes.items() if mode & mask}
    assert modes[Path("checkpoints/last.ckpt")] == 0o666 & ~mask


@pytest.mark.slow
def test_a_compiled_run_trains_as_one_that_is_not(work, run_cli):
    """By torch's own compiler, which wants one for C++; where there is none, it says so. Evaluation is not compiled."""
    words = ("with", "task_mlm_itm", *SMALL, *NO_DROPOUT, "max_steps=3", "val_check_interval=3", "learning_rate=1e-3",
             "accelerator=cpu", "gradient_clip_val=1.0")  # fmt: skip
    for more in (("exp_name=plain",), ("exp_name=compiled", "compile=True")):
        done = run_cli(*words, *more, timeout=900)
        assert done.code == 0, done.stderr
    plain, compiled = (work / "result" / name / "version_0" for name in ("plain", "compiled"))
    for metric in ("mlm/train/loss", "itm/train/loss", "mlm/val/loss"):
        assert curve(compiled, metric) == pytest.approx(curve(plain, metric), abs=1e-4)
    said = (compiled / "log.txt").read_text()
    assert said.count("cannot be compiled (") == (0 if shutil.which("g++") else 3), said
    assert (
        read(compiled / "checkpoints" / "last.ckpt").model.keys()
        == read(plain / "checkpoints" / "last.ckpt").model.keys()
    )
