"""A pickle of plain values is read; a pickle that would do anything else is refused, and does not do it."""

from __future__ import annotations

import copyreg
import datetime
import pickle
import tracemalloc
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from renaissance.core.errors import UserError
from renaissance.core.plain_pickle import read_plain_pickle

VALUES = [{"split": "testA", "box": [1.5, -2, 3], "n": 2**70, "none": None, "yes": True, 3: ("a", "é\n"), "no": ()}]


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self):
        return Path.mkdir, (self.place,)


class Registered:
    """Named by a number of copyreg, not by its name."""


@pytest.fixture
def refusal(tmp_path: Path):
    """The sentence with which a pickle is refused."""

    def refuse(content: bytes) -> str:
        path = tmp_path / "refs.p"
        path.write_bytes(content)
        with pytest.raises(UserError) as error:
            read_plain_pickle(path)
        assert str(error.value).startswith(f"'{path}' is ")
        return str(error.value).removeprefix(f"'{path}' ")

    return refuse


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_come_back(tmp_path: Path, protocol: int):
    (tmp_path / "refs.p").write_bytes(pickle.dumps(VALUES * 2, protocol))
    (found, again) = read_plain_pickle(tmp_path / "refs.p")
    assert found == VALUES[0] and found is again  # remembered values too
    assert [type(value) for value in found.values()] == [type(value) for value in VALUES[0].values()]


@pytest.mark.parametrize(
    "content",
    [
        b"(lp0\n(dp1\nS'split'\np2\nS'caf\\xc3\\xa9'\np3\nsVn\np4\nL3L\nsS'raw'\np5\nVcaf\\u00e9\np6\nsa.",
        b"\x80\x02]q\x00}q\x01(U\x05splitq\x02U\x05caf\xc3\xa9q\x03X\x01\x00\x00\x00nq\x04\x8a\x01\x03"
        b"U\x03rawq\x05X\x05\x00\x00\x00caf\xc3\xa9q\x06ua.",
    ],
    ids=["protocol 0", "protocol 2"],
)
def test_strings_of_python_2_are_texts(tmp_path: Path, content: bytes):
    # As Python 2 writes [{"split": "caf\xc3\xa9", u"n": 3L, "raw": u"caf\xe9"}].
    (tmp_path / "refs.p").write_bytes(content)
    assert read_plain_pickle(tmp_path / "refs.p") == [{"split": "café", "n": 3, "raw": "café"}]


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_payload_is_refused_and_not_run(tmp_path: Path, refusal, protocol: int):
    victim = tmp_path / "made"
    content = pickle.dumps([*VALUES, Payload(victim)], protocol)
    assert refusal(content).startswith("is not a pickle of plain values, is cut short or damaged (it holds the name ")
    assert not victim.exists()
    pickle.loads(content)
    assert victim.exists()  # it would have been


VALUES_WITH_NAMES = [OrderedDict(a=1), np.zeros(2), 1 + 2j, datetime.date(2000, 1, 1), Path("a"), {1}, len]


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("value", VALUES_WITH_NAMES, ids=lambda value: type(value).__name__)
def test_no_name_is_resolved(refusal, protocol: int, value: object):
    assert "is not a pickle of plain values" in refusal(pickle.dumps([value], protocol))


