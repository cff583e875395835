"""Runs with patch_drop by the command line: exact over micro-batches, processes and resumes, in training alone; and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.families import small_config
from small_run import (
    FOUR_STEPS,
    NO_DROPOUT,
    SMALL,
    command,
    curve,
    killed_after,
    results,
    same_run,
    train,
    write_coco_vg,
)
from small_tasks import words as small_words

DROPS = ("patch_drop=0.5", "patch_drop_until=0.7", "image_size=64")  # 8 of 16 patches
ONE = ("encoder=google/electra-small-discriminator", "patch_size=16", *SMALL[6:])
each_kind = pytest.mark.parametrize(
    "model", [SMALL, pytest.param(ONE, marks=pytest.mark.slow)], ids=["two-tower", "one-tower"]
)
REFUSED = ("task_mlm_itm", *SMALL, "patch_drop=0.5", "max_steps=1")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_cache: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    write_coco_vg(tmp_path / "data" / "arrow")
    return tmp_path


@each_kind
def test_a_resumed_run_ends_as_if_it_had_never_stopped(model, work, capsys):
    words = ("task_mlm_itm", *model, *DROPS, "max_steps=6", "val_check_interval=6", "draw_false_image=1")
    whole = train(capsys, *words, "save_every_steps=1", "keep_last=9")
    assert "patches: 8 of 16 of each image before step 4, then all" in (whole / "log.txt").read_text(encoding="utf-8")
    for step in (2, 5):  # on both sides of the step from which all are seen
        same_run(whole, train(capsys, killed_after(whole, step)))
    other = command(capsys, f"resume_from={whole}/checkpoints/step_000000002.ckpt", "patch_drop=0.25").sentence()
    assert "patch_drop=0.25 contradicts the checkpoint" in other


def test_training_alone_sees_fewer_patches_until_the_last_steps(work, capsys):
    """Where no step changes a weight: the losses of the last steps and the evaluation are those of a run without."""
    words = ("task_mlm_itm", *SMALL, *NO_DROPOUT, "image_size=64", "max_steps=4", "learning_rate=1e-20")
    plain = train(capsys, *words)
    fewer = train(capsys, *words, "patch_drop=0.5", "patch_drop_until=0.5", "exp_name=fewer")
    assert results(fewer) == results(plain)
    for metric in ("mlm/train/loss", "itm/train/loss"):
        one, other = curve(plain, metric), curve(fewer, metric)
        assert one[2:] == other[2:] and not {*one[:2]} & {*other[:2]}


@each_kind
def test_micro_batches_show_the_same_patches(model, work, capsys):
    words = ("task_mlm_itm", *model, *NO_DROPOUT, *DROPS, *FOUR_STEPS)
    if model is ONE:
        words = (*(word for word in words if word not in NO_DROPOUT), "drop_rate=0.0")
    one, two = (train(capsys, *words, f"per_gpu_batchsize={size}", "eval_batch_size=4") for size in (16, 8))
    for metric in ("mlm/train/loss", "itm/train/loss", "mlm/val/loss", "itm/val/loss"):
        assert curve(two, metric) == pytest.approx(curve(one, metric), abs=1e-4), metric


@pytest.mark.slow
@pytest.mark.parametrize("model", [SMALL, ONE], ids=["two-tower", "one-tower"])
def test_processes_and_loader_processes_show_the_same_patches(model, work, run_cli):
    dropout = ("drop_rate=0.0",) if model is ONE else NO_DROPOUT
    words = ("with", "task_mlm_itm", *model, *dropout, *DROPS, "batch_size=16", "negative_group=2", "eval_batch_size=18",
             "max_steps=10", "learning_rate=1e-3", "accelerator=cpu", "precision=64")  # fmt: skip
    folders = []
    for processes, micro, workers in ((1, 16, 0), (1, 8, 2), (2, 4, 1)):
        done = run_cli(*words, f"num_gpus={processes}", f"per_gpu_batchsize={micro}", f"num_workers={workers}")
        assert done.code == 0, done.stderr
        folders.append(work / "result" / "mlm_itm" / f"version_{len(folders)}")
    for other in folders[1:]:
        for metric in ("mlm/train/loss", "itm/train/loss", "itm/val/accuracy"):
            assert curve(other, metric) == pytest.approx(curve(folders[0], metric), abs=1e-9), metric


@pytest.mark.parametrize("task", ["nlvr2", "ref", "images"])
def test_tasks_of_one_and_of_several_images_a_sample_train_with_fewer_patches(task, work, capsys):
    words = small_words(task, work, "two-tower", work / "result")
    assert results(train(capsys, *words, *DROPS))


def test_what_cannot_leave_out_patches_is_refused_with_the_reason(work, capsys):
    small_config("swin").save_pretrained(work / "swin")
    other = [word for word in REFUSED if not word.startswith("image_encoder")]
    sentence = command(capsys, *other, "image_encoder=swin", "random_init_vision_encoder=True").sentence()
    assert sentence.startswith(
        "patch_drop=0.5: image_encoder=swin (model type swin) needs all patches of an image: its width"
    )
    assert "from stage to stage; leave patch_drop out, or give a model such as vit" in sentence
    padded = command(
        capsys, "task_mlm_itm", *ONE, *DROPS, "max_steps=1", "train_transform_keys=['pixelbert']"
    ).sentence()
    assert (
        "patch_drop=0.5 cannot leave out patches of train_transform_keys=['pixelbert'], whose images differ in size"
        in padded
    )
    for share in ("1", "-0.1", "1.5", "half", "None"):
        assert "a number of at least 0 and at most 0.999" in command(capsys, *REFUSED, f"patch_drop={share}").sentence()
    for until in ("0", "1.1", "-1"):
        assert "a number above 0 and at most 1" in command(capsys, *REFUSED, f"patch_drop_until={until}").sentence()
    for share in ("0.1", "0.9"):  # images of 32 pixels have 4 patches
        none = command(capsys, *REFUSED, f"patch_drop={share}").sentence()
        assert f"patch_drop={share} of the 4 patches of an image leaves out none or all of them" in none
    idle = command(capsys, *REFUSED, "patch_drop=0", "patch_drop_until=0.5").sentence()
    assert "patch_drop_until=0.5 would change nothing: patch_drop=0" in idle
    assert not Path("result").exists()


def test_a_task_without_images_has_no_patches_to_leave_out(work, capsys):
    words = small_words("glue", work, "two-tower", work / "result")
    assert (
        "patch_drop=0.5 would change nothing: glue reads no images"
        in command(capsys, *words, "patch_drop=0.5").sentence()
    )
