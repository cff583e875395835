"""A study's runs: each once, whatever else runs, dies or fails; what became of them; their table."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import ROOT
from renaissance.core.errors import Stopped, UserError
from renaissance.runs.start import Start, refuse_finished
from renaissance.studies import execute, slurm, state
from renaissance.studies.layouts import markdown, write_table
from renaissance.studies.screen import status_table
from renaissance.studies.table import make_table
from studies.driver import study_folder

DRIVER = Path(__file__).with_name("driver.py")
STUDY = """
base: {presets: task_mlm_itm}
grid: {freeze_text_encoder: [false, true]}
seeds: [0, 1]
stages:
  again: {load_path: "stage:pretrain.best"}
  pretrain:
metrics: ["again:mlm/val/accuracy"]
baseline: {freeze_text_encoder: false}
"""
SLOW = 180  # seconds in which anything has happened, also on a busy machine


class Place:
    """A study and where it runs."""

    def __init__(self, path: Path, text: str = STUDY):
        self.file, self.folder, self.path = path / "mine.yaml", path / "result" / "mine", path
        self.file.write_text(text)
        paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
        self.variables = os.environ | {"BEHAVIOUR": str(path), "PYTHONPATH": paths}

    def start(self, workers: int = 2) -> subprocess.Popen:
        words = [sys.executable, str(DRIVER), str(self.file), str(self.folder), str(workers)]
        return subprocess.Popen(words, env=self.variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def ended(self, process: subprocess.Popen) -> dict[str, int]:
        out, err = process.communicate(timeout=4 * SLOW)
        assert process.returncode == 0, out + err
        return Counter(json.loads(out.splitlines()[-1]).values())

    def started(self) -> list[str]:
        path = self.path / "started.txt"
        return path.read_text().split() if path.exists() else []

    def waits(self, name: str) -> Path:
        (path := self.path / f"{name}.waits").touch()
        return path

    def until(self, condition) -> None:
        ends = time.monotonic() + SLOW
        while not condition():
            assert time.monotonic() < ends, self.started()
            time.sleep(0.05)

    def states(self):
        return study_folder(self.file, self.folder).states()


@pytest.fixture
def place(tmp_path, monkeypatch) -> Place:
    made = Place(tmp_path)
    monkeypatch.setenv("BEHAVIOUR", str(tmp_path))
    monkeypatch.setattr(execute, "_PROGRAM", DRIVER)
    monkeypatch.setattr(execute, "_LOOK", 0.05)
    monkeypatch.setenv("PYTHONPATH", made.variables["PYTHONPATH"])
    return made


@pytest.mark.slow
def test_two_at_once_run_everything_once_and_in_order(place: Place):
    processes = [place.start(), place.start()]
    assert [place.ended(process) for process in processes] == [{"done": 8}] * 2
    started = place.started()
    assert len(started) == 8 and Counter(started).most_common(1)[0][1] == 1
    for name in (name for name in started if name.startswith("again")):
        assert started.index(name) > started.index(name.replace("again", "pretrain"))
    assert place.ended(place.start()) == {"done": 8} and len(place.started()) == 8  # started again, it does nothing
    place.file.write_text(STUDY.replace("seeds: [0, 1]", "seeds: [0, 1, 2]"))
    assert place.ended(place.start()) == {"done": 12} and len(place.started()) == 12  # only what is missing
    table = make_table(study_folder(place.file, place.folder).study, place.states().values())
    assert [row.values for row in table.rows] == [(False,), (True,)]
    cells = [row.cells[0] for row in table.rows]
    assert [cell.scores.mean for cell in cells] == pytest.approx([0.35, 0.6])
    assert [cell.scores.deviation for cell in cells] == pytest.approx([0.1, 0.1])
    assert [cell.p for cell in cells] == [None, 0.25] and [cell.best for cell in cells] == [False, True]
    text = markdown(table)
    assert "| True | **0.6000 ± 0.1000 (n=3)**" in text and "<u>0.3500 ± 0.1000 (n=3)</u>" in text
    assert write_table(table, place.folder) == ["table.md", "table.csv", "table.tex"]
    assert (
        r"True & \textbf{0.6000 $\pm$ 0.1000 (n=3)} [0.5000, 0.7000] p=0.250 \\"
        in (place.folder / "table.tex").read_text()
    )


def test_a_run_that_fails_stops_what_needs_it_alone_and_is_tried_again_when_asked(place: Place):
    name = "pretrain_freeze_text_encoder=True_seed=1"
    (fails := place.path / f"{name}.fails").touch()
    folder = study_folder(place.file, place.folder)
    states = execute.run_study(folder, 2)
    assert Counter(state.kind for state in states.values()) == {"done": 6, "failed": 1, "waiting": 1}
    assert states[name].note == "error: the loss is a red herring."
    text = status_table(states.values())
    assert f"{name}: failed at step 3: error: the loss is a red herring." in text
    assert f"again_freeze_text_encoder=True_seed=1: waiting: needs {name}, which failed" in text
    assert Counter(state.kind for state in execute.run_study(folder, 2).values())["failed"] == 1
    fails.unlink()
    folder.forget(states[name].run)
    assert {state.kind for state in execute.run_study(folder, 2).values()} == {"done"}
    assert len(place.started()) == 9


def test_one_run_alone(place: Place):
    folder = study_folder(place.file, place.folder)
    name = "pretrain_freeze_text_encoder=True_seed=1"
    assert Counter(state.kind for state in execute.run_study(folder, 2, name).values()) == {"done": 1, "waiting": 7}
    assert place.started() == [name]


@pytest.mark.slow
def test_what_is_stopped_or_killed_goes_on(place: Place):
    one, other = (f"pretrain_freeze_text_encoder={value}_seed=0" for value in (False, True))
    waits = [place.waits(one), place.waits(other)]
    process = place.start()
    place.until(lambda: all(name in place.started() for name in (one, other)))  # the others run beside them
    place.until(lambda: place.states()[one].kind == place.states()[other].kind == "running")
    assert f"{one}: running at step 3" in status_table(place.states().values())
    process.send_signal(signal.SIGHUP)  # as a terminal that closes does
    assert "stopped by SIGHUP: the runs have saved" in process.communicate(timeout=SLOW)[1]
    assert {place.states()[name].kind for name in (one, other)} == {"stopped"}
    process = place.start()
    place.until(lambda: all(place.started().count(name) == 2 for name in (one, other)))
    place.until(lambda: place.states()[one].kind == place.states()[other].kind == "running")
    process.kill()  # its runs go on
    process.communicate(timeout=SLOW)
    assert place.states()[one].kind == "running"
    again = place.start()  # which waits for them
    time.sleep(1)
    assert again.poll() is None
    for path in waits:
        path.unlink()
    assert place.ended(again) == {"done": 8}
    assert max(Counter(place.started()).values()) == 2
    killed = place.states()[one].folder
    (killed / "results.json").unlink()
    place.folder.joinpath("attempts", f"{one}.json").unlink()
    assert place.states()[one].kind == "lost"  # it began, and nobody knows how it ended
    assert place.ended(place.start()) == {"done": 8}


@pytest.mark.slow
def test_a_second_interrupt_ends_runs_that_do_not_stop(place: Place):
    name = "pretrain_freeze_text_encoder=False_seed=0"
    place.waits(name), (place.path / "deaf").touch()
    process = place.start(1)
    place.until(lambda: place.states()[name].kind == "running")
    process.send_signal(signal.SIGINT)
    time.sleep(2)
    assert process.poll() is None  # it waits until the run has saved
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=SLOW)
    assert "interrupted: the runs" in err and "Ctrl-C again" in err
    assert place.states()[name].kind == "lost" and len(place.started()) == 1


def test_a_task_of_slurm_leaves_a_record_of_what_became_of_its_run(place: Place, monkeypatch):
    folder, name = study_folder(place.file, place.folder), "pretrain_freeze_text_encoder=True_seed=1"
    (place.path / f"{name}.fails").touch()
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    log = place.folder / "attempts" / "pretrain-7_3.log"
    log.parent.mkdir(parents=True)

    def ended(status: int) -> str:
        slurm.record(folder, name, status, 60.0)
        return folder.states()[name].kind

    log.write_text("error: out of memory.\nsrun: error: node1: task 0: Exited with exit code 1\n")
    assert ended(1) == "failed" and folder.states()[name].note == "error: out of memory."
    folder.forget(folder.states()[name].run)
    assert [ended(status) for status in (75, 130, 143, 138, 129)] == ["stopped"] * 5
    assert ended(137) == "lost" and folder.seconds_spent() == 7 * 60
    (place.path / f"{name}.fails").unlink()
    assert execute.run_study(folder, 1, name)[name].kind == "done"
    assert ended(0) == "done" and folder.seconds_spent() > 8 * 60


def test_a_longer_run_is_to_go_on_and_what_took_its_result_is_made_anew(place: Place):
    place.file.write_text(
        "base: {presets: task_mlm_itm, max_steps: 5}\nstages: {again: {load_path: 'stage:pretrain.best'}, pretrain: }\n"
    )
    one, two = "pretrain_seed=0", "again_seed=0"
    execute.run_study(study_folder(place.file, place.folder), 2)
    assert {state.kind for state in place.states().values()} == {"done"}
    text = place.file.read_text()
    place.file.write_text(text.replace("task_mlm_itm", "task_mlm_itm, num_workers: 7"))
    assert {state.kind for state in place.states().values()} == {"done"}  # which changes no number
    place.file.write_text(text.replace("pretrain: }", "pretrain: {max_steps: 9}}"))
    state = place.states()[one]
    assert state.kind == "waiting" and "is to have 9" in state.note and place.states()[two].kind == "waiting"
    (place.path / "accuracy.txt").write_text("0.9")  # other results of the pretraining
    states = execute.run_study(study_folder(place.file, place.folder), 2)
    assert {state.kind for state in states.values()} == {"done"}
    assert place.started() == [one, two, one, two]
    assert (place.folder / "outdated" / two / "results.json").is_file() and states[two].folder.name == "version_0"


def test_a_run_that_stopped_early_is_done_until_it_is_given_more_patience(place: Place):
    text = "base: {presets: task_mlm_itm, early_stopping: 2}\nstages: {pretrain: }\n"
    place.file.write_text(text)
    execute.run_study(study_folder(place.file, place.folder), 1)
    [state] = place.states().values()
    early = {"val": {"mlm": {"loss": {"stopped_early": {"step": 3, "of": 5}}}}}
    (state.folder / "results_details.json").write_text(json.dumps(early))
    for patience, kind in ((2, "done"), (1, "done"), (0, "done"), (4, "waiting")):
        place.file.write_text(text.replace("early_stopping: 2", f"early_stopping: {patience}"))
        [state] = place.states().values()
        assert state.kind == kind
    assert state.note == "it has stopped early with early_stopping=2 and is to have 4"


LENGTHS = [  # what the run had and has done, what it is to have, and of how many steps that is
    ({"max_steps": 100}, 100, {"max_steps": 150}, 150),
    ({"max_steps": 100}, 100, {"max_steps": 50}, 50),
    ({"max_steps": 100}, 100, {}, 100),
    ({"max_steps": None, "max_epoch": 2}, 80, {"max_epoch": 3}, 120),
    ({"max_steps": None, "max_epoch": 2}, 80, {"max_epoch": 1}, 40),
    ({"max_steps": 100, "max_epoch": 2}, 80, {"max_steps": 200}, 80),
    ({"max_steps": 100, "max_epoch": 2}, 80, {"max_steps": 60}, 60),
    ({"max_steps": 60, "max_epoch": 2}, 60, {"max_steps": 70}, 70),
    ({"max_steps": 100, "early_stopping": 2}, 40, {"max_steps": 200}, 200),
    ({"max_steps": 100, "early_stopping": 2}, 40, {"early_stopping": 3}, 100),
]


@pytest.mark.parametrize(("had", "done", "given", "steps"), LENGTHS)
def test_a_run_that_would_be_refused_as_finished_is_done(had, done, given, steps, tmp_path):
    """Else it waits for ever, since each attempt at it ends at once."""
    (folder := tmp_path / "version_0" / "checkpoints").mkdir(parents=True)
    early = {"val": {"mlm": {"loss": {"stopped_early": {"step": done, "of": 100}}}}} if "early_stopping" in had else {}
    for name, content in (("settings", {"settings": had, "steps": 100 if early else done}), ("results", {})):
        (folder.parent / f"{name}.json").write_text(json.dumps(content))
    (folder.parent / "results_details.json").write_text(json.dumps(early))
    (folder / "last.ckpt").touch()
    values = {"max_steps": None, "max_epoch": None, "early_stopping": 0} | given
    note, goes_on = state._other_length(folder.parent, values)
    stored = SimpleNamespace(training={"step": done, "without_gain": 2 if early else 0})
    found = Start("resume_from", {"resume_from": str(folder / "last.ckpt")}, {}, stored, True, [])
    patience = values["early_stopping"] or had.get("early_stopping", 0)  # as the checkpoint has it
    with contextlib.nullcontext() if goes_on else pytest.raises(Stopped, match="nothing is left"):
        refuse_finished(found, steps, patience)
    assert not goes_on or note


def test_a_budget_that_is_spent_and_more_workers_than_cores_are_refused(place: Place, monkeypatch):
    place.file.write_text(STUDY + "budget: {hours: 1e-9}\n")
    folder = study_folder(place.file, place.folder)
    with pytest.raises(UserError, match="its budget allows hours=1e-09"):
        execute.run_study(folder, 1)
    assert len(place.started()) == 1  # the second was not begun
    with pytest.raises(UserError, match="workers=100000 is more than the .* cores"):
        execute.run_study(folder, 100_000)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert [share.gpus for share in execute.shares_of(1)] == ["3"]
    with pytest.raises(UserError, match="workers=2 is more than the 1 GPUs"):
        execute.shares_of(2)
