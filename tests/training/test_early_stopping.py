"""`early_stopping`: the step at which a run ends, with many processes, stopped and resumed or not; and what follows."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

import small_run
from renaissance.runs.checkpoint import read
from renaissance.runs.checkpoint_folder import try_read
from renaissance.training import split_evaluation
from small_run import SMALL, command, interrupting, kill

# What selects, by the number of the validation: gains at 1 and 3, then two that are none, one of them not a number.
SCORES = (0.3, 0.2, 0.5, float("nan"), 0.5, 0.9, 0.9, 0.9)
WORDS = ("task_mlm_itm", *SMALL, "max_steps=20", "val_check_interval=2", "early_stopping=2")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_cache: Path) -> Path:
    """Runs whose validation at step s selects by SCORES[s / 2 - 1]."""
    monkeypatch.chdir(tmp_path)
    small_run.write_coco_vg(tmp_path / "data" / "arrow")
    plain = split_evaluation.SplitEvaluation.compute

    def compute(self):
        result = plain(self)
        if self.module.trainer.validating or self.module.trainer.training:
            result.values["val/the_metric"] = SCORES[self.module.step // 2 - 1]
        return result

    monkeypatch.setattr(split_evaluation.SplitEvaluation, "compute", compute)
    return tmp_path


def steps_of(folder: Path) -> tuple[int, int]:
    """The steps of last.ckpt and best.ckpt."""
    return tuple(read(str(folder / "checkpoints" / f"{name}.ckpt")).training["step"] for name in ("last", "best"))


def test_a_run_ends_after_so_many_validations_without_a_gain(work: Path, capsys):
    """Then best.ckpt is evaluated, the results say so, and the same command does nothing; a larger patience goes on."""
    ended = command(capsys, *WORDS, "resume_from=auto")
    assert ended.code == 0, ended.err
    said = "stopped early after step 10 of 20: early_stopping=2 validations without a gain; the best was at step 6"
    folder = work / "result" / "mlm_itm" / "version_0"
    assert said in ended.out and said in (folder / "log.txt").read_text(encoding="utf-8")
    assert steps_of(folder) == (10, 6)
    details = json.loads((folder / "results_details.json").read_text(encoding="utf-8"))
    assert {split: each["mlm"]["loss"]["stopped_early"] for split, each in details.items()} == {
        "val": {"step": 10, "of": 20},
        "test": {"step": 10, "of": 20},
    }
    loss = json.loads((folder / "results.json").read_text(encoding="utf-8"))["val"]["mlm"]["loss"]
    by_step = {row["step"]: row["mlm/val/loss"] for row in small_run.rows(folder) if row["mlm/val/loss"]}
    assert float(by_step["6"]) == pytest.approx(loss, rel=1e-6) and list(by_step) == ["2", "4", "6", "8", "10"]
    small_run.main(["compare", "with", f"runs={folder}", "output=None"])
    assert "stopped early" in capsys.readouterr().out

    before = (folder / "metrics.csv").read_bytes()
    again = command(capsys, *WORDS, "resume_from=auto")
    assert (again.code, again.err.strip()) == (
        0,
        f"{folder} has stopped early after step 10 of 20 and has its results; nothing is left.",
    )
    last = f"resume_from={folder}/checkpoints/last.ckpt"
    refused = command(capsys, last).sentence()
    assert "stopped early after step 10 of 20, with 2 validations without a gain" in refused
    assert refused.endswith("Give an early_stopping above 2, or 0, to go on.")
    assert (folder / "metrics.csv").read_bytes() == before
    # With a patience of 3 validation 6 is a gain, and the last four are none.
    assert small_run.train(capsys, last, "early_stopping=3", "max_steps=16").resolve() == folder
    assert steps_of(folder) == (16, 12)


def test_without_a_number_nothing_is_selected(work: Path, monkeypatch, capsys):
    monkeypatch.setitem(globals(), "SCORES", (float("nan"),) * 8)
    ended = command(capsys, *WORDS)
    assert ended.code == 0, ended.err
    assert "2 validations without a gain; none that was saved had a number, so nothing was selected" in ended.out


@pytest.mark.parametrize(
    ("method", "call", "step"),
    [
        pytest.param("training_step", 8, 8, marks=pytest.mark.slow),  # with a validation to come that is without a gain
        ("training_step", 10, 10),  # with that to come which ends the run
        pytest.param("validation_step", 22, 10, marks=pytest.mark.slow),  # in that
        pytest.param("test_step", 1, 10, marks=pytest.mark.slow),  # in the evaluation that ends it
    ],
)
def test_a_resumed_run_stops_at_the_step_of_one_never_stopped(
    method: str, call: int, step: int, work: Path, monkeypatch, capsys
):
    whole = small_run.train(capsys, *WORDS, "log_dir=whole")
    with monkeypatch.context() as patch:
        interrupting(patch, method, call, kill(signal.SIGUSR1))
        assert command(capsys, *WORDS, "resume_from=auto").code == 75
    assert try_read(work / "result/mlm_itm/version_0/checkpoints/last.ckpt")[0].training["step"] == step
    resumed = small_run.train(capsys, *WORDS, "resume_from=auto")
    assert steps_of(resumed) == steps_of(whole) == (10, 6)
    small_run.same_run(whole, resumed)


SECOND_GAINS_ALWAYS = """
from renaissance.training.split_evaluation import SplitEvaluation
plain = SplitEvaluation.compute
def compute(self):
    result = plain(self)
    result.values["val/the_metric"] = float(self.module.step if self.module.global_rank else 0)
    return result
SplitEvaluation.compute = compute
"""


@pytest.mark.slow
def test_all_processes_stop_where_the_first_one_does(work: Path):
    """Else those that go on would wait for it for ever."""
    words = (*WORDS, "num_gpus=2", "accelerator=cpu", "final_test=False", "val_check_interval=1")
    run = small_run.started(work, *words, patch=SECOND_GAINS_ALWAYS)
    said, _ = run.communicate(timeout=120)
    assert run.returncode == 0, said
    assert "stopped early after step 3 of 20" in said and steps_of(work / "result/mlm_itm/version_0") == (3, 1)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("max_steps=8",),
            "early_stopping=4 would change nothing: max_steps=8 ends the run before, or with, its validation",
        ),
        (
            ("max_steps=None", "max_epoch=2", "val_check_interval=0.5"),
            "max_epoch=2 ends the run before, or with, its validation",
        ),
        (
            ("test_only=True", "load_path=x.ckpt"),
            "early_stopping=4 would change nothing: test_only=True trains nothing",
        ),
        (("early_stopping=-1",), "early_stopping=-1 is not allowed: give a whole number of at least 0"),
        (("datasets=['vg']",), "early_stopping=4 needs validations, and vg have no validation split with labels"),
    ],
)
def test_what_it_cannot_stop_is_refused(words: tuple[str, ...], sentence: str, work: Path, capsys):
    (work / "x.ckpt").touch()
    assert sentence in command(capsys, *WORDS, "early_stopping=4", *words).sentence()
    assert not (work / "result").exists()
