"""SIGKILL at random moments, half of them inside a save: the same command goes on, bit for bit, and loses nothing saved.

`RENAISSANCE_KILLS=40 python -m pytest -m slow tests/training/test_killed.py` tries more moments than the ten of every day.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import small_run
from conftest import OFFLINE, ROOT
from renaissance.runs.checkpoint import read
from small_run import SMALL

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("RENAISSANCE_KILLS", "10"))
STEPS = 12
WORDS = ("task_mlm_itm", *SMALL, f"max_steps={STEPS}", "val_check_interval=4", "save_every_steps=1", "final_test=False",
         "train_transform_keys=['imagenet_randaug']", "resume_from=auto")  # fmt: skip

# Runs a command, and ends itself when a moment comes: the n-th of the calls by which files are opened, written to, brought to the
# disk, renamed and linked while a checkpoint is saved, or a time after the first step. Of the writes, which are all alike, every
# 500th counts. Undisturbed, it prints how many calls there are.
DOOMED = """
import os, signal, sys, threading, time
sys.path.insert(0, sys.argv[1])
kind, moment, words = sys.argv[2], float(sys.argv[3]), sys.argv[4:]
from renaissance.runs import checkpoint
from renaissance.cli import main as cli
from renaissance.training import checkpointing
from renaissance.training.module import VisionLanguageModule

def die():
    os.kill(os.getpid(), signal.SIGKILL)

if kind == "save":
    calls, inside = [0], [False]
    def counted(plain):
        def call(*args, **kwargs):
            if inside[0]:
                calls[0] += 1
                if calls[0] == moment:
                    die()
            return plain(*args, **kwargs)
        return call
    for name in ("fsync", "replace", "link", "open", "unlink", "ftruncate"):
        setattr(os, name, counted(getattr(os, name)))
    plain_write, writes = checkpoint.AtomicFile.write, [0]
    counted_write = counted(plain_write)
    def write(self, content):
        writes[0] += 1
        return (plain_write if writes[0] % 500 else counted_write)(self, content)
    checkpoint.AtomicFile.write = write
    plain_save = checkpointing.CheckpointSaver._save
    def save(self, *args):
        inside[0] = True
        try:
            return plain_save(self, *args)
        finally:
            inside[0] = False
    checkpointing.CheckpointSaver._save = save
else:
    plain_step = VisionLanguageModule.training_step
    def step(self, *args):
        if not hasattr(self, "doomed"):
            self.doomed = True
            threading.Timer(moment, die).start()
        return plain_step(self, *args)
    VisionLanguageModule.training_step = step
status = cli.main(["with", *words])
print("calls:", calls[0] if kind == "save" else "none")
sys.exit(status)
"""


def doomed(work: Path, kind: str, moment: float, *words: str) -> subprocess.CompletedProcess:
    """Runs the command until the moment comes, or to its end."""
    done = subprocess.run(
        [sys.executable, "-c", DOOMED, str(ROOT), kind, str(moment), *WORDS, *words],
        cwd=work,
        env=os.environ | {"PYTHONPATH": str(OFFLINE)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode in (-9, 0), (kind, moment, done.stderr)
    return done


def newest(work: Path) -> Path | None:
    """The run that the command goes on with, if any: one that was killed before it saved has nothing to go on from."""
    saved = [path.parent.parent for path in (work / "result" / "mlm_itm").glob("version_*/checkpoints/last.ckpt")]
    return max(saved, key=lambda run: int(run.name.removeprefix("version_")), default=None)


def last_step(run: Path | None) -> int:
    """The last step that is saved whole, 0 where none is."""
    return 0 if run is None else read(run / "checkpoints" / "last.ckpt").training["step"]


def test_a_run_that_is_killed_again_and_again_ends_as_the_one_that_is_not(
    tmp_path: Path, hub_cache: Path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    small_run.write_coco_vg(tmp_path / "data" / "arrow")
    done = doomed(tmp_path, "save", -1, "exp_name=whole")
    whole = tmp_path / "result" / "whole" / "version_0"
    calls = int(re.search(r"calls: (\d+)", done.stdout)[1])
    assert calls > 8 * STEPS  # each save opens, writes, brings to the disk, renames and links
    moments = random.Random(0)
    kills = ended = saved = 0
    while kills < KILLS:
        kind = "save" if kills % 2 else "time"
        # A save's moment lies in one of the next three saves, a time in the few steps that come next.
        moment = moments.randint(1, 3 * calls // STEPS) if kind == "save" else moments.uniform(0, 0.5)
        done = doomed(tmp_path, kind, moment)
        run = newest(tmp_path)
        if done.returncode == 0:  # the moment lay behind the end; a new run is killed from now on
            small_run.same_run(whole, run)
            shutil.rmtree(tmp_path / "result" / "mlm_itm")
            ended, saved = ended + 1, 0
            continue
        kills += 1
        step = last_step(run)
        print(f"{kills}: {kind} {moment:.3g}: step {step} is saved")
        assert step >= saved  # what was saved once stays
        for path in run.glob("checkpoints/*.ckpt") if run else ():  # and what is there under its name is whole
            read(path)
        saved = step
    run = small_run.train(capsys, *WORDS)
    assert re.search(r"resume_from=auto: (goes on with|.* has no run)", (run / "log.txt").read_text())
    small_run.same_run(whole, run)
    assert not [path.name for path in (run / "checkpoints").iterdir() if path.name.startswith(".")]
    print(
        f"{kills} kills, {ended + 1} runs ended, each bit for bit the undisturbed one; {calls} calls in the saves of a run"
    )
