"""Decoding of ordinary and of odd pictures."""

import io
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from renaissance.data.images import decode
from renaissance.errors import UserError

GRADIENT = np.stack(
    [np.tile(np.arange(40) * 6, (30, 1)), np.tile(np.arange(30)[:, None] * 8, (1, 40)), np.full((30, 40), 90)], axis=-1
).astype(np.uint8)


def encoded(picture: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def array(file: bytes) -> np.ndarray:
    pixels = decode(file, "here")
    assert pixels.dtype == torch.uint8 and pixels.shape[0] == 3
    return pixels.permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    ("format", "mode", "options"),
    [
        ("PNG", "RGB", {}),
        ("PNG", "L", {}),
        ("PNG", "1", {}),
        ("PNG", "P", {}),
        ("GIF", "P", {}),
        ("BMP", "RGB", {}),
        ("TIFF", "RGB", {}),
        ("WEBP", "RGB", {"lossless": True}),
        ("JPEG", "L", {"quality": 95}),
        ("JPEG", "RGB", {"quality": 95}),
        ("JPEG", "CMYK", {"quality": 95}),
        ("TIFF", "CMYK", {}),
        ("PNG", "LA", {}),
        ("PNG", "RGBA", {}),
    ],
)
def test_decoding_equals_pillows(format, mode, options):
    file = encoded(Image.fromarray(GRADIENT).convert(mode), format, **options)
    layer = Image.open(io.BytesIO(file)).convert("RGBA")
    expected = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    assert array(file).tolist() == np.array(expected).tolist()


def test_cmyk_keeps_its_colours():
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert np.abs(array(encoded(red, "JPEG", quality=95)).astype(int) - [255, 0, 0]).max() <= 8


@pytest.mark.parametrize(("alpha", "expected"), [(0, [255, 255, 255]), (255, [200, 40, 10]), (102, [233, 169, 157])])
def test_transparency_is_laid_over_white(alpha, expected):
    file = encoded(Image.new("RGBA", (4, 4), (200, 40, 10, alpha)), "PNG")
    assert np.abs(array(file).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_becomes_white(mode):
    clear, solid = (7, 9) if mode != "RGB" else ((7, 7, 7), (9, 9, 9))
    picture = Image.new(mode, (4, 4), clear)
    if mode == "P":
        picture.putpalette([value for grey in range(256) for value in (grey, grey, grey)])
    picture.putpixel((0, 0), solid)
    pixels = array(encoded(picture, "PNG", transparency=clear))
    assert pixels[0, 0].tolist() == [9, 9, 9] and (pixels[1:] == 255).all()


SIXTEEN_BITS = np.array([[0, 128, 129, 257], [32768, 40000, 65406, 65535]], dtype=np.uint16)
EIGHT_BITS = [[0, 0, 1, 1], [128, 156, 254, 255]]  # round(v / 257)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(format):
    pixels = array(encoded(Image.fromarray(SIXTEEN_BITS), format))
    assert pixels.tolist() == np.repeat(np.array(EIGHT_BITS)[..., None], 3, axis=-1).tolist()


def test_sixteen_bit_rgb_is_scaled():
    # Pillow writes no such file, so it is put together by hand: PNG specification, section 5.
    rows = b"".join(b"\0" + np.repeat(row, 3).astype(">u2").tobytes() for row in SIXTEEN_BITS)
    header = (4).to_bytes(4, "big") + (2).to_bytes(4, "big") + bytes([16, 2, 0, 0, 0])
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    file = b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in chunks
    )
    assert array(file)[..., 1].tolist() == EIGHT_BITS


def test_exif_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    assert array(encoded(Image.fromarray(GRADIENT), "JPEG", exif=exif)).shape == (30, 40, 3)


JPEG = encoded(Image.fromarray(GRADIENT), "JPEG")
PNG = encoded(Image.fromarray(GRADIENT), "PNG")


@pytest.mark.parametrize(
    "file",
    [b"", b"<html>404</html>", JPEG[:2], JPEG[:-200], PNG[:-60], encoded(Image.fromarray(GRADIENT), "TIFF")[:2000]],
    ids=["empty", "a web page", "two bytes", "JPEG cut short", "PNG cut short", "TIFF cut short"],
)
def test_unreadable_pictures_are_named(file):
    with pytest.raises(UserError, match=r"^The picture of coco.arrow row 7 cannot be decoded"):
        decode(file, "coco.arrow row 7")


def test_floating_point_pixels_are_refused():
    with pytest.raises(UserError, match="no agreed range"):
        decode(encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "here")


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_picture_that_would_fill_the_memory_is_refused(side):
    picture = bytearray(encoded(Image.new("RGB", (8, 8)), "PNG"))
    picture[16:24] = side.to_bytes(4, "big") * 2
    picture[29:33] = zlib.crc32(bytes(picture[12:29])).to_bytes(4, "big")
    with pytest.raises(UserError, match=r"bomb.arrow row 1 (has 10000 x 10000 pixels; at most|is too large)"):
        decode(bytes(picture), "bomb.arrow row 1")


def test_decoding_leaves_the_warning_filters_alone():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decode(JPEG, "here")
        warnings.warn("still heard", stacklevel=1)
    assert [str(each.message) for each in caught] == ["still heard"]
