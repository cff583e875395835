"""The command `study`: what it prints, and what it refuses before the first run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import small_tasks
from conftest import ROOT
from renaissance.cli.main import main
from renaissance.demo.run import write_models
from renaissance.studies import execute
from small_run import COCO_VG, SMALL, Ended, write_coco_vg

READY = sorted((ROOT / "studies").glob("*.yaml"))

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
    "a probe of heads that no stage trains": (
        BASE.replace("presets: task_mlm_itm, ", "")
        + 'stages: {a: {presets: task_mlm}, b: {presets: task_probe_valse, load_path: "stage:a.best"}}',
        "the checkpoint of a_seed=0, has no trained head of itm or itc",
    ),
    "a task that no run has": (BASE + "metrics: [vqa/val/vqa_score]", "vqa/val/vqa_score: no run trains vqa"),
    "a metric that the task has not": (BASE + "metrics: [itm/val/foo]", "itm/val/foo: no run has it; itm has loss, accuracy"),
    "a split that it has not": (BASE + "metrics: [itm/foo/accuracy]", "itm/foo/accuracy: no run has it"),
    "no preset": (BASE.replace("task_mlm_itm", "task_mlm_itn"), "There is no preset 'task_mlm_itn' (nearest: task_mlm_itm"),
}  # fmt: skip


@pytest.mark.parametrize("name", [*REFUSED])
def test_all_runs_are_checked_before_the_first_starts(name, file, capsys):
    content, sentence = REFUSED[name]
    file.write_text(content)
    ended = study(capsys, f"study={file}", "action=run")
    assert ended.code == 1 and sentence in ended.err and "Traceback" not in ended.err
    assert [*file.parent.iterdir()] == [file]


def test_evaluations_of_a_checkpoint_to_come_are_not_timed(file, capsys):
    file.write_text(BASE + 'stages: {pretrain: , again: {load_path: "stage:pretrain.best", test_only: true}}\n')
    ended = study(capsys, f"study={file}")
    assert "1 of 2 runs unknown" in ended.out, ended
    assert (
        "1 of 2 runs train nothing, and evaluations are not timed" in ended.out and "not timed  pretrain" in ended.out
    )


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


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_the_studies_of_this_repository_would_run(path, full_size_cache, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if path.stem == "demo":
        write_models(Path("demo"), seed=0)
    before = [*tmp_path.iterdir()]
    ended = study(capsys, f"study={path}", "action=plan")
    assert ended.code == 0, ended
    assert "pretrain" in ended.out and [*tmp_path.iterdir()] == before
    if path.stem == "parameters":  # which differ in where they are alone
        assert {line.split()[1] for line in ended.out.splitlines() if line.strip().startswith("pretrain_")} == {"59.98"}


@pytest.mark.slow
def test_three_steps_of_each_kind_are_measured_and_nothing_is_kept(file, capsys):
    """The second stage has a model that only its checkpoint would tell it, and another batch size: a kind of its own."""
    base = BASE.replace("num_cross_layers: 1, ", "")
    stages = 'pretrain: {num_cross_layers: 2}, again: {load_path: "stage:pretrain.best", batch_size: 4}'
    file.write_text(base + f"stages: {{{stages}}}\n")
    write_coco_vg(file.parent / "arrow")
    ended = study(capsys, f"study={file}", "measure=True", "data_root=arrow")
    assert ended.code == 0 and "measures pretrain_seed=0\nmeasures again_seed=0\n" in ended.out, ended
    assert "of training to go" in ended.out and "unknown" not in ended.out and "not measured" not in ended.out
    ended = study(capsys, f"study={file}", "measure=True", "data_root=nowhere")
    assert ended.code == 0 and "pretrain_seed=0 is not measured: error: " in ended.out, ended
    assert "2 of 2 runs unknown" in ended.out and "nowhere" in ended.out.rpartition("not measured")[2]
    assert sorted(each.name for each in file.parent.iterdir()) == ["arrow", "mine.yaml"]
    assert (
        "measure=True is of action=plan" in study(capsys, f"study={file}", "measure=True", "action=status").sentence()
    )


class _Done:
    """A run of this process in the place of one of its own: what is tested is the study, and a start takes seconds."""

    def __init__(self, words: list[str], *_: object):
        self.pid, self.code = os.getpid(), main(["with", *words])

    def poll(self) -> int:
        return self.code

    wait = poll


SMALL_STUDY = {
    "image_size": 32, "max_text_len": 16, "batch_size": 4, "per_gpu_batchsize": 4, "eval_batch_size": 16, "num_workers": 0,
    "max_steps": 1, "log_every_n_steps": 1,
}  # fmt: skip
SMALL_SIZES = {"cross_layer_hidden_size": 32, "num_cross_layers": 1, "num_cross_layer_heads": 2}
SMALL_TEXT = {"text_encoder_hidden_size": 32, "text_encoder_num_heads": 4}


@pytest.fixture(scope="module")
def study_data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_coco_vg(folder / "arrow", dict.fromkeys(COCO_VG, 4))
    for task in ("nlvr2", "snli", "ref"):
        small_tasks.TASKS[task].write(folder / task, folder / "arrow")
    return folder / "arrow"


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in READY if path.stem != "demo"], ids=lambda path: path.stem)
def test_the_studies_of_this_repository_end_in_a_table(path, hub_cache, study_data, tmp_path, monkeypatch, capsys):
    """With small models of the same names, one step, one seed, and the first and the last of the variants."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(execute, "launch", _Done)
    content = yaml.safe_load(path.read_text())
    base, stages = content["base"], content["stages"]
    base |= SMALL_STUDY | {key: value for key, value in SMALL_SIZES.items() if key in base}
    base |= {key: value for key, value in SMALL_TEXT.items() if key in base}
    for stage in stages.values():
        stage.pop("max_steps", None)
        stage |= {"ref_dataset": "refcoco"} if "ref_dataset" in stage else {}
    pretrain = stages["pretrain"]
    pretrain |= {"list": [pretrain["list"][0], pretrain["list"][-1]]} if "list" in pretrain else {}
    pretrain |= {"zip": {key: [each[0], each[-1]] for key, each in pretrain.get("zip", {}).items()}}
    first = pretrain["list"][0] if "list" in pretrain else {name: each[0] for name, each in pretrain["zip"].items()}
    given = content | {"seeds": [0], "baseline": {f"pretrain.{key}": value for key, value in first.items()}}
    (tmp_path / path.name).write_text(yaml.safe_dump(given))
    words = (f"study={path.name}", f"data_root={study_data}")
    ended = study(capsys, *words, "action=run")
    assert ended.code == 0, ended
    ended = study(capsys, *words, "action=table")
    assert ended.code == 0 and all(metric in ended.out for metric in content["metrics"]), ended
    assert ended.out.count("(n=1)") == 2 * len(content["metrics"]) and "against the baseline" in ended.out
