"""Runs whose first steps show other data sets: exact over resumes, epochs of the others alone, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from renaissance.core.registry import PRESETS
from renaissance.data.sampler import TrainSteps
from renaissance.runs.report import RunFolder
from renaissance.training.loading import Loaders
from renaissance.training.train import prepare_training
from small_run import (
    NO_DROPOUT,
    SMALL,
    command,
    curve,
    killed_after,
    resolver,
    rows,
    same_run,
    train,
    values_of,
    write_coco_vg,
    write_pairs,
)
from small_tasks import words as small_words

WORDS = ("task_mlm_itm", *SMALL, "datasets=['coco']", "batch_size=8")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_cache: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    write_coco_vg(tmp_path / "data" / "arrow")
    write_pairs(tmp_path / "data" / "arrow" / "easy.arrow", 6)
    return tmp_path


def test_a_resumed_run_ends_as_if_it_had_never_stopped(work, capsys):
    words = (*WORDS, "first_datasets=['easy']", "first_steps=3", "max_epoch=1", "save_every_steps=1", "keep_last=9")
    whole = train(capsys, *words)
    said = (whole / "log.txt").read_text(encoding="utf-8")
    # 24 images with two captions each, and easy.arrow's are none of the epoch.
    assert "data: easy before step 3, then coco" in said and "steps: 6 (" in said and "1.00 epochs" in said
    assert "train: easy.arrow" in said and [row["step"] for row in rows(whole)][-1] == "6"
    for step in (2, 4):  # on both sides of the step from which the others are shown
        same_run(whole, train(capsys, killed_after(whole, step)))
    other = command(capsys, f"resume_from={whole}/checkpoints/step_000000002.ckpt", "first_steps=2").sentence()
    assert "first_steps=2 contradicts the checkpoint" in other


def test_the_first_steps_are_those_of_a_run_on_their_data_and_the_others_of_one_without(work, capsys):
    """Where no step changes a weight."""
    words = (
        "task_mlm_itm",
        *SMALL,
        *NO_DROPOUT,
        "batch_size=8",
        "max_steps=4",
        "learning_rate=1e-20",
        "val_check_interval=4",
    )
    easy, plain = (train(capsys, *words, f"datasets=['{name}']", f"exp_name={name}") for name in ("easy", "coco"))
    both = train(capsys, *words, "datasets=['coco']", "first_datasets=['easy']", "first_steps=0.5")
    assert curve(both, "mlm/train/loss")[2:] == curve(plain, "mlm/train/loss")[2:]
    # Masks are drawn by the position in the data, which is another here, and false images by the image.
    assert curve(both, "itm/train/accuracy")[:2] == curve(easy, "itm/train/accuracy")[:2]


def test_what_would_not_work_is_refused_before_anything_is_written(work, capsys):
    write_pairs(work / "data" / "arrow" / "empty.arrow", 2, captions=0)
    for given, sentence in {
        ("first_datasets=['easy']", "first_steps=6"): "first_steps=6 leaves none of max_steps=6 for datasets=['coco']",
        (
            "first_datasets=['easy']",
            "max_steps=None",
            "max_epoch=1",
            "first_steps=9",
        ): "first_steps=9 leaves none of 6 steps",
        ("first_datasets=['coco']",): "first_datasets=['coco'] are all of datasets",
        ("first_steps=2",): "first_steps=2 would change nothing without first_datasets; give both.",
        ("first_datasets=['empty']",): "empty: all are empty",
        ("first_datasets=['eazy']",): "first_datasets: Data set 'eazy' needs eazy_train.arrow or eazy.arrow",
        ("first_datasets=['easy','eazy']",): """To go on with what is there, give first_datasets='["easy"]'.""",
        ("first_datasets=['vqa']",): "first_datasets names 'vqa', which holds questions",
        ("first_datasets=['easy']", "first_steps=0"): "a number of steps, or a share of all steps below 1",
        ("first_datasets=['easy']", "first_steps=0.0"): "first_steps=0.0 would show first_datasets=['easy'] in no step",
        ("first_datasets=easy",): "a list of data set names",
        ("first_datasets=['easy','easy']",): "first_datasets names easy more than once",
    }.items():
        assert sentence in command(capsys, *WORDS, "max_steps=6", *given).sentence(), given
    words = small_words("vqa", work, "two-tower", work / "result")
    said = command(capsys, *words, "first_datasets=['easy']").sentence()
    assert "first_datasets=['easy'] is for objectives alone, such as mlm and itm, and vqa trains on datasets" in said
    (work / "mine.yaml").write_text("first_datasets: [easy]\n", encoding="utf-8")
    assert "first_datasets=['easy'] is for objectives alone" in command(capsys, *words, "mine.yaml").sentence()
    assert not (work / "result").exists()


def test_a_preset_of_pretraining_may_stand_before_a_task_that_reads_other_data(work, capsys, monkeypatch):
    """As the demo's runs from scratch have it."""
    monkeypatch.setitem(PRESETS.data, "easy_first", {"first_datasets": ["easy"]})
    folder = train(capsys, "easy_first", *small_words("vqa", work, "two-tower", work / "result"))
    assert json.loads((folder / "settings.json").read_text(encoding="utf-8"))["settings"]["first_datasets"] is None


def test_false_images_are_of_the_stage_too(work):
    """With draw_false_image they are drawn from all that a step may show, here by their ids."""
    words = (
        *WORDS[1:],
        "first_datasets=['easy']",
        "first_steps=3",
        "max_steps=6",
        "draw_false_image=1",
        "num_workers=0",
    )
    prepared = prepare_training(resolver(**values_of(*words)))
    loaders = Loaders(prepared.resolved, prepared.data, RunFolder(None), (0, 6))
    collate, size = loaders._collate("train", 8, prepared.data.target_builders), prepared.data.epoch_size
    draws = TrainSteps(prepared.data.pool(prepared.resolved.settings, 6), 8, 8, 0, 1, 0, 0, 6)
    for step in range(6):
        [batch] = collate([collate.source.example(draw) for draw in draws.draws(step)])
        shown = {id >= size for id in (*batch.ids.tolist(), *map(int, batch.targets["itm"].image_ids))}
        assert shown == {step < 3}, step


def test_an_older_run_goes_on_as_it_began(work, capsys):
    """Its checkpoint does not have these settings."""
    folder = train(capsys, *WORDS, "max_steps=4", "save_every_steps=1", "keep_last=9")
    path = folder / "checkpoints" / "step_000000002.ckpt"
    content = torch.load(path, weights_only=True)
    for key in ("first_datasets", "first_steps"):
        content["settings"].pop(key)
    torch.save(content, path)
    resumed = f"resume_from={path}"
    assert (
        "first_datasets=['easy']: the checkpoint has none; leave it out."
        in command(capsys, resumed, "first_datasets=['easy']").sentence()
    )
