"""Images that Pillow decodes, as training sees them: laid over white, of 8 bits, bounded before they are decoded; no torch."""

from __future__ import annotations

import io
import re

import numpy as np
from PIL import Image, UnidentifiedImageError

# Pillow plugins that may open an image. EPS, for one, starts Ghostscript: a caption data set must not be able to.
IMAGE_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000")
# Images of more pixels are taken for decompression bombs; Pillow warns from the same size on.
MAX_PIXELS = 89_478_485
_WRITTEN_IN_PYTHON = ("bmp_rle", "ppm", "ppm_plain")  # Pillow's decoders that take a step a pixel
_MOST_OF_THEM = 1 << 22  # pixels, a second or two
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags of TIFF 6.0, section 15
MOST_SCANS = 100
MOST_SEGMENTS = 1000  # a colour profile has at most 255 of them
_FEW = 20  # scans that any image may have: of MAX_PIXELS they take two seconds
_SOS, _EOI = 0xDA, 0xD9
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers that give the size, table B.1
_ORDINARY = frozenset({0xC0, 0xC1, 0xC2})  # those that every decoder reads: baseline, extended, progressive
_BEFORE_FRAME = frozenset({0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE})  # DHT, DQT, DRI, APP0 to APP15, COM
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
# The next marker with a segment: no stuffed or fill byte, no restart (D0 to D7), none of those that stand alone.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")


class TooLarge(ValueError):
    """An image has more pixels or bytes than are read."""


def open_image(encoded: bytes) -> Image.Image:
    """Opens an image, its first frame; nothing is decoded yet.

    Raises:
        ValueError: it is none of IMAGE_FORMATS, claims more than MAX_PIXELS, or would take far more time or memory to decode
            than its pixels say.
        Exception: foreign bytes make Pillow fail in any way they like.
    """
    jpeg_size(encoded)
    try:
        image = Image.open(io.BytesIO(encoded), formats=IMAGE_FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"it is none of {', '.join(IMAGE_FORMATS)}") from None
    refuse_size(*image.size)
    if image.tile and image.tile[0][0] in _WRITTEN_IN_PYTHON and image.width * image.height > _MOST_OF_THEM:
        raise ValueError(f"{image.width} x {image.height} pixels of a coding that is slow to read")
    if image.format == "TIFF":  # a tile is decoded as a whole, however little of it lies in the image
        refuse_size(image.tag_v2.get(_TILE_WIDTH, 1), image.tag_v2.get(_TILE_LENGTH, 1), "in a tile")
    return image


def refuse_size(width: int, height: int, where: str = "") -> None:
    """Raises TooLarge for more than MAX_PIXELS."""
    if width * height > MAX_PIXELS:
        raise TooLarge(f"{width} x {height} pixels{where and f' {where}'}; at most {MAX_PIXELS:,} are read")


def rgb(image: Image.Image) -> np.ndarray:
    """Decodes an opened image to (H, W, 3) uint8."""
    if image.mode.startswith("I"):  # "I;16" and its byte orders; Pillow's own conversion would clip at 255
        return np.repeat(to_8_bits(np.asarray(image))[..., None], 3, axis=-1)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(image.convert("RGB"))


def to_8_bits(samples: np.ndarray) -> np.ndarray:
    """Scales samples of 0..65535 to 0..255, rounding to the nearest (65535 = 255 * 257)."""
    return ((np.clip(samples, 0, 65535).astype(np.uint32) + 128) // 257).astype(np.uint8)


def jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Reads the markers of a JPEG file, and refuses one that would keep a decoder busy for too long.

    A progressive JPEG is coded in scans, each a pass over the whole image (ITU-T T.81, annex G): writers make about ten.
    Hundreds of empty scans fit a small file and take a minute. Pillow joins segments before the image one by one.

    Returns:
        Width and height of a JPEG of grey or three-component samples of 8 bits, None of all other content. Strict, so that
        it cannot be told another size than the decoder: None where anything out of the ordinary comes before the frame.

    Raises:
        ValueError: why it takes too long.
    """
    if content[:2] != b"\xff\xd8":
        return None
    at, scans, pixels, components, size, ordinary = 2, 0, 0, None, None, True
    for _ in range(MOST_SEGMENTS):
        found = _MARKER.search(content, at)
        marker = content[found.start() + 1] if found else _EOI
        if marker == _EOI:
            return size
        ordinary, at = ordinary and found.start() == at, found.end()
        length = int.from_bytes(content[at : at + 2], "big")
        if marker in _FRAMES:
            height, width = (int.from_bytes(content[at + start : at + start + 2], "big") for start in (3, 5))
            pixels, count = max(pixels, height * width), content[at + 7 : at + 8]
            components = None if marker in _PROGRESSIVE else count
            if ordinary and marker in _ORDINARY and content[at + 2 : at + 3] == b"\x08" and count in (b"\1", b"\3"):
                size = width, height
        ordinary = ordinary and marker in _BEFORE_FRAME and length >= 2
        if marker == _SOS:
            # Mostly one scan has all components, or there are a few: then there is no need to look for more of them.
            if scans == 0 and (components == content[at + 2 : at + 3] or content.count(b"\xff\xda") <= _FEW):
                return size
            scans += 1
        if scans > MOST_SCANS or scans * pixels > _FEW * MAX_PIXELS:
            raise ValueError(f"its {pixels:,} pixels are coded in {scans} or more passes, which takes too long")
        at += length
    raise ValueError(f"it has more than {MOST_SEGMENTS:,} segments")
