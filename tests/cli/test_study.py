"""The command `study`: what it prints, and what it refuses before the first run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from renaissance.cli.main import main
from renaissance.demo.run import write_models
from small_run import SMALL, Ended

BASE = "base: {presets: task_mlm_itm, " + ", ".join(word.replace("=", ": ") for word in SMALL) + ", max_steps: 3}\n"
STAGES = """
grid: {freeze_text_encoder: [false, true]}
seeds: [0, 1]
stages: {pretrain: , again: {load_path: "stage:pretrain.best", learning_rate: 1e-3}}
"""


@pytest.fixture
def file(tmp_path, monkeypatch, hub_cache) -> Path:
    monkeypatch.chdir(tmp_path)
    (path := tmp_path / "mine.yaml").write_text(BASE + STAGES)
    return path


def study(capsys, *words: str) -> Ended:
    capsys.readouterr()
    code = main(["study", "with", *words])
    return Ended(code, *capsys.readouterr())


def test_a_plan_says_what_would_run_and_runs_nothing(file, capsys):
    ended = study(capsys, f"study={file}")
    assert ended.code == 0, ended
    assert "8 runs (4 of pretrain, 4 of again):" in ended.out
    line = next(line for line in ended.out.splitlines() if "again_freeze_text_encoder=True_seed=1" in line)
    assert line.split()[-2:] == ["pretrain_freeze_text_encoder=True_seed=1", "waiting"]
    assert [*file.parent.iterdir()] == [file]


REFUSED = {
    "a setting that does not exist": (BASE.replace("max_steps", "max_stepz"), "no setting 'max_stepz' (nearest: max_steps"),
    "a value": (BASE + "grid: {learning_rate: [1e-3, fast]}", "learning_rate='fast' is not allowed"),
    "a model that is not there": (BASE + "grid: {image_encoder: [no/such]}", "no/such is neither a local folder nor"),
    "a stage that contradicts the model of another": (
        BASE + STAGES.replace("learning_rate: 1e-3", "num_cross_layers: 3"), "num_cross_layers=3",
    ),
    "no preset": (BASE.replace("task_mlm_itm", "task_mlm_itn"), "There is no preset 'task_mlm_itn' (nearest: task_mlm_itm"),
}  # fmt: skip


@pytest.mark.parametrize("name", [*REFUSED])
def test_all_runs_are_checked_before_the_first_starts(name, file, capsys):
    content, sentence = REFUSED[name]
    file.write_text(content)
    ended = study(capsys, f"study={file}", "action=run")
    assert ended.code == 1 and sentence in ended.err and "Traceback" not in ended.err
    assert [*file.parent.iterdir()] == [file]


def test_a_study_that_is_not_begun_has_no_table_and_waits(file, capsys):
    assert "waiting" in study(capsys, f"study={file}", "action=status").out
    assert "names no metrics" in study(capsys, f"study={file}", "action=table").sentence()
    file.write_text(BASE + STAGES + "metrics: [again:mlm/val/accuracy]")
    assert "no run is done yet" in study(capsys, f"study={file}", "action=table").sentence()
    words = study(capsys, f"study={file}", "action=command", "run=pretrain_freeze_text_encoder=True_seed=1")
    assert {"task_mlm_itm", "freeze_text_encoder=True", "seed=1", "resume_from=auto"} <= {*words.out.split()}
    waits = study(capsys, f"study={file}", "action=command", "run=again_freeze_text_encoder=True_seed=1")
    assert "waits for results of pretrain_freeze_text_encoder=True_seed=1" in waits.sentence()
    assert "has no such run" in study(capsys, f"study={file}", "run=x", "action=run").sentence()
    assert "leave it out with action=plan" in study(capsys, f"study={file}", "run=x").sentence()
    assert "study=None" in study(capsys).sentence()


def test_status_and_table_load_no_torch(file):
    for action in ("status", "table"):
        code = f"import sys; from renaissance.cli.main import main; main(['study', 'with', 'study={file}', 'action={action}'])"
        code += "; sys.exit('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_studies_of_this_repository_would_run(path, full_size_cache, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if path.stem == "demo":
        write_models(Path("demo"), seed=0)
    before = [*tmp_path.iterdir()]
    ended = study(capsys, f"study={path}", "action=plan")
    assert ended.code == 0, ended
    assert "pretrain" in ended.out and [*tmp_path.iterdir()] == before
