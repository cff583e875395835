"""From a decoded image to the pixels that a model sees: (3, H, W) uint8.

`imagenet`, `vit` and `clip` are three names for one transform, kept because users know them: the short side
is resized to `image_size` (bicubic, antialiased) and the centre is cut out. ViLT's and METER's versions differed in mean
and standard deviation only, which here always come from the model and are applied on the device. `pixelbert` keeps the
aspect ratio. Each key also exists with `_randaug` behind it, for training.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import v2

from renaissance.core.checks import RANDAUG
from renaissance.core.registry import TRANSFORMS

from .randomness import torch_seed

# A centre crop keeps the middle square only: a strip of 10,000 x 1 pixels must not be resized to 2,240,000 x 224 first.
_WIDEST_ASPECT = 8


def make_transform(key: str, image_size: int, *, patch_size: int, seed: int) -> Transform:
    """Builds the transform that a key of `train_transform_keys` or `val_transform_keys` names.

    Args:
        key: a name of `TRANSFORMS`, `_randaug` behind it for augmentation.
        image_size: length of the short side, in pixels.
        patch_size: `pixelbert` rounds both sides down to a multiple of it.
        seed: the run's seed, for the augmentation.
    """
    return TRANSFORMS[key.removesuffix(RANDAUG)](image_size, patch_size, seed if key.endswith(RANDAUG) else None)


class Transform:
    """Resizing, augmentation and cropping of one image; picklable. A subclass says how it resizes and crops.

    Args:
        image_size: length of the short side, in pixels.
        patch_size: side of a patch, in pixels.
        augment_seed: seed of RandAugment, None for no augmentation.

    Attributes:
        keeps_aspect: images come out in different sizes, and a batch of them is padded; for one-tower models.
    """

    keeps_aspect = False

    @property
    def is_fixed(self) -> bool:
        """Whether an image comes out the same each time."""
        return self._augment_seed is None

    def __init__(self, image_size: int, patch_size: int, augment_seed: int | None) -> None:
        self.image_size, self.patch_size = image_size, patch_size
        self._augment_seed = augment_seed
        # ViLT's RandAugment(2, 9) without invert and cutout, which torchvision's list does not have in the first place.
        self._augment = v2.RandAugment(num_ops=2, magnitude=9)

    def __call__(self, pixels: Tensor, epoch: int, id: int, place: int = 0) -> Tensor:
        """Transforms one image.

        Args:
            pixels: (3, H, W) uint8.
            epoch: with `id` and the seed, it decides the augmentation.
            id: the sample's position in its data set.
            place: of the image among the sample's own.

        Returns:
            (3, image_size, image_size) uint8, or a size of its own where the aspect ratio is kept. May be a strided
            view.
        """
        pixels = self.resize(pixels)
        if self._augment_seed is not None:
            purpose = f"augmentation {place}" if place else "augmentation"
            # After the resize, where it is several times cheaper; before the crop, so that what moves in is image.
            pixels = self._augmented(pixels, torch_seed(self._augment_seed, epoch, id, purpose))
        return self.crop(pixels)

    def resize(self, pixels: Tensor) -> Tensor:
        """Resizes an image, before augmentation."""
        raise NotImplementedError

    def crop(self, pixels: Tensor) -> Tensor:
        """Crops an image, after augmentation."""
        return pixels

    def shown(self, height: int, width: int) -> tuple[float, float, float, float]:
        """The part of an image (H, W) that is left, augmentation aside: left, top, right and bottom as shares of its sides."""
        return 0.0, 0.0, 1.0, 1.0

    def _augmented(self, pixels: Tensor, seed: int) -> Tensor:
        # RandAugment draws from torch's global CPU generator. `torch.manual_seed` would also seed every GPU, and so
        # disturb the dropout of a run that loads in its main process.
        with torch.random.fork_rng(devices=[], device_type="cpu"):
            torch.default_generator.manual_seed(seed)
            return self._augment(pixels)


class CenterCrop(Transform):
    """The short side is resized to `image_size`, and the centre square cut out."""

    def resize(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        short = min(height, width)
        if max(height, width) > _WIDEST_ASPECT * short:
            height, width = (min(side, _WIDEST_ASPECT * short) for side in (height, width))
            pixels = _centre(pixels, height, width)
        return resized(pixels, [int(self.image_size * side / short) for side in (height, width)])

    def crop(self, pixels: Tensor) -> Tensor:
        return _centre(pixels, self.image_size, self.image_size)

    def shown(self, height: int, width: int) -> tuple[float, float, float, float]:
        across, down = (min(height, width) / side / 2 for side in (width, height))
        return 0.5 - across, 0.5 - down, 0.5 + across, 0.5 + down


class KeepAspect(Transform):
    """The aspect ratio is kept, both sides a multiple of `patch_size`."""

    keeps_aspect = True

    def resize(self, pixels: Tensor) -> Tensor:
        return resized(pixels, aspect_size(*pixels.shape[-2:], self.image_size, self.patch_size))


def resized(pixels: Tensor, size: list[int]) -> Tensor:
    """Resizes an image to [height, width]; returns it unchanged where it has that size, as one stored at training size."""
    if size == [*pixels.shape[-2:]]:
        return pixels
    # In integers, with Pillow's filter; torch has it in vector instructions for bytes in the order (H, W, 3).
    return interpolate(pixels[None], size, mode="bicubic", antialias=True)[0]


def _centre(pixels: Tensor, height: int, width: int) -> Tensor:
    """Returns the middle of an image as a view, at torchvision's position (half a pixel is rounded to even)."""
    top, left = (round((have - kept) / 2) for have, kept in zip(pixels.shape[-2:], (height, width), strict=True))
    return pixels[..., top : top + height, left : left + width]


def longest_side(short: int) -> int:
    """Pixels of the long side of an image at most, where the short one has `short` of them, as in `aspect_size`."""
    return int(1333 / 800 * short)


def aspect_size(height: int, width: int, short: int, multiple: int) -> list[int]:
    """Returns the height and width that `pixelbert` gives an image.

    The short side becomes `short`, unless the long side would then exceed 1333/800 of it; both are rounded down to a
    multiple, and are one multiple at least. Source: `MinMaxResize` of ViLT, after Pixel-BERT (Huang et al., 2020).
    """
    scale = min(short / min(height, width), longest_side(short) / max(height, width))
    return [max(multiple, int(side * scale + 0.5) // multiple * multiple) for side in (height, width)]
