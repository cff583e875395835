"""Runs that are asked to stop, or stop learning: what they save, how they end, and that they go on as if nothing was."""

from __future__ import annotations

import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import small_run
from conftest import OFFLINE, ROOT
from renaissance import saving
from renaissance.checkpoint import read
from renaissance.module import VisionLanguageModule
from renaissance.tasks.mlm import Mlm
from small_run import SMALL, command, equal_state

WORDS = ("task_mlm_itm", *SMALL, "max_steps=6", "val_check_interval=3", "train_transform_keys=['imagenet_randaug']")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_cache: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    small_run.write_coco_vg(tmp_path / "data" / "arrow")
    return tmp_path


def interrupting(monkeypatch: pytest.MonkeyPatch, method: str, call: int, act: Callable[[], Any]) -> None:
    """Acts in the midst of the n-th call, from 1, of a method of the loop, once."""
    plain, calls = getattr(VisionLanguageModule, method), []

    def around(self: VisionLanguageModule, *args: Any) -> Any:
        calls.append(method)
        if len(calls) == call:
            act()
        return plain(self, *args)

    monkeypatch.setattr(VisionLanguageModule, method, around)


def kill(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "status", "method", "call", "step", "long"),
    [
        (signal.SIGTERM, 75, "training_step", 2, 2, None),
        (signal.SIGUSR1, 75, "training_step", 3, 3, None),  # with a validation to come
        (signal.SIGINT, 130, "training_step", 4, 4, None),
        (signal.SIGTERM, 75, "training_step", 6, 6, None),  # with the last validation to come
        # A validation has five batches. Where it may be long it ends at once, else behind the first step after it.
        (signal.SIGUSR1, 75, "validation_step", 1, 3, None),
        (signal.SIGUSR1, 75, "validation_step", 1, 4, math.inf),
        (
            signal.SIGINT,
            130,
            "validation_step",
            7,
            6,
            None,
        ),  # short, the last: stops before the evaluation that ends the run
        (signal.SIGTERM, 75, "validation_step", 7, 6, -1),
        (signal.SIGUSR1, 75, "test_step", 1, 6, None),
        (signal.SIGTERM, 75, "test_step", 1, 6, None),
    ],
)
def test_a_stopped_run_goes_on_as_if_it_had_never_stopped(
    number: signal.Signals,
    status: int,
    method: str,
    call: int,
    step: int,
    long: float | None,
    work: Path,
    monkeypatch,
    capsys,
):
    whole = small_run.train(capsys, *WORDS)
    if long is not None:
        monkeypatch.setattr(saving, "LONG", long)
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with monkeypatch.context() as patch:
        interrupting(patch, method, call, kill(number))
        ended = command(capsys, *WORDS)
    assert ended.code == status
    assert handlers == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    said = ended.err.strip().splitlines()[-1]
    what = "interrupted" if number == signal.SIGINT else f"stopped by {number.name}"
    at_once = method == "test_step" or (method == "validation_step" and (call, long) in ((1, None), (7, -1)))
    assert said.startswith(
        f"{what}{'' if at_once else f' after step {step}'}; the run goes on from there with resume_from="
    )
    path = Path(re.search(r"resume_from=(\S+last\.ckpt)", said)[1])
    assert read(path).training["step"] == step and not (path.parent.parent / "results.json").exists()

    resumed = small_run.train(capsys, f"resume_from={path}")
    assert resumed.resolve() == path.parent.parent.resolve()
    small_run.same_run(whole, resumed)


