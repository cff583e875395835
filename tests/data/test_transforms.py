"""Resizing, cropping and augmentation."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from renaissance.data.transforms import aspect_size, make_transform


def photograph(height: int, width: int) -> torch.Tensor:
    """Smooth shapes and hard edges, in the memory layout of a decoder."""
    y, x = np.mgrid[:height, :width]
    waves = 127 + 80 * np.sin(x / 9.0) * np.cos(y / 13.0)
    picture = np.stack([waves, 255 * ((x // 17 + y // 23) % 2), (x * 255) // max(1, width - 1)], axis=-1)
    return torch.from_numpy(picture.astype(np.uint8)).permute(2, 0, 1)


def pillow_crop(pixels: torch.Tensor, size: int) -> np.ndarray:
    """The ancestors' transform in Pillow: short side to `size`, long side in proportion, centre crop."""
    height, width = pixels.shape[1:]
    scaled = [size, int(size * width / height)] if height <= width else [int(size * height / width), size]
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize(scaled[::-1], Image.Resampling.BICUBIC)
    top, left = (int(round((side - size) / 2.0)) for side in scaled)
    return np.array(picture)[top : top + size, left : left + size]


def crop(pixels: torch.Tensor, size: int, key: str = "vit") -> torch.Tensor:
    result = make_transform(key, size, patch_size=16, seed=0)(pixels, 0, 0)
    assert result.dtype == torch.uint8 and result.shape == (3, size, size)
    return result


def levels(result: torch.Tensor, pillows: np.ndarray) -> np.ndarray:
    """How many of 255 levels each pixel is off."""
    return np.abs(result.permute(1, 2, 0).numpy().astype(int) - pillows)


SHRUNK = [((480, 640), 224), ((640, 480), 224), ((375, 211), 64), ((101, 333), 64), ((66, 65), 64), ((500, 501), 384)]
ENLARGED = [((30, 50), 64), ((63, 80), 64), ((31, 17), 224), ((1, 3), 64)]


@pytest.mark.parametrize(("shape", "size"), SHRUNK + ENLARGED)
def test_crops_equal_pillows(shape, size):
    pixels = photograph(*shape)
    off = levels(crop(pixels, size), pillow_crop(pixels, size))
    # One level, where a sum is rounded the other way: torch's weights have 16 bits, Pillow's 22. Both directions are
    # rounded, and where the image is enlarged, the two add up in one value of many thousands.
    assert off.max() <= (1 if (shape, size) in SHRUNK else 2)
    assert (off > 0).mean() < 0.01 and (off > 1).mean() < 1e-4


@pytest.mark.parametrize("key", ["imagenet", "clip"])
def test_the_square_keys_are_one_transform(key):
    pixels = photograph(100, 77)
    assert torch.equal(crop(pixels, 64, key), crop(pixels, 64))


@pytest.mark.parametrize("shape", [(64, 64), (64, 85), (86, 64), (64, 87), (88, 64), (64, 1001)])
def test_a_picture_stored_at_training_size_is_only_cut(shape):
    pixels = photograph(*shape)
    result = crop(pixels, 64)
    assert result.untyped_storage().data_ptr() == pixels.untyped_storage().data_ptr()
    if max(shape) < 8 * 64:
        assert np.array_equal(result.permute(1, 2, 0), pillow_crop(pixels, 64))


def test_the_memory_layout_changes_no_pixel():
    pixels = photograph(90, 131)
    assert torch.equal(crop(pixels.contiguous(), 64), crop(pixels, 64))
    grey = pixels[:1]
    assert torch.equal(crop(grey.expand(3, -1, -1), 64), crop(grey.repeat(3, 1, 1), 64))


@pytest.mark.parametrize("shape", [(4, 2000), (2000, 4)])
def test_a_strip_is_cut_out_of_its_middle(shape):
    pixels = photograph(*shape)
    assert levels(crop(pixels, 64), pillow_crop(pixels, 64)).max() <= 2


@pytest.mark.parametrize("shape", [(4, 20_000), (20_000, 4)])
def test_a_strip_does_not_fill_the_memory(shape):
    transform = make_transform("vit", 64, patch_size=16, seed=0)
    assert transform.resize(photograph(*shape)).numel() <= 3 * 64 * 64 * 8
    assert transform(photograph(*shape), 0, 0).shape == (3, 64, 64)


def test_pixelbert_sizes_are_those_of_vilt():
    # ViLT (size 384, longest 1333 / 800 * 384 = 639, multiples of 32), worked out by hand.
    assert aspect_size(480, 640, 384, 32) == [384, 512]
    assert aspect_size(640, 427, 384, 32) == [576, 384]  # 640 * 384 / 427 = 575.55, rounded before it is cut down
    assert aspect_size(640, 428, 384, 32) == [544, 384]  # 574.2
    assert aspect_size(300, 1200, 384, 32) == [160, 608]  # the long side binds: 639 / 1200; 159.75 -> 160, 639 -> 608
    assert aspect_size(2, 4000, 384, 32) == [32, 608]


def test_pixelbert_keeps_the_whole_picture():
    pixels = photograph(120, 200)
    result = make_transform("pixelbert", 64, patch_size=16, seed=0)(pixels, 0, 0)
    assert result.shape == (3, 64, 96)  # 200 * 64 / 120 = 106.7 > 1333 / 800 * 64 = 106
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize((96, 64), Image.Resampling.BICUBIC)
    assert levels(result, np.array(picture)).max() <= 1


@pytest.mark.parametrize("key", ["vit_randaug", "pixelbert_randaug"])
def test_augmentation_is_a_function_of_seed_epoch_and_sample(key):
    pixels = photograph(100, 90)
    transform = make_transform(key, 48, patch_size=16, seed=1)
    plain = make_transform(key.removesuffix("_randaug"), 48, patch_size=16, seed=1)(pixels, 0, 0)
    views = [transform(pixels, epoch, id) for epoch in range(3) for id in range(5)]
    torch.manual_seed(99)
    again = [pickle.loads(pickle.dumps(transform))(pixels, epoch, id) for epoch in range(3) for id in range(5)]
    assert all(map(torch.equal, views, again))
    assert len({view.numpy().tobytes() for view in views}) >= 12  # a pair of identities may repeat the image
    assert sum(torch.equal(view, plain) for view in views) <= 2
    other = make_transform(key, 48, patch_size=16, seed=2)
    assert sum(map(torch.equal, views, [other(pixels, e, i) for e in range(3) for i in range(5)])) <= 2
    assert all(view.shape == plain.shape and view.dtype == torch.uint8 for view in views)


def test_augmentation_leaves_the_global_random_state_alone():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    make_transform("clip_randaug", 32, patch_size=16, seed=0)(photograph(40, 50), 3, 4)
    assert torch.equal(torch.get_rng_state(), before)


def test_augmentation_neither_inverts_nor_cuts_out():
    space = make_transform("vit_randaug", 32, patch_size=16, seed=0)._augment._AUGMENTATION_SPACE
    assert len(space) == 14 and not {name.lower() for name in space} & {"invert", "cutout", "erase"}
