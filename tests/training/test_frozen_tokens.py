"""Tokens of a frozen image tower that are computed once: the same run without images, whatever happens to the files."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import small_tasks
from conftest import OFFLINE, ROOT
from renaissance.data import token_cache
from renaissance.data.images import decode
from renaissance.data.transforms import Transform
from renaissance.models.two_tower import TwoTower
from renaissance.training import frozen_tokens
from renaissance.training.frozen_tokens import TokenCache
from small_run import (
    NO_DROPOUT,
    SMALL,
    command,
    damage_picture,
    results,
    rows,
    same_run,
    torchrun,
    train,
    write_coco_vg,
)

FROZEN = ("task_mlm_itm", *SMALL, "max_steps=3", "freeze_image_encoder=True", 'datasets=["coco"]')
CACHED = (*FROZEN, "cache_frozen=True")
IMAGES = 20 + 4 + 9 + 10  # train, restval, val, test


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_cache: Path) -> Path:
    """A working folder with small COCO files in the default data_root, and parts of eight images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(token_cache, "_PART_BYTES", 8 * 5 * 32 * 4)
    monkeypatch.setattr(frozen_tokens, "_IMAGES", 3)
    write_coco_vg(tmp_path / "data" / "arrow")
    return tmp_path


def parts(work: Path) -> list[Path]:
    return sorted((work / "data" / "arrow" / "tokens").rglob("*.tokens"))


def numbers(folder: Path) -> list[dict[str, float]]:
    return [{name: float(text) for name, text in row.items() if text} for row in rows(folder)]


def same(one: Path, two: Path, tolerance: float = 1e-5) -> None:
    """Asserts that two runs have the same losses step for step, and the same results."""
    pairs = zip(numbers(one), numbers(two), strict=True)
    assert all(second == pytest.approx(first, rel=tolerance, abs=tolerance, nan_ok=True) for first, second in pairs)
    alike(results(one), results(two), tolerance)


def alike(first: dict[str, dict], second: dict[str, dict], tolerance: float) -> None:
    """Asserts that two runs have the same results; None is that of nothing."""
    values = [
        {(split, task, name): value for split, tasks in each.items() for task, metrics in tasks.items()
         for name, value in metrics.items() if value is not None} for each in (first, second)
    ]  # fmt: skip
    assert values[1] == pytest.approx(values[0], rel=tolerance, abs=tolerance)


def only_made_up(encoded: bytes, where: str) -> torch.Tensor:
    assert not where, f"the image of {where} was decoded"
    return decode(encoded, where)


def test_a_run_is_the_same_without_its_images_and_the_next_decodes_none(work, capsys, monkeypatch):
    without = train(capsys, *FROZEN, "draw_false_image=1")
    first = train(capsys, *CACHED, "draw_false_image=1")
    same(without, first)
    written = {path: path.stat().st_mtime_ns for path in parts(work)}
    assert len(written) == 3 + 1 + 2 + 2  # parts of train, restval, val and test
    monkeypatch.setattr("renaissance.data.collate.decode", only_made_up)
    monkeypatch.delattr("renaissance.data.pairs.content_key")
    same_run(first, train(capsys, *CACHED, "draw_false_image=1", "num_workers=1"))
    assert {path: path.stat().st_mtime_ns for path in parts(work)} == written
    ended = command(capsys, *CACHED)
    assert (
        "0.03 MB in data/arrow/tokens (43 images, 5 tokens of 32 numbers in 32 bits each), all of it there" in ended.out
    )


@pytest.mark.slow
def test_in_16_bits_losses_differ_by_a_thousandth_at_most(work, capsys):
    same(train(capsys, *FROZEN), train(capsys, *CACHED, "cache_precision=16", "cache_dir=elsewhere"), 1e-3)
    sizes = [path.stat().st_size - 4096 for path in Path("elsewhere").rglob("*.tokens")]
    assert not parts(work) and sum(sizes) == IMAGES * 5 * 32 * 2 + (IMAGES + len(sizes)) * 16


