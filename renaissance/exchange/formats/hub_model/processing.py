"""From pictures and texts to the inputs of an exported model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import BatchFeature, ProcessorMixin
from transformers.image_processing_base import ImageProcessingMixin

WIDEST = 8  # a longer strip is cut before it is resized


class RenaissanceImageProcessor(ImageProcessingMixin):
    """Resizes and normalises images as in training.

    Args:
        size: of the short side, in pixels.
        keep_aspect: False cuts out the centre square; True keeps the aspect ratio, with sides of whole patches.
        patch_size: pixels. image_mean, image_std: of the channels, for pixels in 0..1.
        channels: the order of the channels, where it is not RGB.
    """

    model_input_names = ["pixel_values", "pixel_mask"]

    def __init__(
        self,
        size: int = 224,
        keep_aspect: bool = False,
        patch_size: int = 1,
        image_mean: Any = (0.5, 0.5, 0.5),
        image_std: Any = (0.5, 0.5, 0.5),
        channels: list[int] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.size, self.keep_aspect, self.patch_size = size, keep_aspect, patch_size
        self.image_mean, self.image_std, self.channels = [*image_mean], [*image_std], channels

    def __call__(self, images: Any, return_tensors: str | None = None, **kwargs: Any) -> BatchFeature:
        """One image, B of them, or a list of n for each example.

        Returns:
            pixel_values (B,3,H,W) or (B,n,3,H,W); pixel_mask (B,H,W) or (B,n,H,W) where images keep their aspect.
        """
        images = [images] if isinstance(images, (str, Image.Image, np.ndarray, Tensor)) else list(images)
        grouped = isinstance(images[0], (list, tuple))
        pixels = [self.transform(image) for group in images for image in (group if grouped else [group])]
        height, width = (max(each.shape[side] for each in pixels) for side in (1, 2))
        padded = [F.pad(each, (0, width - each.shape[2], 0, height - each.shape[1])) for each in pixels]
        data = {"pixel_values": torch.stack(padded)}
        if self.keep_aspect:
            ones = [torch.ones(each.shape[1:], dtype=torch.long) for each in pixels]
            masks = [F.pad(each, (0, width - each.shape[1], 0, height - each.shape[0])) for each in ones]
            data["pixel_mask"] = torch.stack(masks)
        if grouped:
            data = {name: each.unflatten(0, (len(images), -1)) for name, each in data.items()}
        return BatchFeature(data, tensor_type=return_tensors)

    preprocess = __call__

    def transform(self, image: Any) -> Tensor:
        """A path, a Pillow image, (H,W,3) uint8 or a (3,H,W) uint8 tensor -> (3,h,w) float."""
        pixels = image if isinstance(image, Tensor) else torch.from_numpy(rgb(image)).permute(2, 0, 1)
        height, width = pixels.shape[1:]
        short = min(height, width)
        if self.keep_aspect:  # the long side at most 1333/800 of the short one, as in ViLT
            scale = min(self.size / short, int(1333 / 800 * self.size) / max(height, width))
            step = self.patch_size
            sides = [max(step, int(side * scale + 0.5) // step * step) for side in (height, width)]
        else:
            pixels = centre(pixels, min(height, WIDEST * short), min(width, WIDEST * short))
            sides = [int(self.size * side / short) for side in pixels.shape[1:]]
        if sides != [*pixels.shape[1:]]:
            pixels = F.interpolate(pixels[None], sides, mode="bicubic", antialias=True)[0]
        if not self.keep_aspect:
            pixels = centre(pixels, self.size, self.size)
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (self.image_mean, self.image_std))
        pixels = torch.addcmul(-mean / std, pixels.float(), 1 / (255 * std))
        return pixels if self.channels is None else pixels[self.channels]


def rgb(image: Any) -> np.ndarray:
    """An image as (H,W,3) uint8, laid over white where it is transparent."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image) if isinstance(image, np.ndarray) else Image.open(image)
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion would clip them
        grey = (np.clip(np.asarray(image), 0, 65535).astype(np.uint32) + 128) // 257
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(image.convert("RGB"))


def centre(pixels: Tensor, height: int, width: int) -> Tensor:
    """The middle of an image (3,H,W)."""
    top, left = (round((have - kept) / 2) for have, kept in zip(pixels.shape[1:], (height, width), strict=True))
    return pixels[:, top : top + height, left : left + width]


class RenaissanceProcessor(ProcessorMixin):
    """Images and texts to the inputs of the model.

    Args:
        max_text_len: longer texts are cut at this many tokens.
    """

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, max_text_len: int | None = None, **kwargs: Any
    ):
        super().__init__(image_processor, tokenizer)
        self.max_text_len = max_text_len

    def __call__(
        self,
        images: Any = None,
        text: Any = None,
        text_pair: Any = None,
        return_tensors: str | None = "pt",
        padding: Any = True,
        **kwargs: Any,
    ) -> BatchFeature:
        """images: as of the image processor. text: one or B. text_pair: second sentences, for pairs of sentences."""
        data: dict[str, Any] = {}
        if text is not None:
            options = {"truncation": True, "max_length": self.max_text_len, "padding": padding} | kwargs
            data |= self.tokenizer(text, text_pair, return_tensors=return_tensors, **options)
        if images is not None:
            data |= self.image_processor(images, return_tensors=return_tensors)
        return BatchFeature(data, tensor_type=return_tensors)
