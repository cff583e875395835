"""`compare`: finished runs side by side, in the layout in which a run leaves its folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from renaissance.cli import main
from renaissance.compare import compare
from renaissance.compare.folders import shortest_names
from renaissance.errors import UserError
from renaissance.evaluation import paired_bootstrap, write_predictions
from renaissance.report import RunFolder, nested_results

SETTINGS = {
    "loss_names": {"mlm": 0, "vqa": 1},
    "image_encoder": "facebook/deit-tiny-patch16-224",
    "learning_rate": 0.0001,
    "blind": False,
    "num_workers": 4,
}
VALUES = {"vqa/val/vqa_score": 0.5, "val/the_metric": 0.5}


def frame_of(right: np.ndarray) -> pd.DataFrame:
    ids = 1000 + np.arange(len(right))
    return pd.DataFrame({"position": ids - 1000, "id": ids, "prediction": "yes", "target": "yes", "score": right * 1.0})


def write_run(
    log_dir: Path,
    name: str = "vqa",
    values: dict[str, float] | None = VALUES,
    right: np.ndarray | None = None,
    steps: tuple[float, ...] = (0.25, 0.5, 0.5, 0.125),
    ends: str = "00ff",
    **settings: Any,
) -> Path:
    """A run's folder as `train` writes it; `values` None: not at its end yet."""
    folder = RunFolder.create(str(log_dir), name)
    data = {"val": {"vqa_val.arrow": {"bytes": 10, "mtime_ns": len(str(folder.path)), "ends": ends}}}
    counts = {"all": {"total": 29_000_000, "trainable": 12_345_678, "frozen": 16_654_322}}
    flat = SETTINGS | {"exp_name": name, "log_dir": str(log_dir)} | settings
    folder.write_json("settings.json", {"settings": flat, "parameters": counts, "data": data})
    for number, value in enumerate(steps, 1):
        folder.log(100 * number, {"vqa/train/loss": 1.0 / number})
        folder.log(100 * number, {"val/the_metric": value})
    if values is not None:
        folder.write_json("results.json", nested_results(values))
    if right is not None:
        write_predictions(folder, "vqa", "val", frame_of(right))
    folder.close()
    return folder.path


@pytest.fixture
def rights() -> tuple[np.ndarray, np.ndarray]:
    """Which of 200 questions two runs answer: the second one 20 more."""
    first = np.arange(200) % 2
    return first, np.where(np.arange(200) % 10 == 0, 1, first)


def test_two_runs_on_the_command_line(run_cli, tmp_path: Path, rights):
    write_run(tmp_path / "result", "a", VALUES | {"vqa/test/vqa_score": 0.25, "vqa/val/loss": float("nan")}, rights[0])
    better = {"vqa/val/vqa_score": 0.6, "vqa/test/vqa_score": 0.375}
    write_run(tmp_path / "result", "b", better, rights[1], (0.1, 0.6), learning_rate=1e-05, num_workers=0)
    write_run(tmp_path / "result", "b", None)
    ended = run_cli("compare", "with", "runs=result/a/*,result/b/*", "output=tables/both")
    assert (ended.code, ended.stderr) == (0, "")
    gain = paired_bootstrap(frame_of(rights[0]), frame_of(rights[1]))
    assert gain.difference == 0.1 and gain.low > 0 and gain.p < 0.001
    assert ended.stdout.splitlines() == [
        "run                    a/version_0  b/version_0",
        "learning_rate               0.0001        1e-05",
        "parameters, total       29,000,000   29,000,000",
        "parameters, trainable   12,345,678   12,345,678",
        "best step                      200          200",
        "vqa/val/vqa_score           0.5000       0.6000",
        "vqa/val/loss                   nan",
        "vqa/test/vqa_score          0.2500       0.3750",
        "",
        "mean score minus that of a/version_0, on the same examples (paired bootstrap)",
        "  run          predictions  examples  difference       95 % interval       p",
        f"  b/version_0      vqa/val       200     +0.1000  {gain.low:+.4f} to {gain.high:+.4f}  {gain.p:.4f}",
        "note: version_1 is unfinished (no results.json; last step logged: 400), left out.",
        "written: tables/both.md, tables/both.csv",
    ]
    markdown = (tmp_path / "tables" / "both.md").read_text(encoding="utf-8").splitlines()
    assert markdown[:3] == [
        "| run | a/version_0 | b/version_0 |",
        "| --- | ---: | ---: |",
        "| learning_rate | 0.0001 | 1e-05 |",
    ]
    assert f"| b/version_0 | vqa/val | 200 | +0.1000 | {gain.low:+.4f} to {gain.high:+.4f} | {gain.p:.4f} |" in markdown
    with open(tmp_path / "tables" / "both.csv", encoding="utf-8", newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["run"], first["learning_rate"], first["best step"]) == ("a/version_0", "0.0001", "200")
    assert (first["vqa/val/loss"], first["vqa/val/difference"]) == ("", "")
    assert float(second["vqa/val/difference"]) == gain.difference and float(second["vqa/val/p"]) == gain.p


