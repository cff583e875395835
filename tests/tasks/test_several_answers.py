"""eccv_caption=True from the raw download to results.json; what cannot be asked is refused before anything starts."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import eccv_caption
import numpy as np
import pandas as pd
import pytest

import small_run
from conftest import ROOT
from data.prepare import raw_eccv
from data.prepare.raw_eccv import PartOfMetrics
from renaissance.data.prepare import karpathy
from renaissance.settings import combinations
from small_tasks import SMALL, TOWERS

NAMES = [
    f"{name}_{way}"
    for way in ("text_to_image", "image_to_text")
    for name in ("eccv_map_at_r", "eccv_rprecision", "eccv_r1", "cxc_r1", "cxc_r5", "cxc_r10")
]


def words(folder: Path, *more: str) -> list[str]:
    small = [word for word in SMALL if not word.startswith("max_steps")]
    return [*TOWERS["two-tower"], *small, f"data_root={folder / 'arrow'}", f"log_dir={folder / 'runs'}", *more]


def pretrained(folder: Path, capsys: pytest.CaptureFixture[str], metrics: eccv_caption.Metrics) -> list[str]:
    """The words that evaluate a checkpoint of one step on the split that `metrics` asks about."""
    raw_eccv.write(folder / "raw", metrics)
    karpathy.make_arrow(folder / "raw", folder / "arrow", workers=1)
    given = ("datasets=['coco']", "batch_size=2", "per_gpu_batchsize=2", "max_steps=1", "final_test=False")
    run = small_run.train(capsys, "task_mlm_itm_itc", *words(folder), *given)
    path = run / "checkpoints" / "last.ckpt"
    return ["task_finetune_irtr_coco", *words(folder), f"load_path={path}", "test_only=True", "eccv_caption=True"]


def files_of(ended: small_run.Ended) -> tuple[dict, dict, pd.DataFrame, pd.DataFrame]:
    """Results and details of the test split, and the predictions of texts and of images."""
    assert ended.code == 0, ended.err
    folder = Path(ended.out.rsplit("run folder: ", 1)[1].splitlines()[0])
    details = json.loads((folder / "results_details.json").read_text(encoding="utf-8"))
    tables = (pd.read_parquet(folder / "predictions" / f"irtr_test{end}.parquet") for end in ("", "_image_to_text"))
    return small_run.results(folder), details, *tables


def test_a_checkpoint_is_scored_by_several_right_answers(
    hub_cache: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(eccv_caption, "Metrics", PartOfMetrics)
    part = PartOfMetrics()
    evaluation = pretrained(tmp_path, capsys, part)
    ended = small_run.command(capsys, *evaluation)
    results, details, texts, images = files_of(ended)
    found = results["test"]["irtr"]
    assert [name for name in found if name.startswith(("eccv", "cxc"))] == NAMES
    assert not any(name.startswith(("eccv", "cxc")) for name in results["val"]["irtr"])
    assert (
        "eccv_..., cxc_...: several right answers of a query; of equal scores the first in the file counts" in ended.out
    )
    assert "it/s" not in ended.err.replace("batch/s", "").replace("pair/s", "")  # the bars of the package

    # The ten best ones of a query, which the tables show, are enough for recall at 1.
    numbers = [int(name[-16:-4]) for name in images["image"]]
    asked = [int(text.rpartition(" ")[2]) for text in texts["text"]]
    for key, frame, queries, answers in (("t2i", texts, asked, numbers), ("i2t", images, numbers, asked)):
        way = "text_to_image" if key == "t2i" else "image_to_text"
        rights = part.eccv_gts[key]
        known = part.coco_gts["i2t" if key == "t2i" else "t2i"]
        orders = {
            query: [answers[n] for n in row if answers[n] in known]
            for query, row in zip(queries, frame["first_ids"], strict=True)
        }
        first = [orders[query][0] in right for query, right in rights.items()]
        assert found[f"eccv_r1_{way}"] == pytest.approx(np.mean(first))
        assert frame["eccv_map_at_r"].notna().sum() == len(rights)
        assert frame["eccv_map_at_r"].mean() == pytest.approx(found[f"eccv_map_at_r_{way}"])
        told = details["test"]["irtr"][f"cxc_r5_{way}"]
        assert told["method"].startswith(
            "every pair through the fusion; right answers: CxC (Parekh et al., EACL 2021), by "
        )
        assert told["examples"] == len(part.cxc_gts[key]) and told["exact"] and len(told["interval"]) == 2

    reranked, details, *_ = files_of(small_run.command(capsys, *evaluation, "loss_names.itc=1", "rerank_top_k=3"))
    beside = [name for name in reranked["test"]["irtr"] if "eccv" in name or "cxc" in name]
    assert beside == [each for name in NAMES for each in (name, f"itc_{name}")]
    assert details["test"]["irtr"][NAMES[0]]["method"].startswith(
        "best 3 of ITC through the fusion; right answers: ECCV"
    )
    assert details["test"]["irtr"][NAMES[0]]["exact"] is False
    alone, *_ = files_of(small_run.command(capsys, *evaluation, "loss_names.itc=1", "rerank_top_k=0"))
    for name in NAMES:
        assert alone["test"]["irtr"][f"itc_{name}"] == reranked["test"]["irtr"][f"itc_{name}"]


def test_what_cannot_be_asked_is_refused(hub_cache: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    """Settings by themselves; then files, before anything is computed."""
    plain = words(tmp_path, "eccv_caption=True", "max_steps=1")
    coco = ["task_finetune_irtr_coco", *plain]

    def sentence(*given: str) -> str:
        return small_run.command(capsys, *given).sentence()

    assert sentence("task_mlm", *plain).startswith("eccv_caption=True would change nothing: it is for irtr")
    assert "right answers of coco alone, and datasets=['f30k']; leave it out." in sentence(
        "task_finetune_irtr_f30k", *plain
    )
    assert "eval_limit=100 ranks a part of it; leave one of them out." in sentence(*coco, "eval_limit=100")
    assert "which final_test=False leaves out; leave one of them out." in sentence(*coco, "final_test=False")
    with monkeypatch.context() as without:
        without.setattr(
            combinations, "find_spec", lambda name: None if name == "eccv_caption" else importlib.util.find_spec(name)
        )
        assert sentence(*coco) == "eccv_caption=True needs the package eccv_caption: pip install eccv_caption ujson."

    part = PartOfMetrics()
    raw_eccv.write(tmp_path / "raw", part)
    karpathy.make_arrow(tmp_path / "raw", tmp_path / "arrow", workers=1)
    evaluation = [*coco[:-1], "test_only=True", f"load_path={tmp_path / 'none.ckpt'}"]
    assert "none.ckpt" in sentence(*evaluation)
    asked = "eccv_caption=True asks about 5,000 images and 25,000 captions, COCO's test split of Karpathy; "
    assert sentence(*coco).startswith(
        f"{asked}coco_caption_karpathy_test.arrow, with 24 and 130, has 24 and 120 of them;"
    )

    file = tmp_path / "arrow" / "coco_caption_karpathy_test.arrow"
    small_run.write_pairs(file, 5)  # as older programs wrote them
    assert sentence(*coco) == (
        f"eccv_caption=True: '{file}' has no caption_ids, as older programs wrote none; `python run.py prepare with dataset=coco "
        f"root=<its download> data_root={tmp_path / 'arrow'}` does."
    )
    file.unlink()
    assert "eccv_caption=True asks about the test split of coco, which data_root=" in sentence(*coco)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_two_processes_find_what_one_finds(hub_cache: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(eccv_caption, "Metrics", PartOfMetrics)
    evaluation = [*pretrained(tmp_path, capsys, PartOfMetrics()), "loss_names.itc=1", "rerank_top_k=3"]
    one = files_of(small_run.command(capsys, *evaluation))[0]["test"]["irtr"]
    part = "from data.prepare.raw_eccv import PartOfMetrics; import eccv_caption; eccv_caption.Metrics = PartOfMetrics"
    patch = f"sys.path.insert(0, {str(ROOT / 'tests')!r}); {part}"
    run = small_run.started(tmp_path, *evaluation, "num_gpus=2", "accelerator=cpu", "exp_name=two", patch=patch)
    said, _ = run.communicate(timeout=300)
    assert run.returncode == 0, said
    two = small_run.results(tmp_path / "runs" / "two" / "version_0")["test"]["irtr"]
    assert two == pytest.approx(one, abs=1e-9)
