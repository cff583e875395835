"""The MLM loss against decoding every position, and the encodings that tasks share."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from renaissance.core.types import Batch, ItmTargets
from renaissance.data.masking import mlm_targets
from renaissance.tasks.base import Context, Encodings
from renaissance.tasks.itm import Itm
from renaissance.tasks.mlm import Mlm
from tiny_models import FUSIONS, VOCAB, counted_parts, one_tower, pictures, same, stirred, texts, two_tower

MASK_ID, SIZE = 4, 4
MODELS = {
    **{kind: lambda kind=kind: two_tower(kind) for kind in FUSIONS},
    **{f"one-{side}": lambda side=side: one_tower(side) for side in ("text", "image")},
}


def a_batch(pictures_more: int = 0, seed: int = 1) -> Batch:
    """Four texts; MLM hides some pieces of all but the third, ITM shows the last two another image."""
    text = texts((7, 4, 6, 5), seed=seed)
    chosen = torch.zeros_like(text.attention_mask)
    chosen[[0, 0, 1, 3], [1, 5, 2, 4]] = True
    mlm = mlm_targets(text.input_ids.masked_fill(chosen, MASK_ID), text.input_ids.masked_fill(~chosen, -100))
    index = torch.tensor([0, 1, 0, SIZE if pictures_more else 2])
    itm = ItmTargets(index, torch.tensor([1, 1, 0, 0]), torch.tensor([False, True, False, False]))
    return Batch(torch.arange(SIZE), text, pictures(SIZE + pictures_more), {"mlm": mlm, "itm": itm})


def heads_of(model: nn.Module) -> dict[str, nn.Module]:
    return {"mlm": stirred(Mlm(model, Context(None, VOCAB))), "itm": stirred(Itm(model, Context(None, VOCAB)))}


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_is_the_cross_entropy_of_decoding_every_position(name: str) -> None:
    model = MODELS[name]()
    head, batch = heads_of(model)["mlm"], a_batch()
    targets = batch.targets["mlm"]
    out = head(Encodings(model, batch), targets)
    masked_text = batch.text._replace(input_ids=targets.input_ids)
    everything = model.fuse(model.embed_text(masked_text), model.embed_image(batch.images))
    logits = head.head(everything.text)
    naive = F.cross_entropy(logits.flatten(0, 1), targets.labels.flatten(), ignore_index=-100, reduction="sum")
    same(out.loss, naive, 1e-5)
    assert out.count == head.count(targets) == 4
    gradients = [torch.autograd.grad(loss, head.parameters(), retain_graph=True) for loss in (out.loss, naive)]
    for actual, expected in zip(*gradients, strict=True):
        same(actual, expected, 1e-5)


@torch.no_grad()
def test_accuracy_is_the_share_of_hidden_pieces_that_are_named() -> None:
    model = two_tower()
    head = heads_of(model)["mlm"]
    found, right, asked = [], 0, 0
    for seed in (1, 2, 3):
        batch = a_batch(seed=seed)
        out = head(Encodings(model, batch), batch.targets["mlm"])
        truth = batch.targets["mlm"].labels
        logits = out.logits.clone()
        logits[0, truth[truth != -100][0]] += 100  # a random model alone would name none
        found.append(head.measure(out._replace(logits=logits), batch.targets["mlm"])["accuracy"])
        right += sum(int(row.argmax()) == int(label) for row, label in zip(logits, truth[truth != -100], strict=True))
        asked += 4
    assert 3 <= right < asked
    assert [int(sum(each)) for each in zip(*found, strict=True)] == [right, asked]


def test_a_text_without_hidden_pieces_costs_nothing_and_breaks_nothing() -> None:
    model = two_tower()
    head, batch = heads_of(model)["mlm"], a_batch()
    nothing = mlm_targets(batch.text.input_ids, torch.full_like(batch.text.input_ids, -100))
    out = head(Encodings(model, batch), nothing)
    assert out.loss == 0 and out.count == 0
    out.loss.backward()


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("name", ["shared", "one-image"])
def test_each_embedding_is_computed_once_a_step(name: str, more: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLM reads masked texts, ITM true ones, both the same images, drawn false ones among them."""
    model = MODELS[name]()
    calls = counted_parts(model, monkeypatch)
    batch = a_batch(more)
    encodings = Encodings(model, batch)
    for _ in range(2):
        for task, head in heads_of(model).items():
            head(encodings, batch.targets[task])
    assert calls == {"embed_text": 2, "embed_image": 1, "fuse": 4}


@torch.no_grad()
def test_encodings_pick_the_own_pictures_or_those_asked_for() -> None:
    model, batch = two_tower(), a_batch(pictures_more=2)
    encodings, whole = Encodings(model, batch), model.embed_image(batch.images).hidden
    same(encodings.images().hidden, whole[:SIZE], 1e-6)
    same(encodings.images(torch.tensor([5, 0])).hidden, whole[[5, 0]], 1e-6)


@torch.no_grad()
def test_encodings_tell_short_lived_texts_apart() -> None:
    """Python gives a new tensor the identity of one that is gone."""
    model, batch = two_tower(), a_batch()
    encodings = Encodings(model, batch)
    for piece in range(5, 15):
        replaced = batch.text.input_ids.clone()
        replaced[:, 1] = piece
        expected = model.embed_text(batch.text._replace(input_ids=replaced)).hidden
        same(encodings.text(replaced.clone()).hidden, expected, 1e-6)
