"""What loggers get of runs: numbers, settings, results, and examples of the validation split; and that it changes no run."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import small_run
from renaissance.core.atomic import is_locked
from renaissance.evaluation.runs import read_run
from renaissance.runs import loggers, report
from renaissance.training import loop
from small_run import SMALL, command
from small_tasks import words as small_words

WORDS = ("task_mlm_itm", *SMALL, "max_steps=4", "val_check_interval=2", "final_test=False")
EXAMPLES = 8


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_cache: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.delenv(name, raising=False)
    small_run.write_coco_vg(tmp_path / "data" / "arrow")
    return tmp_path


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0}).Reload()


def tables(found: EventAccumulator) -> dict[int, list[list[str]]]:
    """The cells of the examples that the text plugin shows, by step; the first row is the head."""
    texts = {each.step: each.tensor_proto.string_val[0].decode() for each in found.Tensors("examples/text_summary")}
    return {
        step: [[cell.strip() for cell in row.strip("|").split("|")] for row in text.splitlines() if "---" not in row]
        for step, text in texts.items()
    }


def captions(found: EventAccumulator) -> list[str]:
    """What stands above each picture."""
    tags = sorted(tag for tag in found.Tags()["tensors"] if tag.startswith("examples/") and tag[-1].isdigit())
    return [found.SummaryMetadata(tag).display_name for tag in tags]


def hyperparameters(found: EventAccumulator, tag: str) -> HParamsPluginData:
    return HParamsPluginData.FromString(found.PluginTagToContent("hparams")[f"_hparams_/{tag}"])


def words_of(row: Sequence[str]) -> set[str]:
    return {word for cell in row for word in cell.split()}


def test_tensorboard_shows_examples_settings_and_results(work: Path, capsys):
    """Eight examples of as many pictures as there are, the same at each validation; and a run without them is the same run."""
    folder = small_run.train(capsys, *WORDS, "eval_batch_size=4", "tags=[baseline,paper]")
    found = events(folder)
    shown = tables(found)
    assert list(shown) == [2, 4] and all(
        rows[0] == ["example", "text", "with masks", "masked -> guessed"] for rows in shown.values()
    )
    # Two captions each: the first one of eight of nine pictures.
    texts = [row[1] for row in shown[2][1:]]
    assert captions(found) == texts and len(texts) == EXAMPLES
    assert [text.split(" beside ")[1].split()[-4:] for text in texts] == [
        [str(n), "of", "view", "0"] for n in range(EXAMPLES)
    ]
    assert all({point.step for point in found.Tensors(f"examples/{place}")} == {2} for place in range(EXAMPLES))
    width, height, png = found.Tensors("examples/3")[0].tensor_proto.string_val
    assert (width, height, png[1:4]) == (b"32", b"32", b"PNG")
    for (_, text, masked, words), (_, *again, _) in zip(shown[2][1:], shown[4][1:], strict=True):
        assert again == [text, masked]
        true = words_of([each.split(" -> ")[0] for each in words.split(", ") if words])
        assert true <= words_of([text]) and (masked == text or true), (text, masked, words)

    results = small_run.results(folder)
    final = {
        f"final/{task}/val/{metric}": value for task, each in results["val"].items() for metric, value in each.items()
    }
    assert {tag for tag in found.Tags()["scalars"] if tag.startswith("final/")} == {*final}
    assert [found.Scalars(tag)[0].value for tag in final] == pytest.approx([*final.values()])
    start = hyperparameters(found, "session_start_info").session_start_info.hparams
    assert start["learning_rate"].number_value == 1e-4 and start["loss_names.mlm"].number_value == 1
    assert start["tags"].string_value == "baseline, paper" and start["blind"].string_value == "False"
    assert hyperparameters(found, "session_end_info").HasField("session_end_info")
    assert read_run(folder, "runs").tags == ["baseline", "paper"]

    plain = small_run.train(capsys, *WORDS, "eval_batch_size=4", "logger=csv")
    small_run.same_run(folder, plain)
    assert not [*plain.glob("events.*")]
    with open(plain / "csv" / "version_0" / "metrics.csv", encoding="utf-8", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [float(row["mlm/train/loss"]) for row in rows if row["mlm/train/loss"]] == small_run.curve(
        plain, "mlm/train/loss"
    )
    assert float(rows[-1]["final/mlm/val/loss"]) == results["val"]["mlm"]["loss"]
    assert "learning_rate: 0.0001" in (plain / "csv" / "version_0" / "hparams.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("task", "heads", "pictures"),
    [
        ("vqa", {"target", "prediction"}, {(32, 32)}),
        pytest.param("nlvr2", {"target", "prediction"}, {(64, 32)}, marks=pytest.mark.slow),  # side by side
        pytest.param(
            "ref", {"target", "prediction"}, {(32 * boxes, 32) for boxes in range(1, 5)}, marks=pytest.mark.slow
        ),
        pytest.param("glue", {"target", "prediction"}, set(), marks=pytest.mark.slow),
        pytest.param("images", {"target", "prediction"}, {(32, 32)}, marks=pytest.mark.slow),
        pytest.param("irtr", set(), {(32, 32)}, marks=pytest.mark.slow),
    ],
)
def test_examples_of_a_downstream_task_have_answer_and_prediction(
    task: str, heads: set[str], pictures: set[tuple[int, int]], work: Path, capsys
):
    found = events(small_run.train(capsys, *small_words(task, work), "max_steps=1", "final_test=False"))
    if heads:
        [rows] = tables(found).values()
        assert {*rows[0]} == {"example", "text", *heads} and all(row[1:] for row in rows)
    tags = [tag for tag in found.Tags()["tensors"] if tag.startswith("examples/") and tag[-1].isdigit()]
    sizes = {tuple(map(int, found.Tensors(tag)[0].tensor_proto.string_val[:2])) for tag in tags}
    assert sizes <= pictures and bool(sizes) == bool(pictures)


@pytest.mark.slow
def test_runs_of_wandb_and_mlflow_go_on_where_they_stopped(work: Path, monkeypatch, capsys):
    """Without a server: in files of the run folder, and of log_dir."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    words = (*WORDS, "logger=[wandb,mlflow]", "tags=[baseline]")
    folder = small_run.train(capsys, *words)
    ids = json.loads((folder / "loggers.json").read_text(encoding="utf-8"))
    last = folder / "checkpoints" / "last.ckpt"
    assert small_run.train(capsys, f"resume_from={last}", "max_steps=6", "tags=[longer]").resolve() == folder.resolve()
    assert json.loads((folder / "loggers.json").read_text(encoding="utf-8")) == ids and not [*folder.glob("events.*")]

    from mlflow.tracking import MlflowClient

    client = MlflowClient((work / "result" / "mlruns").as_uri())
    [run] = client.search_runs([client.get_experiment_by_name("mlm_itm").experiment_id])
    assert (run.info.run_id, run.info.run_name, run.info.status) == (ids["mlflow"], "version_0", "FINISHED")
    assert {"baseline", "longer"} <= {*run.data.tags}
    assert run.data.params["learning_rate"] == "0.0001" and run.data.params["max_steps"] == "4"  # as it began
    losses = [point.value for point in client.get_metric_history(ids["mlflow"], "mlm/train/loss")]
    assert losses == pytest.approx(small_run.curve(folder, "mlm/train/loss"))
    assert run.data.metrics["final/mlm/val/loss"] == pytest.approx(small_run.results(folder)["val"]["mlm"]["loss"])
    artifacts = {each.path for each in client.list_artifacts(ids["mlflow"], "examples")}
    assert artifacts == {f"examples/{n}.png" for n in range(EXAMPLES)} | {
        f"examples/step_{n:09d}.md" for n in (2, 4, 6)
    }

    first, second = sorted((folder / "wandb").glob(f"offline-run-*-{ids['wandb']}"))
    content = [(each / f"run-{ids['wandb']}.wandb").read_bytes() for each in (first, second)]
    for written, tag in zip(content, (b"baseline", b"longer"), strict=True):
        assert all(
            word in written
            for word in (tag, b"mlm/train/loss", b"final/mlm/val/loss", b"learning_rate", b"mlm_itm/version_0")
        )
    assert len([*first.rglob("*.png")]) == EXAMPLES and len([*first.rglob("*.table.json")]) == 2


