"""The contrastive objective: against CLIP's loss, a plain double loop, and the rule of who is told apart from whom."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from transformers.models.clip import modeling_clip

from renaissance.core.types import Batch, Example, ItcTargets, TaskOutput
from renaissance.data.identity import text_key
from renaissance.data.negatives import ContrastiveGroups
from renaissance.tasks.base import Context, Encodings
from renaissance.tasks.itc import LARGEST_SCALE, Itc
from tiny_models import VOCAB, one_tower, pictures, stirred, texts, two_tower

LENGTHS = (7, 4, 6, 5)
# Its name in newer and in older versions.
clip_loss = getattr(modeling_clip, "image_text_contrastive_loss", None) or modeling_clip.clip_loss


def examples(captions: list[tuple[int, str]]) -> SimpleNamespace:
    """(image, caption) pairs; an image's captions are all that are listed of it."""
    made = []
    for number, (picture, caption) in enumerate(captions):
        own = frozenset(text_key(text) for other, text in captions if other == picture)
        made.append(Example(number, (), caption, own, picture))
    return SimpleNamespace(examples=made)


def test_neither_the_same_picture_nor_one_with_the_same_caption_is_told_apart():
    made = examples([(0, "a dog"), (1, "a cat"), (0, "a pet"), (2, "A  DOG"), (3, "a cow"), (4, "a cat")])
    compared = ContrastiveGroups(4)(made).compared
    first = [[1, 1, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0], [0, 1, 0, 1]]
    assert compared[:4, :4].int().tolist() == first  # image 2 has image 0's caption: not told apart from "a pet" either
    assert compared[4:, 4:].all() and not compared[:4, 4:].any() and not compared[4:, :4].any()


@pytest.mark.parametrize("make", [two_tower, lambda: one_tower("image")], ids=["two-tower", "one-tower"])
@torch.no_grad()
def test_the_loss_is_clips_in_a_group_without_doubles(make):
    model = make().eval()
    task = stirred(Itc(model, Context(None, VOCAB)))
    batch = Batch(torch.arange(4), texts(LENGTHS), pictures(4), {}, (1,) * 4)
    encodings = Encodings(model, batch)
    out = task(encodings, ItcTargets(torch.ones(4, 4, dtype=torch.bool)))
    vectors = {side: task.vectors(encodings.unimodal(side), side) for side in ("text", "image")}
    assert torch.allclose(vectors["text"].norm(dim=-1), torch.ones(4))
    expected = clip_loss(task.log_scale.exp() * vectors["text"] @ vectors["image"].T)
    assert float(out.loss / out.count) == pytest.approx(float(expected), rel=1e-5)
    # The model's own fusion has not been asked: only one-tower blocks, which are its encoder, run on a side alone.
    alone = model.unimodal_text(batch.text) if make is not two_tower else model.embed_text(batch.text)
    assert torch.allclose(encodings.unimodal("text").hidden, alone.hidden, atol=1e-5)


@torch.no_grad()
def test_groups_and_doubles_against_a_double_loop():
    model = two_tower().eval()
    task = stirred(Itc(model, Context(None, VOCAB)))
    compared = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)
    encodings = Encodings(model, Batch(torch.arange(4), texts(LENGTHS), pictures(4), {}, (1,) * 4))
    out = task(encodings, ItcTargets(compared))
    t, v = (task.vectors(encodings.unimodal(side), side) for side in ("text", "image"))
    scale, expected = float(task.log_scale.exp()), 0.0
    for i in range(4):
        for of, other in ((t, v), (v, t)):
            total = sum(math.exp(scale * float(of[i] @ other[j])) for j in range(4) if compared[i, j])
            expected -= 0.5 * math.log(math.exp(scale * float(of[i] @ other[i])) / total)
    assert float(out.loss) == pytest.approx(expected, abs=1e-4) and float(out.count) == 4


def test_what_is_compared_with_nothing_does_not_count_as_right():
    """Texts 0 and 1 find their images, image 0 finds text 1; the last two cannot be wrong."""
    none = -math.inf
    logits = torch.tensor([[2, 1, none, none], [3, 4, none, none], [none, none, 9, none], [none, none, none, 9]])
    task = Itc(two_tower(), Context(None, VOCAB))
    output = TaskOutput(torch.tensor(0.0), torch.tensor(4.0), logits, torch.arange(4))
    measured = task.measure(output, ItcTargets(logits > none))
    found = {name: float(total / count) for name, (total, count) in measured.items()}
    assert found == {"accuracy": 0.75, "accuracy_text_to_image": 1.0, "accuracy_image_to_text": 0.5}


def test_a_scale_beyond_the_limit_is_brought_back_and_goes_on_learning():
    model = two_tower().eval()
    task = stirred(Itc(model, Context(None, VOCAB))).train()
    task.log_scale.data.fill_(math.log(2 * LARGEST_SCALE))
    encodings = Encodings(model, Batch(torch.arange(4), texts(LENGTHS), pictures(4), {}, (1,) * 4))
    task(encodings, ItcTargets(torch.ones(4, 4, dtype=torch.bool))).loss.backward()
    assert float(task.log_scale.detach().exp()) == pytest.approx(LARGEST_SCALE)
    assert float(task.log_scale.grad) != 0
