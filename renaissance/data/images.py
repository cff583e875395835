"""From the bytes of an encoded image to (3, H, W) uint8 RGB.

Ordinary JPEG files go through torchvision's decoder, straight into a tensor; everything else goes through Pillow
(`renaissance/data/pixels.py`): CMYK and palette files, transparency (laid over white), PNG, TIFF, WebP, GIF (its first frame).
torchvision's decoder of PNG (0.29) ends the process where the compressed pixels are damaged. Samples of 16 bits are
scaled to 8. The format is read from the bytes, never from a file name, and the size before anything is decoded: of an
ordinary JPEG by `pixels.jpeg_size`, which takes a few microseconds, of all else by Pillow.

The EXIF orientation is ignored, as ViLT and METER ignore it: the boxes of COCO, Visual Genome and RefCOCO
are in stored pixels, and published numbers were made that way.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torchvision.io import ImageReadMode

from renaissance.core.errors import UserError, first_line, printable

from .pixels import jpeg_size, open_image, refuse_size, rgb


def is_ordinary_jpeg(encoded: bytes) -> bool:
    """Whether it is a file that torchvision's decoders read, that of a GPU as well, and of a size that is read at all."""
    try:
        size = jpeg_size(encoded)
        if size is not None:
            refuse_size(*size)
    except ValueError:
        return False  # `decode` says why
    return size is not None


def decode(encoded: bytes, where: str) -> Tensor:
    """Decodes an image.

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
            size = jpeg_size(encoded)
            if size is None:
                return torch.from_numpy(rgb(open_image(encoded))).permute(2, 0, 1)
            refuse_size(*size)
            # The operator behind `decode_jpeg`, which would build a warning of its own future at every call: a twentieth of
            # the time of a small image. bytearray: torch wants writable memory; that copy takes some microseconds.
            content = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
            return torch.ops.image.decode_jpeg(content, ImageReadMode.RGB.value, False)
        except Exception as error:  # foreign bytes make decoders fail in any way they like
            raise UserError(f"The image of {printable(where)} cannot be decoded ({first_line(error)}).") from error
