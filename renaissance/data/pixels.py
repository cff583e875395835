"""Pictures that Pillow decodes, as training sees them: laid over white, of 8 bits, bounded before they are decoded; no torch."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from .formats import MAX_PIXELS, PICTURE_FORMATS
from .jpeg import refuse_slow

_WRITTEN_IN_PYTHON = ("bmp_rle", "ppm", "ppm_plain")  # Pillow's decoders that take a step a pixel
_MOST_OF_THEM = 1 << 22  # pixels, a second or two
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags of TIFF 6.0, section 15


def open_picture(encoded: bytes) -> Image.Image:
    """Open a picture, its first frame; nothing is decoded yet.

    Raises:
        ValueError: it claims more than MAX_PIXELS, or would take out of all proportion to decode.
        Exception: it is none of PICTURE_FORMATS; foreign bytes make Pillow fail in any way they like.
    """
    refuse_slow(encoded)
    picture = Image.open(io.BytesIO(encoded), formats=PICTURE_FORMATS)
    refuse_size(*picture.size)
    refuse_swelling(picture)
    return picture


def refuse_swelling(picture: Image.Image) -> None:
    """Raises ValueError for an opened picture that would take far more time or memory to decode than its pixels say."""
    if picture.tile and picture.tile[0][0] in _WRITTEN_IN_PYTHON and picture.width * picture.height > _MOST_OF_THEM:
        raise ValueError(f"{picture.width} x {picture.height} pixels of a coding that is slow to read")
    if picture.format == "TIFF":  # a tile is decoded as a whole, however little of it lies in the picture
        tile = [picture.tag_v2.get(tag, 1) for tag in (_TILE_WIDTH, _TILE_LENGTH)]
        refuse_size(*tile, "in a tile")


def refuse_size(width: int, height: int, where: str = "") -> None:
    """Raises ValueError for more than MAX_PIXELS."""
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels{where and f' {where}'}; at most {MAX_PIXELS:,} are read")


def rgb(picture: Image.Image) -> np.ndarray:
    """Decode an opened picture to (H, W, 3) uint8."""
    if picture.mode.startswith("I"):  # "I;16" and its byte orders; Pillow's own conversion would clip at 255
        return np.repeat(to_8_bits(np.asarray(picture))[..., None], 3, axis=-1)
    if picture.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(picture.convert("RGB"))


def to_8_bits(samples: np.ndarray) -> np.ndarray:
    """Scale samples of 0..65535 to 0..255, rounding to the nearest (65535 = 255 * 257)."""
    return ((np.clip(samples, 0, 65535).astype(np.uint32) + 128) // 257).astype(np.uint8)
