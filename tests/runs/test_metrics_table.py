"""metrics.csv: rows that stay readable whatever is done to the file, and what a run that goes on takes of them."""

from __future__ import annotations

import csv
import errno
import os
from pathlib import Path

import pytest

from renaissance.core.errors import UserError
from renaissance.runs import metrics_table
from renaissance.runs.metrics_table import MetricsTable, drop_rows_after, read_rows


def test_rows_grow_new_columns_and_are_forgotten_behind_a_step(tmp_path):
    path = tmp_path / "metrics.csv"
    table = MetricsTable(path)
    table.append({"step": 1, "loss": 0.5})
    table.append({"step": 2, "loss": 0.25, "val": 1.5})
    table.append({"step": 3, "val": 2.5})
    assert path.read_text(encoding="utf-8").splitlines() == ["step,loss,val", "1,0.5,", "2,0.25,1.5", "3,,2.5"]
    drop_rows_after(path, 2)
    assert [row["step"] for row in read_rows(path)[1]] == ["1", "2"]
    MetricsTable(path).append({"step": 3, "loss": 0.125})
    assert path.read_text(encoding="utf-8").splitlines()[1:] == ["1,0.5,", "2,0.25,1.5", "3,0.125,"]
    drop_rows_after(tmp_path / "none.csv", 2)  # a run killed before its first row
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize("rest", [bytes(64), b"3,0.1", b"3,0.125,2.", b"3\n", b"3,0.125,1,7\n"])
def test_what_a_machine_that_failed_has_left_of_the_last_row_is_dropped(rest: bytes, tmp_path):
    path = tmp_path / "metrics.csv"
    MetricsTable(path).append({"step": 1, "loss": 0.5, "val": 1.5})
    MetricsTable(path).append({"step": 2, "loss": 0.25})
    whole = path.read_bytes()
    path.write_bytes(whole + rest)
    drop_rows_after(path, 9)
    assert path.read_bytes() == whole


def test_a_byte_order_mark_and_other_ends_of_lines_are_no_damage(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"\xef\xbb\xbfstep,loss\n1,0.5\r\n\r\n2,0.25\n")
    assert MetricsTable(path).append({"step": 3, "loss": 1.0}) == []
    assert drop_rows_after(path, 3, every=1) == [] and [row["loss"] for row in read_rows(path)[1]] == [
        "0.5",
        "0.25",
        "1.0",
    ]
    assert path.read_bytes().startswith(b"step,loss\r\n") and len(list(tmp_path.iterdir())) == 1


SPOILED = {
    "semicolons": b"step;loss\r\n1;0,5\r\n",
    "NUL": bytes(4096),
    "image": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
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
        read_rows(path)[1]
    (sentence, lost) = drop_rows_after(path, 7, every=2)
    assert f"It is now {aside.name}, and a new one begins." in sentence and len(sentence.splitlines()) == 1
    assert "has no rows, and the run goes on behind step 7: 3 or more rows of it are lost" in lost
    assert os.path.lexists(aside) and read_rows(path)[1] == []
    table = MetricsTable(path)
    table.append({"step": 7, "loss": 1.0})
    path.unlink()
    spoil(path, SPOILED[kind])  # in the midst of a run
    assert f"It is now {aside.name}_2, and a new one begins." in table.append({"step": 8, "loss": 1.0})[0]
    assert table.append({"step": 10, "loss": 1.0}) == []
    assert [row["step"] for row in read_rows(path)[1]] == ["8", "10"] and os.path.lexists(tmp_path / f"{aside.name}_2")


def test_lines_that_are_spoiled_are_kept_beside_and_counted(tmp_path):
    path = tmp_path / "metrics.csv"
    lines = ["step,loss", "2,0.5", "4,0.5,7", "\0\0\0", "6,word", "8", "10,0.5", "x,1", "12,"]
    path.write_text("\n".join(lines) + "\n")
    before = path.read_bytes()
    said = drop_rows_after(path, 12, every=2)
    assert len(said) == 1 and "5 of its lines cannot be read and are left out; metrics.csv.damaged has them" in said[0]
    assert [row["step"] for row in read_rows(path)[1]] == ["2", "10", "12"]
    assert (tmp_path / "metrics.csv.damaged").read_bytes() == before
    path.write_bytes(before)  # in the midst of a run, where a new column asks for a new table
    (sentence,) = MetricsTable(path).append({"step": 14, "loss": 1, "val": 2})
    assert "5 of its lines" in sentence
    assert [row["step"] for row in read_rows(path)[1]] == ["2", "10", "12", "14"]
    assert (tmp_path / "metrics.csv.damaged_2").read_bytes() == before


@pytest.mark.parametrize(("cut", "missing"), [(0, 3), (3, 3), (10, 3), (17, 2), (20, 2), (24, 1), (30, 0), (29, 1)])
def test_a_table_that_was_cut_short_says_how_many_rows_are_lost(cut, missing, tmp_path):
    path = tmp_path / "metrics.csv"
    whole = b"step,loss\n10,0.5\n20,0.5\n30,0.5\n"
    path.write_bytes(whole[:cut])
    if cut == 30:
        path.write_bytes(whole)
    said = drop_rows_after(path, 34, every=10)
    if not missing:
        assert said == []
        return
    assert len(said) == 1 and said[0].endswith(f"behind step 34: {missing} or more rows of it are lost.")
    MetricsTable(path).append({"step": 40, "loss": 1})
    assert [row["step"] for row in read_rows(path)[1]][-1] == "40" and len(read_rows(path)[1]) == 4 - missing


def test_a_row_behind_one_that_was_cut_is_whole(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"step,loss\n1,0.5\n2")
    MetricsTable(path).append({"step": 3, "loss": 1})
    assert [row["step"] for row in read_rows(path)[1]] == ["1", "3"]


def test_a_full_disk_takes_no_row_while_a_table_is_repaired(tmp_path, monkeypatch):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"step,loss\n1,0.5\nx,1\n")

    def full(*_: object) -> None:
        raise UserError("There is no room left.")

    monkeypatch.setattr(metrics_table, "write_whole", full)
    for change in (lambda: drop_rows_after(path, 1), lambda: MetricsTable(path).append({"step": 2, "loss": 1})):
        with pytest.raises(UserError, match="no room"):
            change()
        assert [row["step"] for row in read_rows(path)[1]] == ["1"]


def test_a_row_that_fails_is_not_there_twice_and_only_another_size_is_read_again(tmp_path, monkeypatch):
    path = tmp_path / "metrics.csv"
    table = MetricsTable(path)
    table.append({"step": 1, "loss": 0.5})
    os.utime(path, (0, 0))  # as network disks settle it later
    monkeypatch.setattr(metrics_table, "_read_usable", None)

    class Refusing(csv.DictWriter):
        def writerow(self, row: dict[str, str]) -> None:
            super().writerow(row)
            raise OSError(errno.EDQUOT, "quota")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="quota"):
        patch.setattr(csv, "DictWriter", Refusing)
        table.append({"step": 2, "loss": 0.25})
    table.append({"step": 2, "loss": 0.25})
    assert path.read_text(encoding="utf-8").splitlines() == ["step,loss", "1,0.5", "2,0.25"]
