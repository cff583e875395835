"""Decoding of ordinary and of odd images."""

import io
import itertools
import struct
import time
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from renaissance.core.errors import UserError
from renaissance.data.images import decode
from renaissance.data.pixels import jpeg_size

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


ORDINARY_JPEG = {
    "baseline": {},
    "progressive": {"progressive": True},
    "all colour samples": {"subsampling": 0},
    "half the colour samples": {"subsampling": 1},
    "restart markers": {"restart_marker_blocks": 1},
    "RGB samples": {"keep_rgb": True},
    "a comment and a profile": {"comment": b"\xff\xc0" * 50, "icc_profile": bytes(70_000)},
}


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", ORDINARY_JPEG.values(), ids=ORDINARY_JPEG)
def test_an_ordinary_jpeg_is_read_without_pillow(mode, options, monkeypatch):
    file = encoded(Image.fromarray(GRADIENT[:, :33]).convert(mode), "JPEG", **options)
    expected = np.array(Image.open(io.BytesIO(file)).convert("RGB"))
    monkeypatch.setattr(Image, "open", None)
    assert jpeg_size(file) == (33, 30)
    assert array(file).tolist() == expected.tolist()


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
    assert np.abs(array(file)[..., 1].astype(int) - EIGHT_BITS).max() <= 1  # Pillow takes the upper byte


@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True})])
def test_bytes_damaged_in_any_way_are_decoded_or_refused(format: str, options: dict[str, bool]):
    """And never end the process, as a decoder has done."""
    random = np.random.default_rng(0)
    picture = Image.fromarray(np.kron(random.integers(0, 256, (8, 9, 3), np.uint8), np.ones((4, 4, 1), np.uint8)))
    sound = io.BytesIO()
    picture.save(sound, format, **options)
    sound, refused = sound.getvalue(), 0
    for trial in range(300):
        damaged, at, length = bytearray(sound), int(random.integers(2, len(sound) - 2)), int(random.integers(1, 40))
        if trial % 4 == 0:
            damaged[at : at + length] = bytes(length)
        elif trial % 4 == 1:
            damaged[at : at + length] = random.bytes(length)
        elif trial % 4 == 2:
            damaged[at] ^= 1 << int(random.integers(8))
        else:
            del damaged[at:]
        try:
            assert decode(bytes(damaged), "here").dtype == torch.uint8
        except UserError as error:
            assert str(error).startswith("The image of here")
            refused += 1
    assert refused > 50


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
    with pytest.raises(UserError, match=r"^The image of coco.arrow row 7 cannot be decoded"):
        decode(file, "coco.arrow row 7")


def test_floating_point_pixels_are_refused():
    with pytest.raises(UserError, match="no agreed range"):
        decode(encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "here")


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_picture_that_would_fill_the_memory_is_refused(side):
    picture = bytearray(encoded(Image.new("RGB", (8, 8)), "PNG"))
    picture[16:24] = side.to_bytes(4, "big") * 2
    picture[29:33] = zlib.crc32(bytes(picture[12:29])).to_bytes(4, "big")
    with pytest.raises(UserError, match=r"bomb.arrow row 1 .*(10000 x 10000 pixels; at most|decompression bomb)"):
        decode(bytes(picture), "bomb.arrow row 1")


def bmp_of_runs(width: int, height: int) -> bytes:
    """One pixel and the end of a row, again and again; every other pixel is left out."""
    runs = b"\1\0\0\0" * 100 + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(runs), 0, 0, 1078) + header + bytes(1024) + runs


def tiff_of_a_tile(side: int) -> bytes:
    """An image of 16 x 16 pixels in the corner of a tile."""
    content = zlib.compress(bytes(1 << 20))
    tags = [(256, 16), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1), (322, side), (323, side), (324, 0), (325, 0)]
    places = {324: 14 + 12 * len(tags), 325: len(content)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, places.get(tag, value)) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + content


def png_with(kind: bytes, content: bytes) -> bytes:
    chunk = kind + content
    return PNG[:33] + struct.pack(">I", len(content)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + PNG[33:]


PROGRESSIVE = encoded(Image.fromarray(GRADIENT), "JPEG", progressive=True)
ZEROS = zlib.compress(bytes(64 << 20), 1)
SWELLING = {
    "runs of a wide BMP": bmp_of_runs(89_000_000, 1),
    "runs of a BMP": bmp_of_runs(9_000, 9_000),
    "a tile of TIFF": tiff_of_a_tile(32_768),
    "a text of PNG": png_with(b"zTXt", b"a\0\0" + ZEROS),
    "a profile of PNG": png_with(b"iCCP", b"a\0\0" + ZEROS),
    "a plain PPM": b"P3\n9000 9000\n255\n0 0",
    "passes of JPEG": PROGRESSIVE[:-2] + PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2] * 150 + b"\xff\xd9",
}


@pytest.mark.parametrize("case", SWELLING)
def test_pictures_that_would_swell_or_take_long_are_refused(case: str):
    begin = time.process_time()
    with pytest.raises(UserError, match=r"^The image of coco.arrow row 7 cannot be decoded \("):
        decode(SWELLING[case], "coco.arrow row 7")
    assert time.process_time() - begin < 2


def test_of_a_thousand_frames_the_first_is_read():
    frames = [Image.new("L", (8, 8), grey % 256) for grey in range(1000)]
    for format in ("GIF", "TIFF", "WEBP"):
        file = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        begin = time.process_time()
        assert array(file).max() == 0 and time.process_time() - begin < 1


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


def frame(height: int, width: int) -> bytes:
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return segment(0xC0, b"\x08" + size + b"\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01")


FRAME = JPEG.index(b"\xff\xc0")
# What a file could hold to make us see another size than the decoder does, or none.
DECOYS = [b"", segment(0xE1, frame(8, 8)), segment(0xFE, frame(8, 8)), segment(0xDD, b"\0\0"), segment(0xE5, b"")]
ODDITIES = [b"\xff", b"garbage", b"\xff\xd0", b"\xff\x01", b"\xff\xd8", b"\xff\xd9", b"\xff\xfe\0\0", b"\xff\xfe\0\1"]
ODDITIES += [segment(0xDC, b"\0\x08"), segment(0xCC, b"\0\0"), segment(0xF0, b""), frame(8, 8), frame(8, 8)[:9]]


@pytest.mark.parametrize("before", DECOYS + ODDITIES, ids=bytes.hex)
def test_a_jpeg_bomb_is_refused_whatever_is_before_its_size(before):
    bomb = JPEG[:FRAME] + before + frame(65_000, 65_000) + JPEG[FRAME + len(frame(0, 0)) :]
    with pytest.raises(UserError, match=r"^The image of bomb "):
        decode(bomb, "bomb")
    if before in DECOYS:
        assert jpeg_size(bomb) == (65_000, 65_000)


def test_the_size_read_is_the_size_decoded():
    sizes = []
    for decoy, oddity in itertools.product(DECOYS, DECOYS + ODDITIES):
        file = JPEG[:FRAME] + decoy + oddity + JPEG[FRAME:]
        size = jpeg_size(file)
        try:
            height, width = decode(file, "here").shape[1:]
        except UserError:
            assert oddity in ODDITIES
            continue
        assert size in (None, (width, height))
        sizes.append(size)
    assert sizes.count((40, 30)) == len(DECOYS) ** 2 and None in sizes


def test_decoding_leaves_the_warning_filters_alone():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decode(JPEG, "here")
        warnings.warn("still heard", stacklevel=1)
    assert [str(each.message) for each in caught] == ["still heard"]
