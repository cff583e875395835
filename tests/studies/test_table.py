"""Tables of studies: baselines, runs without a value, other data and versions, values of any kind."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from renaissance.core.errors import UserError
from renaissance.evaluation.frames import predictions_file
from renaissance.studies.layouts import csv, latex, markdown, write_table
from renaissance.studies.plan import PlannedRun
from renaissance.studies.spec import Study
from renaissance.studies.state import RunState
from renaissance.studies.table import make_table

METRIC = "mlm/val/accuracy"


def state(folder: Path, variant: dict[str, Any], seed: int, value: float | None, **record: Any) -> RunState:
    """A run that is done."""
    name = f"run_{len([*folder.iterdir()])}"
    (path := folder / name).mkdir()
    data = {"train": {"a.arrow": {"ends": "1"}}, "val": {"b.arrow": {"ends": "2"}}}
    (path / "settings.json").write_text(json.dumps({"settings": {}, "data": data, "versions": {"torch": "1"}} | record))
    (path / "results.json").write_text(json.dumps({"val": {"mlm": {"accuracy": value, "loss": 1.0 - (value or 0)}}}))
    return RunState(PlannedRun(name, "pre", variant, seed, (), {}, {}), "done", path)


def study(baseline: dict[str, Any] | None = None, metrics: tuple[str, ...] = (METRIC,)) -> Study:
    return Study("mine", (), metrics, baseline, None, None, {})


def test_the_baseline_is_the_variant_that_the_file_names(tmp_path):
    runs = [state(tmp_path, {"a": 2, "b": b}, seed, 0.5) for b in (1, 2) for seed in (0, 1)]
    with pytest.raises(UserError, match="is not in the table"):
        make_table(study({"a": 1, "b": 1}), runs)
    runs += [state(tmp_path, {"a": 1, "b": 1}, seed, 0.25) for seed in (0, 1)]
    table = make_table(study({"a": 1, "b": 1}), runs)
    assert table.baseline == "a=1, b=1"
    assert [row.cells[0].p for row in table.rows] == [1.0, 1.0, None]  # of two signs each, corrected
    with pytest.raises(UserError, match="are 2 variants"):
        make_table(study({"a": 2}), runs)


def test_less_of_a_loss_is_better_and_values_of_any_kind_are_rows(tmp_path):
    variants = [
        {"loss_names": {"mlm": 1}},
        {"loss_names": {"itm": 1}},
        {"loss_names": [1]},
        {"loss_names": True},
        {"loss_names": 1},
    ]
    runs = [state(tmp_path, variant, 0, 0.1 * place) for place, variant in enumerate(variants)]
    table = make_table(study(metrics=(METRIC, "mlm/val/loss")), runs)
    assert len(table.rows) == 5
    best = [[row.cells[place].best for row in table.rows].index(True) for place in range(2)]
    assert best == [4, 4]
    assert "| {'mlm': 1} |" in markdown(table)


def test_runs_without_a_value_and_of_other_versions_get_footnotes(tmp_path):
    runs = [state(tmp_path, {"a": 1}, seed, value) for seed, value in enumerate((0.5, 0.7, None))]
    runs += [state(tmp_path, {"a": 2}, 0, 0.9, versions={"torch": "2"})]
    table = make_table(study(), runs)
    text = markdown(table)
    assert (
        "| 1 | <u>0.6000 ± 0.1414 (n=2)</u> (1)" in text and "(1) without 1 more, which have no value: run_2." in text
    )
    assert (
        "| 2 | **0.9000 (n=1)** (2) |" in text
        and "(2) of other versions, here or in the first row: torch 1 and 2." in text
    )
    assert "without 1 more" in csv(
        table
    ) and r"{\footnotesize (1) without 1 more, which have no value: run\_2.}" in latex(table)


def test_other_versions_of_the_program_get_a_footnote_even_where_the_first_run_has_none(tmp_path):
    for place, versions in enumerate(({"torch": "1"}, {"torch": "1", "renaissance": "0.1.0", "commit": "abc"})):
        (tmp_path / str(place)).mkdir()
        runs = [state(tmp_path / str(place), {}, seed, 0.5 + seed, versions=versions) for seed in (0, 1)]
        runs += [
            state(tmp_path / str(place), {}, 2, 0.5, versions={"torch": "1", "renaissance": "0.2.0", "commit": "abd"})
        ]
        text = markdown(make_table(study(), runs))
        known = versions.get("renaissance", "0.2.0"), "0.2.0" if place else "not known"
        assert (
            f"(1) of other versions, here or in the first row: renaissance {known[0]} and {known[1]}, commit ab" in text
        )


def laid_out(rows: list[str] | None, columns: list[str] | None, runs: list, *metrics: str) -> Any:
    made = study(metrics=metrics or (METRIC,))._replace(rows=rows, columns=columns)
    return make_table(made, runs)


def test_settings_make_rows_and_columns_and_the_best_is_of_its_line(tmp_path):
    scores = {(1, 1): 0.1, (1, 2): 0.9, (2, 1): 0.3, (2, 2): 0.5}
    runs = [state(tmp_path, {"a": a, "b": b}, 0, value) for (a, b), value in scores.items()]
    for rows, columns in ((["a"], ["b"]), (None, ["b"]), (["a"], None)):
        table = laid_out(rows, columns, runs)
        assert (table.keys, table.across) == (["a"], ["b", "metric"])
        assert [[cell.scores.mean for cell in row.cells] for row in table.rows] == [[0.1, 0.9], [0.3, 0.5]]
        assert [[cell.best for cell in row.cells] for row in table.rows] == [[False, True], [True, False]]
    assert f"| a | b=1, {METRIC} | b=2, {METRIC} |" in markdown(table) and "best of a column" in markdown(table)
    loss = "mlm/val/loss"
    table = laid_out(["metric", "a"], ["b"], runs, METRIC, loss)
    assert [row.values for row in table.rows] == [(METRIC, 1), (METRIC, 2), (loss, 1), (loss, 2)]
    assert [[cell.best for cell in row.cells] for row in table.rows] == [[False, True]] * 4  # less loss is better
    assert "best of a row" in markdown(table) and "| metric | a | b=1 | b=2 |" in markdown(table)
    assert csv(table).splitlines()[0].startswith("metric,a,b,mean,")
    assert len(csv(table).splitlines()) == 1 + 8
    with pytest.raises(UserError, match=r"two variants have the same a, metric .*; add b to its rows or columns"):
        laid_out(["a"], [], runs)


def test_columns_of_several_levels_have_a_head_of_as_many_lines(tmp_path):
    runs = [state(tmp_path, {"a": a, "b": b}, 0, 0.5) for a, b in ((1, 1), (1, 2), (2, 1))]  # one is missing
    text = latex(laid_out(["a"], ["b"], runs, METRIC, "mlm/val/loss"))
    assert r" & \multicolumn{2}{c}{b=1} & \multicolumn{2}{c}{b=2} \\ \cmidrule(lr){2-3}\cmidrule(lr){4-5}" in text
    assert r"a & mlm/val/accuracy & mlm/val/loss & mlm/val/accuracy & mlm/val/loss \\" in text
    assert text.count("& --") == 2 and r"\begin{tabular}{lcccc}" in text


def test_a_full_disk_leaves_the_table_that_was_there(tmp_path, monkeypatch):
    runs = [state(tmp_path, {"a": a}, 0, 0.5) for a in (1, 2)]
    names = write_table(make_table(study(), runs), tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in names}
    runs += [state(tmp_path, {"a": 3}, 0, 0.5)]
    syncs, sync = [], os.fsync

    def full(handle: int) -> None:
        syncs.append(handle)
        if len(syncs) == 3:  # the first two have found room
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="There is no room left for .*table.tex.*; it is as it was. Free space"):
        write_table(make_table(study(), runs), tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in names} == before
    assert not [*tmp_path.glob(".*")]


def test_a_metric_that_no_run_has_is_refused_with_those_that_are_there(tmp_path):
    runs = [state(tmp_path, {"a": a}, 0, 0.5) for a in (1, 2)]
    with pytest.raises(UserError, match="no run that is done has it; there are mlm/val/accuracy, mlm/val/loss"):
        make_table(study(metrics=("mlm/val/f1",)), runs)


@pytest.mark.parametrize(
    ("split", "sentence"), [("val", "was evaluated on other data"), ("train", "was trained on other data")]
)
def test_runs_of_other_data_have_no_mean(split, sentence, tmp_path):
    data = {"train": {"a.arrow": {"ends": "1"}}, "val": {"b.arrow": {"ends": "2"}}}
    runs = [state(tmp_path, {"a": 1}, 0, 0.5), state(tmp_path, {"a": 1}, 1, 0.5, data=data | {split: {"c.arrow": {}}})]
    with pytest.raises(UserError, match=sentence):
        make_table(study(), runs)


def test_predictions_of_the_runs_give_intervals_over_examples(tmp_path):
    runs = [state(tmp_path, {"a": a}, 0, 0.75 if a else 0.5) for a in (0, 1)]
    for run, right in zip(runs, (50, 75), strict=True):
        path = run.folder / predictions_file("mlm", "val")
        path.parent.mkdir()
        frame = pd.DataFrame({"id": [*range(100)], "score": [float(number < right) for number in range(100)]})
        frame.to_parquet(path)
    table = make_table(study({"a": 0}), runs)
    cells = [row.cells[0] for row in table.rows]
    low, high = cells[0].interval
    assert 0.38 < low < 0.44 and 0.56 < high < 0.62  # of one seed: its examples
    assert cells[1].p < 0.001 and not cells[0].near
    assert "over seeds and examples" in markdown(table) and "p<.001" in markdown(table)


def test_variants_that_were_asked_otherwise_get_a_footnote(tmp_path):
    runs = []
    for group, answers in ((1, "aaaa"), (2, "aaaa"), (3, "aaab")):
        runs.append(state(tmp_path, {"negative_group": group}, 0, 0.5))
        path = runs[-1].folder / predictions_file("mlm", "val")
        path.parent.mkdir()
        pd.DataFrame({"id": range(4), "score": [0.0, 1, 1, 0], "target": [*answers]}).to_parquet(path)
    table = make_table(study({"negative_group": 1}), runs)
    assert [row.cells[0].notes for row in table.rows] == [(), (), (0,)]
    assert table.notes[0].startswith("asked otherwise about the same examples")
    assert "asked otherwise" in markdown(table)
