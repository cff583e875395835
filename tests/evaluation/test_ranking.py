"""Ranking against plain loops: every pair encoded anew, every rank counted one by one, on one process and on several."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from renaissance.core.types import ImageInput
from renaissance.data.collate import Collate, Source
from renaissance.data.images import decode
from renaissance.data.limited import LimitedDataset
from renaissance.data.pairs import PairDataset
from renaissance.data.text import encode
from renaissance.data.transforms import make_transform
from renaissance.evaluation import ranking, ranks
from renaissance.evaluation.ranking import FullSplit, Ranking
from renaissance.evaluation.ranks import Columns, Ranked, choose_candidates, rank, rank_candidates, recalls
from renaissance.models.heads import ItmHead
from renaissance.tasks.base import Context
from renaissance.tasks.itc import Itc
from tiny_models import MAX_TEXT_LEN, PATCH, PLAIN, SIDE, VOCAB, one_tower, stirred, tokenizer, two_tower

MODELS = {"two-tower": two_tower, "one-tower": lambda: one_tower("image")}
CAPTIONS = (3, 1, 2, 2, 1, 4, 1)  # of each image: their number is told from that of the images
TWINS = ((0, 5), (2, 3))  # pairs of captions that are the same words under two images


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PairDataset:
    return write(tmp_path_factory.mktemp("ranking"), TWINS)


@pytest.fixture(scope="module")
def distinct(tmp_path_factory: pytest.TempPathFactory) -> PairDataset:
    """Without twins, between which it would be chance who becomes a candidate."""
    return write(tmp_path_factory.mktemp("distinct"), ())


def write(folder: Path, twins: tuple[tuple[int, int], ...]) -> PairDataset:
    """Two files of noisy images with captions of two to twelve words, of which `twins` are the same."""
    draw, words = np.random.default_rng(0), PLAIN.split()
    texts = [" ".join(draw.choice(words, size)) for size in draw.integers(2, 13, sum(CAPTIONS))]
    assert len(set(texts)) == len(texts)
    for one, other in twins:
        texts[other] = texts[one]
    rows = []
    for count in CAPTIONS:
        stream = io.BytesIO()
        Image.fromarray(draw.integers(0, 256, (24, draw.integers(24, 40), 3), np.uint8)).save(stream, "PNG")
        rows.append({"image": stream.getvalue(), "caption": [texts.pop(0) for _ in range(count)]})
    schema = pa.schema([("image", pa.binary()), ("caption", pa.list_(pa.string()))])
    for name, part in (("one.arrow", rows[:4]), ("two.arrow", rows[4:])):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_table(pa.Table.from_pylist(part, schema))
    return PairDataset(str(folder), [("mine", "one.arrow"), ("mine", "two.arrow")], training=False)


def image_of_text() -> np.ndarray:
    return np.repeat(np.arange(len(CAPTIONS)), CAPTIONS)


def parts(kind: str) -> tuple[nn.Module, Callable[[Tensor], Tensor], Itc]:
    """A model, how well its pooled vectors match, and a contrastive head."""
    model = MODELS[kind]()
    head = stirred(ItmHead(model.pooled_size))
    return model, lambda pooled: head(pooled)[:, 1] - head(pooled)[:, 0], stirred(Itc(model, Context(None, VOCAB)))


def source_of(dataset: PairDataset, key: str = "imagenet") -> Source:
    return Source(dataset, make_transform(key, SIDE, patch_size=PATCH, seed=0))


def split_of(dataset: PairDataset, key: str = "imagenet") -> FullSplit:
    collate = Collate(tokenizer(), MAX_TEXT_LEN, 3, {}, source_of(dataset, key))
    return FullSplit(collate, 0, 0, 1, lambda value: [value], print)


def together(world: int, work: Callable[[int, Callable[[Any], list[Any]]], Any]) -> list[Any]:
    """What `work(rank, gather)` returns in each of `world` processes, here threads that meet where they gather."""
    meeting, table, found = threading.Barrier(world), [None] * world, [None] * world

    def process(rank: int) -> None:
        def gather(value: Any) -> list[Any]:
            table[rank] = value
            meeting.wait(60)
            values = list(table)
            meeting.wait(60)
            return values

        try:
            found[rank] = work(rank, gather)
        except BaseException:
            meeting.abort()
            raise

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return found


def rankings(dataset: PairDataset, kind: str, world: int, key: str = "imagenet", **options: Any) -> list[Ranked]:
    """What each of `world` processes finds. options: `top` of `Ranking.run`, `say` of `Ranking`."""
    model, match, itc = parts(kind)

    @torch.no_grad()
    def work(rank: int, gather: Callable[[Any], list[Any]]) -> Ranked:
        split = split_of(dataset, key)._replace(rank=rank, world_size=world, gather=gather)
        return Ranking(model, match, split._replace(say=options.get("say", print))).run(options.get("top"), itc.vectors)

    return together(world, work)


@torch.no_grad()
def pairwise(dataset: PairDataset, kind: str, key: str = "imagenet") -> tuple[np.ndarray, np.ndarray]:
    """(T,P) matches and (T,P) similarities, each pair by the whole model, alone and without padding."""
    model, match, itc = parts(kind)
    source = source_of(dataset, key)
    first = [int(np.flatnonzero(image_of_text() == number)[0]) for number in range(len(CAPTIONS))]
    matches, close = (np.zeros((len(dataset), len(first))) for _ in range(2))
    for t in range(len(dataset)):
        encoding, _ = encode(tokenizer(), [dataset[t].text], MAX_TEXT_LEN)
        ids = torch.tensor(encoding["input_ids"])
        text = SimpleNamespace(input_ids=ids, attention_mask=ids >= 0, token_type_ids=torch.zeros_like(ids))
        for p, index in enumerate(first):
            pixels = source.transform(decode(dataset[index].images[0], ""), 0, 0)[None]
            words, patches = model.embed_text(text), model.embed_image(ImageInput(pixels))
            matches[t, p] = match(model.fuse(words, patches).pooled)
            sides = ((model.unimodal_text(text), "text"), (model.unimodal_image(ImageInput(pixels)), "image"))
            if kind == "two-tower":
                sides = ((words, "text"), (patches, "image"))
            one, other = (itc.vectors(*side) for side in sides)
            close[t, p] = one @ other.T
    return matches, close


def counted(scores: np.ndarray, image_of_text: np.ndarray, slack: float = 1e-5) -> tuple[list[int], list[int]]:
    """Ranks of texts and of images, counted one by one; whatever ties with the right one stands before it."""
    texts, pictures = [], []
    for t, own in enumerate(image_of_text):
        texts.append(sum(scores[t, p] >= scores[t, own] - slack for p in range(scores.shape[1]) if p != own))
    for p in range(scores.shape[1]):
        best = max(scores[t, p] for t, own in enumerate(image_of_text) if own == p)
        pictures.append(sum(scores[t, p] >= best - slack for t, own in enumerate(image_of_text) if own != p))
    return texts, pictures


@pytest.mark.parametrize("kind", MODELS)
def test_exact_ranking_is_pairwise_encoding(kind: str, dataset: PairDataset):
    [ranked] = rankings(dataset, kind, 1)
    matches, _ = pairwise(dataset, kind)
    texts, pictures = counted(matches, image_of_text())
    assert ranked.image_of_text.tolist() == image_of_text().tolist()
    assert ranked.text_ranks.tolist() == texts and ranked.image_ranks.tolist() == pictures
    assert len(set(texts)) > 3 and not ranked.folds and ranked.contrastive is None  # the example tells ranks apart
    for best, scores in ((ranked.best_images, matches), (ranked.best_texts, matches.T)):  # of 14 texts ten are kept
        assert best.ids.shape == best.scores.shape == (len(scores), min(10, scores.shape[1]))
        assert np.allclose(best.scores, -np.sort(-scores, axis=1)[:, :10], atol=1e-5)
        assert np.allclose(best.scores, np.take_along_axis(scores, best.ids, 1), atol=1e-5)


def test_pictures_that_keep_their_aspect_are_padded_in_vain(dataset: PairDataset):
    [ranked] = rankings(dataset, "one-tower", 1, "pixelbert")
    matches, _ = pairwise(dataset, "one-tower", "pixelbert")
    assert (ranked.text_ranks.tolist(), ranked.image_ranks.tolist()) == counted(matches, image_of_text())


@pytest.mark.parametrize("top", [0, 1, 3])
@pytest.mark.parametrize("kind", MODELS)
def test_only_the_closest_go_through_the_fusion(kind: str, top: int, distinct: PairDataset):
    """All others stand behind them, in the order of their similarity; the ranks before the fusion stand beside."""
    [ranked] = rankings(distinct, kind, 1, top=top)
    matches, close = pairwise(distinct, kind)
    alone = ranked if top == 0 else ranked.contrastive
    assert (alone.text_ranks.tolist(), alone.image_ranks.tolist()) == counted(close, image_of_text(), 1e-6)
    assert np.allclose(alone.best_images.scores, -np.sort(-close, axis=1)[:, :10], atol=1e-5)
    names = [f"{way}_r{k}" for way in ("text_to_image", "image_to_text") for k in (1, 5, 10)] + ["recall_mean"]
    assert list(recalls(ranked)) == names
    if top == 0:
        assert ranked.contrastive is None
        return
    chosen = np.zeros(close.shape, bool)
    for t in range(len(close)):
        chosen[t, np.argsort(-close[t])[:top]] = True
    for p in range(close.shape[1]):
        chosen[np.argsort(-close[:, p])[:top], p] = True
    assert 0 < chosen.sum() < chosen.size
    texts, pictures = counted(np.where(chosen, matches, close - 1000), image_of_text())
    assert ranked.text_ranks.tolist() == texts and ranked.image_ranks.tolist() == pictures
    went = chosen[np.arange(len(close))[:, None], ranked.best_images.ids]
    assert np.array_equal(np.isnan(ranked.best_images.scores), ~went)  # what did not go through the fusion has no score


@pytest.mark.parametrize("top", [None, 0, 2, 100])
@pytest.mark.parametrize("world", [2, 3, len(CAPTIONS) + 1])
def test_several_processes_find_what_one_finds(
    world: int, top: int | None, dataset: PairDataset, distinct: PairDataset
):
    """Even where one of them has no image, and where what is no candidate stands behind those of another process."""
    data = dataset if top is None else distinct
    [alone] = rankings(data, "two-tower", 1, top=top)
    for ranked in rankings(data, "two-tower", world, top=top):
        for field in ("image_of_text", "text_ranks", "image_ranks"):
            assert getattr(ranked, field).tolist() == getattr(alone, field).tolist(), field
        for field in ("best_images", "best_texts"):
            one, other = getattr(ranked, field), getattr(alone, field)
            # Of twins it may be rounding that tells which stands first.
            assert np.allclose(one.scores, other.scores, atol=1e-5, equal_nan=True), field
            assert top is None or one.ids.tolist() == other.ids.tolist(), field


def test_the_first_pictures_rank_as_if_there_were_no_others(distinct: PairDataset):
    matches, _ = pairwise(distinct, "two-tower")
    part = LimitedDataset(distinct, 4, by_image=True)
    assert len(part) == sum(CAPTIONS[:4])
    for world in (1, 2):
        for ranked in rankings(part, "two-tower", world):
            expected = counted(matches[: len(part), :4], image_of_text()[: len(part)])
            assert (ranked.text_ranks.tolist(), ranked.image_ranks.tolist()) == expected


def test_each_picture_and_each_text_is_encoded_once(dataset: PairDataset, monkeypatch: pytest.MonkeyPatch):
    model, match, _ = parts("two-tower")
    seen = {"embed_text": 0, "embed_image": 0, "fuse": 0}
    for name, size in (("embed_text", lambda x: len(x.input_ids)), ("embed_image", lambda x: len(x.pixels))):
        real = getattr(model, name)
        monkeypatch.setattr(
            model, name, lambda x, real=real, name=name, size=size: seen.update({name: seen[name] + size(x)}) or real(x)
        )
    fuse = model.fuse
    monkeypatch.setattr(
        model, "fuse", lambda t, i, **more: seen.update(fuse=seen["fuse"] + len(t.hidden)) or fuse(t, i, **more)
    )
    with torch.no_grad():
        Ranking(model, match, split_of(dataset)).run()
    texts, pictures = len(dataset), len(CAPTIONS)
    assert seen == {"embed_text": texts, "embed_image": pictures, "fuse": texts * pictures}


@pytest.mark.parametrize("top", [0, 2])
@torch.no_grad()
def test_vectors_that_are_nan_find_nothing(top: int, dataset: PairDataset):
    model, match, itc = parts("two-tower")
    vectors = lambda tokens, side: itc.vectors(tokens, side) * float("nan")  # noqa: E731
    ranked = Ranking(model, match, split_of(dataset)).run(top, vectors)
    before = ranked if top == 0 else ranked.contrastive
    assert before.text_ranks.tolist() == [len(CAPTIONS) - 1] * len(dataset)
    assert before.image_ranks.tolist() == [len(dataset) - count for count in CAPTIONS]


def test_processes_whose_rounding_differs_choose_the_same_candidates(distinct: PairDataset):
    """Here the vectors of each process are others altogether; yet each candidate is scored, whoever has its image."""
    model, match, itc = parts("two-tower")

    @torch.no_grad()
    def work(rank: int, gather: Callable[[Any], list[Any]]) -> Ranked:
        split = split_of(distinct)._replace(rank=rank, world_size=3, gather=gather)
        return Ranking(model, match, split).run(2, lambda tokens, side: itc.vectors(tokens, side).roll(rank, -1).abs())

    found = together(3, work)
    assert all(np.isfinite(ranked.best_images.scores[:, :2]).all() for ranked in found)
    assert all(np.isfinite(ranked.best_texts.scores[:, :2]).all() for ranked in found)
    for ranked in found[1:]:
        np.testing.assert_equal(ranked, found[0])


def alone(owners: Any) -> Columns:
    """All columns on one process."""
    return Columns(np.array(owners), np.arange(max(owners) + 1), lambda value: [value])


@pytest.mark.parametrize("world", [2, 3, 14])
@pytest.mark.parametrize("top", [None, 0, 3])
def test_ranks_of_shares_are_those_of_all_scores(world: int, top: int | None, monkeypatch: pytest.MonkeyPatch):
    """With ties, -inf and folds, to the last bit; what is gathered at once does not grow with the number of scores."""
    monkeypatch.setattr(ranks, "FOLD", 4)
    monkeypatch.setattr(ranks, "_BLOCK", 40)
    draw = np.random.default_rng(0)
    owners = np.sort(np.concatenate([np.arange(13), draw.integers(0, 13, 60)]))
    scores = draw.integers(0, 9, (len(owners), 13)).astype(np.float32)
    scores[draw.random(scores.shape) < 0.2] = -np.inf
    close = (draw.permutation(scores.size).reshape(scores.shape) // 2 / scores.size).astype(
        np.float32
    )  # pairs are tied
    sizes = []

    def ranked(columns: Columns) -> Ranked:
        share, near = scores[:, columns.own], close[:, columns.own]
        if not top:
            return rank(share if top is None else near, columns)
        return rank_candidates(share, choose_candidates(near, top, columns), near, columns)

    def work(number: int, gather: Callable[[Any], list[Any]]) -> Ranked:
        def measured(value: Any) -> list[Any]:
            sizes.append(np.size(value))
            return gather(value)

        return ranked(Columns(owners, np.arange(13)[number::world], measured))

    expected = ranked(alone(owners))
    assert len(expected.folds) == 3
    for found in together(world, work):
        np.testing.assert_equal(found, expected)
    own = -(-13 // world)
    assert max(sizes) <= max(40 // 13 * own, own * 10)  # a block of scores, or the best ten


def test_what_is_no_candidate_stands_behind_all_candidates():
    """The first image's scores are far below the second's, which is no candidate of the first text."""
    scores, close = np.array([[-100, -np.inf], [-101, 5]], np.float32), np.array([[0.9, 0.8], [0.1, 0.2]], np.float32)
    ranked = rank_candidates(scores, np.isfinite(scores), close, alone([0, 1]))
    assert ranked.text_ranks.tolist() == [0, 0] and ranked.best_images.ids.tolist() == [[0, 1], [1, 0]]
    assert np.isnan(ranked.best_images.scores).tolist() == [[False, True], [False, False]]


def test_ranks_by_hand():
    """Two texts of image 0, one of image 1; ties stand before the right one, other captions of an image do not."""
    scores = np.array([[0.9, 0.1], [0.5, 0.5 - 1e-6], [0.9, 0.8]], np.float32)  # rounding unties nothing
    ranked = rank(scores, alone([0, 0, 1]))
    assert ranked.text_ranks.tolist() == [0, 1, 1]
    assert ranked.image_ranks.tolist() == [1, 0]
    assert ranked.best_images.ids.tolist() == [[0, 1]] * 3 and ranked.best_texts.ids.tolist() == [[0, 2, 1], [2, 1, 0]]
    found = recalls(ranked)
    assert found["text_to_image_r1"] == pytest.approx(1 / 3) and found["image_to_text_r1"] == 0.5
    assert found["text_to_image_r5"] == found["image_to_text_r10"] == 1.0
    assert found["recall_mean"] == pytest.approx((1 / 3 + 0.5 + 4) / 6)
    assert len(found) == 7


@pytest.mark.parametrize("value", [0.0, np.nan])
@torch.no_grad()
def test_a_model_that_tells_nothing_apart_finds_nothing(value: float, dataset: PairDataset):
    """Nor does one that has diverged: a comparison with what is no number is never true."""
    model, _, _ = parts("two-tower")
    match: Callable[[Tensor], Tensor] = lambda pooled: pooled.new_full((len(pooled),), value)  # noqa: E731
    ranked = Ranking(model, match, split_of(dataset)).run()
    assert ranked.text_ranks.tolist() == [len(CAPTIONS) - 1] * len(dataset)
    assert ranked.image_ranks.tolist() == [len(dataset) - count for count in CAPTIONS]


@pytest.mark.parametrize("pictures", [7, 8, 11])
def test_recalls_are_those_of_a_naive_count_and_folds_are_consecutive(pictures: int, monkeypatch: pytest.MonkeyPatch):
    """The folds of a size of 4: a rest of 3 is left out, and less than two folds are none."""
    monkeypatch.setattr(ranks, "FOLD", 4)
    draw = np.random.default_rng(pictures)
    owners = np.sort(np.concatenate([np.arange(pictures), draw.integers(0, pictures, 9)]))
    scores = draw.integers(0, 12, (len(owners), pictures)).astype(np.float32)  # many ties
    scores[np.arange(len(owners)), owners] += 4
    ranked = rank(scores, alone(owners))
    found = recalls(ranked)

    def naive(chosen: range) -> list[float]:
        lines = [t for t, owner in enumerate(owners) if owner in chosen]
        both = counted(scores[lines][:, list(chosen)], owners[lines] - chosen.start)
        return [sum(rank < k for rank in ranks) / len(ranks) for ranks in both for k in (1, 5, 10)]

    names = [f"{way}_r{k}" for way in ("text_to_image", "image_to_text") for k in (1, 5, 10)]
    assert [found[name] for name in names] == pytest.approx(naive(range(pictures)))
    assert found["recall_mean"] == pytest.approx(np.mean(naive(range(pictures))))
    folds = [range(start, start + 4) for start in range(0, pictures - 3, 4)]
    if len(folds) < 2:
        assert not any(name.endswith("_1k") for name in found)
    else:
        assert [found[f"{name}_1k"] for name in names] == pytest.approx(np.mean([naive(f) for f in folds], axis=0))


def test_the_cost_is_said_after_a_few_batches(dataset: PairDataset, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(ranking.TOKENS, "cpu", 100)
    said: list[str] = []
    rankings(dataset, "two-tower", 1, say=said.append)
    assert len(said) == 1
    assert said[0].startswith(f"ranking {len(dataset)} texts and {len(CAPTIONS)} images: {len(dataset) * 7} pairs, ")
    assert "GiB" in said[0]
