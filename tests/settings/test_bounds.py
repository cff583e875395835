"""Sizes that no machine holds are refused by arithmetic, by `check` and by the run; those of real models are not."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from renaissance.cli.main import main
from renaissance.core.errors import UserError
from renaissance.settings import bounds

HUGE = [
    (["cross_layer_hidden_size=64000", "num_cross_layer_heads=1"], "The model's weights take more than "),
    (
        ["num_cross_layers=1000000"],
        "num_cross_layers=1000000 is not allowed: give a whole number of at least 1, at most 1,024",
    ),
    (["image_size=16000"], "eval_batch_size=256 with image_size=16000: the images of one batch take 197 GB"),
    (
        ["batch_size=1048576", "per_gpu_batchsize=256"],
        "batch_size=1048576 with image_size=224: the images of one batch take",
    ),
]


@pytest.mark.parametrize("command", [["check", "with"], ["with"]], ids=["check", "run"])
@pytest.mark.parametrize(("words", "sentence"), HUGE, ids=lambda case: str(case)[:40])
def test_a_command_of_huge_sizes_is_one_sentence_at_once(hub_cache, monkeypatch, capsys, command, words, sentence):
    monkeypatch.setattr(bounds, "memory_of_machine", lambda: 64 << 30)
    began = time.monotonic()
    assert main([*command, "task_mlm", "max_steps=1", *words]) == 1
    error = capsys.readouterr().err
    assert sentence in error and len(error.strip().splitlines()) == 1
    assert time.monotonic() - began < 20  # a second; the machine may be busy


def test_a_build_ends_where_it_is_too_large_and_leaves_no_trace(monkeypatch):
    monkeypatch.setattr(bounds, "memory_of_machine", lambda: 4000)
    with bounds.bounded_building():
        nn.Linear(30, 30, device="meta")
    for make in (
        lambda: nn.Linear(40, 40, device="meta"),
        lambda: nn.Module().register_buffer("positions", torch.empty(600, dtype=torch.int64, device="meta")),
    ):
        with pytest.raises(UserError, match="more than 0 GB"), bounds.bounded_building():
            make()
    monkeypatch.setattr(bounds, "MOST_PARTS", 10)
    with pytest.raises(UserError, match="more than 10 modules"), bounds.bounded_building():
        nn.Sequential(*(nn.Linear(1, 1) for _ in range(9)))
    nn.Linear(40, 40)  # nothing counts any more
