"""Runs that leave JPEG files to the device: the same code, on the processor as the device."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
import torch

from renaissance.core.errors import UserError
from renaissance.data.encoded import EncodedPixels
from renaissance.training import devices
from renaissance.training.loading import Loaders
from small_run import SMALL, command, curve, resolver, train, write_coco_vg

WORDS = ("task_mlm_itm", *SMALL, "draw_false_image=1", "val_check_interval=2", "final_test=False")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_cache: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(devices, "check_devices", lambda resolver: None)  # it asks for a GPU
    return write_coco_vg(tmp_path / "data" / "arrow", format="JPEG")


def test_it_trains_like_a_run_whose_loaders_decode(work, capsys, monkeypatch):
    real, moved = Loaders.transfer_batch_to_device, []

    def moving(self, batch, *args):
        moved.extend(type(each.images.pixels) for each in getattr(batch, "micro_batches", batch))
        return real(self, batch, *args)

    monkeypatch.setattr(Loaders, "transfer_batch_to_device", moving)
    loaded = train(capsys, *WORDS, "max_steps=2")
    assert EncodedPixels not in moved
    there = train(capsys, *WORDS, "max_steps=2", "decode_on_gpu=True", "num_workers=1")
    assert moved.count(EncodedPixels) == 2 * 2  # micro-batches of training; evaluations are decoded as ever
    for metric in ("mlm/train/loss", "itm/train/loss", "mlm/val/loss"):
        assert curve(there, metric) == pytest.approx(curve(loaded, metric), abs=2e-2)
    assert curve(there, "mlm/train/loss") != curve(loaded, "mlm/train/loss")


@pytest.mark.parametrize(
    ("gpus", "given", "refused"),
    [
        (0, {}, "this machine has none that torch can use"),
        (1, {"accelerator": "cpu"}, "accelerator=cpu trains without one"),
        (1, {}, None),
        (1, {"accelerator": "gpu"}, None),
    ],
)
def test_it_needs_a_gpu_to_train_on(gpus: int, given: dict[str, str], refused: str | None, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    asked = resolver(decode_on_gpu=True, **given)
    with pytest.raises(UserError, match=f"needs a GPU, but {refused}") if refused else contextlib.nullcontext():
        devices.check_devices(asked)


def test_a_damaged_file_ends_the_run_with_its_name(work, capsys):
    path = work / "vg.arrow"
    content = path.read_bytes()
    counts = content.index(b"\xff\xc4", len(content) // 2) + 5  # of a Huffman table: how many codes of each length
    path.write_bytes(content[:counts] + b"\xff" * 16 + content[counts + 16 :])
    sentence = command(capsys, *WORDS, "datasets=['vg']", "max_epoch=1", "decode_on_gpu=True").sentence()
    expected = r"of vg\.arrow row \d+ cannot be decoded \(.*Huffman.*; the run goes on from there with resume_from="
    assert re.search(expected, sentence), sentence
