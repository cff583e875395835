"""Archives of studies: whole, the same each time, without folders of this disk, and read as a study again."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from renaissance.core.errors import UserError
from renaissance.studies.archive import archive
from renaissance.studies.plan import plan
from renaissance.studies.spec import read_study
from studies.test_table import METRIC, state

TEXT = f"grid: {{a: [1, 2]}}\nseeds: [0, 1]\nmetrics: [{METRIC}]\nbaseline: {{a: 1}}\n"


def test_an_archive_holds_what_others_need_and_is_a_study_file(tmp_path):
    (path := tmp_path / "mine.yaml").write_text(TEXT)
    (tmp_path / "runs").mkdir()
    record = {
        "settings": {"encoder": "/home/me/vit", "lr": 1e-3},
        "versions": {"torch": "2.1", "command": "run.py x=/home/me/y"},
    }
    states = [state(tmp_path / "runs", {"a": a}, seed, 0.5, **record) for a in (1, 2) for seed in (0, 1)]
    (states[0].folder / "metrics.csv").write_text("step,loss\n1,2\n")
    assert archive(read_study(str(path)), str(path), states, tmp_path / "out") == "mine.zip"
    made = tmp_path / "out" / "mine.zip"
    first = made.read_bytes()
    with zipfile.ZipFile(made) as found:
        names = found.namelist()
        assert found.read("mine.yaml").decode() == TEXT and b"| 1 | **0.5000" in found.read("table.md")
        assert json.loads(found.read("versions.json")) == {"torch": {"2.1": [each.run.name for each in states]}}
        record = json.loads(found.read("runs/run_0/settings.json"))
        assert record["settings"] == {"encoder": "vit", "lr": 1e-3} and record["versions"]["command"] == "run.py x=y"
        assert not any(b"/home" in found.read(name) for name in names)
    assert {"table.csv", "table.tex", "runs/run_0/metrics.csv", "runs/run_3/results.json"} <= {*names}
    archive(read_study(str(path)), str(path), states, tmp_path / "out")
    assert made.read_bytes() == first
    again = [run.name for run in plan(read_study(str(made)), "x", {})]
    assert again == [run.name for run in plan(read_study(str(path)), "x", {})]
    renamed = made.rename(tmp_path / "mine (1).zip")  # as a browser does
    assert read_study(str(renamed)).name == "mine"


def test_an_archive_of_a_study_that_has_not_begun_is_refused(tmp_path):
    (path := tmp_path / "mine.yaml").write_text(TEXT)
    with pytest.raises(UserError, match="no run is done yet"):
        archive(read_study(str(path)), str(path), [], tmp_path)


def _zip(path: Path, **files: str) -> None:
    with zipfile.ZipFile(path, "w") as made:
        for name, text in files.items():
            made.writestr(name.replace("_dot_", "."), text)


DAMAGE = {
    "no zip": (lambda path: path.write_text("x"), "cannot be read"),
    "no study": (lambda path: _zip(path, table_dot_md="x"), "holds 0 study files"),
    "two": (lambda path: _zip(path, mine_dot_yaml=TEXT, other_dot_yaml=TEXT), "holds 2 study files"),
    "too large": (lambda path: _zip(path, mine_dot_yaml="#" * 300_000), "its study file is too large"),
    "a folder": (lambda path: path.mkdir(), "study="),
    "nothing": (lambda path: None, "study="),
}  # fmt: skip


@pytest.mark.parametrize("damage", [*DAMAGE])
def test_what_is_no_archive_is_refused(damage, tmp_path):
    spoil, sentence = DAMAGE[damage]
    spoil(path := tmp_path / "mine.zip")
    with pytest.raises(UserError, match=sentence):
        read_study(str(path))
