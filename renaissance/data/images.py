"""From the bytes of an encoded image to (3, H, W) uint8 RGB.

Ordinary JPEG files go through torchvision's decoder, straight into a tensor; everything else goes through Pillow
(`renaissance/data/pixels.py`): CMYK and palette files, transparency (laid over white), PNG, TIFF, WebP, GIF (its first frame).
torchvision's decoder of PNG (0.29) ends the process where the compressed pixels are damaged. Samples of 16 bits are
scaled to 8. The format is read from the bytes, never from a file name, and the size before anything is decoded: of an
ordinary JPEG by `_jpeg_size`, which takes a few microseconds, of all else by Pillow.

The EXIF orientation is ignored, as ViLT and METER ignore it: the boxes of COCO, Visual Genome and RefCOCO
are in stored pixels, and published numbers were made that way.
"""

from __future__ import annotations

import struct
import warnings

import torch
from torch import Tensor
from torchvision.io import ImageReadMode

from renaissance.core.errors import UserError, first_line, printable

from .pixels import open_image, refuse_size, refuse_slow, rgb

# Markers of a JPEG file (ITU-T T.81, table B.1): the frames that every decoder reads (baseline, extended, progressive),
# and what may come before one: DHT, DQT, DRI, APP0 to APP15, COM.
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
_BEFORE_FRAME = frozenset({0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE})


def decode(encoded: bytes, where: str) -> Tensor:
    """Decode an image.

    Args:
        encoded: the file's bytes.
        where: what an error names, such as a file and its row.

    Returns:
        (3, H, W) uint8 RGB, where H and W are the stored height and width. The memory layout is that of (H, W, 3),
        which torchvision's decoder writes and its resize is fastest on.

    Raises:
        UserError: the bytes are not an image, are cut short, claim more than MAX_PIXELS, or would take too long.
    """
    # The decoders warn of oddities of a file that nobody can act on while training, and torchvision of its own future.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            size = _jpeg_size(encoded)
            if size is None:
                return torch.from_numpy(rgb(open_image(encoded))).permute(2, 0, 1)
            refuse_size(*size)
            refuse_slow(encoded)
            # The operator behind `decode_jpeg`, which would build a warning of its own future at every call: a twentieth of
            # the time of a small image. bytearray: torch wants writable memory; that copy takes some microseconds.
            content = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
            return torch.ops.image.decode_jpeg(content, ImageReadMode.RGB.value, False)
        except Exception as error:  # foreign bytes make decoders fail in any way they like
            raise UserError(f"The image of {printable(where)} cannot be decoded ({first_line(error)}).") from error


def _jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    """Return the width and height of a JPEG of grey or three-component samples of 8 bits, None of all other files.

    Strict, so that it cannot be told another size than the decoder: it goes from marker to marker by their lengths, and
    leaves a file with anything out of the ordinary before its frame to Pillow.
    """
    if encoded[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 10 <= len(encoded):
        fill, marker, length, precision, height, width, components = struct.unpack_from(">BBHBHHB", encoded, at)
        if fill != 0xFF:
            return None
        if marker in _FRAMES:
            return (width, height) if precision == 8 and components in (1, 3) else None
        if marker not in _BEFORE_FRAME or length < 2:
            return None
        at += 2 + length
    return None
