"""What a run writes beside its checkpoints: a folder of its own, rows that stay readable, files that are whole."""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import renaissance
from renaissance.core.errors import UserError
from renaissance.runs import report
from renaissance.runs.metrics_table import read_rows
from renaissance.runs.report import RunFolder, nested_results


def test_runs_that_start_together_get_folders_of_their_own(tmp_path):
    together = Barrier(8)

    def create(_: int) -> Path:
        together.wait()
        return RunFolder.create(str(tmp_path), "mlm").path

    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(create, range(8)))
    assert sorted(path.name for path in paths) == [f"version_{number}" for number in range(8)]
    assert all((path / "checkpoints").is_dir() for path in paths)


def test_a_log_dir_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"log_dir=\S*taken cannot be written \((Not a directory|File exists)\)"):
        RunFolder.create(str(tmp_path / "taken"), "mlm")


def test_the_folder_of_a_checkpoint_is_known_by_its_settings(tmp_path):
    folder = RunFolder.create(str(tmp_path), "mlm")
    checkpoint = str(folder.checkpoints / "last.ckpt")
    assert RunFolder.of_checkpoint(checkpoint) is None  # any folder: not known to be a run
    folder.write_json("settings.json", {})
    assert RunFolder.of_checkpoint(checkpoint).path == folder.path
    assert RunFolder.of_checkpoint(str(tmp_path / "last.ckpt")) is None


def test_points_reach_tensorboard_and_the_table(tmp_path, monkeypatch):
    folder = RunFolder.create(str(tmp_path), "mlm")
    run = SimpleNamespace(logger=["tensorboard"])
    folder.open_loggers(SimpleNamespace(run=run, flat={"seed": 1}))
    folder.log(10, {"mlm/train/loss": 2.0})
    folder.log(20, {"mlm/train/loss": 1.0, "mlm/val/accuracy": 0.5})
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    folder.log(30, {"mlm/train/loss": 0.5})
    assert not synced  # before a save only
    folder.sync_rows()
    assert len(synced) == 1
    folder.close()
    events = EventAccumulator(str(folder.path)).Reload()
    assert [(point.step, point.value) for point in events.Scalars("mlm/train/loss")] == [
        (10, 2.0),
        (20, 1.0),
        (30, 0.5),
    ]
    assert [row["mlm/train/loss"] for row in read_rows(folder.path / "metrics.csv")[1]] == ["2.0", "1.0", "0.5"]


def test_json_is_whole_or_as_it_was(tmp_path, monkeypatch):
    folder = RunFolder.create(str(tmp_path), "mlm")
    folder.write_json("results.json", {"val": 1})
    monkeypatch.setattr(json, "dumps", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        folder.write_json("results.json", {"val": 2})
    assert json.loads((folder.path / "results.json").read_text(encoding="utf-8")) == {"val": 1}


def test_a_folder_that_keeps_nothing_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    silent, speaking = RunFolder(None, prints=False), RunFolder(None)
    for folder in (silent, speaking):
        folder.log(1, {"loss": 1.0})
        folder.write_json("settings.json", {})
        folder.say("a line")
        folder.close()
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == "a line\n"


def test_results_are_nested_by_split_and_task():
    flat = {"mlm/val/loss": 2.0, "itm/val/accuracy": 0.5, "val/the_metric": 0.5, "itm/test/accuracy": 0.25}
    assert nested_results(flat) == {
        "val": {"mlm": {"loss": 2.0}, "itm": {"accuracy": 0.5}},
        "test": {"itm": {"accuracy": 0.25}},
    }


@pytest.mark.parametrize(
    ("log_dir", "reason"),
    [
        ("file", "file is not a folder"),
        ("file/below", "file is not a folder"),
        ("loop/below", "loop is not a folder"),
        ("dangling", "dangling is not a folder"),
        ("x" * 300, "its path is too long"),
        ("ü" * 130, "its path is too long"),
        ("x" * 200 + ("/" + "y" * 200) * 20, "its path is too long"),
        ("/proc/nothing", "/proc is not writable|Permission denied|No such file"),
    ],
    ids=lambda each: each[:20],
)
def test_a_place_that_takes_no_run_is_refused_before_anything_is_computed(log_dir, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("", encoding="utf-8")
    Path("loop").symlink_to("loop")
    Path("dangling").symlink_to("nowhere")
    there = sorted(tmp_path.iterdir())
    if log_dir.startswith("/proc") and os.access("/proc", os.W_OK):
        pytest.skip("root may write anywhere, as the system says")
    with pytest.raises(UserError, match=rf"cannot be written \(\S*({reason})\); give a folder that can be"):
        RunFolder.refuse_unwritable(log_dir, "mlm")
    assert sorted(tmp_path.iterdir()) == there


def test_a_folder_whose_lock_cannot_be_made_is_a_sentence(tmp_path):
    folder = RunFolder.create(str(tmp_path), "mlm")
    (folder.path / ".lock").mkdir()
    with pytest.raises(UserError, match=r"version_0' cannot be written \(Is a directory\), and the run writes there"):
        folder.lock()


def test_the_place_of_a_run_is_that_of_its_checkpoint(tmp_path, monkeypatch):
    """By a link, too; a settings.json of something else makes no run folder."""
    monkeypatch.chdir(tmp_path)
    folder = RunFolder.create("runs", "mlm")
    folder.write_json("settings.json", {})
    Path("runs/mlm/version_0/checkpoints/last.ckpt").write_bytes(b"")
    Path("link.ckpt").symlink_to("runs/mlm/version_0/checkpoints/last.ckpt")
    for path in (
        "runs/mlm/version_0/checkpoints/last.ckpt",
        f"{tmp_path}/runs/mlm/version_0/checkpoints/x",
        "link.ckpt",
    ):
        assert RunFolder.place_of(path) == {"log_dir": "runs", "exp_name": "mlm"}
    Path("settings.json").write_text("{}")
    Path("models").mkdir()
    assert RunFolder.place_of("models/last.ckpt") == RunFolder.place_of("last.ckpt") == {}


def test_the_version_of_the_program_is_that_of_its_checkout(tmp_path, monkeypatch):
    def git(*words: str) -> str:
        own = ("-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path))
        return subprocess.run(["git", *own, *words], check=True, capture_output=True, text=True).stdout.strip()

    (place := tmp_path / "renaissance" / "__init__.py").parent.mkdir()
    place.write_text("")
    monkeypatch.setattr(report, "REPOSITORY", tmp_path)
    assert report.versions()["renaissance"] == renaissance.__version__
    assert "commit" not in report.versions()  # installed, in whatever folder
    git("init", "-q")
    assert "commit" not in report.versions()  # without any commit
    git("add", ".")
    git("commit", "-qm", "first")
    assert report.versions()["commit"] == git("rev-parse", "HEAD")[:12]
    place.write_text("changed = True")
    assert report.versions()["commit"].endswith("-dirty")
    monkeypatch.setenv("PATH", "")
    assert "commit" not in report.versions()  # without git
