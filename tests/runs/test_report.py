"""What a run writes beside its checkpoints: a folder of its own, rows that stay readable, files that are whole."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from renaissance.core.errors import UserError
from renaissance.runs.report import RunFolder, append_row, forget_after, nested_results, sound_rows, table


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
    assert [row["step"] for row in sound_rows(path)[1]] == ["1", "2"]
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
    assert [row["mlm/train/loss"] for row in sound_rows(folder.path / "metrics.csv")[1]] == ["2.0", "1.0"]


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


def test_a_byte_order_mark_and_other_ends_of_lines_are_no_damage(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"\xef\xbb\xbfstep,loss\n1,0.5\r\n\r\n2,0.25\n")
    assert append_row(path, {"step": 3, "loss": 1.0}) is None
    assert forget_after(path, 3, every=1) == [] and [row["loss"] for row in sound_rows(path)[1]] == [
        "0.5",
        "0.25",
        "1.0",
    ]
    assert path.read_bytes().startswith(b"step,loss\r\n") and len(list(tmp_path.iterdir())) == 1


SPOILED = {
    "semicolons": b"step;loss\r\n1;0,5\r\n",
    "NUL": bytes(4096),
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "header": b"number,loss\n1,0.5\n",
    "twice": b"step,step\n1,1\n",
    "long": b"step" * 500_000,
    "utf-16": "step,loss\n1,0.5\n".encode("utf-16"),
    "folder": None,
    "link": "nowhere",
    "pipe": "pipe",
}


def spoil(path: Path, content: bytes | str | None) -> None:
    if content is None:
        (path / "inside").mkdir(parents=True)
    elif content == "pipe":
        os.mkfifo(path)
    elif isinstance(content, str):
        path.symlink_to(content)
    else:
        path.write_bytes(content)


@pytest.mark.parametrize("kind", SPOILED)
def test_a_table_that_is_none_any_more_is_set_aside_and_a_new_one_begins(kind, tmp_path):
    path, aside = tmp_path / "metrics.csv", tmp_path / "metrics.csv.damaged"
    spoil(path, SPOILED[kind])
    with pytest.raises(UserError, match=r"metrics\.csv"):
        sound_rows(path)[1]
    (sentence, lost) = forget_after(path, 7, every=2)
    assert f"It is now {aside.name}, and a new one begins." in sentence and len(sentence.splitlines()) == 1
    assert "has no rows, and the run goes on behind step 7: 3 or more rows of it are lost" in lost
    assert os.path.lexists(aside) and sound_rows(path)[1] == []
    spoil(path, SPOILED[kind])  # in the midst of a run
    assert f"It is now {aside.name}_2, and a new one begins." in append_row(path, {"step": 8, "loss": 1.0})
    assert append_row(path, {"step": 10, "loss": 1.0}) is None
    assert [row["step"] for row in sound_rows(path)[1]] == ["8", "10"] and os.path.lexists(tmp_path / f"{aside.name}_2")


def test_lines_that_are_spoiled_are_kept_beside_and_counted(tmp_path):
    path = tmp_path / "metrics.csv"
    lines = ["step,loss", "2,0.5", "4,0.5,7", "\0\0\0", "6,word", "8", "10,0.5", "x,1", "12,"]
    path.write_text("\n".join(lines) + "\n")
    before = path.read_bytes()
    said = forget_after(path, 12, every=2)
    assert len(said) == 1 and "5 of its lines cannot be read and are left out; metrics.csv.damaged has them" in said[0]
    assert [row["step"] for row in sound_rows(path)[1]] == ["2", "10", "12"]
    assert (tmp_path / "metrics.csv.damaged").read_bytes() == before
    path.write_bytes(before)  # in the midst of a run, where a new column asks for a new table
    assert "5 of its lines" in append_row(path, {"step": 14, "loss": 1, "val": 2})
    assert [row["step"] for row in sound_rows(path)[1]] == ["2", "10", "12", "14"]
    assert (tmp_path / "metrics.csv.damaged_2").read_bytes() == before


@pytest.mark.parametrize(("cut", "missing"), [(0, 3), (3, 3), (10, 3), (17, 2), (20, 2), (24, 1), (30, 0), (29, 1)])
def test_a_table_that_was_cut_short_says_how_many_rows_are_lost(cut, missing, tmp_path):
    path = tmp_path / "metrics.csv"
    whole = b"step,loss\n10,0.5\n20,0.5\n30,0.5\n"
    path.write_bytes(whole[:cut])
    if cut == 30:
        path.write_bytes(whole)
    said = forget_after(path, 34, every=10)
    if not missing:
        assert said == []
        return
    assert len(said) == 1 and said[0].endswith(f"behind step 34: {missing} or more rows of it are lost.")
    append_row(path, {"step": 40, "loss": 1})
    assert [row["step"] for row in sound_rows(path)[1]][-1] == "40" and len(sound_rows(path)[1]) == 4 - missing


def test_a_row_behind_one_that_was_cut_is_whole(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"step,loss\n1,0.5\n2")
    append_row(path, {"step": 3, "loss": 1})
    assert [row["step"] for row in sound_rows(path)[1]] == ["1", "3"]


@pytest.mark.parametrize(
    ("log_dir", "reason"),
    [
        ("file", "file is not a folder"),
        ("file/below", "file is not a folder"),
        ("loop/below", "loop is a link that leads nowhere"),
        ("dangling", "dangling is a link that leads nowhere"),
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
        folder.hold()


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
