"""Which patches stay: a function of (seed, epoch, sample, place) alone, and any of them as likely as the others."""

from __future__ import annotations

import pickle
from itertools import product

import numpy as np
import pytest
import torch
from pair_stub import PairStub
from tokenizers_of_many_kinds import CAPTIONS, tokenizer_of

from renaissance.core.types import Batch, Example
from renaissance.data.collate import Collate, Source
from renaissance.data.loader import StepLoader
from renaissance.data.negatives import FalseImages
from renaissance.data.patch_drop import PatchDrop
from renaissance.data.randomness import bits
from renaissance.data.sampler import EvalBatches, Pool, TrainSteps
from renaissance.data.transforms import make_transform

PAIRS = CAPTIONS[:72]
DROP = PatchDrop(0.5, patches=9, steps=5, seed=7)  # of images of 24 pixels


def test_each_image_is_a_draw_of_its_own_and_the_numbers_are_those_of_its_key():
    shown = list(product((0, 1, 2), (0, 5, 2**40), (0, 1, 3)))
    kept = PatchDrop(0.6, 196, 1, seed=3).kept(shown)
    assert kept.shape == (27, 78) and kept.dtype == torch.int64
    for row, (epoch, id, place) in zip(kept.tolist(), shown, strict=True):
        draws = bits(3, [epoch], [id], f"patch_drop {place}", 196)[0]
        assert row == sorted(np.argsort(draws)[:78].tolist())
    assert len(set(map(tuple, kept.tolist()))) == 27
    assert not torch.equal(PatchDrop(0.6, 196, 1, seed=4).kept(shown), kept)


@pytest.mark.parametrize(("share", "count"), [(0.5, 98), (0.75, 49), (0.001, 196), (0.999, 0), (0.25, 147)])
def test_the_share_is_of_the_patches(share, count):
    assert PatchDrop(share, 196, 1, 0).count == count


def test_every_patch_and_every_pair_of_patches_stays_as_often():
    kept = PatchDrop(0.5, 8, 1, seed=0).kept([(0, id, 0) for id in range(7000)])
    there = torch.zeros(7000, 8).scatter_(1, kept, 1)
    assert (there.mean(0) - 1 / 2).abs().max() < 0.03
    together = (there.T @ there / 7000)[~torch.eye(8, dtype=torch.bool)]
    assert (together - 3 / 14).abs().max() < 0.025  # 4 of 8: 1/2 * 3/7


def loader(micro=4, *, drop=DROP, rank=0, world_size=1, workers=0, first_step=0, draw_false_image=0) -> StepLoader:
    # 72 pairs and steps of 16: the fifth step crosses into the second epoch
    sampler = TrainSteps(Pool(len(PAIRS)), 16, micro, rank, world_size, seed=7, first_step=first_step, last_step=7)
    source = Source(PairStub(PAIRS), make_transform("vit", 24, patch_size=8, seed=7))
    builders = {"itm": FalseImages(7, 4, draw_false_image)}
    collate = Collate(tokenizer_of("word_piece"), 20, micro, builders, source, patch_drop=drop)
    return StepLoader(sampler, pickle.loads(pickle.dumps(collate)), workers, pin_memory=False)


def own(steps: list[list[Batch]]) -> list[list[list[int] | None]]:
    """By step: the patches of each sample's own image; None where it shows all."""
    return [
        [row for batch in step for row in _rows(batch.images.kept, len(batch.images.pixels))[: len(batch.ids)]]
        for step in steps
    ]


def _rows(kept: torch.Tensor | None, images: int) -> list[list[int] | None]:
    return [None] * images if kept is None else kept.tolist()


def test_no_cut_of_a_step_and_no_resume_changes_a_patch():
    whole = own(list(loader(16)))
    assert [step.count(None) for step in whole] == [0] * 5 + [16, 16]
    assert len({tuple(row) for step in whole[:5] for row in step}) > 40
    assert own(list(loader(8))) == own(list(loader(4, workers=2))) == whole
    ranks = [own(list(loader(8, rank=rank, world_size=2))) for rank in range(2)]
    assert [first + second for first, second in zip(*ranks, strict=True)] == whole
    assert own(list(loader(16, first_step=3))) == whole[3:]
    assert own(list(loader(16, draw_false_image=1))) == whole


def test_a_false_image_of_the_data_set_is_the_first_of_its_own_sample():
    source, found = Source(PairStub(PAIRS), make_transform("vit", 24, patch_size=8, seed=7)), 0
    shown = [source.images(source.dataset[id], 0)[0] for id in range(72)]
    for step in list(loader(8, draw_false_image=1))[:5]:
        for batch in step:
            assert len(batch.images.kept) == len(batch.images.pixels)
            for pixels, row in zip(batch.images.pixels[8:], batch.images.kept[8:].tolist(), strict=True):
                ids = [i for i in range(72) if torch.equal(shown[i], pixels)]
                # In the fifth step either epoch may be that of the example which it is false for.
                assert row in [DROP.kept([(epoch, id, 0)])[0].tolist() for epoch in (0, 1) for id in ids]
                found += 1
    assert found > 20


def test_two_images_of_a_sample_show_patches_of_their_own():
    picture = torch.zeros(3, 24, 24, dtype=torch.uint8)
    samples = [Example(id, (picture,) * count, "two dogs", epoch=2) for id, count in ((4, 2), (9, 0), (5, 3))]
    source = Source(PairStub(PAIRS), make_transform("vit", 24, patch_size=8, seed=7))
    [batch] = Collate(tokenizer_of("word_piece"), 20, 4, {}, source, patch_drop=DROP)(samples)
    assert torch.equal(batch.images.kept, DROP.kept([(2, 4, 0), (2, 4, 1), (2, 5, 0), (2, 5, 1), (2, 5, 2)]))
    [batch] = Collate(tokenizer_of("word_piece"), 20, 4, {}, source, patch_drop=DROP)(samples[1:2])
    assert batch.images is None


def test_an_evaluation_sees_all_patches():
    collate = Collate(
        tokenizer_of("word_piece"), 20, 8, {}, Source(PairStub(PAIRS), make_transform("vit", 24, patch_size=8, seed=7))
    )
    assert all(
        step[0].images.kept is None for step in StepLoader(EvalBatches(72, 8, 0, 1), collate, 0, pin_memory=False)
    )