@pytest.mark.parametrize(
    "task",
    ["ref", *(pytest.param(name, marks=pytest.mark.slow) for name in ("nlvr2", "vqa", "snli", "irtr", "images"))],
)
def test_a_finetuning_is_the_same_without_its_images(task, tmp_path, capsys, hub_cache, monkeypatch):
    monkeypatch.setattr(token_cache, "_PART_BYTES", 7 * 5 * 32 * 4)
    words = [*small_tasks.words(task, tmp_path), "freeze_image_encoder=True"]
    without = train(capsys, *words)
    same(without, train(capsys, *words, "cache_frozen=True"))
    checkpoint = f"load_path={without / 'checkpoints' / 'best.ckpt'}"
    plain = train(capsys, *words, "test_only=True", checkpoint)
    for _ in range(2):  # it fills what is missing of the unlabelled splits, and then decodes nothing
        cached = train(capsys, *words, "test_only=True", checkpoint, "cache_frozen=True")
        monkeypatch.setattr("renaissance.data.collate.decode", only_made_up)
    alike(results(plain), results(cached), 1e-5)
    assert sorted(path.name for path in (cached / "predictions").iterdir()) == sorted(
        path.name for path in (plain / "predictions").iterdir()
    )


def test_parts_that_are_damaged_or_of_something_else_are_put_aside_and_made_anew(work, capsys):
    first = train(capsys, *CACHED)
    cut, swapped, *others = whole = parts(work)
    content, times = [path.read_bytes() for path in whole], [path.stat().st_mtime_ns for path in others]
    cut.write_bytes(content[0][:-100])
    swapped.write_bytes(content[1].replace(b'"bits": 32', b'"bits": 16'))
    ended = command(capsys, *CACHED)
    assert f"'{cut.relative_to(work)}' was cut short: it has" in ended.out and "made anew" in ended.out
    assert f"'{swapped.relative_to(work)}' is of another image encoder or of other data" in ended.out
    same_run(first, Path("result/mlm_itm/version_1"))
    assert [path.read_bytes() for path in whole] == content
    assert [path.stat().st_mtime_ns for path in others] == times
    assert len([*work.rglob("*.tokens.damaged")]) == 2


@pytest.mark.slow
def test_other_weights_transforms_and_images_have_tokens_of_their_own(work, capsys):
    first = train(capsys, *CACHED)
    folders = {path.parent for path in parts(work)}
    train(capsys, *CACHED, f"load_path={first / 'checkpoints' / 'best.ckpt'}", "image_encoder_drop_rate=0.3")
    resumed = (f"resume_from={first / 'checkpoints' / 'last.ckpt'}", "max_steps=5")
    assert "all of it there" in command(capsys, *resumed).out  # the checkpoint says cache_frozen
    assert {path.parent for path in parts(work)} == folders
    train(capsys, *CACHED, "random_init_vision_encoder=True", "patch_size=16")
    assert len({path.parent.parent for path in parts(work)}) == 2
    shutil.copyfile("data/arrow/coco_caption_karpathy_test.arrow", "data/arrow/coco_caption_karpathy_val.arrow")
    train(capsys, *CACHED)
    assert len({path.parent for path in parts(work)} - folders) == 4 + 1
    assert results(first)


@pytest.mark.slow
def test_a_part_that_goes_while_it_is_read_is_one_sentence(work, capsys, monkeypatch):
    train(capsys, *CACHED)
    fill = TokenCache.fill

    def fill_and_lose(self, *args):
        fill(self, *args)
        for path in parts(work):
            path.unlink()

    monkeypatch.setattr(TokenCache, "fill", fill_and_lose)
    assert "of cache_frozen is not there any more; start the run again" in command(capsys, *CACHED).sentence()
    monkeypatch.setattr(TokenCache, "fill", fill)
    gc.collect()
    handles = len(os.listdir("/proc/self/fd"))
    train(capsys, *CACHED)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == handles


def test_what_cannot_be_kept_is_refused(work, capsys, monkeypatch):
    def sentence(*words: str) -> str:
        return command(capsys, *words).sentence()

    assert "give freeze_image_encoder=True" in sentence("task_mlm_itm", *SMALL, "max_steps=1", "cache_frozen=True")
    idle = sentence("task_mlm_itm", *SMALL, "max_steps=1", "cache_precision=16")
    assert "cache_precision=16 would change nothing: it is for cache_frozen=True; give both." in idle
    assert "train_transform_keys='[\"clip\"]'" in sentence(*CACHED, 'train_transform_keys=["clip_randaug"]')
    assert "all images are one colour" in sentence(*CACHED, "blind=True")
    assert "leave one of them out" in sentence(*CACHED, "patch_drop=0.5")
    one = ("task_mlm_itm", "encoder=facebook/dino-vits16", "cache_frozen=True", "max_steps=1")
    assert "a one-tower encodes text and image together" in sentence(*one)
    assert "cache_precision=8 is not allowed: give 16 or 32" in sentence(*CACHED, "cache_precision=8")
    with monkeypatch.context() as patched:
        patched.setattr(Transform, "is_fixed", property(lambda transform: False))
        assert "the transform of train does not give the same pixels each time" in sentence(*CACHED)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 8, 1000))
    full = sentence(*CACHED)
    assert "43 images, 5 tokens of 32 numbers in 32 bits each" in full and "give another disk with cache_dir" in full
    Path("file").touch()
    assert "file cannot be written; give another folder with cache_dir=" in sentence(*CACHED, "cache_dir=file/tokens")
    assert not parts(work)


