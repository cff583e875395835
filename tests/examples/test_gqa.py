"""examples/gqa: a benchmark from outside, from its raw files to results and predictions, by the commands of its README."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

import small_run
from renaissance.cli.main import main
from small_tasks import SMALL, TOWERS

PLUGIN = 'plugins=["examples.gqa"]'
MODEL = (*TOWERS["two-tower"], *SMALL)


@pytest.fixture(scope="module")
def folder(hub_cache: Path, own_tables: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small GQA in its official layout."""
    from examples.gqa import generate  # registers

    home = tmp_path_factory.mktemp("gqa")
    generate.write(home / "raw", {"train": 16, "val": 6, "testdev": 6})
    return home


def test_from_raw_files_to_results_and_predictions(folder: Path, capsys: pytest.CaptureFixture[str]):
    places = f"root={folder / 'raw'}", f"data_root={folder / 'arrow'}"
    assert main(["prepare", "with", PLUGIN, "dataset=gqa", *places, "workers=1"]) == 0
    assert "gqa_testdev.arrow: 6 images, 18 texts" in capsys.readouterr().out
    assert main(["check_data", "with", PLUGIN, f"data_root={folder / 'arrow'}", "workers=1"]) == 0
    assert "gqa" in capsys.readouterr().out

    words = ("task_finetune_gqa", PLUGIN, *MODEL, places[1], f"log_dir={folder / 'runs'}")
    run = small_run.train(capsys, *words)
    results = small_run.results(run)
    assert set(results) == {"val", "testdev"}
    for split, values in results.items():
        frame = pd.read_parquet(run / "predictions" / f"gqa_{split}.parquet")
        right = frame["prediction"] == frame["target"]
        opened = frame["structural"] == "query"
        assert len(frame) == 18 and opened.sum() == 6
        assert values["gqa"]["accuracy"] == pytest.approx(right.mean())
        assert values["gqa"]["accuracy_open"] == pytest.approx(right[opened].mean())
        assert values["gqa"]["accuracy_binary"] == pytest.approx(right[~opened].mean())

    best = run / "checkpoints" / "best.ckpt"
    asked = (
        "predict",
        "with",
        f"load_path={best}",
        f"image={folder / 'raw' / 'images' / 'val0.jpg'}",
        "text=Is it red?",
    )
    assert main([*asked, PLUGIN]) == 0
    scores = re.findall(r"(\S+) (0\.\d+)", capsys.readouterr().out)
    assert len(scores) == 5 and sum(float(score) for _, score in scores) <= 1.01
    again = small_run.train(capsys, *words, "test_only=True", f"load_path={best}")
    assert small_run.results(again) == results
    longer = small_run.train(capsys, *words, f"resume_from={run / 'checkpoints' / 'last.ckpt'}", "max_steps=4")
    assert small_run.results(longer).keys() == results.keys()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"question": None}, "question 00['question'] is None, but has to be text"),
        ({"types": []}, "question 00['types'] is list, but has to be an object"),
        (None, "is cut short or is not JSON"),
    ],
)
def test_damaged_questions_are_a_sentence(folder: Path, tmp_path: Path, capsys, change, sentence):
    shutil.copytree(folder / "raw", tmp_path / "raw")
    path = tmp_path / "raw" / "val_balanced_questions.json"
    entry = next(iter(json.loads(path.read_text(encoding="utf-8")).values()))
    text = json.dumps({"00": entry | (change or {})})
    path.write_text(text if change else text[:-9], encoding="utf-8")
    words = f"root={tmp_path / 'raw'}", f"data_root={tmp_path / 'arrow'}", "workers=1"
    assert main(["prepare", "with", PLUGIN, "dataset=gqa", *words]) == 1
    assert sentence in capsys.readouterr().err
