"""The page of `serve`: it says what `predict` says, runs nothing of what it is given, reads no other file, asks no other host."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="needs the extra `serve`")

import renaissance
from browser import requests, resize, screenshot
from conftest import OFFLINE, ROOT
from exchange.checkpoints import ANSWERS, write_checkpoint
from renaissance.cli.main import main
from renaissance.core.errors import UserError
from renaissance.inference.predictions import predictions
from renaissance.reports import live_page
from renaissance.reports.live_page import WHOLE, LivePage, typed, uploaded
from small_run import free_port

TOWERS = {"text_encoder": "bert", "image_encoder": "vit"}
HOSTILE = "the red [MASK] <img src=x onerror=alert(1)> ${1+1} {{7*7}}"


class Served(NamedTuple):
    """A command that shows the page. Attributes: its address; its process; the folder of its temporary files."""

    address: str
    process: subprocess.Popen
    temporary: Path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with heads for matching and masked words."""
    return write_checkpoint(tmp_path_factory.mktemp("serve"), TOWERS, max_text_len=40)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("pictures") / "a red circle.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)).save(file)
    return file


@pytest.fixture
def page(path: Path) -> LivePage:
    return LivePage(renaissance.load(path), top=3)


def upload(file: Path) -> dict[str, Any]:
    """As gradio describes a file that it has stored."""
    return {"path": str(file), "orig_name": file.name, "meta": {"_type": "gradio.FileData"}}


def cells(html: str) -> list[tuple[str, str]]:
    """Names and numbers of all tables."""
    found = re.findall(r'<th scope="row">(.*?)</th>.*?<td>([\d.]+)</td></tr>', html)
    return [(unescape(name), number) for name, number in found]


def test_the_page_says_what_predict_prints(page: LivePage, path: Path, picture: Path, capsys):
    text = "the red [MASK] is left of a [MASK]"
    assert main(["predict", "with", f"load_path={path}", f"image={picture}", f"text={text}", "top=3"]) == 0
    printed = capsys.readouterr().out
    shown = page.predictions(uploaded(upload(picture)), text)
    match, *words = cells(shown)
    assert printed.startswith(f"the text belongs to the image: {match[1]} (masks filled: ") and len(words) == 6
    for number in (1, 2):
        listed = ", ".join(" ".join(row) for row in words[3 * number - 3 : 3 * number])
        assert f"mask {number}: {listed}\n" in printed
    assert predictions(page.model, None, text, 3).match is None
    assert cells(page.predictions(None, text)) != [] and "belongs" not in page.predictions(None, text)
    assert "match, masked words" in page.about() and "<h1>model.ckpt</h1>" in page.about()


def test_answers_are_shown(tmp_path: Path, picture: Path):
    page = LivePage(renaissance.load(write_checkpoint(tmp_path, TOWERS, ("vqa",), datasets=["vqa"])), top=2)
    pixels = uploaded(upload(picture))
    expected = [(answer, f"{score:.3f}") for answer, score in page.model.answer(pixels, "the red circle", 2)]
    assert cells(page.predictions(pixels, "the red circle")) == expected and expected[0][0] in ANSWERS
    assert "they say: answers" in page.about()
    assert 'role="alert"' in page.predictions(None, "the red circle")


def test_heat_maps_are_of_the_chosen_word(page: LivePage, picture: Path):
    pixels, text = uploaded(upload(picture)), "the red circle, the small square"
    assert page.words(text) == [WHOLE, "the", "red", "circle", "small", "square"]
    assert page.words("a [MASK] is red") == ["[MASK]", "a", "is", "red"] and page.words("") == [WHOLE]
    drawn = {word: page.heat_map(pixels, text, word, "gradient") for word in (WHOLE, "red", "small square")}
    assert all(isinstance(map, Image.Image) and why == "" for map, why in drawn.values())
    assert len({map.tobytes() for map, _ in drawn.values()}) == 3
    for word, method, why in (
        ("blue", "gradient", "word=&#x27;blue&#x27;"),
        (WHOLE, "transport", "give one with word="),
    ):
        found, sentence = page.heat_map(pixels, text, word, method)
        assert found is None and why in sentence and 'role="alert"' in sentence
    assert page.heat_map(None, text, "red", "gradient")[0] is None


def test_an_empty_heat_map_is_said_to_be(page: LivePage, picture: Path):
    for each in page.model.matching.parameters():
        each.data.zero_()
    drawn, said = page.heat_map(uploaded(upload(picture)), "the red circle", WHOLE, "gradient")
    assert drawn is not None and "image-text match, by gradient: no patch weighs anything" in said


