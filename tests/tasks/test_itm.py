"""The ITM loss, and its accuracy by class, against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from renaissance.core.types import Batch, ItmTargets, TaskOutput
from renaissance.tasks.base import Context, Encodings
from renaissance.tasks.itm import Itm
from tiny_models import VOCAB, one_tower, pictures, same, stirred, texts, two_tower

LENGTHS = (7, 4, 6, 5)


def a_batch() -> Batch:
    targets = ItmTargets(torch.tensor([0, 4, 2, 1]), torch.tensor([1, 0, 1, 0]), torch.zeros(4, dtype=torch.bool))
    return Batch(torch.arange(4), texts(LENGTHS), pictures(5), {"itm": targets})


@pytest.mark.parametrize("model", [two_tower, lambda: two_tower(pooler_type="single"), lambda: one_tower("image")])
def test_each_text_is_judged_with_the_picture_that_its_index_names(model: object) -> None:
    model: nn.Module = model()
    head, batch = stirred(Itm(model, Context(None, VOCAB))), a_batch()
    targets = batch.targets["itm"]
    out = head(Encodings(model, batch), targets)
    expected = 0.0
    for row, (index, label) in enumerate(zip(targets.image_index.tolist(), targets.labels.tolist(), strict=True)):
        text = batch.text._replace(
            **{part: getattr(batch.text, part)[row : row + 1, : LENGTHS[row]] for part in batch.text._fields}
        )
        picture = batch.images._replace(pixels=batch.images.pixels[index : index + 1])
        pooled = model.fuse(model.embed_text(text), model.embed_image(picture)).pooled
        expected = expected - head.head(pooled).log_softmax(-1)[0, label]
    same(out.loss, expected, 1e-5)
    assert out.count == head.count(targets) == len(LENGTHS)


def test_accuracy_is_kept_by_class_over_batches_of_any_mix() -> None:
    head = Itm(two_tower(), Context(None, VOCAB))
    found = []
    generator = torch.Generator().manual_seed(0)
    seen: list[tuple[int, int, bool]] = []
    for size, share in ((5, 0.5), (3, 1.0), (8, 0.2), (2, 0.0)):  # two batches are of one class alone
        labels = (torch.rand(size, generator=generator) < share).long()
        logits, stayed = torch.randn(size, 2, generator=generator), torch.rand(size, generator=generator) < 0.3
        targets = ItmTargets(torch.arange(size), labels, stayed)
        output = TaskOutput(torch.tensor(0.0), torch.tensor(float(size)), logits, labels)
        found.append(head.measure(output, targets))
        seen += zip(labels.tolist(), logits.argmax(-1).tolist(), stayed.tolist(), strict=True)
    by_class = {label: [guess == label for truth, guess, _ in seen if truth == label] for label in (0, 1)}
    expected = {
        "accuracy": [guess == truth for truth, guess, _ in seen],
        "accuracy_matched": by_class[1],
        "accuracy_mismatched": by_class[0],
        "without_partner": [stayed for _, _, stayed in seen],
    }
    assert head.mean_metrics == tuple(found[0]) == tuple(expected)
    for name, hits in expected.items():
        total, count = (math.fsum(each[name][part] for each in found) for part in (0, 1))
        assert (total, count) == (sum(hits), len(hits)), name
