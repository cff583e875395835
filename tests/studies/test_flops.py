"""FLOPs of a training step, against what a small model's products add up to by hand."""

from __future__ import annotations

import pytest
import torch

from renaissance.studies import flops
from renaissance.training.assembly import build
from tiny_models import FUSED, MAX_TEXT_LEN, PATCH, SIDE, WIDTH
from training.test_unused_parameters import resolved

WIDE, LAYERS, SPACE = 32, 2, 256  # of the blocks' inner layer; blocks; of the common space
PATCHES = (SIDE // PATCH) ** 2


def shape_of(run):
    with torch.device("meta"):
        return build(run, pretrained=False)


def blocks(tokens: int, *, frozen: bool = False) -> int:
    """A multiplication with its addition is two. Forward once; backward each product twice, by its two sides."""
    products = tokens * (4 * WIDTH * WIDTH + 2 * WIDTH * WIDE) + 2 * tokens * tokens * WIDTH
    return 2 * LAYERS * products * (1 if frozen else 3)


def by_hand(samples: int, *, frozen: bool) -> int:
    """Contrastive learning: towers to the width of the fusion, the first token into the common space, all with all."""
    text = blocks(MAX_TEXT_LEN) + 3 * 2 * MAX_TEXT_LEN * WIDTH * FUSED
    image = blocks(PATCHES + 1, frozen=frozen)
    image += 2 * PATCHES * 3 * PATCH * PATCH * WIDTH * (1 if frozen else 2)  # pixels have no gradient
    image += 2 * (PATCHES + 1) * WIDTH * FUSED * (2 if frozen else 3)
    heads = 2 * 3 * 2 * FUSED * SPACE
    return samples * (text + image + heads) + 3 * 2 * samples * samples * SPACE


@pytest.mark.parametrize("frozen", [False, True])
def test_a_step_takes_what_its_products_add_up_to(frozen):
    run = resolved("shared", {"itc": 1}, freeze_image_encoder=frozen, batch_size=4 * flops._SAMPLES)
    assert flops.training_flops(shape_of(run), run) == 4 * by_hand(flops._SAMPLES, frozen=frozen)


def test_a_frozen_tower_whose_tokens_are_stored_is_not_run():
    runs = [
        resolved("shared", {"itc": 1}, freeze_image_encoder=True, cache_frozen=cached, batch_size=flops._SAMPLES)
        for cached in (False, True)
    ]
    counts = [flops.training_flops(shape_of(run), run) for run in runs]
    tower = blocks(PATCHES + 1, frozen=True) + 2 * PATCHES * 3 * PATCH * PATCH * WIDTH
    assert counts[0] - counts[1] == flops._SAMPLES * tower


def test_dropped_patches_are_not_counted_and_a_larger_batch_is():
    whole, half, twice = (
        resolved("one-text", {"mlm": 1}, **given) for given in ({}, {"patch_drop": 0.5}, {"batch_size": 8})
    )
    counts = [flops.training_flops(shape_of(run), run) for run in (whole, half, twice)]
    assert counts[2] == 2 * counts[0] and 0.5 * counts[0] < counts[1] < 0.9 * counts[0]
