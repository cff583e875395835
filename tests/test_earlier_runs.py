"""Checkpoints and run folders of an earlier version: they load, go on, evaluate to the same numbers and predict the same.

`tests/earlier/` was made by this file as a program, `PYTHONPATH=.:tests python tests/test_earlier_runs.py <empty folder>`.
It writes and reads by the command line and `renaissance.load`, which stay as they are.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import renaissance
import small_run
import small_tasks
from conftest import ROOT
from tiny_models import image_config, text_config, tokenizer

EARLIER = ROOT / "tests" / "earlier"

COMMON = (
    "random_init_vision_encoder=True", "random_init_text_encoder=True", "image_encoder=encoders/image",
    "text_encoder=encoders/text", "tokenizer=encoders/text", "cross_layer_hidden_size=16", "num_cross_layers=1",
    "num_cross_layer_heads=2", "image_size=32", "batch_size=8", "per_gpu_batchsize=4", "num_workers=0",
    "log_every_n_steps=1", "learning_rate=1e-3", "keep_last=1", "data_root=arrow", "datasets=['coco']", "accelerator=cpu",
    "train_transform_keys=['imagenet_randaug']", "initializer_range=0.1",
)  # fmt: skip
BEST = "result/two_tower/version_0/checkpoints/best.ckpt"
TWO_TOWER = ("task_mlm_itm_itc", *COMMON, "max_steps=8", "val_check_interval=4", "exp_name=two_tower")
ONE_TOWER = (
    "task_mlm_itm", *(word for word in COMMON if "encoder=" not in word and "cross" not in word), "encoder=encoders/image",
    "random_init_encoder=True", "max_steps=4", "val_check_interval=2", "exp_name=one_tower",
)  # fmt: skip
FIFTY = ("task_mlm_itm", *COMMON, "max_steps=50", "val_check_interval=25", "exp_name=fifty", "final_test=False")
VQA = (
    "task_finetune_vqa", f"load_path={BEST}", "data_root=arrow", "batch_size=8", "per_gpu_batchsize=4",
    "num_workers=0", "max_steps=4", "val_check_interval=2", "log_every_n_steps=1", "keep_last=1", "accelerator=cpu",
    "learning_rate=1e-3", "exp_name=vqa",
)  # fmt: skip
# What a finished or stopped run is evaluated with, by its name.
EVALUATED = {
    "two_tower": ("task_mlm_itm_itc", f"load_path={BEST}", "data_root=arrow", "datasets=['coco']"),
    "one_tower": ("task_mlm_itm", "load_path=one_tower.ckpt", "data_root=arrow", "datasets=['coco']"),
    "vqa": ("task_finetune_vqa", "load_path=vqa.ckpt", "data_root=arrow"),
}
TEXT = "a red circle is left of the [MASK] square"
STOPPED = """
import os, runpy, signal, sys
import pytorch_lightning
plain, steps = pytorch_lightning.LightningModule.optimizers, []
def optimizers(self, *args, **options):  # once a step
    steps.append(1)
    if len(steps) == 5:
        os.kill(os.getpid(), signal.SIGTERM)
    return plain(self, *args, **options)
