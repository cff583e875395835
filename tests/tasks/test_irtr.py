"""Retrieval: false texts, the loss over them, and where a pretraining checkpoint ranks as it is."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from torch.nn import functional as F

import small_run
from renaissance.core.errors import UserError
from renaissance.data.collate import Collate, MicroBatch, Source
from renaissance.data.datasets import open_pairs
from renaissance.data.false_texts import FalseTexts
from renaissance.data.identity import text_key
from renaissance.data.sampler import Draw
from renaissance.data.transforms import make_transform
from renaissance.evaluation.ranks import chance_of_any
from renaissance.tasks.base import Context, Encodings
from renaissance.tasks.irtr import Irtr
from renaissance.tasks.itc import Itc
from small_tasks import TOWERS, words
from tiny_models import MAX_TEXT_LEN, PATCH, SIDE, VOCAB, one_tower, stirred, tokenizer, two_tower


def context(**objectives: object) -> Context:
    given = {
        "draw_false_text": 3,
        "rerank_top_k": None,
        "get_recall_metric": False,
        "eccv_caption": False,
        "loss_names": {"irtr": 1.0},
    }
    return Context(SimpleNamespace(objectives=SimpleNamespace(**{**given, **objectives})), VOCAB)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("pairs")
    small_run.write_pairs(folder / "mine_train.arrow", 6, captions=3)
    return open_pairs(["mine"], "train", folder)


def collate(pairs, count: int = 3, seed: int = 0) -> Collate:
    source = Source(pairs, make_transform("vit", SIDE, patch_size=PATCH, seed=0))
    return Collate(tokenizer(), MAX_TEXT_LEN, 32, {"irtr": FalseTexts(seed, count)}, source)


def batch(pairs, ids: list[int], epoch: int = 0, **made):
    collated = collate(pairs, **made)
    [found] = collated([collated.source.example(Draw(epoch, id)) for id in ids])
    return found


def false_texts(pairs, ids: list[int], epoch: int = 0, seed: int = 0, count: int = 8) -> list[list[str]]:
    """The false texts of each sample, as they go to the tokenizer."""
    seen: list[str] = []

    def recording(texts: list[str]) -> tuple[None, None]:
        seen.extend(texts)
        return None, None

    made = collate(pairs)
    examples = [made.source.example(Draw(epoch, id)) for id in ids]
    FalseTexts(seed, count)(MicroBatch(examples, None, None, made.source, [], recording))
    assert len(seen) == count * len(ids)
    return [seen[start : start + count] for start in range(0, len(seen), count)]


def test_false_texts_are_functions_of_seed_epoch_and_sample_and_never_true(pairs):
    ids = list(range(len(pairs)))
    drawn = false_texts(pairs, ids)
    for id, texts in zip(ids, drawn, strict=True):
        assert not {text_key(text) for text in texts} & pairs[id].text_keys
    assert false_texts(pairs, [11, 3]) == [drawn[11], drawn[3]]
    assert [texts[:5] for texts in drawn] == false_texts(pairs, ids, count=5)
    assert false_texts(pairs, ids, epoch=1) != drawn != false_texts(pairs, ids, seed=1)
    every = {text for epoch in range(12) for text in false_texts(pairs, [0], epoch)[0]}
    assert every == {pairs.text(id) for id in ids if text_key(pairs.text(id)) not in pairs[0].text_keys}


def test_a_text_that_another_picture_shares_is_not_false(tmp_path: Path):
    """Whatever its case and spacing: of four texts two are the first image's own, and a third says the same as one."""
    small_run.write_pairs(tmp_path / "mine_train.arrow", 2)
    table = pa.ipc.open_file(tmp_path / "mine_train.arrow").read_all()
    captions = pa.array([["a red circle", "two squares"], ["A  Red CIRCLE", "the blue square"]])
    table = table.set_column(table.schema.get_field_index("caption"), "caption", captions)
    with pa.OSFile(str(tmp_path / "mine_train.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    pairs = open_pairs(["mine"], "train", tmp_path)
    assert false_texts(pairs, [0, 1]) == [["the blue square"] * 8] * 2


def test_a_data_set_of_one_picture_has_no_false_text(tmp_path: Path):
    small_run.write_pairs(tmp_path / "mine_train.arrow", 1, captions=3)
    with pytest.raises(UserError, match="draw_false_text=3: none of 19 texts drawn from the data set is false"):
        batch(open_pairs(["mine"], "train", tmp_path), [0])


@pytest.mark.parametrize("make", [two_tower, lambda: one_tower("text")], ids=["two-tower", "one-tower"])
@torch.no_grad()
def test_the_loss_is_that_of_each_picture_with_its_texts_one_at_a_time(make, pairs):
    model = stirred(make()).eval()
    task = stirred(Irtr(model, context()))
    made = batch(pairs, [0, 4, 9])
    targets = made.targets["irtr"]
    out = task(Encodings(model, made), targets)
    expected = 0.0
    for place in range(3):
        own = [made.text._replace(**{f: getattr(made.text, f)[place : place + 1] for f in made.text._fields})]
        false = range(3 * place, 3 * place + 3)
        own += [
            targets.text._replace(**{f: getattr(targets.text, f)[n : n + 1] for f in made.text._fields}) for n in false
        ]
        image = model.embed_image(made.images._replace(pixels=made.images.pixels[place : place + 1]))
        scores = [task.head(model.fuse(model.embed_text(text), image, needs={"pooled"}).pooled)[0] for text in own]
        logits = torch.stack([score[1] - score[0] for score in scores])
        assert torch.allclose(out.logits[place], logits, atol=1e-4)
        expected += float(F.cross_entropy(logits[None], torch.tensor([0])))
    assert float(out.loss) == pytest.approx(expected, abs=1e-3) and float(out.count) == 3
    rows = task.rows(out, targets)
    assert [row["score"] for row in rows] == [float(logits[0] > logits[1:].max()) for logits in out.logits]
    tied = task.rows(out._replace(logits=torch.zeros(3, 4)), targets)
    assert [row["score"] for row in tied] == [0.0] * 3  # a model that cannot tell texts apart gets nothing


@pytest.mark.parametrize(
    ("objectives", "sentence"),
    [
        ({"draw_false_text": 0}, "draw_false_text=0: retrieval needs false texts"),
        ({"rerank_top_k": 16}, "rerank_top_k=16 takes its candidates from the contrastive head: give loss_names.itc=1"),
    ],
)
def test_what_cannot_be_ranked_is_refused(objectives: dict, sentence: str):
    with pytest.raises(UserError, match=sentence):
        Irtr(two_tower(), context(**objectives))


def test_candidates_of_a_head_that_nothing_has_trained_are_refused():
    """They would be drawn by lot, and the recalls look like a model's."""
    model = two_tower()
    task = Irtr(model, context(rerank_top_k=16, loss_names={"irtr": 1.0, "itc": 1.0}))
    heads = {"itc": Itc(model, Context(None, VOCAB))}
    with pytest.raises(UserError, match="rerank_top_k=16 takes its .* which is untrained here: give a load_path"):
        task.check(heads)


@pytest.mark.parametrize("kind", TOWERS)
def test_a_pretraining_checkpoint_ranks_as_it_is(kind: str, hub_cache: Path, tmp_path: Path, capsys):
    """And with candidates of its contrastive head; both give the numbers of retrieval."""
    common = words("irtr", tmp_path, kind)
    pretraining = [word for word in common if not word.startswith(("task_", "draw_false"))]
    run = small_run.train(capsys, "task_mlm_itm_itc", "datasets=['f30k']", *pretraining)
    path = run / "checkpoints" / "best.ckpt"
    evaluation = [word for word in common if not word.startswith("max_steps")] + [f"load_path={path}", "test_only=True"]
    ended = small_run.command(capsys, *evaluation)
    assert ended.code == 0, ended.err
    assert "irtr.head starts from itm.head" in ended.out
    assert "each text ranks 4 images, each image 20 texts" in ended.out
    exact, details = files_of(ended)
    told = details["test"]["irtr"]["text_to_image_r1"]
    assert told["method"] == "every pair through the fusion" and told["examples"] == 20 and told["candidates"] == 4
    assert told["baseline"] == {"chance": 0.25} and told["eval_limit"] is None
    assert told["files"] == ["f30k_caption_karpathy_test.arrow"] and len(told["interval"]) == 2
    assert details["test"]["irtr"]["image_to_text_r1"]["examples"] == 4
    recall = [f"{way}_r{k}" for way in ("text_to_image", "image_to_text") for k in (1, 5, 10)]
    for split in ("val", "test"):
        values = [exact[split]["irtr"][name] for name in recall]
        assert values[:3] == sorted(values[:3]) and values[3:] == sorted(values[3:]) and 0 < values[2] <= 1
    reranked = small_run.command(capsys, *evaluation, "loss_names.itc=1", "rerank_top_k=3")
    assert reranked.code == 0, reranked.err
    found, details = files_of(reranked)
    names = list(exact["test"]["irtr"])
    beside = [each for name in names for each in (name, f"itc_{name}")]
    assert list(found["test"]["irtr"]) == list(details["test"]["irtr"]) == beside and "itc" in found["test"]
    methods = {name: entry["method"] for name, entry in details["test"]["irtr"].items()}
    assert methods["recall_mean"] == "best 3 of ITC through the fusion" and methods["itc_recall_mean"] == "ITC alone"
    assert "not exact: best 3 of ITC through the fusion" in reranked.out and "not exact" not in ended.out
    alone = small_run.command(capsys, *evaluation, "loss_names.itc=1", "rerank_top_k=0")
    assert alone.code == 0, alone.err
    before, details = files_of(alone)
    assert before["test"]["irtr"] == {name: found["test"]["irtr"][name] for name in beside if name.startswith("itc_")}
    assert {entry["method"] for entry in details["test"]["irtr"].values()} == {"ITC alone"}
    for top in (0, 3):
        assert "give loss_names.itc=1" in small_run.command(capsys, *evaluation, f"rerank_top_k={top}").sentence()


def files_of(ended: small_run.Ended) -> tuple[dict, dict]:
    """The content of results.json and of results_details.json of a run."""
    folder = Path(ended.out.rsplit("run folder: ", 1)[1].splitlines()[0])
    return small_run.results(folder), json.loads((folder / "results_details.json").read_text(encoding="utf-8"))


def test_predictions_hold_ids_and_texts_both_ways(hub_cache: Path, tmp_path: Path, capsys):
    """And a limit of images ranks those alone: candidates, chance and files follow, and it is said."""
    run = small_run.train(capsys, *words("irtr", tmp_path), "eval_limit=3")
    pairs = open_pairs(["f30k"], "test", tmp_path / "irtr" / "arrow")
    texts, images = (pd.read_parquet(run / "predictions" / f"irtr_test{end}.parquet") for end in ("", "_image_to_text"))
    assert (len(texts), len(images)) == (15, 3)
    assert texts["text"].tolist() == [pairs.text(number) for number in range(15)]
    assert images["image"].nunique() == 3 and all(name.endswith(".jpg") for name in images["image"])
    for row in texts.itertuples():
        assert row.image == images["image"][row.target] and row.prediction == row.first_ids[0]
        assert [images["image"][number] for number in row.first_ids] == list(row.first_images)
        assert sorted(row.first_ids) == [0, 1, 2] and list(row.first_scores) == sorted(row.first_scores)[::-1]
    for row in images.itertuples():
        assert list(row.texts) == [texts["text"][number] for number in row.target] and len(row.first_texts) == 10
        assert [texts["text"][number] for number in row.first_ids] == list(row.first_texts)
        assert row.score == float(row.rank == 0)
    log = (run / "log.txt").read_text(encoding="utf-8")
    assert "note: eval_limit=3: the first 3 images, 15 of 20 samples; no result of the whole split" in log
    details = json.loads((run / "results_details.json").read_text(encoding="utf-8"))["test"]["irtr"]
    assert details["text_to_image_r1"]["eval_limit"] == {"limit": 3, "of": 20}
    assert details["text_to_image_r1"]["baseline"] == {"chance": pytest.approx(1 / 3)}
    assert details["image_to_text_r5"]["candidates"] == 15


def test_chance_of_a_picture_is_that_of_orders_drawn_by_lot():
    draw, sizes = np.random.default_rng(0), np.array([1, 3, 2])
    owner = np.repeat(np.arange(3), sizes)
    orders = [draw.permutation(owner) for _ in range(4000)]
    for k in (1, 2, 5):
        by_lot = np.mean([[number in order[:k] for number in range(3)] for order in orders])
        assert chance_of_any(sizes, 6, k) == pytest.approx(by_lot, abs=0.02)


def test_a_split_that_is_ranked_goes_through_no_batches_and_keeps_the_run_s_precision(
    hub_cache: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    run = small_run.train(capsys, *words("irtr", tmp_path), "final_test=False")
    told = json.loads((run / "results_details.json").read_text(encoding="utf-8"))["val"]["irtr"]["accuracy"]
    assert told["exact"] is False and told["method"] == "the last validation of training, not best.ckpt"
    ranked, by_batches = set(), []
    match, forward = Irtr.match, Irtr.forward

    # With gradients it is only traced what the loss depends on.
    def matching(self: Irtr, pooled: torch.Tensor) -> torch.Tensor:
        ranked.update(() if torch.is_grad_enabled() else [pooled.dtype])
        return match(self, pooled)

    def of_a_batch(self: Irtr, *of: object) -> object:
        by_batches.extend([] if torch.is_grad_enabled() else of)
        return forward(self, *of)

    monkeypatch.setattr(Irtr, "match", matching)
    monkeypatch.setattr(Irtr, "forward", of_a_batch)
    evaluation = [word for word in words("irtr", tmp_path) if not word.startswith("max_steps")]
    path = run / "checkpoints" / "best.ckpt"
    ended = small_run.command(capsys, *evaluation, f"load_path={path}", "test_only=True", "precision=bf16-mixed")
    assert ended.code == 0, ended.err
    assert ranked == {torch.bfloat16} and not by_batches


def test_recall_selects_where_each_validation_ranks(hub_cache: Path, tmp_path: Path, capsys):
    """And the last validation finds what the evaluation of its checkpoint finds."""
    run = small_run.train(capsys, *words("irtr", tmp_path), "get_recall_metric=True", "val_check_interval=1")
    recall = small_run.curve(run, "irtr/val/recall_mean")
    assert len(recall) == 3 and small_run.curve(run, "val/the_metric") == recall
    assert small_run.results(run)["val"]["irtr"]["recall_mean"] == pytest.approx(max(recall))
    plain = small_run.train(capsys, *words("irtr", tmp_path))
    assert small_run.curve(plain, "irtr/val/accuracy") and not small_run.curve(plain, "irtr/val/recall_mean")
    assert "recall_mean" in small_run.results(plain)["val"]["irtr"]
