"""The page of a run: what it says, what it escapes, and what it says where something is not there."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_runs import itm_frame, make_run, noise, write_data

import small_run
import small_tasks
from conftest import ROOT
from renaissance.cli.main import main
from renaissance.core import atomic
from renaissance.evaluation.calibration import calibration
from renaissance.reports.measures import confusion
from renaissance.training import split_evaluation

HEADER = "step,itm/train/loss,learning_rate,samples_per_second,data_wait_share,itm/val/loss,itm/val/accuracy"
ROWS = (HEADER, "10,0.7,1e-4,100,0.5,,", "20,0.5,5e-5,300,0.1,,", "20,,,,,0.6,0.75")
EVIL = "<script>alert(1)</script> \"quoted\" 'so' </title></style> {{ 7 * 7 }}"
VOID = {"meta", "link", "img"}


class Page(HTMLParser):
    """What a page is made of: tags with their attributes in order, its text; fails where tags do not close."""

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._open = "", []
        self.feed(self.source)
        self.close()
        assert self._open == [], "tags are left open"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open[-1:] != ["style"]:
            self.text += data

    def every(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def check(self) -> Page:
        """It loads and runs nothing, its pictures are described, its tables have heads, it is small."""
        assert len(self.source.encode()) < 5_000_000
        assert not {tag for tag, _ in self.tags} & {"script", "iframe", "object", "embed", "base", "form"}
        for _, attributes in self.tags:
            assert not [name for name in attributes if name.startswith("on")]
            for name in ("src", "href", "xlink:href"):
                assert (attributes.get(name) or "data:").startswith(("data:", "#"))
        assert "url(" not in self.source and "@import" not in self.source
        (policy,) = [each["content"] for each in self.every("meta") if each.get("http-equiv")]
        assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
        assert all(image["alt"] for image in self.every("img"))
        assert all(drawn.get("aria-label") or drawn.get("aria-hidden") for drawn in self.every("svg"))
        assert {head["scope"] for head in self.every("th")} <= {"col", "row"}
        return self


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_data(tmp_path / "data", [f"caption {n}" for n in range(40)], [noise(n) for n in range(40)])
    return tmp_path / "data"


def report(capsys: pytest.CaptureFixture[str], *words: str) -> small_run.Ended:
    capsys.readouterr()
    code = main(["report", "with", *words])
    return small_run.Ended(code, *capsys.readouterr())


def page_of(run: Path, capsys: pytest.CaptureFixture[str], *words: str) -> Page:
    ended = report(capsys, f"run={run}", *words)
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-1] == f"report: {run / 'report.html'}"
    return Page(run / "report.html").check()


@pytest.mark.parametrize(
    "task",
    ["vqa", *(pytest.param(task, marks=pytest.mark.slow) for task in small_tasks.TASKS if task != "vqa")],
)
def test_a_finetuning_ends_with_its_page(task: str, hub_cache: Path, tmp_path: Path, capsys):
    ended = small_run.command(capsys, *small_tasks.words(task, tmp_path))
    run = Path(ended.out.rsplit("run folder: ", 1)[1].splitlines()[0])
    assert ended.code == 0 and ended.out.splitlines()[-1] == f"report: {run / 'report.html'}", ended
    page, results = Page(run / "report.html").check(), small_run.results(run)
    details = json.loads((run / "results_details.json").read_text())
    for split, tasks in results.items():
        for metric, value in tasks[task].items():
            if value is not None and abs(value) < 1:
                assert f"{value:.4f}" in page.text, (split, metric)
            if bounds := details[split][task][metric]["interval"]:
                assert f"{bounds[0]:.4f} to {bounds[1]:.4f}" in page.text
    split = next(name for name in ("test", "testA", "val") if name in results)
    frame = pd.read_parquet(run / "predictions" / f"{task}_{split}.parquet")
    for kind in ("Best", "Worst", "Most uncertain"):
        assert kind in page.text
    if "confidence" in frame:
        assert frame["confidence"].between(0, 1).all() and "Expected calibration" in page.text
    pictures, boxes = page.every("img"), page.every("rect")
    assert bool(pictures) == (task != "glue") and bool(boxes) == (task == "ref")
    assert ("False pictures that fooled it" in page.text) == (task == "irtr")
    assert ("Mean score by answer type" in page.text) == (task == "vqa")


@pytest.mark.parametrize("drawn", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_pretraining_shows_the_false_pictures_that_fooled_it(
    drawn: int, hub_cache: Path, tmp_path: Path, capsys, monkeypatch
):
    gathered, plain = [], split_evaluation.gather_rows
    monkeypatch.setattr(
        split_evaluation, "gather_rows", lambda *given: [gathered.append(len(given[0])), plain(*given)][1]
    )
    small_run.write_coco_vg(tmp_path / "data")
    words = ("task_mlm_itm", *small_run.SMALL, "max_steps=2", "val_check_interval=1", f"data_root={tmp_path / 'data'}")
    run = small_run.train(capsys, *words, f"log_dir={tmp_path / 'result'}", f"draw_false_image={drawn}")
    assert len(gathered) == 2  # not at the validations in between
    for split in ("val", "test"):
        frame = pd.read_parquet(run / "predictions" / f"itm_{split}.parquet")
        assert frame["score"].mean() == pytest.approx(small_run.results(run)[split]["itm"]["accuracy"])
        assert frame["position"].tolist() == list(range(len(frame)))
        own = frame["shown_position"] == frame["position"]
        assert (own == (frame["target"] == "matched")).all() and 0 < own.sum() < len(frame)
        assert frame["shown_position"].between(0, len(frame) - 1).all()
    page = Page(run / "report.html").check()
    wrong = frame[(frame["target"] == "mismatched") & (frame["score"] == 0)]
    assert page.source.count("taken for its own</figcaption>") == min(24, len(wrong))
    assert "masked language modelling" in page.text and "time waiting for data" in page.text


def test_what_is_said_is_what_is_in_the_folder(data: Path, tmp_path: Path, capsys):
    frame = itm_frame(40)
    run = make_run(tmp_path / "result", data, frame, ROWS, learning_rate=3e-4)
    page = page_of(run, capsys)
    # Time, not rows, is what a share is of: 10 steps at 100 samples/s take three times as long as 10 at 300.
    assert f"{(0.5 * 3 + 0.1) / 4:.1%} of training" in page.text
    assert "0.0003" in page.text and "0.0001" in page.text and "1.20 M" in page.text
    known = frame.assign(bin=(frame["confidence"] * 15).astype(int).clip(upper=14)).groupby("bin")
    error = sum(len(part) * abs(part["confidence"].mean() - part["score"].mean()) for _, part in known) / len(frame)
    assert calibration(frame).error == pytest.approx(error) and f"error: {error:.3f} (mean" in " ".join(
        page.text.split()
    )
    worst = frame[frame["score"] == 0].sort_values("confidence", ascending=False, kind="stable")["id"].head(24)
    after = page.text.partition("Worst")[2].partition("Most uncertain")[0]
    assert [int(line.split()[1]) for line in after.splitlines() if line.strip().startswith("example")] == [*worst]
    counts = pd.crosstab(frame["target"], frame["prediction"])
    assert page.source.count('class="right">') >= 2 and f">{counts.loc['matched', 'matched']}</td>" in page.source


def test_texts_of_data_and_settings_are_escaped(tmp_path: Path, capsys):
    write_data(tmp_path / "data", [f"{EVIL} {n}" for n in range(4)], [noise(n) for n in range(4)])
    frame = itm_frame(4).assign(prediction=[f"{EVIL} {n}" for n in range(4)], score=0.0, kind=[EVIL, "b"] * 2)
    run = make_run(tmp_path / "result", tmp_path / "data", frame, ROWS, load_path=f"{EVIL}.ckpt")
    page = page_of(run, capsys)
    assert page.text.count(EVIL) >= 12 and "49" not in page.text.partition("Predictions")[2].partition("What it is")[0]
    assert all(EVIL in image["alt"] for image in page.every("img"))


def test_a_page_of_large_pictures_is_small(tmp_path: Path, capsys):
    write_data(tmp_path / "data", [f"caption {n}" for n in range(120)], [noise(n, 400) for n in range(120)])
    page = page_of(make_run(tmp_path / "result", tmp_path / "data", itm_frame(120)), capsys)
    assert len(page.every("img")) >= 60


def test_without_its_data_a_page_goes_without_pictures(data: Path, tmp_path: Path, capsys):
    run = make_run(tmp_path / "result", data, itm_frame(40))
    write_data(data, [f"other {n}" for n in range(40)], [noise(n + 100) for n in range(40)])
    page = page_of(run, capsys)
    assert "holds other data of val than the run was evaluated on" in page.text and not page.every("img")
    shutil.rmtree(data)
    page = page_of(run, capsys)
    assert "The pictures are not here: data_root=" in page.text and not page.every("img") and "Worst" in page.text
    write_data(tmp_path / "moved", [f"caption {n}" for n in range(40)], [noise(n) for n in range(40)])
    assert page_of(run, capsys, f"data_root={tmp_path / 'moved'}").every("img")
    before = (run / "report.html").read_bytes()  # is not replaced by one without pictures where a folder was named
    assert main(["report", "with", f"run={run}", f"data_root={tmp_path / 'nowhere'}"]) == 1
    assert (
        "has no pictures of these examples" in capsys.readouterr().err and (run / "report.html").read_bytes() == before
    )


def test_a_picture_that_cannot_be_decoded_is_a_sentence(data: Path, tmp_path: Path, capsys):
    run = make_run(tmp_path / "result", data, itm_frame(40))
    small_run.damage_picture(data / small_run.COCO.format("val"))
    page = page_of(run, capsys)
    assert "This picture cannot be decoded." in page.text and page.every("img")


def test_a_run_without_validation_or_confidences(data: Path, tmp_path: Path, capsys):
    frame = itm_frame(40).drop(columns=["confidence"])
    page = page_of(make_run(tmp_path / "result", data, frame, ROWS[:-1]), capsys)
    assert "There were no validations" in page.text and "The predictions hold no confidences" in page.text
    page = page_of(make_run(tmp_path / "result", data), capsys)
    assert "There are no curves" in page.text and "has not ended, or was stopped" in page.text


def test_a_run_that_is_still_going_on(data: Path, tmp_path: Path, capsys):
    run = make_run(tmp_path / "result", data, rows=ROWS[:2])
    hold = f"from renaissance.core.atomic import FileLock, Path\nFileLock(Path({str(run)!r}))\nprint()\ninput()"
    holder = subprocess.Popen([sys.executable, "-c", hold], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        holder.stdout.readline()
        assert "This run is still going on: its last line is of step 10" in page_of(run, capsys).text
    finally:
        holder.communicate(b"\n")


def test_the_blind_run_of_the_same_command_is_found(data: Path, tmp_path: Path, capsys):
    frame = itm_frame(40)
    run = make_run(tmp_path / "result", data, frame)
    others = {"blind": {"blind": True, "seed": 1}, "sees": {}}
    for name, settings in others.items():
        make_run(tmp_path / "result", data, itm_frame(40, 1), exp_name=name, **settings)
    assert "sees no image" not in page_of(run, capsys).text  # another seed is another command
    blind = make_run(tmp_path / "result", data, itm_frame(40, 1), exp_name="blind", blind=True)
    page = page_of(run, capsys)
    assert f"The model that sees no image: {blind}" in page.text
    assert f"gain over it, paired{(frame['score'].mean() - itm_frame(40, 1)['score'].mean()):+.4f}" in page.text


def test_several_runs_stand_side_by_side(data: Path, tmp_path: Path, capsys, monkeypatch):
    frames = {"first": itm_frame(40), "second": itm_frame(40, 1)}
    for name, frame in frames.items():
        make_run(
            tmp_path / "result", data, frame, ROWS, exp_name=name, learning_rate={"first": 1e-3, "second": 2e-3}[name]
        )
    make_run(tmp_path / "result", data, exp_name="unfinished")
    monkeypatch.chdir(tmp_path)
    ended = report(capsys, "runs=result/*/*")
    assert (ended.code, ended.out.splitlines()[-1]) == (0, "report: report.html"), ended
    page = Page(tmp_path / "report.html").check()
    assert "unfinished/version_0 is unfinished" in page.text and "learning_rate" in page.text
    difference = frames["second"]["score"].mean() - frames["first"]["score"].mean()
    assert f"{difference:+.4f}" in page.text and "second/version_0 against first/version_0" in page.text
    disagree = frames["first"]["id"][frames["first"]["score"] != frames["second"]["score"]]
    told = [int(line.split()[1]) for line in page.text.splitlines() if line.strip().startswith("example ")]
    assert sorted(told) == sorted(disagree) and len(told) < 24


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "report needs one of run=<run folder> and runs="),
        (("run=a", "runs=b"), "report needs one of run=<run folder> and runs="),
        (("run=nothing",), "run names nothing, which is no run folder (it does not exist); give one"),
        (("run=empty",), "run names empty, which is no run folder (it holds no settings.json); give one"),
        (("run=other",), "'other/settings.json' is of another program: it does not say what was trained on what."),
        (("run=damaged",), "'damaged/settings.json' cannot be read as JSON"),
        (("runs=empty/*",), "runs names empty/*, and nothing matches it"),
    ],
)
def test_what_is_no_run_is_refused_in_a_sentence(words, sentence, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in (("empty", None), ("other", '{"settings": {"lr": 0.1}}'), ("damaged", "{")):
        (tmp_path / name).mkdir()
        if content:
            (tmp_path / name / "settings.json").write_text(content)
    assert report(capsys, *words).sentence().startswith(sentence)
    assert not list(tmp_path.rglob("report.html"))


def test_a_full_disk_costs_the_page_and_nothing_else(hub_cache: Path, tmp_path: Path, capsys, monkeypatch):
    small_run.write_coco_vg(tmp_path / "data")
    words = ("task_itm", *small_run.SMALL, "max_steps=1", f"data_root={tmp_path / 'data'}", f"log_dir={tmp_path}")
    plain = atomic.AtomicFile.write

    def full(self, content):
        if self._target.name == "report.html":
            with self._explaining():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(self, content)

    monkeypatch.setattr(atomic.AtomicFile, "write", full)
    ended = small_run.command(capsys, *words)
    run = Path(ended.out.rsplit("run folder: ", 1)[1].splitlines()[0])
    (warning,) = [line for line in ended.err.splitlines() if "report" in line]
    assert ended.code == 0 and small_run.results(run) and not (run / "report.html").exists()
    assert warning.startswith("warning: report.html was not written (There is no room left for")
    assert warning.endswith(f"results are complete, and `python run.py report with run={run}` writes it.")
    assert "no room left" in report(capsys, f"run={run}").sentence()


def test_an_installed_package_has_the_template(tmp_path: Path):
    """What setup.py would install, built from a copy: nothing is left in the working tree."""
    for name in ("setup.py", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "renaissance", tmp_path / "renaissance", ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-W", "ignore", "setup.py", "-q", "build_py", "--build-lib", "built"]
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True)
    reports = tmp_path / "built" / "renaissance" / "reports"
    assert {"page.html", "page.css", "page.py"} <= {path.name for path in reports.iterdir()}


def test_retrieval_is_best_where_the_first_is_clear():
    from renaissance.reports.examples import fooled, ordered

    frame = pd.DataFrame(
        {
            "id": range(4), "position": range(4), "prediction": [0, 1, 0, 0], "target": [0, 1, 2, 2], "score": [1.0, 1, 0, 0],
            "rank": [0, 0, 1, 2], "text": list("abcd"), "first_ids": [[0, 1], [1, 0], [0, 2], [0, 1]],
            "first_images": [["x", "y"]] * 4, "first_scores": [[3.0, 1.0], [3.0, 2.5], [2.0, 1.0], [4.0, 1.0]],
        }
    )  # fmt: skip
    kinds = ordered(frame)
    assert kinds["Best"]["id"].tolist() == [0, 1, 2, 3] and kinds["Worst"]["id"].tolist() == [3, 2]
    assert kinds["Most uncertain"]["id"].tolist() == [1, 2, 0, 3]
    rows = fooled(frame)
    assert rows["id"].tolist() == [3, 2] and rows["shown"].tolist() == [0, 0]
    assert np.isfinite(rows["sure"]).all()


def side_by_side(folder: Path, capsys, *words: str) -> Page:
    ended = report(capsys, f"runs={folder / 'result'}/*/*", f"output={folder / 'both.html'}", *words)
    assert ended.code == 0 and "Traceback" not in ended.err, ended
    return Page(folder / "both.html").check()


def test_runs_that_were_shown_other_pictures_are_not_compared(data: Path, tmp_path: Path, capsys):
    """By example, that is: their metrics stand side by side."""
    frame, other = itm_frame(40), itm_frame(40, 1)
    make_run(tmp_path / "result", data, frame, exp_name="a")
    make_run(tmp_path / "result", data, other, exp_name="b")
    make_run(tmp_path / "result", data, other.assign(shown_position=0), exp_name="c")
    text = " ".join(side_by_side(tmp_path, capsys).text.split())
    assert "b/version_0 against a/version_0" in text and "c/version_0 against" not in text
    why = "38 of 40 examples with the same id have another shown_position"
    assert f"The predictions cannot be paired: {why}; compare" in text
    assert f"c/version_0 is not among the runs that disagree with a/version_0: {why}." in text
    cards = text.partition("Runs disagree")[2]
    assert "b/version_0" in cards and "c/version_0" not in cards.partition("What they are")[0]


def test_runs_of_other_data_are_not_compared(data: Path, tmp_path: Path, capsys):
    make_run(tmp_path / "result", data, itm_frame(40), exp_name="a", max_steps=10, data_root=str(data))
    write_data(tmp_path / "other", [f"other {n}" for n in range(40)], [noise(n + 100) for n in range(40)])
    make_run(tmp_path / "result", tmp_path / "other", itm_frame(40, 1), exp_name="b", max_steps=20)
    text = " ".join(side_by_side(tmp_path, capsys).text.split())
    assert "so it is not compared with a/version_0" in text and "on the same examples" not in text
    assert "the val data of b/version_0 are not those of a/version_0" in text
    assert "b/version_0 is not among the runs that disagree" in text and "Runs disagree" not in text
    settings = text.partition("Settings that are not the same")[2]
    assert "max_steps1020" in settings  # of another length, which is not part of a run's identity


def test_what_most_runs_have_is_looked_into(data: Path, tmp_path: Path, capsys):
    lone = make_run(tmp_path / "result", data, itm_frame(40), exp_name="a")
    for file in (lone / "predictions" / "itm_val.parquet", lone / "results.json"):
        file.rename(file.with_name(file.name.replace("val", "test")))
    (lone / "results.json").write_text((lone / "results.json").read_text().replace('"val"', '"test"'))
    for name in "bc":
        make_run(tmp_path / "result", data, itm_frame(40, ord(name)), exp_name=name)
    text = side_by_side(tmp_path, capsys).text
    assert "Predictions of itm on val" in text
    assert "Without predictions of val that have a score: a/version_0." in text


def test_a_blind_run_of_another_length_or_of_other_data_is_another(data: Path, tmp_path: Path, capsys):
    write_data(tmp_path / "other", [f"other {n}" for n in range(40)], [noise(n) for n in range(40)])
    run = make_run(tmp_path / "result", data, itm_frame(40), max_steps=10)
    for name, where, steps in (("longer", data, 20), ("elsewhere", tmp_path / "other", 10)):
        make_run(tmp_path / "result", where, itm_frame(40, 1), exp_name=name, blind=True, max_steps=steps)
    assert "sees no image" not in page_of(run, capsys).text
    make_run(tmp_path / "result", data, itm_frame(40, 1), exp_name="blind", blind=True, max_steps=10)
    assert "sees no image" in page_of(run, capsys).text


def test_columns_of_another_program_break_no_page(data: Path, tmp_path: Path, capsys):
    """A plugin's task may call its columns as it likes."""
    odd = itm_frame(40).drop(columns="shown_position").assign(image_id="COCO_1.jpg", rank="first", first_images="x")
    odd["confidence"] = ["high", *odd["confidence"].astype(str)[1:39], "inf"]
    page = page_of(make_run(tmp_path / "result", data, odd), capsys)
    assert page.every("img") and "Left out, without a confidence: 2." in page.text
    broken = itm_frame(40).assign(shown_position="COCO_1.jpg")
    page = page_of(make_run(tmp_path / "result", data, broken), capsys)
    assert "It cannot be read (invalid literal for int()" in page.text
    lists = itm_frame(40).assign(kind=[[n] for n in range(40)], target=[[n] for n in range(40)])
    assert "Predictions of itm" in page_of(make_run(tmp_path / "result", data, lists), capsys).text


def test_a_class_may_be_called_others():
    names = ["others", *(f"class {number}" for number in range(15))]
    right = [name for number, name in enumerate(names) for _ in range(20 - number)]
    found = confusion(pd.DataFrame({"target": right, "prediction": ["others"] * len(right), "score": 0.0}))
    assert found.counts.sum() == len(right) and found.merged == 6
    assert found.counts[found.names.index("others")].sum() == 20 and found.counts[-1].sum() == sum(range(5, 11))
