"""The browser of the tests sees what it should."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from browser import console, requests, resize, screenshot

pytestmark = pytest.mark.browser


def test_it_notes_errors_and_what_is_loaded_and_takes_any_width(browser, tmp_path: Path):
    page = tmp_path / "page.html"
    page.write_text(
        "<!doctype html><title>a page</title><style>@media (prefers-color-scheme: dark) {body {background: #000}}</style>"
        "<img src=missing.png><script>console.error('broken')</script><p style='height: 2000px'>text"
    )
    console(browser), requests(browser)  # of tests before
    for width, dark in ((420, False), (1280, True)):
        resize(browser, width, dark=dark)
        browser.get(page.as_uri())
        said, asked = console(browser), requests(browser)
        assert any("broken" in line for line in said) and any("missing.png" in line for line in said), said
        assert asked == [page.as_uri(), (tmp_path / "missing.png").as_uri()]
        assert browser.execute_script("return document.documentElement.clientWidth") == width
        screenshot(browser, tmp_path / "page.png")
        with Image.open(tmp_path / "page.png") as image:
            assert image.size[0] == width and image.size[1] > 2000
            assert image.convert("RGB").getpixel((width - 2, 1000)) == ((0, 0, 0) if dark else (255, 255, 255))
