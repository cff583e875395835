"""From a decoded picture to the pixels that a model sees: (3, H, W) uint8.

Four keys. `imagenet`, `vit` and `clip` are three names for one transform, kept because users know them: the short side
is resized to `image_size` (bicubic, antialiased) and the centre is cut out. The ancestors' versions differed in mean
and standard deviation only, which here always come from the model and are applied on the device. `pixelbert` keeps the
aspect ratio. Each key also exists with `_randaug` behind it, for training.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import v2

from renaissance.core.errors import UserError

from .randomness import torch_seed

CROPPED_KEYS = ("imagenet", "vit", "clip")
ASPECT_KEYS = ("pixelbert",)
RANDAUG_SUFFIX = "_randaug"
KEYS = tuple(key + suffix for key in CROPPED_KEYS + ASPECT_KEYS for suffix in ("", RANDAUG_SUFFIX))

# A centre crop keeps the middle square only: a strip of 10,000 x 1 pixels must not be resized to 2,240,000 x 224 first.
_WIDEST_ASPECT = 8


def make_transform(key: str, image_size: int, *, patch_size: int, seed: int, train: bool) -> Transform:
    """Build the transform that a key of `train_transform_keys` or `val_transform_keys` names.

    Args:
        key: one of `KEYS`.
        image_size: length of the short side, in pixels.
        patch_size: `pixelbert` rounds both sides down to a multiple of it.
        seed: the run's seed, for the augmentation.
        train: whether the key is of `train_transform_keys`.

    Raises:
        UserError: the key does not exist, or it would augment the pictures of an evaluation.
    """
    setting = "train_transform_keys" if train else "val_transform_keys"
    allowed = KEYS if train else CROPPED_KEYS + ASPECT_KEYS
    if key not in allowed:
        reason = "augments pictures, which an evaluation must not" if key in KEYS else "is not a transform"
        raise UserError(f"{setting}: {key!r} {reason}; choose from {', '.join(allowed)}.")
    augment = key.endswith(RANDAUG_SUFFIX)
    whole = key.removesuffix(RANDAUG_SUFFIX) in ASPECT_KEYS
    return Transform(image_size, patch_size if whole else None, seed if augment else None)


class Transform:
    """Resizing, augmentation and cropping of one picture; picklable.

    Args:
        image_size: length of the short side, in pixels.
        aspect_multiple: None to cut out the centre square; or keep the aspect ratio, both sides a multiple of this.
        augment_seed: seed of RandAugment, None for no augmentation.

    Attributes:
        keeps_aspect: pictures come out in different sizes, and a batch of them is padded.
        image_size: the same.
    """

    def __init__(self, image_size: int, aspect_multiple: int | None, augment_seed: int | None) -> None:
        self.keeps_aspect = aspect_multiple is not None
        self.image_size = image_size
        self._multiple = aspect_multiple
        self._augment_seed = augment_seed
        # ViLT's RandAugment(2, 9) without invert and cutout, which torchvision's list does not have in the first place.
        self._augment = v2.RandAugment(num_ops=2, magnitude=9)

    def __call__(self, pixels: Tensor, epoch: int, id: int, place: int = 0) -> Tensor:
        """Transform one picture.

        Args:
            pixels: (3, H, W) uint8.
            epoch: with `id` and the seed, it decides the augmentation.
            id: the sample's position in its data set.
            place: of the picture among the sample's own.

        Returns:
            (3, image_size, image_size) uint8, or a size of its own where the aspect ratio is kept. May be a strided
            view.
        """
        pixels = self._resize(pixels)
        if self._augment_seed is not None:
            purpose = f"augmentation {place}" if place else "augmentation"
            # After the resize, where it is several times cheaper; before the crop, so that what moves in is picture.
            pixels = self._augmented(pixels, torch_seed(self._augment_seed, epoch, id, purpose))
        return pixels if self.keeps_aspect else _centre(pixels, self.image_size, self.image_size)

    def _resize(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        if self._multiple is not None:
            size = aspect_size(height, width, self.image_size, self._multiple)
        else:
            short = min(height, width)
            if max(height, width) > _WIDEST_ASPECT * short:
                height, width = (min(side, _WIDEST_ASPECT * short) for side in (height, width))
                pixels = _centre(pixels, height, width)
            size = [int(self.image_size * side / short) for side in (height, width)]
        if size == [height, width]:
            return pixels  # stored at training size
        # In integers, with Pillow's filter; torch has it in vector instructions for bytes in the order (H, W, 3).
        return interpolate(pixels[None], size, mode="bicubic", antialias=True)[0]

    def _augmented(self, pixels: Tensor, seed: int) -> Tensor:
        # RandAugment draws from torch's global CPU generator. `torch.manual_seed` would also seed every GPU, and so
        # disturb the dropout of a run that loads in its main process.
        generator = torch.default_generator
        state = generator.get_state()
        try:
            generator.manual_seed(seed)
            return self._augment(pixels)
        finally:
            generator.set_state(state)


def _centre(pixels: Tensor, height: int, width: int) -> Tensor:
    """Return the middle of a picture as a view, at torchvision's position (half a pixel is rounded to even)."""
    top, left = (round((have - kept) / 2) for have, kept in zip(pixels.shape[-2:], (height, width), strict=True))
    return pixels[..., top : top + height, left : left + width]


def aspect_size(height: int, width: int, short: int, multiple: int) -> list[int]:
    """Return the height and width that `pixelbert` gives a picture.

    The short side becomes `short`, unless the long side would then exceed 1333/800 of it; both are rounded down to a
    multiple, and are one multiple at least. Source: `MinMaxResize` of ViLT, after Pixel-BERT (Huang et al., 2020).
    """
    longest = int(1333 / 800 * short)
    scale = min(short / min(height, width), longest / max(height, width))
    return [max(multiple, int(side * scale + 0.5) // multiple * multiple) for side in (height, width)]
