"""Honest numbers: rows brought together, intervals that cover, runs compared example by example, files that come back."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from renaissance.core.errors import UserError
from renaissance.evaluation.frames import gather_rows, write_predictions
from renaissance.evaluation.intervals import bootstrap, interval, paired_bootstrap
from renaissance.evaluation.metrics import mean_recall
from renaissance.evaluation.runs import read_blind_run
from renaissance.evaluation.score_report import nan_sentence, score_lines
from renaissance.runs.report import RunFolder

RANDOM = np.random.default_rng(0)
TENTHS = RANDOM.choice([0.0, 0.3, 0.6, 0.9, 1.0], 300)  # as scores of VQA
SKEWED = RANDOM.exponential(size=6000)  # more different values than are told apart


def scored(scores: Any, **columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"id": range(len(scores)), "score": scores, **columns})


def rows_of(positions: range, **columns: Any) -> list[dict[str, Any]]:
    return [{"position": place, "id": f"q{place}", "prediction": place % 3, **columns} for place in positions]


def others(*parts: list[dict[str, Any]]) -> Callable[[Any], list[Any]]:
    """A gather to which other processes bring their parts, out of the order of positions."""
    return lambda own: [*parts, own]


def test_rows_of_all_processes_come_together_once_and_in_order():
    frame = gather_rows(rows_of(range(0, 7, 2)), others(rows_of(range(1, 7, 2)), rows_of(range(2)), []), 7)
    assert frame["position"].tolist() == list(range(7))
    assert frame["id"].tolist() == [f"q{place}" for place in range(7)]
    alone = gather_rows(rows_of(range(7)), others(), 7)
    pd.testing.assert_frame_equal(frame, alone)
    assert list(gather_rows([], others(), 0)) == ["id", "prediction", "target", "score", "position"]


def test_a_missing_example_is_no_smaller_split():
    with pytest.raises(RuntimeError, match="6 examples came together of a split that has 7"):
        gather_rows(rows_of(range(6)), others(rows_of(range(3))), 7)
    assert len(gather_rows(rows_of(range(6)), others(), None)) == 6


def test_hidden_answers_leave_whole_numbers_whole():
    rows = [*rows_of(range(2), target=1, score=1.0), *rows_of(range(2, 3), score=None)]
    frame = gather_rows(rows, others(), 3)
    assert frame["target"].tolist() == [1, 1, None]
    assert frame["score"].dtype == float and frame["score"].isna().tolist() == [False, False, True]


@pytest.mark.parametrize("scores", [TENTHS, (TENTHS > 0.5), SKEWED], ids=["tenths", "right or wrong", "continuous"])
def test_interval_of_a_mean_is_that_of_scipy(scores: np.ndarray):
    theirs = scipy.stats.bootstrap(
        (scores.astype(float),), np.mean, method="percentile", n_resamples=5000, batch=100, rng=np.random.default_rng(1)
    )
    tolerance = 0.12 * scores.std() / len(scores) ** 0.5  # of what 5,000 resamples leave to chance, three times
    assert bootstrap(scored(scores), resamples=5000) == pytest.approx(theirs.confidence_interval, abs=tolerance)


def test_interval_of_any_statistic_is_that_of_scipy():
    answers = TENTHS + RANDOM.normal(size=300)
    theirs = scipy.stats.bootstrap(
        (TENTHS, answers),
        lambda a, b: scipy.stats.pearsonr(a, b).statistic,
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=1000,
        rng=np.random.default_rng(1),
    )
    frame = pd.DataFrame({"prediction": TENTHS, "target": answers, "score": math.nan})
    ours = bootstrap(frame, lambda drawn: drawn["prediction"].corr(drawn["target"]))
    assert ours == pytest.approx(theirs.confidence_interval, abs=0.35 * theirs.standard_error)


def test_nineteen_of_twenty_intervals_hold_the_true_mean():
    held = 0
    for seed in range(400):
        low, high = bootstrap(scored(np.random.default_rng(seed).random(200) < 0.7), seed=seed)
        held += low <= 0.7 <= high
    assert 0.92 <= held / 400 <= 0.975


def test_what_belongs_together_is_drawn_together():
    groups = np.repeat(np.arange(60), 5)
    right = np.repeat(RANDOM.integers(0, 2, 60), 5)
    # Five copies of an example say no more than one.
    assert bootstrap(scored(right, group=groups)) == bootstrap(scored(right[::5]))
    mixed = scored(TENTHS, group=np.arange(300) // RANDOM.integers(2, 7, 300).cumsum())
    by_hand = bootstrap(mixed, lambda drawn: drawn["score"].mean())
    assert bootstrap(mixed) == pytest.approx(by_hand, abs=0.35 * mixed["score"].std() / mixed["group"].nunique() ** 0.5)
    count = mixed["group"].nunique()
    # A group that is drawn twice is two.
    assert bootstrap(mixed, lambda drawn: drawn["group"].nunique(), resamples=50) == (count, count)


def test_a_mean_recall_draws_groups_too():
    """Of 40 groups that say the same five times, the interval is that of 40 examples, not of 200."""
    targets, scores = np.tile(["yes", "no"], 20), np.random.default_rng(1).integers(0, 2, 40).astype(float)
    one = mean_recall(scored(scores, target=targets)).record()["interval"]
    columns = {"target": np.repeat(targets, 5), "group": np.repeat(np.arange(40), 5)}
    five = mean_recall(scored(np.repeat(scores, 5), **columns)).record()["interval"]
    apart = mean_recall(scored(np.repeat(scores, 5), target=columns["target"])).record()["interval"]
    assert np.ptp(five) == pytest.approx(np.ptp(one), rel=0.15) and np.ptp(apart) < 0.6 * np.ptp(one)


def test_work_is_bounded():
    calls = []
    bootstrap(scored(np.arange(50_001)), lambda drawn: float(not calls.append(len(drawn))))
    assert calls == [50_001] * 200
    started = time.process_time()
    bootstrap(scored(RANDOM.integers(0, 2, 450_000)))
    assert time.process_time() - started < 2


def test_a_metric_has_an_interval_where_examples_tell_how_sure_it_is():
    frame = scored(TENTHS)
    assert interval([frame]) == bootstrap(frame)
    assert interval([frame], lambda drawn: drawn["score"].max()) == (1.0, 1.0)
    hidden = scored([math.nan] * 2)
    assert np.isnan([*bootstrap(hidden), *bootstrap(hidden, lambda drawn: math.nan)]).all()
    assert interval([frame], lambda drawn: math.nan) is None
    for right, expected in (
        (1.0, (scipy.stats.beta.ppf(0.025, 20, 1), 1)),
        (0.0, (0, scipy.stats.beta.ppf(0.975, 1, 20))),
    ):
        assert interval([scored([right] * 20)]) == pytest.approx(expected)
        assert interval([scored([right] * 60, group=np.arange(60) // 3)]) == pytest.approx(expected)
    for few in (hidden, scored([1.0]), scored([1.0, math.nan]), scored([1.0, 0.0], group=[3, 3]), scored([])):
        assert interval([few]) is None


def test_a_mean_of_means_is_drawn_by_the_groups_that_they_share():
    """As with retrieval: five texts an image, and the image itself; by hand, each image with all that is its own."""
    draw = np.random.default_rng(1)
    texts, pictures = draw.random(300) < 0.3, draw.random(60) < 0.6
    frames = [scored(texts, group=np.arange(300) // 5), scored(pictures, group=np.arange(60))]
    draws = [draw.integers(60, size=60) for _ in range(4000)]
    means = [(texts.reshape(60, 5)[drawn].mean() + pictures[drawn].mean()) / 2 for drawn in draws]
    assert interval(frames) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.012)


def test_few_examples_are_no_proof():
    """Eight examples that are all better: by their signs p is 2/2^8, whatever a bootstrap of them says."""
    for count in (2, 5, 8):
        assert paired_bootstrap(scored([0.0] * count), scored([1.0] * count)).p == 2.0 ** (1 - count)
    groups = np.arange(40) // 10
    assert paired_bootstrap(scored(np.zeros(40), group=groups), scored(np.ones(40), group=groups)).p == 1 / 8
    assert paired_bootstrap(scored([0.0] * 20), scored([1.0] * 20)).p < 0.001
    for few in (scored([1.0]), scored([1.0, 0.0], group=[1, 1])):
        with pytest.raises(UserError, match="of one example, or one group of them"):
            paired_bootstrap(few, few)


def test_an_example_without_an_answer_counts_for_nothing():
    known = scored(TENTHS, group=np.arange(300) // 2)
    some = pd.concat([known, known.assign(id=300 + known["id"], score=math.nan)], ignore_index=True)
    assert bootstrap(some) == bootstrap(known)
    better = known.assign(score=known["score"] + RANDOM.random(300))
    assert paired_bootstrap(some, pd.concat([better, some[300:]])) == paired_bootstrap(known, better)
    said = score_lines("snli", "val", ["f"], some, {"accuracy": TENTHS.mean()}, "accuracy", {})
    assert said[-1] == "  note: 300 examples have no answer and are left out of the mean score"


def test_paired_bootstrap_is_the_distribution_written_out():
    # The differences 1, -1 and three times 1: the mean of five draws is 2 Binomial(5, 4/5) / 5 - 1.
    first, second = scored([0.0, 1.0, 0.0, 0.0, 0.0]), scored([1.0, 0.0, 1.0, 1.0, 1.0])
    paired = paired_bootstrap(first, second)
    chances = scipy.stats.binom(5, 0.8)
    low, high = 2 * chances.ppf(0.025) / 5 - 1, 2 * chances.ppf(0.975) / 5 - 1
    assert paired[:3] == pytest.approx((0.6, low, high)) and paired.examples == 5
    assert paired.p == pytest.approx(2 * chances.cdf(2), abs=0.01)
    same = paired_bootstrap(first, first)
    assert same == (0.0, 0.0, 0.0, 1.0, 5) and not np.signbit(same.low)


def test_paired_bootstrap_matches_by_id_and_mirrors():
    first = scored(TENTHS, group=np.arange(300) // 3)
    second = scored(RANDOM.permutation(TENTHS), group=np.arange(300) // 3).sample(frac=1, random_state=0)
    ahead, behind = paired_bootstrap(first, second), paired_bootstrap(second, first)
    assert ahead.p == behind.p and ahead.difference == -behind.difference
    assert (ahead.low, ahead.high) == pytest.approx((-behind.high, -behind.low), abs=1e-12)  # quantiles round
    assert ahead.difference == pytest.approx((second.sort_index()["score"] - first["score"]).mean())
    read_back = first.assign(id=first["id"].astype(str))  # a file may hold ids as text
    assert paired_bootstrap(read_back, second) == ahead


def test_a_true_difference_is_found_and_none_is_not():
    p = [
        paired_bootstrap(*(scored(np.random.default_rng([seed, side]).random(100) < 0.6) for side in (0, 1))).p
        for seed in range(200)
    ]
    assert 0.01 <= np.mean(np.array(p) < 0.05) <= 0.09
    assert paired_bootstrap(scored(TENTHS * 0.5), scored(TENTHS)).p < 0.001


@pytest.mark.parametrize(
    ("second", "sentence"),
    [
        (pd.DataFrame({"id": [0, 1, 1], "score": 1.0}), r"The id 1 occurs twice in the predictions"),
        (pd.DataFrame({"id": [0, 1, 7, 8], "score": 1.0}), r"different examples \(3 and 4; 3 of them only in one\)"),
        (scored([math.nan] * 3), r"no score where the answers are hidden"),
    ],
)
def test_runs_that_cannot_be_compared(second: pd.DataFrame, sentence: str):
    with pytest.raises(UserError, match=sentence):
        paired_bootstrap(scored([1.0, 0.0, 1.0]), second)


def answered(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"position": [0, 1, 2], "prediction": ["a", "b", "a"], "target": None, **columns})


@pytest.mark.parametrize(
    ("ids", "back"),
    [([7, 8, 9], [7, 8, 9]), (["x", "y", "z"], ["x", "y", "z"]), ([7, "y", 9], ["7", "y", "9"])],
)
def test_predictions_come_back(tmp_path: Path, ids: list[Any], back: list[Any]):
    folder = RunFolder(tmp_path)
    frame = answered(kind=["u", None, "v"], target=["a", None, "b"], id=ids, score=[1.0, None, 0.0])
    write_predictions(folder, "vqa", "val", frame)
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["vqa_val.parquet"]
    read = pd.read_parquet(tmp_path / "predictions" / "vqa_val.parquet")
    assert list(read) == ["id", "prediction", "target", "score", "position", "kind"]
    assert read["id"].tolist() == back
    assert read["prediction"].tolist() == ["a", "b", "a"]
    assert read["target"].isna().tolist() == read["score"].isna().tolist() == [False, True, False]


def test_hidden_and_mixed_columns_have_a_type(tmp_path: Path):
    columns = {"prediction": [1.5, math.nan, 2.0], "candidates": [[1, 2], "none", 3], "boxes": [[1], [2, 3], []]}
    write_predictions(RunFolder(tmp_path), "stsb", "test", answered(id=[1, 2, 3], score=None, **columns))
    read = pd.read_parquet(tmp_path / "predictions" / "stsb_test.parquet", dtype_backend="pyarrow")
    assert str(read["target"].dtype) == "double[pyarrow]" and read["target"].isna().all()
    assert str(read["score"].dtype) == "double[pyarrow]" and read["score"].isna().all()
    assert math.isnan(read["prediction"].to_numpy(float, na_value=-1)[1])  # not hidden: the model said it
    assert read["candidates"].tolist() == ["[1, 2]", "none", "3"]
    assert [list(boxes) for boxes in read["boxes"]] == [[1], [2, 3], []]


def test_folders_that_cannot_be(tmp_path: Path):
    (tmp_path / "predictions").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"vqa_val.parquet' cannot be written \(File exists\); give another log_dir"):
        write_predictions(RunFolder(tmp_path), "vqa", "val", answered(id=[1, 2, 3], score=1.0))


@pytest.fixture
def blind_folder(tmp_path: Path) -> Path:
    """The folder of a blind run of nlvr2 that was right on every other of 40 examples of val."""
    return write_run(tmp_path / "blind", {"val": {"nlvr2": {"accuracy": 0.5, "loss": None}}}, blind=True)


def write_run(path: Path, results: dict[str, Any] | None, **settings: Any) -> Path:
    path.mkdir()
    folder = RunFolder(path)
    folder.write_json("settings.json", {"settings": settings})
    if results is not None:
        folder.write_json("results.json", results)
        write_predictions(folder, "nlvr2", "val", forty(np.arange(40) % 2))
    return path


def forty(right: np.ndarray) -> pd.DataFrame:
    columns = {"position": np.arange(40), "prediction": "True", "target": "True", "score": right.astype(float)}
    return pd.DataFrame({"id": [f"dev-{place}" for place in range(40)], **columns})


def test_what_is_printed(blind_folder: Path):
    frame = forty(np.arange(40) % 4 != 0)
    values = {"loss": 0.5, "accuracy": 0.75, "consistency": 0.125}
    blind = read_blind_run(str(blind_folder), "nlvr2", ["val", "test"])
    said = score_lines(
        "nlvr2",
        "val",
        ["nlvr2_dev.arrow"],
        frame,
        values,
        "accuracy",
        {
            "accuracy": {"interval": (0.6, 0.875), "baseline": {"majority": 0.5125}},
            "consistency": {"interval": (0.1, 0.2)},
        },
        blind,
        ["not the official score"],
    )
    theirs, gain = bootstrap(forty(np.arange(40) % 2)), paired_bootstrap(forty(np.arange(40) % 2), frame)
    assert "\n".join(said) == "\n".join(
        [
            "nlvr2, val: 40 examples of nlvr2_dev.arrow",
            "  accuracy       0.7500  95 % interval 0.6000 to 0.8750 (bootstrap)",
            "  majority       0.5125  the most frequent answer, always",
            f"  blind run      0.5000  95 % interval {theirs[0]:.4f} to {theirs[1]:.4f} (bootstrap), {blind_folder}",
            f"  gain over it  +0.2500  95 % interval {gain.low:+.4f} to {gain.high:+.4f} (bootstrap), paired",
            "  loss           0.5000",
            "  consistency    0.1250  0.1000 to 0.2000",
            "  note: not the official score",
        ]
    )


def test_a_blind_run_that_lacks_something_is_no_silence(blind_folder: Path):
    blind = read_blind_run(str(blind_folder), "nlvr2")
    frame = forty(np.arange(40) % 4 != 0)
    printed = score_lines("nlvr2", "test", ["f"], frame, {"accuracy": 0.75}, "accuracy", {}, blind)
    assert printed[1:] == ["  accuracy  0.7500", f"  note: the blind run {blind_folder} has no accuracy on test"]
    other = score_lines("nlvr2", "val", ["f"], frame[:20], {"accuracy": 0.75}, "accuracy", {}, blind)
    assert other[-1].startswith(
        f"  note: beside the blind run {blind_folder}: The predictions are of different examples"
    )
    (blind_folder / "predictions" / "nlvr2_val.parquet").unlink()
    without = score_lines("nlvr2", "val", ["f"], frame, {"accuracy": 0.75}, "accuracy", {}, blind)
    assert without[2] == f"  blind run  0.5000  {blind_folder}"


def test_a_split_without_answers_gets_no_number(blind_folder: Path):
    hidden = forty(np.zeros(40)).assign(target=None)
    said = score_lines("nlvr2", "test", ["f.arrow"], hidden, {}, "accuracy", {}, notes=["of the server"])
    assert said == [
        "nlvr2, test: 40 examples of f.arrow",
        "  note: this split has no public labels: predictions are written, no metrics",
        "  note: of the server",
    ]
    assert score_lines("probe", "vsr", ["f.arrow"], forty(np.zeros(40)), {}, "accuracy", {})[1:] == [
        "  note: no metric is of such scores: predictions are written, no metrics"
    ]


def test_a_blind_run_of_other_data_or_of_a_part_does_not_stand_beside(blind_folder: Path):
    """Though its examples may have the same numbers; when a file was written does not matter."""
    of_data = lambda ends, mtime=1: {"val.arrow": {"ends": ends, "mtime_ns": mtime}}  # noqa: E731
    record = {"settings": {"blind": True, "eval_limit": 5}, "data": {"val": of_data("00")}}
    RunFolder(blind_folder).write_json("settings.json", record)
    run = read_blind_run(str(blind_folder), "nlvr2")
    assert run.unlike("val", of_data("00", 2), 5) is None
    assert run.unlike("val", of_data("ff"), 5) == "was evaluated on other data of val (val.arrow)"
    assert run.unlike("val", of_data("00"), None) == "was evaluated with eval_limit=5, this run with eval_limit=None"


@pytest.mark.parametrize("within", [".", "results.json", "predictions", "predictions/nlvr2_val.parquet"])
def test_a_blind_run_by_any_of_its_files(blind_folder: Path, within: str):
    blind = read_blind_run(str(blind_folder / within), "nlvr2", ["val"])
    assert blind.value("nlvr2", "val", "accuracy") == 0.5
    assert blind.value("nlvr2", "test", "accuracy") is None


def test_a_blind_run_that_cannot_stand_beside_is_refused(blind_folder: Path, tmp_path: Path):
    seeing = write_run(tmp_path / "seeing", {"val": {"nlvr2": {"accuracy": 0.5}}}, blind=False)
    unfinished = write_run(tmp_path / "unfinished", None, blind=True)
    damaged = write_run(tmp_path / "damaged", {}, blind=True)
    (damaged / "results.json").write_text('{"val": ', encoding="utf-8")
    for path, task, splits, sentence in (
        (tmp_path / "absent", "nlvr2", [], r"absent, which is no run folder \(it does not exist\)"),
        (tmp_path, "nlvr2", [], r"which is no run folder \(it holds no settings.json\)"),
        (unfinished, "nlvr2", [], r"unfinished is of a run that has no results.json yet"),
        (seeing, "nlvr2", [], r"seeing is of a run that saw its images; name one that was trained with blind=True"),
        (blind_folder, "vqa", [], r"blind is of nlvr2, and this run is of vqa"),
        (blind_folder, "nlvr2", ["test"], r"blind was evaluated on val, and this run will be on test"),
        (damaged, "nlvr2", [], r"damaged/results.json' cannot be read as JSON \(Expecting value"),
    ):
        with pytest.raises(UserError, match=sentence) as refusal:
            read_blind_run(str(path), task, splits)
        assert "\n" not in str(refusal.value)


def test_damaged_predictions_are_one_sentence(blind_folder: Path):
    (blind_folder / "predictions" / "nlvr2_val.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"nlvr2_val.parquet' cannot be read \(.*; evaluate that run again"):
        read_blind_run(str(blind_folder), "nlvr2").predictions("nlvr2", "val")


def test_a_metric_that_is_no_number_says_what_that_means():
    values = {"stsb/val/loss": math.nan, "stsb/val/spearman": math.nan, "stsb/val/mae": math.nan, "stsb/val/rmse": 1.0}
    loss, spearman, mae = nan_sentence("stsb", "val", values)
    assert loss == (
        "stsb, val: loss is not a number; the training has diverged: give a smaller learning_rate, or precision=32 "
        "instead of 16-mixed."
    )
    assert spearman.startswith("stsb, val: spearman is not a number; the predictions are all the same")
    assert mae.startswith("stsb, val: mae is not a number; no example of the split counts for it")


def test_results_stay_json(blind_folder: Path):
    assert json.loads((blind_folder / "results.json").read_text())["val"]["nlvr2"]["loss"] is None
    assert read_blind_run(str(blind_folder), "nlvr2").value("nlvr2", "val", "loss") is None
