"""Images that are made smaller while writing: the pixels a reader would see, and nothing else of the file."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as skimage_data

from data.prepare.raw_files import bad_pictures, encode, odd_pictures, photograph, read_rows, write_pictures
from renaissance.core.errors import UserError
from renaissance.data.dataset_specs import IMAGE, Column
from renaissance.data.images import decode
from renaissance.data.prepare.arrow_file import Plan
from renaissance.data.prepare.entries import Row
from renaissance.data.prepare.image_pool import QUALITY, Fault, read_image
from renaissance.data.prepare.skipped import Skipped
from renaissance.data.prepare.writer import Download, arrow_writer, schema_of

PHOTOGRAPHS = ("retina.jpg", "hubble_deep_field.jpg", "rocket.jpg", "coffee.png")


def as_read(encoded: bytes) -> np.ndarray:
    """(H, W, 3) as training reads it."""
    return decode(encoded, "a test").permute(1, 2, 0).numpy()


def reduced(encoded: bytes, short_side: int) -> np.ndarray:
    """The reference: what a reader sees of the whole image, made smaller by Pillow."""
    whole = Image.fromarray(as_read(encoded))
    width, height = whole.size
    size = (short_side, round(height * short_side / width))
    if height < width:
        size = (round(width * short_side / height), short_side)
    return np.asarray(whole.resize(size, Image.Resampling.BICUBIC))


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("short_side", [64, 224, 399])
def test_real_photographs_look_as_if_they_were_made_smaller_after_reading(name: str, short_side: int):
    encoded = (Path(skimage_data.__file__).parent / name).read_bytes()
    small = read_image(encoded, short_side, 100)
    expected = reduced(encoded, short_side)
    assert Image.open(io.BytesIO(small)).format == "JPEG"
    # The colours of a JPEG have half the pixels, as those of most photographs: only the brightness is kept as it is.
    brightness = (as_read(small).astype(float) - expected) @ (0.299, 0.587, 0.114)
    assert np.abs(brightness).mean() < 0.8
    assert 10 * np.log10(255**2 / np.square(brightness).mean()) > 42


@pytest.mark.parametrize("side", [65, 127, 1001])
def test_a_jpeg_that_is_read_at_a_part_of_its_size_is_not_stretched(side: int):
    """65 pixels are read as 17 of 4 pixels each, the last of which is nearly empty."""
    ramp = np.rint(np.linspace(0, 255, side)).astype(np.uint8)
    encoded = encode(Image.fromarray(np.tile(ramp, (side, 1))), "JPEG", quality=100)
    small = as_read(read_image(encoded, 8, 100))[..., 0].astype(float)
    assert np.abs(small.mean(0) - reduced(encoded, 8)[..., 0].astype(float).mean(0)).max() < 2.5


@pytest.mark.parametrize("name", odd_pictures())
def test_odd_pictures_keep_the_pixels_that_a_reader_sees(name: str):
    encoded = odd_pictures()[name]
    small = read_image(encoded, 32, 100)
    difference = np.abs(as_read(small).astype(float) - reduced(encoded, 32))
    assert as_read(small).shape == reduced(encoded, 32).shape
    assert difference.mean() < 3


def test_transparent_pixels_lie_over_white():
    colour = Image.fromarray(skimage_data.astronaut()[:64, :64]).convert("RGBA")
    colour.paste((255, 0, 0, 0), (0, 0, 32, 64))
    palette = encode(colour.convert("RGB").quantize(16), "PNG", transparency=0)
    for encoded in (encode(colour, "PNG"), palette):
        assert np.abs(as_read(read_image(encoded, 32, 100)).astype(float) - reduced(encoded, 32)).mean() < 3
    assert as_read(read_image(encode(colour, "PNG"), 32, 100))[:, :12].min() > 250


@pytest.mark.parametrize("resize", [96, 97, 1000])
def test_a_picture_that_is_small_enough_keeps_its_bytes(resize: int):
    assert read_image(photograph(), resize) == photograph()  # 128 x 96
    assert read_image(photograph(), 95) != photograph()


def test_orientation_profile_and_comment_stay_behind_and_nothing_is_turned():
    colour = Image.fromarray(skimage_data.astronaut()[:200, :300])
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    marked = encode(colour, "JPEG", quality=95, exif=exif, comment=b"mine", icc_profile=b"profile" * 9)
    small = read_image(marked, 100)
    assert small == read_image(encode(colour, "JPEG", quality=95), 100)
    with Image.open(io.BytesIO(small)) as picture:
        assert (picture.size, dict(picture.getexif())) == ((150, 100), {})
        assert not {"exif", "comment", "icc_profile"} & set(picture.info)


@pytest.mark.parametrize("name", [name for name, (content, _) in bad_pictures().items() if content is not None])
def test_what_cannot_be_read_is_found_when_it_is_made_smaller_too(name: str):
    content, kind = bad_pictures()[name]
    fault = read_image(content, 16)
    assert isinstance(fault, Fault)
    assert fault == read_image(content)
    assert fault.kind == kind


def test_what_would_keep_a_reader_waiting_is_left_out(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    whole = encode(Image.new("RGB", (800, 800), "grey"), "JPEG", progressive=True)
    slow = whole[:-2] + whole[whole.rindex(b"\xff\xda") : -2] * 500 + whole[-2:]
    for source, why in (
        (str(tmp_path / "pipe.jpg"), "a pipe, a socket or a device, and no file"),
        (str(tmp_path / "zero.jpg"), "a pipe, a socket or a device, and no file"),
        (slow, "its 640,000 pixels are coded in 101 or more passes, which takes too long"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a git-LFS pointer"),
    ):
        fault = read_image(source)
        assert isinstance(fault, Fault) and fault.kind == "unreadable" and fault.why.startswith(why)


def test_pixels_without_an_agreed_range_are_left_out():
    encoded = encode(Image.fromarray(np.ones((40, 40), np.float32)), "TIFF")
    assert read_image(encoded) == Fault("unreadable", "floating-point pixels have no agreed range")


def test_the_file_and_its_manifest(tmp_path: Path):
    pictures = {"a.jpg": photograph(1), "b.jpg": read_image(photograph(2), 30), "c.jpg": photograph(3)}
    write_pictures(tmp_path, pictures)

    def write(**writing) -> dict:
        rows = [Row({"image": name}, {}) for name in pictures]
        plan = Plan("a.arrow", schema_of([IMAGE]), rows, 3, Skipped(), ())
        return arrow_writer(lambda _: Download("test", [plan], options={"own": 1}))(tmp_path, tmp_path, **writing)[0]

    contents = []
    for workers in (1, 2):
        manifest = write(workers=workers, resize=30)
        assert manifest["options"] == {"own": 1, "max_unreadable": 0.01, "resize": 30, "quality": QUALITY}
        contents.append([(tmp_path / name).read_bytes() for name in ("a.arrow", "a.json")])
    assert contents[0] == contents[1]
    assert [row["image"] for row in read_rows(tmp_path / "a.arrow")] == [
        read_image(photograph(1), 30, QUALITY),
        pictures["b.jpg"],
        read_image(photograph(3), 30, QUALITY),
    ]
    smaller = write(workers=1, resize=30, quality=40)
    assert smaller["options"]["quality"] == 40
    assert smaller["image_bytes"] < manifest["image_bytes"]
    assert write(workers=1)["options"] == {"own": 1, "max_unreadable": 0.01, "resize": None, "quality": None}


def test_values_in_pixels_follow_the_picture(tmp_path: Path):
    wide, small = encode(Image.new("RGB", (201, 100)), "PNG"), encode(Image.new("RGB", (20, 10)), "PNG")
    write_pictures(tmp_path, {"wide.png": wide})

    def rescale(values: dict, across: float, down: float) -> dict:
        return {"bboxes": [[x * across, y * down, w * across, h * down] for x, y, w, h in values["bboxes"]]}

    def boxes(**writing) -> list:
        rows = [Row({"image": picture}, {"bboxes": [[0.0, 10, 201, 80]]}, rescale) for picture in ("wide.png", small)]
        plan = Plan(
            "a.arrow", schema_of([IMAGE, Column("bboxes", "list<list<double>>", per_row=True)]), rows, 2, Skipped(), ()
        )
        arrow_writer(lambda _: Download("test", [plan]))(tmp_path, tmp_path, **writing)
        return [row["bboxes"] for row in read_rows(tmp_path / "a.arrow")]

    assert boxes(workers=1) == [[[0, 10, 201, 80]], [[0, 10, 201, 80]]]
    for workers in (1, 2):
        stored, kept = boxes(workers=workers, resize=50)
        assert stored == [pytest.approx([0, 5, 100, 40])]  # 100 x 50, not 100.5
        assert kept == [[0, 10, 201, 80]]


@pytest.mark.parametrize(
    ("writing", "sentence"),
    [
        ({"resize": 0}, "resize=0 is not allowed: give a whole number of at least 1"),
        ({"resize": 2.5}, "resize=2.5 is not allowed"),
        ({"resize": True}, "resize=True is not allowed"),
        ({"resize": 9, "quality": 101}, "quality=101 is not allowed: give a whole number of at least 1, at most 100"),
        ({"resize": 9, "quality": "high"}, "quality='high' is not allowed"),
        ({"quality": 90}, "quality=90 needs resize="),
    ],
)
def test_refuses_options(tmp_path: Path, writing: dict, sentence: str):
    with pytest.raises(UserError) as refusal:
        arrow_writer(lambda _: Download("test", []))(tmp_path, tmp_path, **writing)
    assert sentence in str(refusal.value)
