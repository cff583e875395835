"""Probes by the command line: scores of pairs as the model gives them one by one, whatever the batches; and refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import renaissance
import small_probes
from renaissance.config import TASKS
from renaissance.evaluation.probes import RULES
from small_run import SMALL, command, results, train, write_coco_vg


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the arrow files of all benchmarks."""
    folder = tmp_path_factory.mktemp("probes")
    for name in small_probes.NAMES:
        small_probes.arrows(name, folder / "raw" / name, folder / "probes")
    write_coco_vg(folder / "data" / "arrow")
    return folder


@pytest.fixture
def work(place: Path, monkeypatch: pytest.MonkeyPatch, hub_cache: Path) -> Path:
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def trained(work: Path, capsys) -> Path:
    """A checkpoint with the heads of mlm, itm and itc."""
    folder = work / "result" / "mlm_itm_itc" / "version_0"
    if not folder.exists():
        train(capsys, "task_mlm_itm_itc", *SMALL, "max_steps=2", "batch_size=8", "learning_rate=0.01", "final_test=False")
    return folder / "checkpoints" / "last.ckpt"


def test_there_is_a_rule_and_a_preset_for_every_benchmark():
    asked = {name for preset, of in TASKS.items() if preset.startswith("task_probe_") for name in of["datasets"]}
    assert asked == {*TASKS["task_probes"]["datasets"]} == {*RULES} == {*small_probes.NAMES}


def frame(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(folder / "predictions" / f"probe_{name}.parquet")


def test_all_benchmarks_in_one_command(trained, work, capsys):
    folder = train(capsys, "task_probes", f"load_path={trained}", "data_root=probes", "exp_name=all")
    found = results(folder)
    assert set(found) == {*small_probes.NAMES}
    print(json.dumps(found, indent=1), (folder / "results.md").read_text())
