"""The learning rate range test: its rule on curves that are known, and the command on a small run."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import ROOT
from renaissance.cli.main import main
from renaissance.core.progress import Bar
from renaissance.training.module import VisionLanguageModule
from renaissance.training.step_report import StepReport
from renaissance.training.tuning.rates import Measured, RangeTest, exponential, steepest
from small_run import NO_DROPOUT, SMALL, Ended, diverging, write_coco_vg

RUN = ("find_lr", "with", "task_mlm", "max_steps=30", *SMALL)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_cache: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    write_coco_vg(tmp_path / "data" / "arrow")
    return tmp_path


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> Ended:
    capsys.readouterr()
    code = main(words)
    return Ended(code, *capsys.readouterr())


def range_test(losses: list[float], lowest: float = 1e-6, highest: float = 1.0) -> RangeTest:
    test = RangeTest(exponential(lowest, highest, len(losses)), {"mlm": 2.0}, Bar(disable=True))
    for step, loss in enumerate(losses, 1):
        if not test(StepReport(step, {"mlm": loss / 2}, {}, "" if math.isfinite(loss) else "it is not finite")):
            break
    return test


def test_the_rate_grows_exponentially_between_its_bounds():
    rate = exponential(1e-6, 1.0, 7)
    assert [rate(step) for step in range(8)] == pytest.approx([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1.0])
    assert exponential(1e-12, 1e6, 3)(1) == pytest.approx(1e-3)


def test_losses_are_smoothed_as_by_a_weighted_mean():
    losses = [5.0, 3.0, 4.0, 1.0]
    for step, each in enumerate(range_test(losses).measured, 1):
        weights = [0.98 ** (step - 1 - place) for place in range(step)]
        mean = sum(w * loss for w, loss in zip(weights, losses, strict=False)) / sum(weights)
        assert each.smoothed == pytest.approx(mean) and each.loss == pytest.approx(losses[step - 1])


def test_it_ends_where_the_loss_diverges():
    assert range_test([1.0] * 30).ended == "" and range_test([4.0] + [1.0] * 20 + [3.9] * 20).ended == ""
    test = range_test([1.0] * 10 + [500.0] + [1.0] * 10)
    assert len(test.measured) == 11 and "4 times its lowest at learning_rate=" in test.ended
    test = range_test([1.0] * 10 + [math.nan, 1.0])
    assert len(test.measured) == 10 and "not finite" in test.ended


def test_the_steepest_descent_is_over_the_logarithm_of_the_rate():
    rate = exponential(1e-6, 1.0, 100)
    falling = [Measured(rate(step), 0, 10 - 4 / (1 + math.exp(-(step - 60) / 5))) for step in range(100)]
    assert steepest(falling, diverged=False).learning_rate == pytest.approx(rate(60))
    # Neither the start, where the mean is of few losses, nor the end decides.
    noisy = [Measured(0, 0, 1000.0 - 100 * step)._replace(learning_rate=rate(step)) for step in range(9)] + falling[9:]
    assert steepest(noisy, diverged=False).learning_rate == pytest.approx(rate(60))
    assert steepest([each._replace(smoothed=-each.smoothed) for each in falling], diverged=False) is None
    assert steepest(falling[:3], diverged=False) is None
    # A fall at the end counts, but for the steps in which the test has diverged.
    assert (
        steepest(falling[:60], diverged=False) is falling[59] and steepest(falling[:60], diverged=True) is falling[54]
    )


@pytest.mark.parametrize(("fall", "suggested"), [(0.0, False), (3.0, True)])
def test_noise_suggests_no_rate(fall, suggested):
    rate, noise = (1e-8, 1e-7), np.random.default_rng(0).normal(size=100)
    test = range_test([10 - fall * step / 99 + noise[step] for step in range(100)], *rate)
    assert (steepest(test.measured, diverged=False) is not None) == suggested


def test_the_command_suggests_a_rate_and_keeps_nothing(work, capsys, monkeypatch):
    rates = []
    step = VisionLanguageModule.training_step

    def noted(self, *args):
        result = step(self, *args)
        rates.append({group["name"]: group["lr"] for group in self.optimizers().optimizer.param_groups})
        return result

    monkeypatch.setattr(VisionLanguageModule, "training_step", noted)
    words = ("num_training=30", "min_lr=1e-6", "max_lr=0.1", "output=curve", "lr_mult_head=3", *NO_DROPOUT)
    ended = asked(capsys, *RUN, *words)
    assert ended.code == 0, ended.err
    assert not (work / "result").exists() and {each.name for each in work.iterdir()} <= {"data", "curve"}
    assert sorted(each.name for each in (work / "curve").iterdir()) == ["find_lr.csv", "find_lr.png", "find_lr.svg"]
    with open(work / "curve" / "find_lr.csv", encoding="utf-8", newline="") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    # The real optimizer: its groups keep their ratio, and the loss of the step is that of the run.
    assert [row["learning_rate"] for row in rows] == pytest.approx(
        [each["tower, matrices"] for each in rates][: len(rows)]
    )
    assert all(each["head, matrices"] == pytest.approx(3 * each["tower, matrices"]) for each in rates)
    assert rates[0]["tower, matrices"] == pytest.approx(1e-6) and min(row["loss"] for row in rows) < rows[0]["loss"] - 1
    found = ended.out.strip().splitlines()[-1]
    assert main(["print_config", "with", "task_mlm", found]) == 0 and found.startswith("learning_rate=")
    suggested = float(found.partition("=")[2])
    assert suggested == pytest.approx(
        steepest(
            [Measured(*list(row.values())[1:]) for row in rows], diverged="ended after" in ended.out
        ).learning_rate,
        rel=0.05,
    )
    again = asked(capsys, *RUN, *words)
    assert "output=curve is there already" in again.sentence() and again.out == ""


def test_the_steps_are_those_of_the_run(work, capsys, monkeypatch):
    """At one rate all the time, it is the run without warm-up."""
    seen: list[list[float]] = []
    monkeypatch.setattr(RangeTest, "__call__", lambda self, report: seen[-1].append(report.losses["mlm"]) or True)
    for micro in ("per_gpu_batchsize=4", "per_gpu_batchsize=8"):
        seen.append([])
        asked(capsys, *RUN, *NO_DROPOUT, micro, "num_training=20", "min_lr=1e-3", "max_lr=1.0000001e-3")
    from small_run import curve, train

    run = train(capsys, *RUN[2:], *NO_DROPOUT, "max_steps=20", "warmup_steps=0", "decay_power=0", "learning_rate=1e-3")
    assert len(seen[0]) == 20 and seen[0] == pytest.approx(curve(run, "mlm/train/loss"), rel=1e-3)
    assert seen[1] == pytest.approx(seen[0], rel=1e-3)


def test_a_loss_that_diverges_ends_it(work, capsys, monkeypatch):
    diverging(monkeypatch, {23})  # of the 12th step, of two micro-batches each
    ended = asked(capsys, *RUN, "num_training=20", "min_lr=1e-7", "max_lr=1e-6")
    assert "ended after 11 steps: loss or gradient are not finite at learning_rate=" in ended.out


def test_a_loss_that_never_falls_suggests_nothing(work, capsys, monkeypatch):
    diverging(monkeypatch, {1})
    ended = asked(capsys, *RUN, "num_training=20", "output=curve")
    assert "In 0 steps the loss falls at no rate" in ended.sentence() and not Path("curve").exists()


REFUSED = [
    (("min_lr=1", "max_lr=0.1"), "min_lr=1 is not below max_lr=0.1"),
    (("min_lr=0",), "min_lr=0 is not allowed: give a number of at least 1e-12"),
    (("max_lr=1e400",), "max_lr=inf is not allowed"),
    (("num_training=3",), "num_training=3 is not allowed: give a whole number of at least 20"),
    (("num_trainin=30",), "(nearest: num_training); `python run.py find_lr --help` lists its own"),
    (("max_time=1:00",), "max_time=1:00: find_lr tries the first steps of a run that trains"),
    (("test_only=True", "load_path=x"), "test_only=True: find_lr tries the first steps of a run"),
    (("fast_dev_run=3",), "fast_dev_run=3: find_lr tries"),
    (("resume_from=auto",), "leave resume_from out; load_path= starts from a checkpoint"),
    (("output=taken",), "output=taken is there already and not empty"),
    (("data_root=nowhere",), "data_root='nowhere' cannot be read"),
    (("load_path=none.ckpt",), "load_path=none.ckpt is not a file"),
]


@pytest.mark.parametrize(("words", "sentence"), REFUSED, ids=lambda each: str(each[0])[:30])
def test_refusals(words, sentence, work, capsys):
    (work / "taken").mkdir()
    (work / "taken" / "file").touch()
    before = sorted(work.rglob("*"))
    ended = asked(capsys, *RUN, *words)
    assert sentence in ended.sentence() and ended.out == "" and sorted(work.rglob("*")) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
@pytest.mark.parametrize("name", ["find_lr", "find_batch"])
def test_a_gpu_that_is_not_there_is_refused(name, work, capsys):
    assert "this machine has no GPU" in asked(capsys, name, *RUN[1:], "accelerator=gpu").sentence()


@pytest.mark.slow
def test_two_processes_measure_what_one_does(work):
    outputs = []
    for number in (1, 2):
        words = (*RUN, *NO_DROPOUT, f"num_gpus={number}", "num_training=20", "min_lr=1e-5", "max_lr=0.05")
        done = subprocess.run(
            [sys.executable, str(ROOT / "run.py"), *words], capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    one, two = ([line.split() for line in out.splitlines() if line[:1].isdigit()] for out in outputs)
    assert len(one) == len(two) == 20
    for mine, other in zip(one, two, strict=True):
        assert [*map(float, mine)] == pytest.approx([*map(float, other)], rel=1e-2)
