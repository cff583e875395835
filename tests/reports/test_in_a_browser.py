"""Pages in a real browser: nothing is asked for, nothing is refused, nothing is wider than the screen."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from made_runs import itm_frame, make_run, noise, write_data

import small_run
import small_tasks
from browser import console, requests, resize
from renaissance.cli.main import main

pytestmark = pytest.mark.browser

HEADER = "step,itm/train/loss,learning_rate,samples_per_second,data_wait_share,itm/val/loss,itm/val/accuracy"
ROWS = (HEADER, "10,0.7,1e-4,100,0.5,,", "20,0.5,5e-5,300,0.1,,", "20,,,,,0.6,0.75")
LONG = "supercalifragilistic" * 12 + " <img src=https://example.org/a.png> <script>alert(1)</script>"


@pytest.fixture(scope="module")
def pages(hub_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run made by hand with unfriendly texts, two runs side by side, and a run of boxes."""
    folder = tmp_path_factory.mktemp("pages")
    write_data(folder / "data", [f"{LONG} {n}" for n in range(30)], [noise(n) for n in range(30)])
    runs = [
        make_run(folder / "result", folder / "data", itm_frame(30, seed), ROWS, exp_name=f"{'long_name' * 9}{seed}")
        for seed in (0, 1)
    ]
    assert main(["with", *small_tasks.words("ref", folder)]) == 0
    (boxes,) = (folder / "runs").glob("*/version_0/report.html")
    for words in ([f"run={runs[0]}"], [f"runs={runs[0]},{runs[1]}", f"output={folder / 'both.html'}"]):
        assert main(["report", "with", *words]) == 0
    return {"one": runs[0] / "report.html", "several": folder / "both.html", "boxes": boxes}


@pytest.mark.parametrize("which", ["one", "several", "boxes"])
def test_a_page_opens_at_any_width_dark_and_light(which: str, pages: dict[str, Path], browser):
    address, papers = pages[which].as_uri(), set()
    console(browser), requests(browser)  # of tests before
    for dark in (False, True):
        for width in (420, 1280):
            resize(browser, width, dark=dark)
            browser.get(address)
            assert console(browser) == [] and requests(browser) == [address]
            page, seen = browser.execute_script(
                "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
            )
            assert page <= seen == width
            # What is wider than its box is in one that scrolls.
            wide = browser.execute_script(
                "return [...document.querySelectorAll('body *')].filter(each => !each.closest('.wide, svg')"
                " && each.getBoundingClientRect().right > innerWidth + 1).map(each => each.outerHTML.slice(0, 80))"
            )
            assert wide == []
            papers.add(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
            shown = browser.execute_script("return [...document.images].map(each => each.naturalWidth)")
            assert shown and all(shown)
    assert len(papers) == 2
    assert browser.execute_script("return document.scripts.length") == 0


def test_boxes_lie_on_their_pictures(pages: dict[str, Path], browser):
    resize(browser, 1280)
    browser.get(pages["boxes"].as_uri())
    frames = browser.execute_script(
        "return [...document.querySelectorAll('.frame')].map(frame => [...frame.children].map(each => {"
        " const box = each.getBoundingClientRect(); return [box.x, box.y, box.width, box.height].map(Math.round)}))"
    )
    assert frames and all(len(each) == 2 and each[0] == each[1] and min(each[0][2:]) > 10 for each in frames)
    assert browser.execute_script("return document.querySelectorAll('rect.right').length") == len(frames)


def test_a_page_prints_on_white_paper(pages: dict[str, Path], browser):
    resize(browser, 1280, dark=True)
    browser.get(pages["one"].as_uri())
    media = {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    colours = browser.execute_script(
        "const style = getComputedStyle(document.body); return [style.backgroundColor, style.color]"
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert colours[0] == "rgb(255, 255, 255)" and small_run.values_of(f"x={colours[1][3:]}")["x"] < (80, 80, 80)
    printed = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert printed.startswith(b"%PDF")