@pytest.mark.parametrize(
    ("host", "is_here"),
    [("127.0.0.1", True), ("127.0.0.2:7860", True), ("localhost:1", True), ("LocalHost", True), ("[::1]", True),
     ("[::1]:7860", True), ("[::ffff:127.0.0.1]", True), ("elsewhere.example:7860", False), ("", False), ("[::1", False),
     ("127.0.0.1.elsewhere.example", False), ("192.0.2.1", False), ("[2001:db8::1]:7860", False), ("a@127.0.0.1", False)],
)  # fmt: skip
def test_a_page_of_this_machine_answers_in_its_own_names_alone(host: str, is_here: bool):
    async def page(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    def status(only_here: bool) -> int:
        sent = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "path": "/", "headers": [(b"host", host.encode())]}
        asyncio.run(live_page._guarded(page, "folder", only_here)(scope, None, send))
        return sent[0]["status"]

    assert (status(True), status(False)) == (200 if is_here else 400, 200)


@pytest.mark.parametrize(("host", "is_here"), [("127.0.0.2", True), ("localhost", True), ("0.0.0.0", False)])
def test_every_address_of_the_loop_is_of_this_machine(host: str, is_here: bool, path: Path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(live_page, "application", lambda page, only_here, folder: asked.append(only_here))
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    assert main(["serve", "with", f"load_path={path}", f"host={host}", f"port={free_port()}"]) == 0
    assert asked == [is_here] and ("note: host=" in capsys.readouterr().out) != is_here


def test_texts_names_and_sentences_are_escaped(page: LivePage, picture: Path, monkeypatch):
    pixels = uploaded(upload(picture))
    for html in (page.predictions(pixels, HOSTILE), page.heat_map(pixels, HOSTILE, "<b>", "gradient")[1]):
        assert "&lt;" in html and "<img" not in html and "<b>" not in html
    monkeypatch.setattr(page.model, "path", "/models/<script>alert(1)</script>")
    assert "<script" not in page.about()


def test_what_is_given_has_bounds(tmp_path: Path, monkeypatch):
    (tmp_path / "note.txt").write_text("no image")
    Image.new("1", (8, 8)).save(tmp_path / "large.gif")
    content = (tmp_path / "large.gif").read_bytes()
    (tmp_path / "large.gif").write_bytes(content[:6] + b"\xff" * 4 + content[10:])  # says to be 65,535 wide and high
    for name, sentence in (("note.txt", "The image of note.txt cannot be decoded"), ("large.gif", "pixels"),
                           ("gone.png", "gone.png cannot be read")):  # fmt: skip
        with pytest.raises(UserError, match=sentence):
            uploaded(upload(tmp_path / name))
    monkeypatch.setattr(live_page, "MOST_BYTES", 4)
    with pytest.raises(UserError, match="note.txt has 8 bytes; at most 4"):
        uploaded(upload(tmp_path / "note.txt"))
    with pytest.raises(UserError, match="The text has 10,001 characters; at most 10,000 are read"):
        typed("a" * 10_001)
    assert [uploaded(nothing) for nothing in (None, {}, "text", {"path": None})] == [None] * 4


def refusals(path: Path) -> list[tuple[list[str], str]]:
    return [
        ([], "load_path=None: give the path of a checkpoint with load_path=."),
        (["load_path=none.ckpt"], "load_path=none.ckpt is not a file"),
        ([f"load_path={path}", "device=gpu"], "device='gpu' is not allowed: give cpu, cuda, cuda:1 or mps."),
        ([f"load_path={path}", "port=0"], "port=0 is not allowed"),
        ([f"load_path={path}", "top=0"], "top=0 is not allowed"),
        (
            [f"load_path={path}", "host=198.51.100.1"],
            "host=198.51.100.1 port=7860 cannot be listened at (Cannot assign",
        ),
        ([f"load_path={path}", "host=a..b"], "host=a..b port=7860 cannot be listened at ("),
    ]


@pytest.mark.parametrize("number", range(7))
def test_refusals(number: int, path: Path, capsys):
    words, sentence = refusals(path)[number]
    assert main(["serve", "with", *words]) == 1
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_a_port_in_use_and_a_missing_package_are_sentences(path: Path, capsys, monkeypatch):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "with", f"load_path={path}", f"port={port}"]) == 1
    why = f"host=127.0.0.1 port={port} cannot be listened at (Address already in use)"
    assert capsys.readouterr().err == f"error: {why}; give another port=, or host=127.0.0.1.\n"
    monkeypatch.setattr("renaissance.cli.serve.find_spec", lambda name: None)
    assert main(["serve", "with", f"load_path={path}"]) == 1
    assert capsys.readouterr().err == "error: serve needs the package gradio: pip install 'gradio>=6.31'.\n"


