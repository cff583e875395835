"""`compare`: finished runs side by side, in the layout in which a run leaves its folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from renaissance.cli.main import main
from renaissance.core.errors import UserError
from renaissance.evaluation.compare import compare
from renaissance.evaluation.compare.folders import shortest_names
from renaissance.evaluation.compare.screen import tables
from renaissance.evaluation.frames import write_predictions
from renaissance.evaluation.intervals import paired_bootstrap
from renaissance.runs.report import RunFolder, nested_results

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
        "steps                          400          200",
        "best step                      200          200",
        "vqa/val/vqa_score           0.5000       0.6000",
        "vqa/val/loss                   nan",
        "vqa/test/vqa_score          0.2500       0.3750",
        "",
        "mean score minus that of a/version_0, on the same examples (paired bootstrap)",
        "  run          predictions  examples  difference       95 % interval       p",
        f"  b/version_0      vqa/val       200     +0.1000  {gain.low:+.4f} to {gain.high:+.4f}  {gain.p:.4f}",
        "note: b/version_1 is unfinished (no results.json; last step logged: 400), left out.",
        "note: a/version_0, b/version_0: no results_details.json, so methods, intervals and examples are not known.",
        "written to the folder tables/both: compare.md, compare.csv",
    ]
    markdown = (tmp_path / "tables" / "both" / "compare.md").read_text(encoding="utf-8").splitlines()
    assert markdown[:3] == [
        "| run | a/version_0 | b/version_0 |",
        "| --- | ---: | ---: |",
        "| learning_rate | 0.0001 | 1e-05 |",
    ]
    assert f"| b/version_0 | vqa/val | 200 | +0.1000 | {gain.low:+.4f} to {gain.high:+.4f} | {gain.p:.4f} |" in markdown
    with open(tmp_path / "tables" / "both" / "compare.csv", encoding="utf-8", newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["run"], first["learning_rate"], first["best step"]) == ("a/version_0", "0.0001", "200")
    assert (first["vqa/val/loss"], first["vqa/val/difference"]) == ("", "")
    assert float(second["vqa/val/difference"]) == gain.difference and float(second["vqa/val/p"]) == gain.p


def test_runs_are_found_by_their_tags(tmp_path: Path, capsys, rights):
    for tags in (["baseline", "paper"], ["baseline"], None):
        write_run(tmp_path, "a", right=rights[0], tags=tags)
    rows = compare(f"{tmp_path}/a/*", None)
    assert [row.get("tags") for row in rows] == ["baseline, paper", "baseline", None]
    said = capsys.readouterr().out.splitlines()
    assert said[1].split() == ["tags", "baseline,", "paper", "baseline"]
    assert main(["compare", "with", f"runs={tmp_path}/a/*", "tags=[baseline,paper]", "output=None"]) == 0
    said = capsys.readouterr().out
    assert "a/version_0" in said and "a/version_1" not in said
    assert "note: without the tags baseline, paper, left out: 2 runs." in said
    with pytest.raises(
        UserError, match=r"tags=\['other'\]: none of the 3 runs has them all; their tags are baseline, paper\."
    ):
        compare(f"{tmp_path}/a/*", None, ["other"])


def test_runs_without_validation_or_predictions_of_each_other(tmp_path: Path, capsys, rights):
    write_run(tmp_path, right=rights[0], steps=(), loss_names={"vqa": 1.0})  # as if nothing had been said of mlm
    write_run(tmp_path, right=rights[1][:150], blind=True)
    write_run(tmp_path, ends="0000")
    rows = compare([str(tmp_path / "vqa" / "*")])
    assert [row["run"] for row in rows] == ["vqa/version_0", "vqa/version_1", "vqa/version_2"]
    assert [row["blind"] for row in rows] == [False, True, False]
    assert not any("loss_names" in key or "differ" in key for row in rows for key in row)
    assert ["best step" in row for row in rows] == [False, True, True]
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "note: vqa/version_0 and vqa/version_1, vqa/val: The predictions are of different examples (200 and 150; 50 of them only",
        "  in one); compare runs that were evaluated on the same files.",
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
        *(f"vqa/version_{number}" for number in numbers),
        "other/version_0",
    ]
    assert "note: no run folders, left out: result/vqa/notes.txt." in capsys.readouterr().out


def test_the_folder_of_a_study_stands_for_the_newest_runs_in_it(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "a", "b"):
        write_run(Path("result/mine/runs"), name)
    write_run(Path("result/mine/outdated"), "a")
    foreign = Path("result/mine/runs/c/version_0")
    foreign.mkdir(parents=True)
    (foreign / "settings.json").write_text('{"lr": 1}')  # of another program
    Path("result/mine/table.md").write_text("")
    for runs in ("result/mine", "result/*"):
        assert [row["run"] for row in compare(runs)] == ["a/version_1", "b/version_0"]
        assert "note: c/version_0 is unfinished" in capsys.readouterr().out


def test_names_are_no_longer_than_they_must_be():
    assert shortest_names([Path("/r/a/version_0")]) == ["a/version_0"]
    assert shortest_names([Path("/r/a/v"), Path("/q/a/v"), Path("/q/b/v"), Path("/q/b/w")]) == [
        "r/a/v",
        "q/a/v",
        "b/v",
        "b/w",
    ]
    assert shortest_names([Path("/a/b"), Path("/x/a/b")]) == ["/a/b", "x/a/b"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "runs=None is not allowed: give run folders or patterns, such as runs='result/a/*,result/b/version_3'."),
        (["runs=[]"], "runs=[] is not allowed: give run folders or patterns"),
        (["runs=result/vqa/*,"], "runs='result/vqa/*,' is not allowed: give run folders or patterns"),
        (["runs=result/mlm/*"], "runs names result/mlm/*, and nothing matches it; give run folders"),
        (["runs=result/*"], "runs names result/*, which matches 2 path(s) and no run folder"),
        (["runs=result/vqa/version_7"], "runs names result/vqa/version_7, which is no run folder (it does not exist)"),
        (["runs=result"], "runs names result, which is no run folder (it holds no settings.json)"),
        (["runs=result/vqa/version_1"], "vqa/version_1 has no results.json yet; let a run end first."),
        (
            ["runs=result/vqa/version_0", "output=file"],
            "'file/compare.md' cannot be written (File exists); give another output",
        ),
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


def write_details(path: Path, results: dict[str, Any], **facts: Any) -> None:
    """results.json, and beside it what each of its numbers is worth."""
    detail = {"method": "each example once", "exact": True, "interval": [0.1, 0.9], "examples": 200, "eval_limit": None}
    for split, tasks in results.items():
        entries = {task: {metric: detail | facts for metric in metrics} for task, metrics in tasks.items()}
        (path / "results_details.json").write_text(json.dumps({split: entries}), encoding="utf-8")
    (path / "results.json").write_text(json.dumps(results), encoding="utf-8")


def test_what_a_number_is_worth_stands_beside_it(tmp_path: Path, capsys):
    """A reranked recall, and one of a part of the split, never look like the exact one of all."""
    results = {"test": {"irtr": {"text_to_image_r1": 0.5}}}
    paths = [write_run(tmp_path, name, steps=()) for name in ("exact", "reranked", "some")]
    write_details(paths[0], results)
    write_details(paths[1], results, method="best 50 of ITC through the fusion", exact=False)
    write_details(paths[2], results, eval_limit={"limit": 100, "of": 25_010}, interval=None)
    rows = compare(list(map(str, paths)), str(tmp_path / "table"))
    said = capsys.readouterr().out.splitlines()
    line = next(line for line in said if line.startswith("irtr/test/text_to_image_r1"))
    assert " ".join(line.split()[1:]) == "0.5000 [0.1000, 0.9000] 0.5000* [0.1000, 0.9000] 0.5000*"
    assert next(line for line in said if line.startswith("irtr/test/examples")).split()[1:] == ["200"] * 3
    assert "note: * reranked/version_0, irtr/test: best 50 of ITC through the fusion" in said
    assert "note: * some/version_0, irtr/test: eval_limit=100, not the whole split of 25,010 samples" in said
    assert [row["irtr/test/method"] for row in rows][1] == "best 50 of ITC through the fusion"
    assert rows[0]["irtr/test/text_to_image_r1/low"] == 0.1 and "irtr/test/text_to_image_r1/low" not in rows[2]


def test_many_runs_with_long_values_fit_the_screen(tmp_path: Path, capsys):
    """Shortened on the screen, whole in the files; a loss that a run has not is no word, and tasks that differ are said."""
    for number in range(9):
        name = f"an_experiment_with_a_name_that_says_everything_{number}"
        write_run(tmp_path, name, load_path="/somewhere/" + "deep/" * 30 + f"{number}.ckpt", loss_names={"itc": number})
    write_run(tmp_path, "other", {"nlvr2/val/accuracy": 0.5})
    compare(str(tmp_path / "*" / "*"), str(tmp_path / "out"))
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines()[:-1])) <= 120 and "None" not in said
    assert "an_experime…" in said and "version_0" in said and "the runs are of different tasks (an_experiment" in said
    assert "deep/" * 30 in (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")


def test_names_that_shortening_would_make_the_same_stay_whole():
    names = [f"{'a' * 20}_{kind}_{'b' * 30}" for kind in ("one", "two")]
    assert all(name in tables([("run", *names), ("loss", "1", "2")]) for name in names)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("results.json", b'{"val": {"vqa": {"vqa_score": 0.', "cannot be read as JSON"),
        (
            "results.json",
            b'{"val": {"vqa": {"vqa_score": "0.5"}}}',
            "['vqa_score'] is '0.5', but has to be a number or null",
        ),
        ("results.json", b'{"val": {"vqa": 0.5}}', "['vqa'] is 0.5, but has to be an object"),
        ("results.json", b'{"val": {"vqa": {"loss": NaN}}}', "NaN is no number of JSON"),
        ("results.json", b"[" * 100_000, "nested too deeply"),
        ("results.json", b"\xff\xfe\x00", "cannot be read as JSON ("),
        ("results_details.json", b'{"val": {"vqa": {"vqa_score": {"interval": "wide"}}}}', "['interval'] is 'wide'"),
        ("results_details.json", b"[]", "is list, but has to be an object"),
        ("settings.json", b'{"settings": []}', "settings.json'['settings'] is list"),
        ("settings.json", b'{"parameters": {"all": {"total": "many"}}}', "['total'] is 'many'"),
        ("settings.json", b'{"data": {"val": ["vqa_val.arrow"]}}', "settings.json'['data']['val'] is list"),
        ("predictions/vqa_val.parquet", b"PAR1", "vqa_val.parquet' cannot be read"),
        ("predictions/vqa_val.parquet", {"id": [1], "answer": [2.0]}, "no column 'score'"),
        ("predictions/vqa_val.parquet", {"id": [1], "score": ["good"]}, "could not convert string to float"),
    ],
)
def test_damaged_files_are_one_sentence(
    name: str, content: bytes | dict, sentence: str, tmp_path: Path, rights, capsys
):
    for _ in range(2):
        path = write_run(tmp_path, right=rights[0])
    if isinstance(content, dict):
        pd.DataFrame(content).to_parquet(path / name)
    else:
        (path / name).write_bytes(content)
    assert main(["compare", "with", f"runs={tmp_path}/vqa/*", "output=None"]) == 1
    said = capsys.readouterr().err.strip()
    assert sentence in said and str(path / name) in said and len(said.splitlines()) == 1


def test_what_editors_and_kills_leave_is_read(tmp_path: Path, capsys, monkeypatch):
    """A byte order mark, a metrics.csv cut short or of other bytes; `~`; one run alone; a folder of runs."""
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write_run(tmp_path)
    (path / "results.json").write_bytes(b"\xef\xbb\xbf" + (path / "results.json").read_bytes())
    with open(path / "metrics.csv", "a", encoding="utf-8") as file:
        file.write("5")
        file.write("x,,\n,1,2\n")
    [row] = compare("~/vqa/*", "~/out")
    assert (row["steps"], row["best step"]) == (400, 200) and (tmp_path / "out" / "compare.csv").exists()
    assert "note: vqa/version_0: metrics.csv has 2 damaged rows, left out." in capsys.readouterr().out
    (path / "metrics.csv").write_bytes(b"\xff")
    assert "steps" not in compare(str(path))[0]
    assert "metrics.csv cannot be read" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"no run folder \(it holds no settings.json\); give one, such as .*/vqa/\*"):
        compare(str(path.parent))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"target": ["no", "yes"] * 100}, "100 of 200 examples with the same id have another target"),
        ({"shown_position": range(1, 201)}, "200 of 200 examples with the same id have another shown_position"),
    ],
)
def test_runs_that_were_asked_otherwise_are_not_paired(change, why, tmp_path: Path, capsys, rights):
    """As two seeds of image-text matching are: another picture beside a text, under the same id."""
    plain = frame_of(rights[0]).assign(shown_position=range(200))
    for name, frame in (("a", plain), ("b", plain.assign(**change))):
        write_predictions(RunFolder(write_run(tmp_path, name)), "vqa", "val", frame)
    assert "vqa/val/difference" not in compare([str(tmp_path / "*" / "*")])[1]
    said = " ".join(capsys.readouterr().out.split())
    assert f"vqa/val: The predictions cannot be paired: {why}; compare runs that were shown the same." in said
    hidden = plain.assign(target=[None, *plain["target"][1:]], score=[None, *plain["score"][1:]])
    assert paired_bootstrap(hidden, plain).examples == 199  # what is hidden has no answer to differ in
    lists = [frame_of(rights[0]).assign(target=[kind([n, n]) for n in range(200)]) for kind in (list, np.array)]
    assert paired_bootstrap(*lists).difference == 0


def test_runs_of_other_data_are_not_paired(tmp_path: Path, capsys, rights):
    for name, ends in (("a", "00ff"), ("b", "0000")):
        write_run(tmp_path, name, right=rights[0], ends=ends)
    assert "vqa/val/difference" not in compare([str(tmp_path / "*" / "*")])[1]
    said = " ".join(capsys.readouterr().out.split())
    assert "it was evaluated on other data of val (vqa_val.arrow), so it is not compared with a/version_0." in said
