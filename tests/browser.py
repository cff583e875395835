"""A real browser for the tests of pages: Chromium without a window, which notes what it says and what it loads."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromedriver")
PACKAGES = ("chromium", "chromium-driver")
COMMANDS = (
    ("apt-get", "update", "-qq"),
    ("apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES),
)
OPTIONS = (
    "--headless=new",
    "--disable-dev-shm-usage",  # a container's may be small
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
)
STARTS = 60  # seconds that a start may take on a busy machine


def require() -> None:
    """Skips the tests where Chromium is not there and cannot be installed."""
    if all(map(shutil.which, PROGRAMS)):
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip(f"needs {' and '.join(PROGRAMS)}, of Debian's packages {' and '.join(PACKAGES)}")
    for command in COMMANDS:
        variables = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(command, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"needs Chromium, and {' '.join(command)} failed: {done.stderr.strip()[-200:]}")


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A `selenium.webdriver.Chrome`, one for all tests; `console` and `requests` read its logs, `resize` its window."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs the package selenium, of the extra `test`")
    require()
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    root = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses to run as root with one
    for argument in (*OPTIONS, *root, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options, service)
    driver.set_page_load_timeout(STARTS)
    yield driver
    driver.quit()


def resize(browser: Any, width: int, height: int = 900, *, dark: bool = False) -> None:
    """Gives the page a width and height in CSS pixels, smaller than a window may be, and a colour scheme."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def console(browser: Any) -> list[str]:
    """What pages have written to the console since it was last asked, what they were refused included."""
    return [entry["message"] for entry in browser.get_log("browser")]


def requests(browser: Any) -> list[str]:
    """The addresses that pages have asked for since it was last asked; not data in the page itself, nor Chromium's own pages."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if not url.startswith(("data:", "chrome:"))]


def screenshot(browser: Any, path: Path) -> None:
    """Writes the whole page as a PNG, however long it is."""
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
    path.write_bytes(base64.b64decode(shot["data"]))
