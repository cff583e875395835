"""An image as a user gives it, in any form: its bytes, or its pixels as the decoder of training gives them."""

from __future__ import annotations

import os

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from renaissance.core.checks import expanded
from renaissance.core.errors import UserError, first_line
from renaissance.core.untrusted import read_bytes
from renaissance.data.images import decode
from renaissance.data.pixels import MAX_PIXELS, refuse_size, rgb

ImageLike = str | os.PathLike | bytes | Image.Image | np.ndarray | Tensor
MOST_BYTES = 4 * MAX_PIXELS  # of an image's file: a whole one that is not compressed
_CONVERTED = {"HSV": "RGB", "La": "LA", "RGBa": "RGBA"}  # modes of Pillow that no file has


def decoded(image: ImageLike) -> Tensor:
    """The pixels (3, H, W) uint8 of an image. Raises UserError for no such file, or no image."""
    content = bytes_or_pixels(image)
    where = f"image={image}" if isinstance(image, str | os.PathLike) else "image"
    return content if isinstance(content, Tensor) else decode(content, where)


def bytes_or_pixels(image: ImageLike) -> bytes | Tensor:
    """The bytes of a file, or (3, H, W) uint8 as the decoder of training gives it.

    Raises:
        UserError: no such file, or no image.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, (str, os.PathLike)):
        path = expanded("image", os.fspath(image))
        return read_bytes(path, f"image={path}", most=MOST_BYTES)
    try:
        opened = image if isinstance(image, Image.Image) else Image.fromarray(_pixels(image))
        refuse_size(*opened.size)
        return torch.from_numpy(rgb(opened.convert(_CONVERTED.get(opened.mode, opened.mode)))).permute(2, 0, 1)
    except Exception as error:  # Pillow reads a lazy file here, whose bytes fail in any way they like
        raise UserError(f"image={type(image).__name__} is no readable image ({first_line(error)}).") from error


def _pixels(image: np.ndarray | Tensor) -> np.ndarray:
    """The pixels of an array as Pillow takes them, (H, W, 3) uint8 or grey."""
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.dim() != 3 or len(image) != 3:
            raise ValueError("a tensor has to be (3, H, W) uint8")
        image = image.detach().cpu().permute(1, 2, 0).numpy()
    coloured = image.ndim == 3 and image.dtype == np.uint8 and image.shape[2] in (3, 4)
    if not (coloured or image.ndim == 2) or not image.size:
        raise ValueError("an array has to be (H, W, 3) uint8")
    return np.ascontiguousarray(image)
