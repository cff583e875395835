"""JPEG files that would keep a decoder busy are found before they are decoded, and ordinary ones pass."""

from __future__ import annotations

import io
import time

import pytest
from PIL import Image

from data.prepare.raw_files import encode, odd_pictures, photograph
from renaissance.data.pixels import jpeg_size


def coded(width: int, height: int, more: int, progressive: bool = True) -> bytes:
    """A grey image whose last scan comes `more` times again."""
    whole = encode(Image.new("RGB", (width, height), "grey"), "JPEG", progressive=progressive)
    return whole[:-2] + whole[whole.rindex(b"\xff\xda") : -2] * more + whole[-2:]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (coded(80, 80, 0), None),
        (coded(80, 80, 80), None),
        (coded(80, 80, 400), "its 6,400 pixels are coded in 101 or more passes"),
        (coded(8000, 8000, 40), "its 64,000,000 pixels are coded in 28 or more passes"),
        (photograph()[:2] + b"\xff\xe1\x00\x0aExif\0\0ab" * 100_000 + photograph()[2:], "has more than 1,000 segments"),
        (photograph()[:2] + b"\xff\xe1\xff\xff" + b"\xff\xda" * 9000, None),  # not coded pixels
        (photograph() + b"\xff\xda" * 9000, None),  # what lies behind the image, as films of telephones do
        (b"\xff\xd8" + b"\xff\xda\x00\x02" * 200, "its 0 pixels are coded in 101"),
        *((content, None) for content in (photograph(), b"", b"\xff\xd8", b"\xff\xd8\xff", *odd_pictures().values())),
    ],
    ids=lambda each: None if isinstance(each, bytes) else str(each)[:9],
)
def test_what_takes_too_long_is_refused(content: bytes, reason: str | None):
    started = time.monotonic()
    if reason is None:
        jpeg_size(content)
    else:
        with pytest.raises(ValueError, match=reason):
            jpeg_size(content)
    assert time.monotonic() - started < 1


def test_one_scan_of_all_components_is_not_looked_behind_because_decoders_do_not_either():
    with Image.open(io.BytesIO(coded(80, 80, 400, progressive=False))) as picture, pytest.raises(OSError):
        picture.load()