@pytest.mark.slow
def test_glue_has_no_images_to_keep(tmp_path, capsys, hub_cache):
    words = [*small_tasks.words("glue", tmp_path), "freeze_image_encoder=True", "cache_frozen=True"]
    assert "the samples of sst2 have no images" in command(capsys, *words).sentence()


@pytest.mark.slow
def test_of_a_split_that_is_evaluated_in_part_a_part_is_made(work, capsys):
    same(train(capsys, *FROZEN, "eval_limit=4"), train(capsys, *CACHED, "eval_limit=4"))
    assert len(parts(work)) == 3 + 1 + 1 + 1
    same(train(capsys, *FROZEN), train(capsys, *CACHED))
    assert len(parts(work)) == 3 + 1 + 2 + 2


@pytest.mark.slow
def test_a_few_steps_to_try_a_command_keep_nothing(work, capsys):
    ended = command(capsys, *CACHED, "fast_dev_run=1")
    assert ended.code == 0 and "fast_dev_run keeps nothing" in ended.out and not parts(work)


@pytest.mark.slow
def test_an_image_that_cannot_be_decoded_ends_the_filling_with_its_name(work, capsys):
    damage_picture(work / "data" / "arrow" / "coco_caption_karpathy_test.arrow")
    ended = command(capsys, *CACHED)
    assert ended.code == 1 and "error: The image of coco_caption_karpathy_test.arrow row 6 cannot be dec" in ended.err
    assert len(parts(work)) == 3 + 1 + 2 and not [*work.rglob("*.tmp")]


@pytest.mark.slow
def test_numbers_too_large_for_16_bits_are_refused(work, capsys, monkeypatch):
    real = TwoTower.unimodal_image
    monkeypatch.setattr(TwoTower, "unimodal_image", lambda *args: (t := real(*args))._replace(hidden=t.hidden * 1e6))
    ended = command(capsys, *CACHED, "cache_precision=16")
    assert ended.code == 1 and "too large for cache_precision=16; give 32" in ended.err


def test_a_filling_that_is_stopped_goes_on_where_it_was(work, capsys, monkeypatch):
    """A part is whole or not there; what a process that was killed has locked and left is made by the next."""
    encode, calls = frozen_tokens._encode, 0

    def dies(*args):
        nonlocal calls
        calls += 1
        if calls == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return encode(*args)

    monkeypatch.setattr(frozen_tokens, "_encode", dies)
    assert command(capsys, *CACHED).code == 75
    made = {path: path.stat().st_mtime_ns for path in parts(work)}
    assert len(made) == 1 and not [*work.rglob("*.tmp")]
    monkeypatch.setattr(frozen_tokens, "_encode", encode)
    train(capsys, *CACHED)
    assert {path: path.stat().st_mtime_ns for path in made} == made and len(parts(work)) == 8


@pytest.mark.slow
def test_two_processes_share_the_work_beside_a_run_that_starts_at_the_same_time(work, capsys):
    groups = [*NO_DROPOUT, "per_gpu_batchsize=2", "negative_group=2"]
    words = [*CACHED, *groups, "num_gpus=2", "cache_precision=16"]
    without = train(capsys, *FROZEN, *groups)
    alone = subprocess.Popen(
        [sys.executable, ROOT / "run.py", "with", *CACHED, "cache_precision=16", "exp_name=beside"],
        env=os.environ | {"PYTHONPATH": str(OFFLINE)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    done = torchrun(work, *words)
    assert done.returncode == 0, done.stderr
    said, _ = alone.communicate()
    assert alone.returncode == 0, said
    same(without, work / "result" / "mlm_itm" / "version_1", 1e-3)
