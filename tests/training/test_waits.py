"""A training step waits for nobody: nothing of the device is read but what is logged, and that a step late."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.strategies import Strategy
from torch import Tensor

import small_run
from renaissance.models.transfer import async_tensor
from renaissance.runs.checkpoint import read
from renaissance.training import devices
from renaissance.training.module import VisionLanguageModule
from renaissance.training.progress import Progress
from renaissance.training.step_report import HostCopy
from small_run import SMALL, diverging
from small_tasks import TASKS
from small_tasks import words as small_words
from waits import Watch, watch_steps

STEPS = 20
ALL = "loss_names={'mlm': 1, 'itm': 1, 'itc': 1}"
ONE_TOWER = [word for word in SMALL if not word.startswith(("image_encoder", "text_encoder", "cross", "num_cross"))]
PLAIN = ("task_mlm_itm", ALL, "final_test=False", f"max_steps={STEPS}", f"val_check_interval={STEPS}")
KINDS: dict[str, tuple[str, ...]] = {
    "two-tower": SMALL,
    "one-tower of a text encoder": (*ONE_TOWER, "encoder=google/electra-small-discriminator", "patch_size=16"),
    "one-tower of an image encoder": (*ONE_TOWER, "encoder=facebook/dino-vits16"),
}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_cache: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    small_run.write_coco_vg(tmp_path / "data" / "arrow")
    return tmp_path


def watched(words: Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Path:
    """The folder of a run whose training steps wait for nothing."""
    watch = watch_steps(monkeypatch.setattr)
    folder = small_run.train(capsys, *words)
    assert watch.operations > 100 * STEPS and not watch.found, "\n".join(dict.fromkeys(watch.found))
    return folder


def test_a_step_waits_for_nothing(work: Path, monkeypatch, capsys):
    """All objectives, with clipping, and with steps that are skipped."""
    diverging(monkeypatch, {3, 7, 8})
    words = (*PLAIN, *SMALL, "batch_size=4", "gradient_clip_val=0.5")
    folder = watched(words, monkeypatch, capsys)
    assert re.findall(r"step (\d+) is skipped", (folder / "log.txt").read_text()) == ["3", "7", "8"]
    losses = {name: small_run.curve(folder, f"{name}/train/loss") for name in ("mlm", "itm", "itc")}
    assert [len(curve) for curve in losses.values()] == [STEPS] * 3
    assert [step for step, loss in enumerate(losses["mlm"], start=1) if math.isnan(loss)] == [3, 7, 8]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        *((kind, ("gradient_clip_val=0.5",)) for kind in KINDS),
        ("two-tower", ("precision=bf16-mixed", "optim_type=sgd", "gradient_checkpointing=True")),
        ("two-tower", ("fusion=separate", "draw_false_image=1", "cross_layer_drop_rate=0.1")),
        ("two-tower", ("fusion=merged", "patch_drop=0.5")),
        ("two-tower", ("freeze_image_encoder=True", "cache_frozen=True")),
        ("one-tower of an image encoder", ("patch_drop=0.5",)),
        ("one-tower of a text encoder", ("train_transform_keys=['pixelbert']", "val_transform_keys=['pixelbert']")),
        ("one-tower of an image encoder", ("train_transform_keys=['pixelbert']", "val_transform_keys=['pixelbert']")),
    ],
)
def test_pretraining_waits_for_nothing(kind: str, more: tuple[str, ...], work: Path, monkeypatch, capsys):
    watched((*PLAIN, *KINDS[kind], *more), monkeypatch, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_finetuning_waits_for_nothing(task: str, work: Path, monkeypatch, capsys):
    words = [word for word in small_words(task, work) if not word.startswith("max_steps")]
    watched((*words, f"max_steps={STEPS}", f"val_check_interval={STEPS}", "final_test=False"), monkeypatch, capsys)


@pytest.mark.slow
def test_a_scaler_waits_for_nothing(work: Path, monkeypatch, capsys):
    """In 16-mixed; its first steps overflow, and it halves its scale."""
    plain, scaler = devices.trainer_arguments, torch.amp.GradScaler("cpu", init_scale=2.0**18)
    scales: list[float] = []

    def arguments(settings: Any) -> dict[str, Any]:
        given = plain(settings)
        return given | {"precision": None, "plugins": [*given["plugins"], MixedPrecision("16-mixed", "cpu", scaler)]}

    def told(self: Progress, *args: Any) -> None:
        scales.append(scaler._scale.clone())

    monkeypatch.setattr(devices, "trainer_arguments", arguments)
    monkeypatch.setattr(Progress, "step_done", told)
    diverging(monkeypatch, {18, 19})
    words = (*PLAIN, *SMALL, "batch_size=4", "gradient_clip_val=0.5", "precision=16-mixed")
    folder = watched(words, monkeypatch, capsys)
    scales = [float(scale) for scale in scales]
    halved = sum(after < before for before, after in pairwise([2.0**18, *scales]))
    assert scales[-1] == 2.0 ** (18 - halved) and 2 < halved < 12 and len({*scales[-4:]}) == 1, scales
    steps = {
        float(each["step"])
        for each in read(folder / "checkpoints" / "last.ckpt").training["optimizer"]["state"].values()
    }
    assert steps == {STEPS - halved - 2.0}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("more", [(), ("precision=16-mixed",), ("precision=bf16-mixed", "fusion=merged")])
def test_a_step_on_a_gpu_waits_for_nothing(more: tuple[str, ...], work: Path, monkeypatch, capsys):
    plain, calls = Strategy.training_step, []

    def step(self: Strategy, *args: Any) -> Any:
        calls.append(args)
        torch.cuda.set_sync_debug_mode("error" if len(calls) > 2 else "default")
        try:
            return plain(self, *args)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Strategy, "training_step", step)
    small_run.train(capsys, *PLAIN, *SMALL, "gradient_clip_val=0.5", "accelerator=gpu", *more)
    assert len(calls) == STEPS


WAITS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda loss: loss.item(),
    "float": lambda loss: float(loss),
    "if": lambda loss: 1 if loss > 0 else 0,
    "tolist": lambda loss: loss.reshape(1).tolist(),
    "numpy": lambda loss: loss.numpy(),
    "cpu": lambda loss: loss.cpu(),
    "to": lambda loss: loss.to("cpu"),
    "mask": lambda loss: loss.reshape(1)[loss.reshape(1) > 0],
    "nonzero": lambda loss: loss.nonzero(),
    "unique": lambda loss: loss.unique(),
    "equal": lambda loss: torch.equal(loss, loss),
    "repeat": lambda loss: torch.repeat_interleave(loss.reshape(1), loss.reshape(1).long()),
    "a new tensor": lambda loss: loss + torch.tensor([1.0], device=loss.device),
    "a list": lambda loss: loss.reshape(1)[[0]],
    "a copy": lambda loss: torch.empty(()).copy_(loss).item(),
    "what follows": lambda loss: (torch.ones(1, device=loss.device) * loss).sum().item(),
    "backward": lambda loss: weighted(loss).backward(),
}


def weighted(loss: Tensor) -> Tensor:
    """Its gradient is read in the backward pass."""
    product = torch.ones((), requires_grad=True) * loss
    product.register_hook(lambda gradient: None if gradient > 0 else gradient)
    return product * loss


@pytest.mark.parametrize("name", WAITS)
def test_each_way_to_wait_is_seen(name: str):
    """Or the tests above would say nothing."""
    watch, loss = Watch(), torch.tensor(2.0)
    watch.puts_on_device(loss)
    with watch():
        WAITS[name](loss)
    assert watch.found and all("test_waits.py" in line for line in watch.found), watch.found


def test_what_the_processor_has_anyway_is_no_wait():
    watch, loss = Watch(), torch.tensor(2.0)
    watch.puts_on_device(loss)
    with watch():
        assert float(torch.tensor([1.0, 2.0]).sum()) == 3 and HostCopy(loss.reshape(1)).read() == [2.0]
        same = loss * async_tensor([1], loss.device) + torch.arange(1, device=loss.device)
    assert watch.on_device(same) and not watch.found


def test_a_loss_that_is_read_in_the_step_is_seen(work: Path, monkeypatch, capsys):
    plain = VisionLanguageModule._loss

    def loss(self: VisionLanguageModule, *args: Any) -> Tensor:
        total = plain(self, *args)
        return total if total.item() else total

    monkeypatch.setattr(VisionLanguageModule, "_loss", loss)
    watch = watch_steps(monkeypatch.setattr)
    small_run.train(capsys, "task_mlm_itm", *SMALL, "max_steps=1", "val_check_interval=1", "final_test=False")
    assert len(watch.found) == 2 and all("_local_scalar_dense" in line for line in watch.found), watch.found


WATCHED = """
import sys, os
sys.path.insert(0, {tests!r})
from waits import Watch, watch_steps
watch = watch_steps(setattr)
from renaissance.training.loop import Loop
plain = Loop.on_train_end
def on_train_end(self, trainer, module):
    found = "; ".join(dict.fromkeys(watch.found))
    os.write(1, f"process {{module.global_rank}}: {{watch.operations}} operations, waits: [{{found}}]\\n".encode())
    plain(self, trainer, module)
