"""The documented commands, word for word, as users run them: own process, no network, `data/arrow/` beside them.

Only the end of the lines is added: fewer steps, and in the quick tests fewer pairs a step.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from small_run import COCO_VG, rows, write_coco_vg

ONE_TOWER = (
    "with {task} encoder=facebook/dino-vits16 max_steps=50000 num_gpus=1 num_nodes=1 per_gpu_batchsize=32 "
    "batch_size=256 data_root=data/arrow/"
)
TWO_TOWER = (
    "with {task} image_encoder=facebook/deit-tiny-patch16-224 text_encoder=google/electra-small-discriminator "
    "cross_layer_hidden_size=256 num_cross_layers=6 max_steps=50000 num_gpus=1 num_nodes=1 per_gpu_batchsize=32 "
    "batch_size=256 data_root=data/arrow/"
)
FILES = {**dict.fromkeys(COCO_VG, 4), "vg.arrow": 6}
METRICS = {
    "mlm": {"loss", "accuracy"},
    "itm": {"loss", "accuracy", "accuracy_matched", "accuracy_mismatched", "without_partner"},
}


def run_documented(run_cli, folder: Path, line: str, task: str, *added: str) -> Path:
    """Runs a documented line and checks all that a run leaves; returns its folder."""
    write_coco_vg(folder / "data" / "arrow", FILES)
    done = run_cli(*line.format(task=task).split(), "max_steps=2", *added, timeout=1500)
    assert done.code == 0, done.stderr
    assert "Warning" not in done.stderr and "Traceback" not in done.stderr, done.stderr

    run = folder / "result" / task.removeprefix("task_") / "version_0"
    assert f"run folder: {run.relative_to(folder)}" in done.stdout
    found = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    [events] = [name for name in found if name.startswith("events.out.tfevents.")]
    saved = {name for name in found if name.startswith("checkpoints/step_")}
    files = {
        "settings.json",
        "metrics.csv",
        "results.json",
        "results_details.json",
        "log.txt",
        "report.html",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
    }
    tasks = [name for name in METRICS if name in task]
    files |= {f"predictions/itm_{split}.parquet" for split in ("val", "test") if "itm" in tasks}
    assert found - {events} - saved == files and "checkpoints/step_000000002.ckpt" in saved

    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert results.keys() == {"val", "test"}
    for split in results:
        assert {name: set(metrics) for name, metrics in results[split].items()} == {
            name: METRICS[name] for name in tasks
        }
    record = json.loads((run / "settings.json").read_text(encoding="utf-8"))
    assert record["settings"]["max_steps"] == 2 and record["sources"]["max_steps"] == "given"
    assert {name for files in record["data"].values() for name in files} == set(FILES)
    assert record["versions"]["torch"] and "max_steps=50000" in record["versions"]["command"]

    assert rows(run)[-1]["step"] == "2"
    scalars = EventAccumulator(str(run)).Reload().Tags()["scalars"]
    assert {f"{name}/{split}/loss" for name in tasks for split in ("train", "val")} <= set(scalars)
    log = (run / "log.txt").read_text(encoding="utf-8")
    said = re.sub(r"(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", "", log)  # all that the run says, with the time
    assert f"{said}report: {run.relative_to(folder) / 'report.html'}\n" == done.stdout
    assert "parameters" in log and "devices: 1 x CPU" in log and "val: coco_caption_karpathy_val.arrow" in log
    return run


@pytest.mark.parametrize("line", [ONE_TOWER, TWO_TOWER], ids=["one-tower", "two-tower"])
def test_documented_command(run_cli, hub_cache, tmp_path, line):
    run = run_documented(run_cli, tmp_path, line, "task_mlm_itm", "batch_size=4", "per_gpu_batchsize=2")
    settings = json.loads((run / "settings.json").read_text(encoding="utf-8"))["settings"]
    assert settings["image_size"] == 224 and settings["max_text_len"] == 50 and settings["vocab_size"] == 30522
    kind = "one-tower" if line == ONE_TOWER else "two-tower"
    assert settings["model_type"] == kind
    assert (settings["tokenizer"] == "google-bert/bert-base-uncased") == (kind == "one-tower")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["task_mlm", "task_itm"])
@pytest.mark.parametrize("line", [ONE_TOWER, TWO_TOWER], ids=["one-tower", "two-tower"])
def test_documented_command_of_one_objective(run_cli, hub_cache, tmp_path, line, task):
    run_documented(run_cli, tmp_path, line, task, "batch_size=4", "per_gpu_batchsize=2")


@pytest.mark.slow
def test_documented_command_at_its_full_batch(run_cli, hub_cache, tmp_path):
    run = run_documented(run_cli, tmp_path, ONE_TOWER, "task_mlm_itm")
    settings = json.loads((run / "settings.json").read_text(encoding="utf-8"))["settings"]
    assert (settings["batch_size"], settings["per_gpu_batchsize"], settings["negative_group"]) == (256, 32, 32)