def test_what_a_logger_cannot_write_ends_no_run(work: Path, monkeypatch, capsys):
    def lost(self, values, step):
        raise ConnectionError("the server is away")

    monkeypatch.setattr(loggers.TensorBoard, "metrics", lost)
    ended = command(capsys, *WORDS)
    said = "warning: logger=tensorboard cannot write (the server is away); metrics.csv has all numbers."
    assert ended.code == 0 and ended.out.count(said) == 1
    assert len(small_run.curve(work / "result" / "mlm_itm" / "version_0", "mlm/train/loss")) == 4


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_that_is_not_installed_is_refused_before_anything_starts(name: str, work: Path, monkeypatch, capsys):
    monkeypatch.setattr(loggers, "find_spec", lambda package: None)
    sentence = command(capsys, *WORDS, f"logger={name}").sentence()
    assert (
        sentence.startswith(f"logger={name} needs the package {name}: pip install '{name}")
        and not (work / "result").exists()
    )


def test_a_logger_that_cannot_start_says_why(work: Path, monkeypatch, capsys):
    def unknown(*_):
        raise RuntimeError("No API key configured. Use `wandb login` to log in.\nAnd so on.")

    monkeypatch.setitem(loggers._LOGS, "wandb", unknown)
    assert command(capsys, *WORDS, "logger=[csv,wandb]").sentence() == (
        "logger=wandb cannot start (No API key configured. Use `wandb login` to log in.); WANDB_MODE=offline logs without a "
        "server; see to that, or leave it out."
    )
    assert not (work / "result").exists()


def test_a_logger_that_cannot_start_leaves_a_run_as_it_was(work: Path, monkeypatch, capsys):
    """A new folder is removed, with what other loggers have begun; that of a run that goes on is kept, and free."""
    folder = small_run.train(capsys, *WORDS)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "bad://x")
    both = "logger=[tensorboard,mlflow]"
    assert "logger=mlflow cannot start" in command(capsys, *WORDS, both).sentence()
    assert [each.name for each in folder.parent.iterdir()] == ["version_0"]
    last = f"resume_from={folder}/checkpoints/last.ckpt"
    assert "logger=mlflow cannot start" in command(capsys, last, both, "max_steps=6").sentence()
    assert not is_locked(folder)
    assert small_run.train(capsys, last, "max_steps=6").resolve() == folder.resolve()


def test_no_examples_are_made_for_tables_alone(work: Path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "ValidationExamples", None)
    small_run.train(capsys, *WORDS, "logger=csv")
    monkeypatch.setattr(report, "_commit", lambda: pytest.fail("it is of the process that writes"))
    assert command(capsys, *WORDS, "fast_dev_run=1").code == 0


@pytest.mark.parametrize("value", ["comet", "[]", "[csv,csv]", "[csv,comet]", "None"])
def test_a_logger_that_there_is_not_is_refused(value: str, capsys):
    assert (
        "is not allowed: give one of tensorboard, wandb, mlflow, csv, or a list of them."
        in command(capsys, "task_mlm", "max_steps=1", f"logger={value}").sentence()
    )