def test_a_registered_extension_is_no_way_around_names(refusal):
    copyreg.add_extension(__name__, "Registered", 0xF0)
    try:
        content = pickle.dumps([Registered], 2)
        assert b"\x82\xf0" in content
        assert pickle.loads(content) == [Registered]  # from now on known to the interpreter in C by its number alone
        assert "KeyError" in refusal(content)
    finally:
        copyreg.remove_extension(__name__, "Registered", 0xF0)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"cos\nsystem\n(S'x'\ntR.", "the name 'os.system'"),
        (b"\x8c\x02os\x8c\x06system\x93.", "the name 'os.system'"),
        (b"(S'x'\nios\nsystem\n.", "KeyError"),
        (b"(]S'x'\no.", "KeyError"),
        (b"])R.", "TypeError"),
        (b"]}S'a'\nNsb.", "it sets the state of a list"),
        (b"])\x81.", "it makes an object"),
        (b"])}\x92.", "KeyError"),
        (b"P1\n.", "KeyError"),
        (b"]Q.", "unsupported persistent id"),
        (b"\x83\x01\x00.", "KeyError"),
        (b"\x84\x01\x00\x00\x00.", "KeyError"),
        (b"\x97.", "KeyError"),
        (b"\x96" + bytes(7) + b"\x7f.", "KeyError"),
        (b"})" + b"\x85" * 10**6 + b"Ns.", "a key that is no text and no number"),  # its hash would end the process
        (b"}(])Nu.", "a key that is no text and no number"),
        (b"(]Nd.", "a key that is no text and no number"),
        (b"\xff.", "KeyError"),
        (b"<html>404 Not Found</html>", "KeyError"),
        (b"", "is cut short or damaged"),
        (pickle.dumps(VALUES, 0)[:-20], "is cut short or damaged"),
        (pickle.dumps(VALUES, 4)[:-20], "is cut short or damaged"),
    ],
)
def test_every_other_instruction_and_damaged_files_are_one_sentence(refusal, content: bytes, sentence: str):
    assert sentence in refusal(content)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"]r\xff\xff\xff\x7f.", "a value remembered at the two-billionth place"),
        (b"X\xff\xff\xff\xff.", "a text of 4 GB"),
        (b"\x8d" + (1 << 40).to_bytes(8, "little") + b".", "a text of a terabyte"),
        (b"\x80\x04\x95" + (1 << 40).to_bytes(8, "little") + b"].", "a frame of a terabyte"),
        (b"\x8b\xff\xff\xff\x7f.", "a number of 2 GB"),
    ],
)
def test_memory_is_bounded_by_the_size_of_the_file(tmp_path: Path, content: bytes, why: str):
    (tmp_path / "refs.p").write_bytes(content)
    tracemalloc.start()
    try:
        read_plain_pickle(tmp_path / "refs.p")
    except UserError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1 << 20, why


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.integers(0, 10_000), change=st.binary(min_size=1, max_size=3), protocol=st.sampled_from([0, 1, 2, 3, 4])
)
def test_whatever_is_changed_it_is_plain_values_or_one_sentence(
    tmp_path: Path, place: int, change: bytes, protocol: int
):
    content = bytearray(pickle.dumps([*VALUES, Payload(tmp_path / "made")][: 1 + place % 2], protocol))
    place %= len(content)
    content[place : place + len(change)] = change
    (tmp_path / "refs.p").write_bytes(content)
    try:
        assert is_plain(read_plain_pickle(tmp_path / "refs.p"))
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    assert not (tmp_path / "made").exists()


def is_plain(value: object) -> bool:
    waiting, seen = [value], set()  # a changed pickle can put a list into itself
    while waiting:
        value = waiting.pop()
        if id(value) not in seen:
            seen.add(id(value))
            if type(value) in (list, tuple):
                waiting += value
            elif type(value) is dict:
                waiting += [*value, *value.values()]
            elif not isinstance(value, str | bytes | int | float | None):
                return False
    return True


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(UserError, match=r"none.p' cannot be read \(No such file"):
        read_plain_pickle(tmp_path / "none.p")


def test_only_the_names_that_are_given_stand_for_something(tmp_path: Path):
    path, names = tmp_path / "batch", {("numpy", "dtype"): lambda code: ["a type", code]}
    path.write_bytes(b"cnumpy\ndtype\n(S'u1'\ntR.")
    assert read_plain_pickle(path, names=names) == ["a type", "u1"]
    path.write_bytes(b"cnumpy\ndtypes\n(S'u1'\ntR.")
    with pytest.raises(UserError, match="the name 'numpy.dtypes'"):
        read_plain_pickle(path, names=names)
