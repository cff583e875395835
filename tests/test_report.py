"""What a run writes beside its checkpoints: a folder of its own, rows that stay readable, files that are whole."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from renaissance.errors import UserError
from renaissance.report import RunFolder, append_row, forget_after, nested_results, read_rows, table


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


def test_rows_grow_new_columns_and_are_forgotten_behind_a_step(tmp_path):
    path = tmp_path / "metrics.csv"
    append_row(path, {"step": 1, "loss": 0.5})
    append_row(path, {"step": 2, "loss": 0.25, "val": 1.5})
    append_row(path, {"step": 3, "val": 2.5})
    assert path.read_text(encoding="utf-8").splitlines() == ["step,loss,val", "1,0.5,", "2,0.25,1.5", "3,,2.5"]
    forget_after(path, 2)
    assert [row["step"] for row in read_rows(path)] == ["1", "2"]
    append_row(path, {"step": 3, "loss": 0.125})
    assert path.read_text(encoding="utf-8").splitlines()[1:] == ["1,0.5,", "2,0.25,1.5", "3,0.125,"]
    forget_after(tmp_path / "none.csv", 2)  # a run killed before its first row
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize("rest", [bytes(64), b"3,0.1", b"3,0.125,2.", b"3\n", b"3,0.125,1,7\n"])
def test_what_a_machine_that_failed_has_left_of_the_last_row_is_dropped(rest: bytes, tmp_path):
    path = tmp_path / "metrics.csv"
    append_row(path, {"step": 1, "loss": 0.5, "val": 1.5})
    append_row(path, {"step": 2, "loss": 0.25})
    whole = path.read_bytes()
    path.write_bytes(whole + rest)
    forget_after(path, 9)
    assert path.read_bytes() == whole


def test_points_reach_tensorboard_and_the_table(tmp_path):
    folder = RunFolder.create(str(tmp_path), "mlm")
    folder.log(10, {"mlm/train/loss": 2.0})
    folder.log(20, {"mlm/train/loss": 1.0, "mlm/val/accuracy": 0.5})
    folder.close()
    events = EventAccumulator(str(folder.path)).Reload()
    assert [(point.step, point.value) for point in events.Scalars("mlm/train/loss")] == [(10, 2.0), (20, 1.0)]
    assert [row["mlm/train/loss"] for row in read_rows(folder.path / "metrics.csv")] == ["2.0", "1.0"]


def test_json_is_whole_or_as_it_was(tmp_path, monkeypatch):
    folder = RunFolder.create(str(tmp_path), "mlm")
    folder.write_json("results.json", {"val": 1})
    monkeypatch.setattr(json, "dumps", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        folder.write_json("results.json", {"val": 2})
    assert json.loads((folder.path / "results.json").read_text(encoding="utf-8")) == {"val": 1}


def test_a_folder_that_keeps_nothing_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    silent, speaking = RunFolder(None, speaks=False), RunFolder(None)
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


def test_columns_align():
    assert table([("name", "value"), ("a", "1"), ("long name", "22")], indent="") == (
        "name       value\na              1\nlong name     22"
    )