def test_runs_without_validation_or_predictions_of_each_other(tmp_path: Path, capsys, rights):
    write_run(tmp_path, right=rights[0], steps=(), loss_names={"vqa": 1.0})  # as if nothing had been said of mlm
    write_run(tmp_path, right=rights[1][:150], blind=True)
    write_run(tmp_path, ends="0000")
    rows = compare([str(tmp_path / "vqa" / "*")])
    assert [row["run"] for row in rows] == ["version_0", "version_1", "version_2"]
    assert [row["blind"] for row in rows] == [False, True, False]
    assert not any("loss_names" in key or "differ" in key for row in rows for key in row)
    assert ["best step" in row for row in rows] == [False, True, True]
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "note: the val data of version_2 are not those of version_0 (vqa_val.arrow).",
        "note: version_0 and version_1, vqa/val: The predictions are of different examples (200 and 150; 50 of them only "
        "in one); compare runs that were evaluated on the same files.",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vqa"]  # nothing is written that was not asked for


def test_each_run_stands_once_and_in_order(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(11):
        write_run(Path("result"))
    write_run(Path("result"), "other")
    Path("result/vqa/notes.txt").write_text("", encoding="utf-8")
    rows = compare("result/vqa/version_3, result/vqa/*,result/other/version_0/")
    numbers = [3, 0, 1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert [row["run"] for row in rows] == [
        *(f"version_{number}" if number else "vqa/version_0" for number in numbers),
        "other/version_0",
    ]
    assert "note: no run folders, left out: result/vqa/notes.txt." in capsys.readouterr().out


def test_names_are_no_longer_than_they_must_be():
    assert shortest_names([Path("/r/a/version_0")]) == ["version_0"]
    assert shortest_names([Path("/r/a/v"), Path("/q/a/v"), Path("/q/b/v"), Path("/q/b/w")]) == [
        "r/a/v",
        "q/a/v",
        "b/v",
        "w",
    ]
    assert shortest_names([Path("/a/b"), Path("/x/a/b")]) == ["/a/b", "x/a/b"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "runs=None is not allowed: give run folders or patterns, such as runs='result/a/*,result/b/version_3'."),
        (["runs=[]"], "runs=[] is not allowed: give run folders or patterns"),
        (["runs=result/vqa/*,"], "runs='result/vqa/*,' is not allowed: give run folders or patterns"),
        (["runs=[3]"], "runs=[3] is not allowed: give run folders or patterns"),
        (["runs=result/mlm/*"], "runs names result/mlm/*, and nothing matches it; give run folders"),
        (["runs=result/*"], "runs names result/*, which matches 2 path(s) and no run folder"),
        (["runs=result/vqa/version_7"], "runs names result/vqa/version_7, which is no run folder (it does not exist)"),
        (["runs=result"], "runs names result, which is no run folder (it holds no settings.json)"),
        (["runs=result/vqa/version_1"], "version_1 has no results.json yet; let a run end first."),
        (
            ["runs=result/vqa/version_0", "output=3"],
            "output=3 is not allowed: give a path without its ending, or None.",
        ),
        (
            ["runs=result/vqa/version_0", "output=."],
            "output='.' is not allowed: give a path without its ending, or None.",
        ),
        (["runs=result/vqa/version_0", "output=file/x"], "output=file/x cannot be written (File exists)"),
        (["runs=result/damaged/version_0"], "result/damaged/version_0/results.json' is list, but has to be an object"),
    ],
)
def test_refusals(words: list[str], sentence: str, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(Path("result"))
    write_run(Path("result"), values=None)
    damaged = write_run(Path("result"), "damaged")
    (damaged / "results.json").write_text(json.dumps([1]), encoding="utf-8")
    Path("file").write_text("", encoding="utf-8")
    assert main(["compare", *(["with"] if words else []), *words]) == 1
    said = capsys.readouterr().err.strip()
    assert sentence in said and len(said.splitlines()) == 1
    assert not list(tmp_path.glob("compare.*"))


def test_damaged_predictions_end_the_comparison(tmp_path: Path, rights):
    for _ in range(2):
        path = write_run(tmp_path, right=rights[0])
    (path / "predictions" / "vqa_val.parquet").write_bytes(b"")
    with pytest.raises(UserError, match="vqa_val.parquet' cannot be read"):
        compare(str(tmp_path / "vqa" / "*"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("settings.json", b""),
        ("settings.json", b"null"),
        ("settings.json", b'{"settings": [1]}'),
        ("settings.json", b'{"settings": {}, "parameters": 3}'),
        ("settings.json", b"[" * 100_000),
        ("results.json", b'{"val": {"vqa": {"vqa_score": "0.5"}}}'),
        ("results.json", b'{"val": [0.5]}'),
        ("results.json", b'{"val": {"vqa": {"vqa_score": NaN}}}'),
        ("metrics.csv", b"step;loss\n1;0,5\n"),
        ("metrics.csv", bytes(100)),
    ],
    ids=lambda each: str(each)[:30],
)
def test_a_file_of_a_run_that_was_spoiled_is_named(name: str, content: bytes, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (write_run(Path("result")) / name).write_bytes(content)
    assert main(["compare", "with", "runs=result/vqa/*"]) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"error: 'result/vqa/version_0/{name}'") and len(said.splitlines()) == 1