pytorch_lightning.LightningModule.optimizers = optimizers
sys.argv[0] = "run.py"
runpy.run_path(os.environ["RUN_PY"], run_name="__main__")
"""


Command = Callable[..., int]
"""Runs `python run.py with <words>` in the working folder; returns its status."""


def new_process(*words: str, program: str | None = None) -> int:
    start = ["-c", program] if program else [str(ROOT / "run.py")]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "offline")])
    env = os.environ | {"PYTHONPATH": paths, "RUN_PY": str(ROOT / "run.py"), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *start, "with", *words], env=env).returncode


def run_of(name: str) -> Path:
    return Path("result", name, "version_0")


def predictions(_: Command) -> dict[str, Any]:
    """What the three models say of an image."""
    picture, found = Path("picture.png"), {}
    for name, path in {"two_tower": BEST, "one_tower": "one_tower.ckpt"}.items():
        model = renaissance.load(path)
        vectors = model.encode(picture, TEXT).tolist()
        found[name] = [model.score(picture, "a red circle"), model.fill(picture, TEXT, 3), vectors]
    return found | {"vqa": renaissance.load("vqa.ckpt").answer(picture, "what is left of the square", 3)}


def evaluated(command: Command) -> dict[str, Any]:
    """The results of each checkpoint, evaluated by itself."""
    found = {}
    for name, words in EVALUATED.items():
        assert command(*words, "test_only=True", f"exp_name=evaluated_{name}", "num_workers=0") == 0
        found[name] = small_run.results(run_of(f"evaluated_{name}"))
    return found


def gone_on(command: Command) -> dict[str, Any]:
    """The stopped run to its end, by the same command."""
    assert command(*TWO_TOWER, "resume_from=auto") == 0
    assert [path.name for path in run_of("two_tower").parent.iterdir() if path.is_dir()] == ["version_0"]
    return {"rows": small_run.rows(run_of("two_tower")), "results": small_run.results(run_of("two_tower"))}


def fifty_steps(command: Command) -> list[dict[str, str]]:
    """The rows of a run with dropout and augmentation."""
    assert command(*FIFTY) == 0
    return small_run.rows(run_of("fifty"))


MEASURES = (predictions, evaluated, gone_on, fifty_steps)


@pytest.mark.parametrize("measure", MEASURES)
def test_an_earlier_version_s_work_is_worth_the_same(measure: Callable, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(shutil.copytree(EARLIER, tmp_path / "earlier"))

    def in_this_process(*words: str) -> int:
        return small_run.command(capsys, *words).code

    expected = json.loads(Path("expected.json").read_text(encoding="utf-8"))[measure.__name__]
    same(json.loads(json.dumps(measure(in_this_process))), expected)


NEWER = {"ece", "brier"}  # metrics that earlier versions had not


def same(found: Any, expected: Any) -> None:
    """Asserts equality; numbers, which another processor adds up in another order, to a ten-thousandth."""
    if isinstance(expected, dict):
        assert found.keys() - NEWER == expected.keys()
        for key, value in expected.items():
            same(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    else:
        try:
            assert float(found) == pytest.approx(float(expected), rel=1e-4, abs=1e-5)
        except (TypeError, ValueError):
            assert found == expected


def make(place: Path) -> None:
    """Writes `tests/earlier`."""
    os.chdir(place)
    text_config().save_pretrained("encoders/text")
    tokenizer().save_pretrained("encoders/text")
    image_config().save_pretrained("encoders/image")
    for split, pictures in {"train": 8, "restval": 2, "val": 5, "test": 3}.items():
        small_run.write_pairs(Path("arrow", small_run.COCO.format(split)), pictures)
    small_tasks.TASKS["vqa"].write(Path("raw"), Path("arrow"))
    shutil.rmtree("raw")
    for path in Path("arrow").glob("vqav2_val.*"):  # the other files hold its rows
        path.unlink()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save("picture.png")
    assert new_process(*TWO_TOWER, program=STOPPED) == 75
    for name, words in (("one_tower", ONE_TOWER), ("vqa", VQA)):
        assert new_process(*words) == 0
        shutil.move(run_of(name) / "checkpoints" / "best.ckpt", f"{name}.ckpt")
        shutil.rmtree(run_of(name).parent)
    expected = {}
    for measure in MEASURES:
        work = Path(shutil.copytree(place, place.with_name(f"{place.name}_work")))
        os.chdir(work)
        expected[measure.__name__] = measure(new_process)
        os.chdir(place)
        shutil.rmtree(work)
    Path("expected.json").write_text(json.dumps(expected, indent=1), encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]).resolve())
