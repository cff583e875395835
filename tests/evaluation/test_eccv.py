"""Several right answers: the metrics against their published definitions, counted over whole orders; and which files serve."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import eccv_caption
import numpy as np
import pandas as pd
import pytest
import torch

from data.prepare import raw_eccv
from data.prepare.raw_eccv import EXTRA, PartOfMetrics
from evaluation.test_ranking import alone, parts, split_of, together
from renaissance.core.errors import UserError
from renaissance.data.collate import Collate
from renaissance.data.datasets import open_pairs
from renaissance.data.prepare.karpathy import make_arrow
from renaissance.evaluation.eccv import SeveralAnswers, _chance
from renaissance.evaluation.ranking import Ranking
from renaissance.evaluation.ranks import Columns, Ranked, rank, recalls
from tiny_models import MAX_TEXT_LEN, tokenizer

HOW = {"method": "all pairs", "exact": True}


class Part(PartOfMetrics):
    images = 120


@pytest.fixture(autouse=True)
def part(monkeypatch: pytest.MonkeyPatch) -> eccv_caption.Metrics:
    monkeypatch.setattr(eccv_caption, "Metrics", Part)
    return Part()


def pairs(known: eccv_caption.Metrics, extra: tuple[int, ...] = EXTRA, **changes: Any) -> Any:
    """What is asked of a data set: the images and captions that the package knows, and more captions of the first images."""
    images = known.coco_gts["i2t"]
    texts = [[*of, *extra[number : number + 1]] for number, of in enumerate(images.values())]
    given = {
        "rows": np.repeat(np.arange(len(texts)), [*map(len, texts)]),
        "image_names": [f"COCO_val2014_{image:012d}.jpg" for image in images],
        "caption_ids": np.concatenate(texts),
    } | changes
    return SimpleNamespace(
        rows=lambda: given["rows"],
        image_names=lambda first: [given["image_names"][row] for row in given["rows"][first]],
        caption_ids=lambda: given["caption_ids"],
        describe=lambda: [SimpleNamespace(file="coco_caption_karpathy_test.arrow")],
    )


def scores_of(data: Any, seed: int = 0) -> np.ndarray:
    """(T,P) without ties, some right; the captions that the package does not know match every image best."""
    draw, owner = np.random.default_rng(seed), data.rows()
    scores = draw.permutation(owner.size * (owner[-1] + 1)).reshape(len(owner), -1).astype(np.float32)
    scores[np.arange(len(owner)), owner] += scores.max() * draw.random(len(owner)).astype(np.float32)
    return scores + np.isin(data.caption_ids(), EXTRA)[:, None] * 4 * scores.max()


def scored(answers: SeveralAnswers, ranked: Ranked) -> dict[str, Any]:
    frames = {
        "text_to_image": pd.DataFrame({"group": ranked.image_of_text}),
        "image_to_text": pd.DataFrame({"group": np.arange(ranked.image_of_text[-1] + 1)}),
    }
    return answers.score(ranked, frames, **HOW)


def orders(data: Any, known: eccv_caption.Metrics, scores: np.ndarray) -> dict[str, dict[int, list[int]]]:
    """Of each query all that the package knows of the other kind, best first."""
    texts = data.caption_ids().tolist()
    images = [int(name[-16:-4]) for name in data.image_names(np.unique(data.rows(), return_index=True)[1])]
    t2i = {text: [images[p] for p in np.argsort(-row)] for text, row in zip(texts, scores, strict=True)}
    i2t = {
        image: [texts[t] for t in np.argsort(-scores[:, p]) if texts[t] in known.coco_gts["t2i"]]
        for p, image in enumerate(images)
    }
    return {"t2i": t2i, "i2t": i2t}


def naive(order: list[int], right: list[int]) -> tuple[float, float, float]:
    """mAP@R, R-Precision and R@1 of a query with R right answers.

    mAP@R is 1/R x the sum over the first R places of the precision up to there, where it is right (Musgrave et al., ECCV 2020).
    """
    total, found = 0.0, 0
    for place in range(len(right)):
        if order[place] in right:
            found += 1
            total += found / (place + 1)
    return total / len(right), found / len(right), float(order[0] in right)


def test_metrics_are_those_of_their_definitions_over_the_whole_order(part: eccv_caption.Metrics):
    data = pairs(part)
    answers, scores = SeveralAnswers(data), scores_of(data)
    whole = orders(data, part, scores)
    found = scored(answers, rank(scores, alone(data.rows()), keep=answers.depth))
    for way, key in (("text_to_image", "t2i"), ("image_to_text", "i2t")):
        values = np.array([naive(whole[key][query], right) for query, right in part.eccv_gts[key].items()])
        for name, expected in zip(("map_at_r", "rprecision", "r1"), values.mean(0), strict=True):
            assert found[f"eccv_{name}_{way}"].value == pytest.approx(expected, abs=1e-12) and expected > 0.05
        for k in (1, 5, 10):
            hits = [any(each in right for each in whole[key][query][:k]) for query, right in part.cxc_gts[key].items()]
            assert found[f"cxc_r{k}_{way}"].value == pytest.approx(np.mean(hits), abs=1e-12)
        told = found[f"eccv_map_at_r_{way}"].record()
        assert (
            told["examples"] == len(part.eccv_gts[key])
            and told["interval"][0] < values[:, 0].mean() < told["interval"][1]
        )
        assert (
            told["method"] == "all pairs; right answers: ECCV Caption (Chun et al., ECCV 2022), by eccv_caption 0.1.0"
        )
        assert told["candidates"] == len(part.coco_gts["i2t" if key == "t2i" else "t2i"])
    assert len(found) == 12


def test_numbers_are_those_that_the_package_gives_for_all_queries(part: eccv_caption.Metrics):
    """And without ties its COCO recalls are ours."""
    data = pairs(part, extra=())
    answers, scores = SeveralAnswers(data), scores_of(data, 1)
    ranked, lists = rank(scores, alone(data.rows()), keep=answers.depth), orders(data, part, scores)
    targets = ("eccv_r1", "eccv_map_at_r", "eccv_rprecision", "cxc_recalls", "coco_5k_recalls")
    theirs = part.compute_all_metrics(lists["i2t"], lists["t2i"], target_metrics=targets)
    ours, plain = scored(answers, ranked), recalls(ranked)
    for way, key in (("text_to_image", "t2i"), ("image_to_text", "i2t")):
        for name in ("eccv_r1", "eccv_map_at_r", "eccv_rprecision", "cxc_r1", "cxc_r5", "cxc_r10"):
            assert ours[f"{name}_{way}"].value == pytest.approx(theirs[name][key], abs=1e-12)
        for k in (1, 5, 10):
            assert plain[f"{way}_r{k}"] == theirs[f"coco_5k_r{k}"][key]


def test_several_processes_keep_the_same_best_ones(part: eccv_caption.Metrics):
    data = pairs(part)
    answers, scores, owner = SeveralAnswers(data), scores_of(data), data.rows()
    scores = scores // 50  # with ties
    one = rank(scores, alone(owner), keep=answers.depth)
    share = lambda number: np.arange(owner[-1] + 1)[number::3]  # noqa: E731
    for found in together(
        3,
        lambda number, gather: rank(
            scores[:, share(number)], Columns(owner, share(number), gather), keep=answers.depth
        ),
    ):
        np.testing.assert_equal(found, one)
    assert one.best_texts.ids.shape == (120, answers.depth) and answers.depth > 10 + len(EXTRA)


def test_chance_is_that_of_orders_drawn_by_lot():
    draw, sizes = np.random.default_rng(0), np.array([1, 3, 7])
    drawn = [[naive(draw.permutation(12).tolist(), [*range(size)]) for size in sizes] for _ in range(4000)]
    by_lot = np.mean(drawn, axis=(0, 1))
    for name, expected in zip(("eccv_map_at_r", "eccv_rprecision", "eccv_r1"), by_lot, strict=True):
        assert _chance(name, sizes, 12) == pytest.approx(expected, abs=0.01), name


def test_only_the_split_that_the_package_asks_about_serves(part: eccv_caption.Metrics):
    sound = pairs(part)
    texts, rows = sound.caption_ids(), sound.rows()
    own = [f"COCO_val2014_{image:012d}.jpg" for image in part.coco_gts["i2t"]]
    assert len(texts) == 602 and SeveralAnswers(sound).depth > 10
    changes = {
        "120 and 601, has 120 and 599": {"rows": rows[:-1], "caption_ids": texts[:-1]},
        "120 and 602, has 120 and 599": {
            "caption_ids": np.where(texts == texts[0], texts[7], texts)
        },  # another image's
        "120 and 602, has 119 and 595": {"image_names": ["flower.jpg", *own[1:]]},
    }
    for there, change in changes.items():
        with pytest.raises(UserError) as refusal:
            SeveralAnswers(pairs(part, **change))
        assert str(refusal.value) == (
            "eccv_caption=True asks about 120 images and 600 captions, COCO's test split of Karpathy; "
            f"coco_caption_karpathy_test.arrow, with {there} of them; prepare the official split, or leave it out."
        )


@pytest.mark.slow
@torch.no_grad()
def test_the_official_split_from_its_raw_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """5,000 images and 25,010 captions with their real numbers, ranked by random weights; against the package itself."""
    monkeypatch.setattr(eccv_caption, "Metrics", PartOfMetrics.__base__)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    known = eccv_caption.Metrics()
    raw_eccv.write(tmp_path / "raw", known)
    make_arrow(tmp_path / "raw", tmp_path / "arrow", workers=1)
    data = open_pairs(["coco"], "test", tmp_path / "arrow")
    model, match, itc = parts("two-tower")
    answers = SeveralAnswers(data)
    split = split_of(data)
    split = split._replace(collate=Collate(tokenizer(), MAX_TEXT_LEN, 64, {}, split.collate.source))
    ranked = Ranking(model, match, split, answers.depth).run(0, itc.vectors)
    assert answers.depth == 48 + 10 and ranked.best_texts.ids.shape == (5000, 58)
    images, texts = [*known.coco_gts["i2t"]], data.caption_ids()
    t2i = {text: [images[n] for n in row] for text, row in zip(texts.tolist(), ranked.best_images.ids, strict=True)}
    i2t = {
        image: [text for text in texts[row].tolist() if text in known.coco_gts["t2i"]]
        for image, row in zip(images, ranked.best_texts.ids, strict=True)
    }
    targets = ("eccv_r1", "eccv_map_at_r", "eccv_rprecision", "cxc_recalls")
    theirs = known.compute_all_metrics(i2t, t2i, target_metrics=targets)
    found = scored(answers, ranked)
    for name, both in theirs.items():
        for way, key in (("text_to_image", "t2i"), ("image_to_text", "i2t")):
            assert found[f"{name}_{way}"].value == pytest.approx(both[key], abs=1e-12)
    examples = [each.record()["examples"] for each in found.values()]
    assert examples == [1332] * 3 + [24972] * 3 + [1261] * 3 + [5000] * 3