@pytest.fixture
def served(path: Path, tmp_path: Path) -> Iterator[Served]:
    """A command that shows the page."""
    temporary, port = tmp_path / "temporary", free_port()
    temporary.mkdir()
    command = [sys.executable, str(ROOT / "run.py"), "serve", "with", f"load_path={path}", f"port={port}", "top=3"]
    users = {"GRADIO_SHARE": "True", "GRADIO_ALLOWED_PATHS": "/", "GRADIO_ROOT_PATH": "/elsewhere"}  # none of it counts
    variables = os.environ | users | {"PYTHONPATH": str(OFFLINE), "TMPDIR": str(temporary)}
    process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        said = process.stdout.readline()
        assert said == f"http://127.0.0.1:{port} shows model.ckpt; Ctrl-C ends it.\n", process.stderr.read()
        yield Served(f"http://127.0.0.1:{port}/", process, temporary)
    finally:
        process.kill()
        process.communicate()


def asked(client: httpx.Client, image: dict[str, Any] | None, text: Any) -> str:
    """What the page answers to an event, as JSON."""
    event = {"data": [image, text, "gradient"], "fn_index": 0, "session_hash": "session"}
    assert client.post("gradio_api/queue/join", json=event).status_code == 200
    lines = client.get("gradio_api/queue/data", params={"session_hash": "session"}).text.splitlines()
    messages = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    return json.dumps([each for each in messages if each["msg"].startswith("process_")])


@pytest.mark.browser
def test_whoever_asks_gets_what_was_uploaded_and_nothing_else(served: Served, picture: Path):
    """A client that is no browser: paths and addresses in the place of uploads; another name that leads to this machine."""
    with httpx.Client(base_url=served.address, timeout=120, trust_env=False) as client:
        found = client.get("")
        assert found.status_code == 200 and "default-src 'self'" in found.headers["content-security-policy"]
        assert re.findall(r'(?:src|<link[^>]*href)="(?:https?:)?//(?!127\.0\.0\.1)[^"]*', found.text) == []
        assert "googleapis" not in client.get("theme.css").text
        assert client.get("", headers={"host": "elsewhere.example"}).status_code == 400
        with open(picture, "rb") as file:
            [stored] = client.post("gradio_api/upload", files={"files": file}).json()
        assert Path(stored).is_relative_to(served.temporary)
        mine = {"path": stored, "meta": {"_type": "gradio.FileData"}}
        assert "belongs to the image" in asked(client, mine, "the red circle")
        for other in (
            str(picture),
            "http://198.51.100.1/a.png",
            "https://example.com/a.png",
        ):  # `no_network` sees a look-up
            assert '"success": false' in asked(client, mine | {"path": other}, "the red circle"), other
            assert '"success": false' in asked(client, None, mine | {"path": other}), other
            assert client.get(f"gradio_api/file={other}").status_code == 404, other
        assert client.get(f"gradio_api/file={stored}").content == picture.read_bytes()
        for route in ("proxy=https://example.com", "info", "startup-events", "vibe-code", "run-history/buckets"):
            assert client.get(f"gradio_api/{route}").status_code == 404, route
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(60) == 75


@pytest.mark.browser
def test_a_picture_and_a_text_are_asked_in_a_browser(
    browser, served: Served, page: LivePage, picture: Path, tmp_path: Path
):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    address, process, temporary = served
    wait = WebDriverWait(browser, 120)

    def there(selector: str) -> Any:
        return wait.until(lambda _: next(iter(browser.find_elements(By.CSS_SELECTOR, selector)), None))

    browser.get_log("browser"), requests(browser)  # of other tests
    resize(browser, 1280)
    browser.get(address)
    there("#text textarea").send_keys(HOSTILE)
    there("input[type=file]").send_keys(str(picture))
    there(".image-frame img, .image-container img")
    there("#ask").click()
    there("#found table")
    expected = cells(page.predictions(uploaded(upload(picture)), HOSTILE))
    rows = browser.find_elements(By.CSS_SELECTOR, "#found tr")
    assert [
        tuple(row.text.split("\n")) if "\n" in row.text else tuple(row.text.rsplit(" ", 1)) for row in rows
    ] == expected
    assert "alert(1)> ${1+1} {{7*7}}" in there("#found caption").text
    first = there("#heat img").get_attribute("src")
    there("#word input").click()
    next(
        each
        for each in wait.until(lambda _: browser.find_elements(By.CSS_SELECTOR, "[role=option]"))
        if each.text == "red"
    ).click()
    wait.until(lambda _: there("#heat img").get_attribute("src") != first)
    for width, dark in ((1280, False), (420, True)):
        resize(browser, width, dark=dark)
        across = browser.execute_script("return document.documentElement.scrollWidth")
        assert across <= width, "nothing is wider than the page"
        screenshot(browser, tmp_path / f"{width}.png")
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    seen = requests(browser)
    assert len(seen) > 10 and [url for url in seen if not url.startswith(address)] == []
    assert [each for each in temporary.rglob("*.png")] != []
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130 and process.stderr.read() == "interrupted.\n" and process.stdout.read() == ""
    assert list(temporary.glob("renaissance_*")) == [], "uploads are deleted"
