"""SIGKILL at random moments, half of them inside a save: the same command goes on, bit for bit, and loses nothing saved.

`RENAISSANCE_KILLS=40 python -m pytest -m slow tests/test_killed.py` tries more moments than the ten of every day.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

import small_run
from conftest import OFFLINE, ROOT
from renaissance.checkpoint import read
from small_run import SMALL

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("RENAISSANCE_KILLS", "10"))
STEPS = 12
WORDS = ("task_mlm_itm", *SMALL, f"max_steps={STEPS}", "val_check_interval=4", "save_every_steps=1", "final_test=False",
         "train_transform_keys=['imagenet_randaug']", "resume_from=auto")  # fmt: skip

# Runs a command, and ends itself when a moment comes: the n-th of the system calls by which files are written, brought to
# the disk, renamed and linked while a checkpoint is saved, or a time after the first step.
DOOMED = """
import os, signal, sys, threading, time
sys.path.insert(0, sys.argv[1])
kind, moment, words = sys.argv[2], float(sys.argv[3]), sys.argv[4:]
from renaissance import checkpoint, cli, saving
from renaissance.module import VisionLanguageModule

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
    plain_write = saving.checkpoint.AtomicFile.write
    saving.checkpoint.AtomicFile.write = counted(plain_write)
    plain_save = saving.Saving._save
    def save(self, *args):
        inside[0] = True
        try:
            plain_save(self, *args)
        finally:
            inside[0] = False
    saving.Saving._save = save
else:
    plain_step = VisionLanguageModule.training_step
    def step(self, *args):
        if not hasattr(self, "doomed"):
            self.doomed = True
            threading.Timer(moment, die).start()
        return plain_step(self, *args)
    VisionLanguageModule.training_step = step
sys.exit(cli.main(["with", *words]))
"""


def killed(work: Path, kind: str, moment: float) -> bool:
    """Runs the command until the moment comes; returns whether it came before the end."""
    done = subprocess.run(
        [sys.executable, "-c", DOOMED, str(ROOT), kind, str(moment), *WORDS],
        cwd=work,
        env=os.environ | {"PYTHONPATH": str(OFFLINE)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode in (-9, 0), (kind, moment, done.stderr)
    return done.returncode == -9


def saved_step(checkpoints: Path) -> int:
    """The last step that is saved whole, 0 where none is."""
    steps = [int(path.stem.removeprefix("step_")) for path in checkpoints.glob("step_*.ckpt")]
    return max(steps, default=0)


def test_a_run_that_is_killed_again_and_again_ends_as_the_one_that_is_not(
    tmp_path: Path, hub_cache: Path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    small_run.write_coco_vg(tmp_path / "data" / "arrow")
    whole = small_run.train(capsys, *WORDS, "exp_name=whole")
    moments = random.Random(0)
    run = tmp_path / "result" / "mlm_itm" / "version_0"
    kills = finished = 0
    while kills < KILLS:
        kind = "save" if kills % 2 else "time"
        moment = moments.randint(1, 60) if kind == "save" else moments.uniform(0, 1.5)
        if not killed(tmp_path, kind, moment):  # the moment lay behind the end; a new run is killed from now on
            small_run.same_run(whole, run)
            run.rename(tmp_path / f"finished_{finished}")
            finished += 1
            continue
        kills += 1
        before = saved_step(run / "checkpoints")
        # What is there under its name is whole, whatever else is; at most the save that was going on is lost.
        steps = {path.name: read(path).training["step"] for path in (run / "checkpoints").glob("*.ckpt")}
        assert steps.get("last.ckpt", 0) >= before - 1, steps
        print(f"{kills}: {kind} {moment:.3g}, {steps}")
    said = small_run.train(capsys, *WORDS)
    assert said == run.relative_to(tmp_path) or said == run
    log = (run / "log.txt").read_text()
    assert re.search(r"resume_from=auto: (goes on with|.* has no run)", log)
    small_run.same_run(whole, run)
    assert not [path.name for path in (run / "checkpoints").iterdir() if path.name.startswith(".")]
