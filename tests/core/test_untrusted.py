"""The reader of what others wrote: bounded, typed, and one sentence for whatever is wrong."""

from __future__ import annotations

import os
from typing import Any

import pytest

from renaissance.core.errors import UserError
from renaissance.core.untrusted import expect, parse_json, read_bytes, read_json


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("[" * 70 + "]" * 70, "nested too deeply"),
        ('{"a":' * 70 + "1" + "}" * 70, "nested too deeply"),
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' stands there twice"),
        ("[NaN]", "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("[1e999]", "1e999 is no number"),
        ("[" + "9" * 5000 + "]", "cannot be read as JSON"),
        (b"\xff\xfe[\x001\x00]\x00", "cannot be read as JSON"),
        ("", "cannot be read as JSON"),
        ("{'a': 1}", "cannot be read as JSON"),
    ],
)
def test_what_is_no_json(text, said):
    with pytest.raises(UserError, match="^x.json .*" + said.replace("[", r"\[")):
        parse_json(text, name="x.json")


def test_what_is_json():
    assert parse_json(b'\xef\xbb\xbf{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}
    assert parse_json("\ufeff[]", list[int]) == []
    deep: Any = 1
    for _ in range(60):
        deep = [deep]
    assert parse_json(str(deep)) == deep


@pytest.mark.parametrize(
    ("value", "hint", "said"),
    [
        ([1], dict, "x is list, but has to be an object."),
        ({"a": [1, "b\x1b"]}, dict[str, list[float]], r"x\['a'\]\[1\] is 'b\\x1b', but has to be a number\."),
        ({1: 2}, dict[str, int], r"x \(a key\) is 1, but has to be text\."),
        (True, int, "x is True, but has to be a whole number."),
        (1.5, int | None, "x is 1.5, but has to be a whole number or null."),
        (float("inf"), float, "x is inf, but has to be a number."),
        (float("nan"), float, "x is nan, but has to be a number."),
        ([0.5, 0.5], tuple[float, float, float], "x is list, but has to be a list of 3 values."),
        ({"a": {"b": None}}, dict[str, dict[str, str]], r"x\['a'\]\['b'\] is None, but has to be text\."),
        ([1, "a"], list[int] | None, r"x\[1\] is 'a', but has to be a whole number\."),
        ("y" * 100, list, r"x is 'y{56}\.\.\., but has to be a list\."),
    ],
)
def test_what_is_of_another_type(value, hint, said):
    if hint == tuple[float, float, float]:
        value = tuple(value)
        said = said.replace("is list", "is tuple")
    with pytest.raises(UserError, match=f"^{said}$"):
        expect(value, hint, "x")


def test_a_whole_number_beyond_any_float_is_refused():
    with pytest.raises(UserError, match="has to be a number"):
        parse_json("1" + "0" * 400, float | None)


def test_what_is_of_the_type():
    for value, hint in (
        (1, float),
        (None, int | None),
        ({"a": [1, 2]}, dict[str, list[int]]),
        ((1, 2), tuple[int, int]),
        ((1, 2), tuple[int, ...]),
    ):
        assert expect(value, hint, "x") is value


def test_only_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b" " * 1000)
    (tmp_path / "lfs").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    for name, said in (
        ("pipe", "a pipe, a socket or a device"),
        (".", "is a folder"),
        ("absent", "No such file"),
        ("a\0b", "null byte"),
        ("large", "has 1,000 bytes; at most 100 are read"),
    ):
        with pytest.raises(UserError, match=said):
            read_bytes(tmp_path / name, most=100)
    with pytest.raises(UserError, match="a git-LFS pointer, not the file itself"):
        read_json(tmp_path / "lfs")
    with pytest.raises(UserError, match="a pipe, a socket or a device"):
        read_bytes("/dev/zero")