Loop.on_train_end = on_train_end
"""


# A scaler on the processor, whose scale is too large at first.
SCALED = """
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from renaissance.training import devices
arguments = devices.trainer_arguments
def with_scaler(settings):
    given, scaler = arguments(settings), torch.amp.GradScaler("cpu", init_scale=2.0**18)
    return given | {"precision": None, "plugins": [*given["plugins"], MixedPrecision("16-mixed", "cpu", scaler)]}
devices.trainer_arguments = with_scaler
"""


@pytest.mark.slow
@pytest.mark.parametrize("more", ["", SCALED], ids=["32", "16-mixed"])
@pytest.mark.parametrize("strategy", ["ddp", "ddp_bf16", "zero1"])
def test_two_processes_wait_for_nothing(strategy: str, more: str, work: Path):
    patch = WATCHED.format(tests=str(Path(__file__).parents[1])) + more
    words = (*PLAIN, *SMALL, "accelerator=cpu", "num_gpus=2", f"strategy={strategy}", "gradient_clip_val=0.5")
    words += ("precision=16-mixed",) if more else ()
    run = small_run.started(work, *words, "per_gpu_batchsize=2", "negative_group=2", patch=patch)
    said, _ = run.communicate(timeout=300)
    assert run.returncode == 0, said
    found = re.findall(r"process (\d): (\d+) operations, waits: \[(.*)\]", said)
    assert sorted(rank for rank, _, _ in found) == ["0", "1"], said
    assert all(int(operations) > 100 * STEPS and not waits for _, operations, waits in found), found
    stored = read(work / "result" / "mlm_itm" / "version_0" / "checkpoints" / "last.ckpt").training
    [steps] = {float(each["step"]) for each in stored["optimizer"]["state"].values()}
    halved = 18 - math.log2(stored["scaler"]["scale"]) if more else 0
    assert steps == STEPS - halved and (halved > 2) == bool(more)
