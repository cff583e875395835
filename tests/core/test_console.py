"""What is printed: nothing that happens to the screen ends a run, and nothing that came from data steers it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from conftest import ROOT
from renaissance.core.console import Screen, say, table
from renaissance.core.errors import first_line, printable


def test_what_came_from_data_steers_no_terminal(capsys):
    say("an image\x1b[2J.jpg\n\tof \u202egpj \x9b31m\x00 caf\u00e9 \U0001f469\u200d\U0001f4bb")
    assert (
        capsys.readouterr().out
        == "an image\\x1b[2J.jpg\n\tof \\u202egpj \\x9b31m\\x00 caf\u00e9 \U0001f469\u200d\U0001f4bb\n"
    )
    assert printable("a\r\nb") == "a\\r\\nb" and printable("plain") == "plain"
    assert first_line(ValueError("\n  one \x07\ntwo")) == "one \\x07" and first_line(KeyError()) == "KeyError"
    assert first_line(RuntimeError("decode_jpeg, /a/b/decode_jpeg.cpp:171, Image is truncated")) == "Image is truncated"


@pytest.mark.parametrize("lost", ["pipe", "full", "closed"])
def test_a_lost_screen_takes_what_is_printed(lost):
    if lost == "pipe":
        reading, writing = os.pipe()
        os.close(reading)
    else:
        writing = os.open("/dev/full" if lost == "full" else os.devnull, os.O_WRONLY)
    with open(writing, "w", encoding="ascii", closefd=lost != "closed") as stream:
        screen = Screen(stream)
        if lost == "closed":
            os.close(writing)
        print("two words", "caf\u00e9", file=screen, flush=True)
        assert isinstance(screen.lost, OSError) and screen.fileno() == writing and not screen.isatty()


def test_a_screen_writes_what_its_encoding_lacks_as_escapes(tmp_path):
    with open(tmp_path / "screen", "w", encoding="ascii") as stream:
        screen = Screen(stream)
        assert screen.write("caf\u00e9 \ud800\n") == 7
        assert screen.lost is None
    assert (tmp_path / "screen").read_text() == "caf\\xe9 \\ud800\n"


@pytest.mark.parametrize(
    ("where", "status", "said"),
    [
        ("| (exec <&-; sleep 1); exit ${PIPESTATUS[0]}", 1, ""),
        ("> /dev/full", 1, "could not be written"),
        (">&-", 0, ""),
    ],
)
def test_a_question_whose_answer_does_not_arrive(where, status, said):
    command = f"{sys.executable} {ROOT / 'run.py'} print_config {where}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, "Traceback" in done.stderr, said in done.stderr) == (status, False, True), done


def test_columns_align():
    assert table([("name", "value"), ("a", "1"), ("long name", "22")], indent="") == (
        "name       value\na              1\nlong name     22"
    )
