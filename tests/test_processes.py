"""Runs of two processes, on CPU: one that dies or cannot read ends the run with a sentence, and nothing is lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import small_run
from conftest import OFFLINE, ROOT
from renaissance.checkpoint import read
from small_run import SMALL

pytestmark = pytest.mark.slow

WORDS = ("task_mlm_itm", *SMALL, "batch_size=8", "val_check_interval=1000", "save_every_steps=1", "final_test=False",
         "accelerator=cpu", "num_gpus=2")  # fmt: skip


@pytest.fixture
def work(tmp_path: Path, hub_cache: Path) -> Path:
    small_run.write_coco_vg(tmp_path / "data" / "arrow")
    return tmp_path


def children(process: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def started(work: Path, *words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), "with", *words],
        cwd=work,
        env=os.environ | {"PYTHONPATH": str(OFFLINE)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def until(true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_the_others_within_a_minute(rank: int, work: Path):
    run = started(work, *WORDS, "max_steps=1000")
    last = work / "result" / "mlm_itm" / "version_0" / "checkpoints" / "last.ckpt"
    until(lambda: last.exists() or run.poll() is not None, 120)
    (other,) = [number for number in children(run.pid) if b"run.py" in Path(f"/proc/{number}/cmdline").read_bytes()]
    os.kill(run.pid if rank == 0 else other, signal.SIGKILL)
    began = time.monotonic()
    said, _ = run.communicate(timeout=60)  # ends when the last process has closed it
    assert time.monotonic() - began < 60 and run.returncode != 0
    assert "Another process of this run has ended, so this one ends too" in said and "Traceback" not in said, said
    assert 0 < read(last).training["step"] < 1000


def test_what_one_process_cannot_read_ends_both(work: Path):
    whole = started(work, *WORDS, "max_steps=6", "exp_name=whole")
    said, _ = whole.communicate(timeout=120)
    assert whole.returncode == 0, said
    path = work / "data" / "arrow" / "vg.arrow"
    sound = path.read_bytes()
    start = sound.index(b"\x89PNG", len(sound) // 2) + 60
    path.write_bytes(sound[:start] + bytes(40) + sound[start + 40 :])
    run = started(work, *WORDS, "max_steps=6", "resume_from=auto")
    said, _ = run.communicate(timeout=120)
    assert run.returncode == 1 and re.search(r"vg\.arrow row \d+", said) and "Traceback" not in said, said
    path.write_bytes(sound)
    run = started(work, *WORDS, "max_steps=6", "resume_from=auto")
    said, _ = run.communicate(timeout=120)
    assert run.returncode == 0 and "resume_from=auto: goes on with" in said, said
    one, two = (work / "result" / name / "version_0" for name in ("whole", "mlm_itm"))
    assert small_run.rows(one) == small_run.rows(two)
