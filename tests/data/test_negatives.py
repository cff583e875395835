"""Which false images are drawn, against the rules spelled out."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from renaissance.core.errors import UserError
from renaissance.core.types import Example
from renaissance.data.collate import MicroBatch, Source
from renaissance.data.identity import content_key, text_key
from renaissance.data.negatives import FalseImages
from renaissance.data.transforms import make_transform


class World:
    """`size` pairs; `images(i)` tells which image pair i shows, `captions(image)` its captions."""

    def __init__(self, size, pictures, captions):
        self.size, self.pictures, self.captions, self.read = size, pictures, captions, []

    def __len__(self):
        return self.size

    def __getitem__(self, id):
        self.read.append(id)
        picture = self.pictures(id)
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (picture, 0, 0)).save(buffer, "PNG")
        captions = self.captions(picture)
        keys = frozenset(map(text_key, captions))
        text = captions[id % len(captions)]
        return Example(id, (buffer.getvalue(),), text, keys, content_key(buffer.getvalue()), f"world row {id}")


def crowded(size=60):
    """Many pairs share an image, many images share a caption (in other case and spacing)."""
    return World(size, lambda id: id // 3, lambda picture: [f"a  Dog {picture % 4}", f"A dog {picture % 3 + 10}"])


def micro(world, ids, epoch=0) -> MicroBatch:
    source = Source(world, make_transform("vit", 8, patch_size=4, seed=0))
    examples = []
    for id in ids:
        pair = world[id]
        examples.append(pair._replace(id=id, images=source.images(pair, epoch), epoch=epoch))
    return MicroBatch(examples, None, None, source, [example.images[0] for example in examples])


def allowed(world, id, other) -> bool:
    """The rule, from the captions themselves."""

    def plain(text):
        return " ".join(text.lower().split())

    picture, false = world.pictures(id), world.pictures(other)
    return picture != false and plain(world[id].text) not in map(plain, world.captions(false))


def test_false_pictures_of_the_group_obey_the_rules():
    world = crowded()
    rng = np.random.default_rng(0)
    seen = set()
    for epoch in range(60):
        ids = rng.permutation(60)[:22].tolist()  # groups of 4, the last one of 2
        targets = FalseImages(1, 4, 0)(micro(world, ids, epoch))
        for i, id in enumerate(ids):
            j = int(targets.image_index[i])
            group = [k for k in range(22) if k // 4 == i // 4 and allowed(world, id, ids[k])]
            assert targets.labels[i] == (j == i)
            assert j in group or j == i
            assert not targets.stayed[i] or not group
            seen.add((bool(targets.stayed[i]), j == i))
    assert seen == {(True, True), (False, True), (False, False)}


def test_half_are_matched_and_every_partner_is_as_likely():
    world = World(8, lambda id: id, lambda picture: [f"image {picture}"])
    counts = np.zeros((8, 8))
    batch = micro(world, range(8))
    for epoch in range(3000):
        batch.examples = [example._replace(epoch=epoch) for example in batch.examples]
        counts[range(8), FalseImages(0, 4, 0)(batch).image_index] += 1
    assert (np.abs(np.diag(counts) - 1500) < 5 * (3000 / 4) ** 0.5).all()
    off = counts[~np.eye(8, dtype=bool) & (np.arange(8)[:, None] // 4 == np.arange(8) // 4)]
    assert (np.abs(off - 500) < 5 * (3000 / 6 * 5 / 6) ** 0.5).all()
    assert counts.sum() == np.diag(counts).sum() + off.sum()


def test_the_coin_does_not_depend_on_the_batch():
    world = World(40, lambda id: id, lambda picture: [f"image {picture}"])
    whole = FalseImages(2, 4, 0)(micro(world, range(40)))
    for ids in ([*range(20, 28)], [*range(8)]):
        part = FalseImages(2, 4, 0)(micro(world, ids))
        assert torch.equal(part.labels, whole.labels[ids])
        assert torch.equal(part.image_index + ids[0], whole.image_index[ids])  # the same groups: the same partners
    assert not torch.equal(FalseImages(3, 4, 0)(micro(world, range(40))).labels, whole.labels)


def test_a_sample_without_a_partner_stays_and_is_marked():
    alike = World(16, lambda id: id % 5, lambda picture: ["the same for all"])
    for draw_false_image in (0, 1):
        batch = micro(alike, range(16))
        targets = FalseImages(0, 4, draw_false_image)(batch)
        free = World(16, lambda id: id, lambda picture: [f"image {picture}"])
        due = FalseImages(0, 4, 0)(micro(free, range(16))).labels == 0
        assert torch.equal(targets.stayed, due) and due.any() and not due.all()
        assert targets.labels.all() and targets.image_index.tolist() == list(range(16))
        assert len(batch.images) == 16


def test_the_same_picture_in_another_row_is_not_a_false_one():
    world = World(40, lambda id: id, lambda picture: [f"image {picture}"])
    batch = micro(world, range(40))
    batch.examples = [each._replace(image_key=batch.examples[each.id // 2 * 2].image_key) for each in batch.examples]
    targets = FalseImages(0, 2, 0)(batch)
    assert targets.labels.all() and targets.stayed.any()
    assert not FalseImages(0, 4, 0)(batch).stayed.any()


def test_false_pictures_of_the_data_set_obey_the_rules_and_come_after_the_own():
    world = crowded(300)
    batch = micro(world, range(0, 300, 10))
    targets = FalseImages(1, 1, 1)(batch)
    false = torch.nonzero(targets.labels == 0).flatten().tolist()
    assert 5 < len(false) < 25
    assert targets.image_index[false].tolist() == list(range(30, 30 + len(false))) and len(batch.images) == 30 + len(
        false
    )
    drawn = set()
    for i in false:
        picture = int(batch.images[targets.image_index[i]][0, 0, 0])  # the red of an image is its number
        assert allowed(world, batch.examples[i].id, picture * 3)
        drawn.add(picture)
    assert len(drawn) > len(false) / 2
    again = micro(world, range(0, 300, 10))
    assert torch.equal(FalseImages(1, 1, 1)(again).image_index, targets.image_index)
    assert all(map(torch.equal, again.images, batch.images))


def test_drawing_from_the_data_set_ends_where_all_is_alike():
    alike = World(10**6, lambda id: 0, lambda picture: ["x"])
    batch = micro(alike, range(4))
    alike.read.clear()
    FalseImages(0, 1, 1)(batch)
    assert len(alike.read) <= 4 * 16


@pytest.mark.parametrize("group", [0, 1])
def test_a_group_without_a_second_picture_is_refused(group):
    with pytest.raises(UserError, match=f"negative_group={group} .*at least 2"):
        FalseImages(0, group, 0)
    FalseImages(0, group, 1)