def test_a_signal_to_all_processes_of_a_job_stops_a_run_with_loader_processes(work: Path, monkeypatch, capsys):
    """As Slurm and a terminal send it: to the loader processes too."""
    words = (*WORDS, "num_workers=2", "train_transform_keys=['imagenet']")
    whole = small_run.train(capsys, *words, "num_workers=0")
    for number, status in ((signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGUSR1, 75)):
        run = subprocess.Popen(
            [sys.executable, "-c", GROUP, str(ROOT), str(int(number)), *words, f"exp_name={number.name}"],
            cwd=work,
            env=os.environ | {"PYTHONPATH": str(OFFLINE)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        _, said = run.communicate(timeout=120)
        assert run.returncode == status and said.count("stopping after this step") == 1, said
        path = work / "result" / number.name / "version_0" / "checkpoints" / "last.ckpt"
        small_run.same_run(whole, small_run.train(capsys, f"resume_from={path}"))


# A run that sends its whole process group a signal in its second step.
GROUP = """
import os, sys
sys.path.insert(0, sys.argv[1])
from renaissance import cli
from renaissance.module import VisionLanguageModule
plain, steps = VisionLanguageModule.training_step, []
def step(self, *args):
    steps.append(1)
    if len(steps) == 2:
        os.killpg(0, int(sys.argv[2]))
    return plain(self, *args)
VisionLanguageModule.training_step = step
sys.exit(cli.main(["with", *sys.argv[3:]]))
"""


def test_a_second_interrupt_ends_at_once(work: Path, monkeypatch, capsys):
    interrupting(monkeypatch, "training_step", 2, lambda: (kill(signal.SIGINT)(), kill(signal.SIGINT)()))
    ended = command(capsys, *WORDS)
    assert ended.code == 130 and "Traceback" not in ended.err
    assert not list(work.glob("result/*/*/checkpoints/*.ckpt"))


def diverging(monkeypatch: pytest.MonkeyPatch, bad: set[int]) -> None:
    """Makes the masked-word loss of the given steps, from 1, no number."""
    plain, step = Mlm.forward, [0]

    def loss(self: Mlm, encodings: Any, targets: Any) -> Any:
        out = plain(self, encodings, targets)
        step[0] += self.training
        return out._replace(loss=out.loss * float("nan")) if self.training and step[0] in bad else out

    monkeypatch.setattr(Mlm, "forward", loss)


def test_a_step_that_is_no_number_is_left_out(work: Path, monkeypatch, capsys):
    """And the steps behind it are those of a run that never tried it: AdamW's moments have not moved."""
    words = ("task_mlm_itm", *SMALL, "per_gpu_batchsize=8", "val_check_interval=1", "final_test=False", "max_steps=2")
    kept: list[dict[str, torch.Tensor]] = []
    plain = VisionLanguageModule.training_step

    def keeping(self: VisionLanguageModule, *args: Any) -> None:
        plain(self, *args)
        kept.append(
            {name: value.clone() for name, value in self.state_dict().items() if not name.startswith("metrics")}
        )

    monkeypatch.setattr(VisionLanguageModule, "training_step", keeping)
    diverging(monkeypatch, {2})
    folder = small_run.train(capsys, *words)
    assert equal_state(kept[0], kept[1])
    assert read(folder / "checkpoints" / "last.ckpt").training["step"] == 2
    said = re.search(r"warning: step 2 is left out: (.*)", (folder / "log.txt").read_text())[1]
    assert re.fullmatch(
        r"the loss of mlm is not finite \(samples (\d+, ){7}\d+; learning rate \d\.\d\de[+-]\d\d\)", said
    )


def test_a_run_that_does_not_learn_any_more_ends_with_its_last_good_state(work: Path, monkeypatch, capsys):
    words = ("task_mlm", *SMALL, "per_gpu_batchsize=8", "max_steps=9", "max_bad_steps=3", "val_check_interval=9")
    diverging(monkeypatch, {2, 4, 5, 6})
    ended = command(capsys, *words)
    sentence = ended.err.strip().splitlines()[-1]
    why = "that many steps in a row were left out, the last because the loss of mlm is not finite"
    assert ended.code == 1 and sentence.startswith(f"error: max_bad_steps=3: {why}")
    assert "give a lower learning_rate" in sentence
    path = re.search(r"resume_from=(\S+last\.ckpt)", sentence)[1]
    stored = read(path)
    assert stored.training["step"] == 6
    assert all(bool(value.isfinite().all()) for value in stored.model.values() if value.is_floating_point())
    assert {float(state["step"]) for state in stored.training["optimizer"]["state"].values()} == {2.0}


def test_a_picture_that_cannot_be_read_ends_the_run_where_it_stands(work: Path, capsys):
    """With the file and row of it; once they are mended, the run goes on as if nothing had been."""
    whole = small_run.train(capsys, *WORDS)
    path = work / "data" / "arrow" / "vg.arrow"
    sound = small_run.damage_picture(path)
    ended = command(capsys, *WORDS)
    assert ended.code == 1 and "Traceback" not in ended.err, ended.err
    sentence = ended.err.strip().splitlines()[-1]
    assert re.search(r"vg\.arrow row \d+", sentence) and "resume_from=" in sentence, sentence
    last = Path(re.search(r"resume_from=(\S+last\.ckpt)", sentence)[1])
    assert read(last).training["step"] < 6
    path.write_bytes(sound)
    small_run.same_run(whole, small_run.train(capsys, f"resume_from={last}"))


def cut(path: Path) -> None:
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)


def replaced(path: Path) -> None:
    other = path.with_name("other.arrow")
    small_run.write_pairs(other, 30)
    other.replace(path)


@pytest.mark.parametrize(("change", "workers"), [(cut, 0), (cut, 1), (replaced, 0), (replaced, 1)])
def test_data_that_change_under_a_run_end_it(
    change: Callable[[Path], None], workers: int, work: Path, monkeypatch, capsys
):
    for name in ("coco_caption_karpathy_train", "coco_caption_karpathy_restval"):
        (work / "data" / "arrow" / f"{name}.arrow").unlink()
    path = work / "data" / "arrow" / "vg.arrow"
    small_run.write_pairs(path, 40)
    interrupting(monkeypatch, "training_step", 2, lambda: change(path))
    words = ("task_mlm", *SMALL, "datasets=['vg']", "max_steps=60", "val_check_interval=30", f"num_workers={workers}")
    ended = command(capsys, *words)
    sentence = ended.err.strip().splitlines()[-1]
    assert ended.code == 1 and re.search(
        r"vg\.arrow' was changed since this run began(, before sample \d+ was read)?; put it back", sentence
    ), ended.err
    step = read(Path(re.search(r"resume_from=(\S+last\.ckpt)", sentence)[1])).training["step"]
    assert 2 <= step < 8  # those that were loaded before are done


def test_a_loader_process_that_dies_ends_the_run_and_loses_nothing(work: Path, monkeypatch, capsys):
    whole = small_run.train(capsys, *WORDS)

    def kill_workers() -> None:
        for process in multiprocessing.active_children():
            os.kill(process.pid, signal.SIGKILL)
            process.join()

    with monkeypatch.context() as patch:
        interrupting(patch, "training_step", 1, kill_workers)
        ended = command(capsys, *WORDS, "num_workers=1")
    sentence = ended.err.strip().splitlines()[-1]
    assert ended.code == 1 and "num_workers=1: a loader process has died" in sentence, ended.err
    last = re.search(r"resume_from=(\S+last\.ckpt)", sentence)[1]
    assert 1 <= read(last).training["step"] < 6
    small_run.same_run(whole, small_run.train(capsys, f"resume_from={last}"))
