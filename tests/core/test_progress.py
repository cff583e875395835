"""Progress: a bar on a terminal; lines in a file, without a carriage return."""

from __future__ import annotations

import io
import sys
import time

import pytest

from renaissance.core import progress
from renaissance.core.progress import Bar


def shown(monkeypatch: pytest.MonkeyPatch, terminal: bool, every: float, **given: object) -> str:
    """What three steps of four print."""
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "LINES_EVERY", every)
    with Bar(total=4, desc="work", unit=" rows", mininterval=0, **given) as bar:
        for _ in range(3):
            time.sleep(0.01)
            bar.update()
        with Bar.external_write_mode(file=stream):
            stream.write("said\n")
    return stream.getvalue()


def test_a_file_gets_lines_with_the_time_left(monkeypatch):
    lines = shown(monkeypatch, False, 0.0).splitlines()
    assert "\r" not in "".join(lines)
    assert [line[:14] for line in lines if "rows" in line][1:4] == [
        "work:  25% 1/4",
        "work:  50% 2/4",
        "work:  75% 3/4",
    ]
    assert "[00:00<00:00" in lines[2] and "said" in lines


def test_lines_come_now_and_then_and_one_at_the_end(monkeypatch):
    said, last = shown(monkeypatch, False, 60.0).splitlines()
    assert said == "said" and last.startswith("work:  75% 3/4 [00:00<00:00")
    assert shown(monkeypatch, False, 60.0, leave=False) == "said\n"
    assert shown(monkeypatch, False, 0.0, disable=True) == "said\n"


def test_a_terminal_gets_a_bar(monkeypatch):
    assert "\rwork:  75%|" in shown(monkeypatch, True, 60.0)
