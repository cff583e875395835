"""What a study will take: time by the speeds of runs like its own, disk by their sizes, and what a budget refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from renaissance.core.errors import UserError
from renaissance.settings.declared import defaults
from renaissance.studies import actions
from renaissance.studies.check import Size
from renaissance.studies.forecast import checkpoint_bytes, seconds_left
from renaissance.studies.pace import kind, known_paces
from renaissance.studies.plan import PlannedRun
from renaissance.studies.screen import plan_sums, said_time, status_table
from renaissance.studies.spec import Study
from renaissance.studies.state import RunState, StudyFolder

SETTINGS = defaults() | {"loss_names": {"mlm": 1}, "batch_size": 8, "max_steps": 1000, "precision": "32"}


def planned(name: str) -> PlannedRun:
    return PlannedRun(name, "pre", {}, 0, (), {}, {})


def run_folder(folder: Path, speeds: tuple[float, ...] = (1.0, 16.0, 16.0, 16.0), **given: Any) -> Path:
    """Of a run that has logged every tenth step."""
    folder.mkdir(parents=True)
    record = {"settings": SETTINGS | given, "steps": given.get("max_steps") or SETTINGS["max_steps"] or 700}
    (folder / "settings.json").write_text(json.dumps(record))
    rows = [f"{10 * number},{speed}" for number, speed in enumerate(speeds, 1)]
    (folder / "metrics.csv").write_text("\n".join(["step,samples_per_second", *rows, ""]))
    return folder


def size(**given: Any) -> Size:
    settings = SETTINGS | given
    return Size(2_000_000, 1_000_000, settings["max_steps"] or "by epochs", settings)


def test_the_time_of_a_run_follows_from_runs_like_it(tmp_path):
    run_folder(
        tmp_path / "mine" / "runs" / "a" / "version_0"
    )  # of the study: half a second a step, the slow start aside
    run_folder(tmp_path / "other" / "version_3", batch_size=16)
    (tmp_path / "foreign" / "version_0").mkdir(parents=True)
    (tmp_path / "foreign" / "version_0" / "settings.json").write_text("[1]")  # of another program
    sizes = {"a": size(), "b": size(batch_size=16), "c": size(image_size=64), "d": size(seed=9, learning_rate=1.0)}
    paces = known_paces(tmp_path, {kind(each.settings) for each in sizes.values()})
    folders = {"a": tmp_path / "mine" / "runs" / "a" / "version_0"}
    states = {name: RunState(planned(name), "stopped", folders.get(name)) for name in sizes}
    assert seconds_left(states, sizes, paces) == {"a": 0.5 * 960, "b": 1000.0, "c": None, "d": 500.0}
    states["d"] = states["d"]._replace(kind="done")
    assert seconds_left(states, sizes, paces)["d"] == 0


def test_epochs_become_steps_where_a_run_has_counted_them(tmp_path):
    run_folder(tmp_path / "a" / "version_0", max_steps=None, max_epoch=3)
    sizes = {"a": size(max_steps=None, max_epoch=3), "b": size(max_steps=None, max_epoch=4)}
    states = {name: RunState(planned(name), "waiting") for name in sizes}
    paces = known_paces(tmp_path, {kind(each.settings) for each in sizes.values()})
    assert seconds_left(states, sizes, paces) == {"a": 0.5 * 1000, "b": None}


def test_a_run_that_goes_on_says_how_far_it_is_and_what_is_left(tmp_path):
    folder = run_folder(tmp_path / "a" / "version_0")
    attempt = {"status": 0, "line": "", "seconds": 7300.0, "took": {}}
    text = status_table(
        [
            RunState(planned("a"), "running", folder),
            RunState(planned("b"), "done", folder, attempt=attempt),
            RunState(planned("c"), "failed", folder, note="error: no."),
        ]
    )
    assert "a: running at step 40 of 1,000, 8 min 0 s of training to go" in text
    assert "b: done in 2 h 1 min" in text and "to go: error: no." in text
    assert [said_time(each) for each in (3, 61, 90000)] == ["3 s", "1 min 1 s", "1 d 1 h"]


def test_the_disk_is_that_of_weights_and_moments(tmp_path):
    assert checkpoint_bytes(size(keep_last=2)) == 3 * 4 * (2_000_000 + 2 * 1_000_000)
    assert checkpoint_bytes(size(keep_last=1, optim_type="sgd")) == 2 * 4 * 3_000_000
    assert checkpoint_bytes(size(test_only=True)) == 0


def folder_of(path: Path, **budget: Any) -> StudyFolder:
    study = Study("mine", (), (), None, budget.get("runs"), budget.get("hours"), {})
    return StudyFolder(path / "mine", study, [planned("a")], lambda words: ({}, {}))


def test_what_all_take_stands_beside_what_there_is(tmp_path):
    folder, states = folder_of(tmp_path, hours=0.1, runs=3), {"a": RunState(planned("a"), "waiting")}
    lines = plan_sums(folder, {"a": size()}, states, {"a": 500.0})
    assert "take 0.04 GiB at most, data not counted;" in lines[0] and "GiB are free in" in lines[0]
    assert lines[1] == "time: 8 min 20 s of training to go, validations and evaluations aside"
    assert lines[2] == "budget: 1 of max_runs=3, 0 s spent of hours=0.1, which is too little, so action=run refuses"
    assert "1 of 1 runs unknown; measure=True" in plan_sums(folder, {"a": size()}, states, {"a": None})[1]
    assert plan_sums(folder, {"a": size()}, states, {"a": None}, measured=True)[1] == "time: 1 of 1 runs unknown"
    said = plan_sums(folder, {"a": size(test_only=True)}, states, {"a": None})[1]
    assert said == "time: 1 of 1 runs train nothing, and evaluations are not timed"


def test_more_hours_than_the_budget_has_are_refused_before_the_first_run(tmp_path, monkeypatch):
    folder = folder_of(tmp_path, hours=0.1)
    states = {"a": RunState(planned("a"), "waiting")}
    monkeypatch.setattr(StudyFolder, "states", lambda _: states)
    command = actions.Command(folder, "mine.yaml", [], None, "here", "steps", 1, None, False, 0, 0)
    actions._refuse_too_long(command, {"a": size()})  # nothing is known
    run_folder(tmp_path / "other" / "version_0")
    with pytest.raises(
        UserError, match="will take 0.14 more by the speeds of runs like them, and its budget allows hours=0.1"
    ):
        actions._refuse_too_long(command, {"a": size()})
