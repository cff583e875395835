"""What a checkpoint file claims is held against what it has."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_checkpoint import stored

import renaissance.runs.stored
from renaissance.core.errors import UserError, first_line
from renaissance.runs import archive, checkpoint


@pytest.fixture
def refusal() -> Callable[[Path], str]:
    """The one sentence with which a file is refused."""

    def refuse(path: Path) -> str:
        with pytest.raises(UserError) as error:
            checkpoint.read(path)
        assert str(path) in str(error.value) and len(str(error.value).splitlines()) == 1
        assert "weights_only" not in str(error.value)
        return str(error.value)

    return refuse


def saved(path: Path, **changed: Any) -> Path:
    torch.save({"format": 1, **stored()._asdict(), **changed}, path)
    return path


def repacked(path: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]], **options: Any) -> Path:
    """The file with other members."""
    with zipfile.ZipFile(path) as old:
        members = change({member.filename: old.read(member) for member in old.infolist()})
    with zipfile.ZipFile(path, "w", **options) as new:
        for name, content in members.items():
            new.writestr(name, content)
    return path


def test_what_is_repacked_as_it_was_is_read(tmp_path: Path):
    path = repacked(saved(tmp_path / "a.ckpt"), dict)
    assert checkpoint.read(path).training["step"] == 7


MEMBERS = {
    "deflated": (lambda path: repacked(path, dict, compression=zipfile.ZIP_DEFLATED), "compressed members"),
    "one name in two spellings": (
        lambda path: repacked(path, lambda members: {"a/DATA.PKL": b"", **members}),
        "two members of one name",
    ),
    "another folder": (lambda path: repacked(path, lambda members: members | {"b/data/9": b""}), "several folders"),
    "a large version": (lambda path: repacked(path, lambda members: members | {"a/version": bytes(5000)}), "at most 4,096"),
    "something before it": (lambda path: path.write_bytes(b"#!/bin/sh\n" + path.read_bytes()), "cannot be read as"),
    "a comment behind it": (lambda path: path.write_bytes(path.read_bytes() + b"x"), "not a zip file"),
    "a pointer of git-LFS": (
        lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "is a git-LFS pointer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", MEMBERS)
def test_members_that_torch_does_not_write_are_refused(what: str, tmp_path: Path, refusal):
    change, sentence = MEMBERS[what]
    change(saved(tmp_path / "a.ckpt"))
    assert sentence in refusal(tmp_path / "a.ckpt")


def test_members_that_overlap_are_refused(tmp_path: Path, refusal):
    path = saved(tmp_path / "a.ckpt", model={"a": torch.zeros(5000), "b": torch.zeros(5000)})
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as whole:
        first, second = (whole.getinfo(f"a/data/{number}").header_offset for number in (0, 1))
    entry = content.index(b"a/data/1", content.index(b"PK\1\2")) - 46
    assert content[entry + 42 : entry + 46] == second.to_bytes(4, "little")
    content[entry + 42 : entry + 46] = (first + 64).to_bytes(4, "little")
    path.write_bytes(content)
    assert "claims more bytes than it has" in refusal(path)


def test_a_long_list_of_members_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal):
    path = saved(tmp_path / "a.ckpt")
    monkeypatch.setattr(archive, "_MOST_LISTING", 200)
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("zipfile has read it"))
    assert "list of members is longer" in refusal(path)


def test_long_values_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal):
    monkeypatch.setattr(archive, "MOST_VALUES", 100)
    assert "data.pkl has" in refusal(saved(tmp_path / "a.ckpt"))


class Called:
    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.called = function, arguments

    def __reduce__(self) -> Any:
        return self.called


def nested(depth: int, start: Any = None) -> Any:
    for _ in range(depth):
        start = [start]
    return start


def shared(depth: int) -> list[Any]:
    """2**depth values in `depth` lists."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value, value]
    return value


class Attribute(torch.Tensor):
    pass


class Stated:
    """A tensor that is made as torch makes it and then takes a storage and shape as its state."""

    def __init__(self, items: int, shape: int, stride: int):
        self.items, self.shape, self.stride = items, shape, stride

    def __reduce__(self) -> Any:
        function, arguments = torch.zeros(self.items).__reduce_ex__(2)
        return function, arguments, (arguments[0], 0, (self.shape,), (self.stride,))


TENSORS = {
    "expanded": lambda: torch.zeros(1).expand(10**10),
    "expanded a little": lambda: torch.zeros(1, 2).expand(2, 2),
    "sparse": lambda: torch.zeros(2, 2).to_sparse(),
    "of no device": lambda: torch.zeros(10**10, device="meta"),
    "quantised": lambda: torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8),
    "of a class": lambda: torch.zeros(2).as_subclass(Attribute),
    "complex": lambda: torch.zeros(2, dtype=torch.complex64),
    "enlarged by its state": lambda: Stated(0, 3 * 10**8, 1),
    "repeated by its state": lambda: Stated(1, 10**10, 0),
    "a parameter": lambda: torch.nn.Parameter(torch.zeros(2)),
}
VALUES = {
    "memory by a call": lambda: Called(bytearray, 10**12),
    "a tensor by a call": lambda: Called(torch.Tensor, 10**6, 10**6),
    "a counter": lambda: Counter("ab"),
    "a set": lambda: {1},
    "deep": lambda: nested(200),
    "shared": lambda: shared(60),
    "many names": lambda: [[0] * 3000] * 3000,
    "a large number": lambda: 10**600,
    "no Unicode": lambda: "\ud800",
    "a key that is a tuple": lambda: {(1, 2): 3},
    "an ordered dictionary of pairs": lambda: Called(OrderedDict, [(1, 2)]),
}


@pytest.mark.parametrize("what", TENSORS)
@pytest.mark.filterwarnings("ignore")
def test_a_tensor_that_is_no_plain_one_is_refused(what: str, tmp_path: Path, refusal):
    refusal(saved(tmp_path / "a.ckpt", model={"weight": TENSORS[what]()}))


def test_numbers_in_another_byte_order_are_refused(tmp_path: Path, refusal):
    def big(members: dict[str, bytes]) -> dict[str, bytes]:
        return {name: b"big" if name.endswith("/byteorder") else content for name, content in members.items()}

    assert "another byte order" in refusal(repacked(saved(tmp_path / "a.ckpt"), big))


@pytest.mark.parametrize("what", VALUES)
def test_values_that_swell_are_refused(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal):
    monkeypatch.setattr(renaissance.runs.stored, "_MOST", 3_000_000)
    refusal(saved(tmp_path / "a.ckpt", towers={"encoder": {"model_type": "bert", "more": VALUES[what]()}}))


CLAIMS = {
    "more than the storage": (b"K\xc8\x85", b"J\xff\xff\xff\x7f\x85", "claims the shape (2147483647,)"),
    "a negative size": (b"K\xc8\x85", b"J\xff\xff\xff\xff\x85", "cannot be read"),
    "a storage larger than its member": (
        b"K\xc8t",
        b"J\xff\xff\xff\x7ft",
        "is not of the 200 items that its member has",
    ),
}


@pytest.mark.parametrize("what", CLAIMS)
def test_a_claim_is_held_against_its_member(what: str, tmp_path: Path, refusal):
    path = saved(tmp_path / "a.ckpt", model={"weight": torch.zeros(200)})
    old, new, sentence = CLAIMS[what]

    def claiming(members: dict[str, bytes]) -> dict[str, bytes]:
        assert members["a/data.pkl"].count(old) == 1
        return members | {"a/data.pkl": members["a/data.pkl"].replace(old, new)}

    assert sentence in refusal(repacked(path, claiming))


def test_one_storage_under_many_names_is_refused_and_tied_weights_are_not(tmp_path: Path, refusal):
    weight = torch.zeros(100_000)
    saved(tmp_path / "tied.ckpt", model={"weight": weight, "decoder": weight.view(1000, 100)})
    assert checkpoint.read(tmp_path / "tied.ckpt").model["decoder"].shape == (1000, 100)
    path = saved(tmp_path / "many.ckpt", model={str(number): weight[:] for number in range(20)})
    assert "several times the bytes" in refusal(path)


def test_a_pickle_of_instructions_without_end_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refusal):
    monkeypatch.setattr(archive, "_MOST_INSTRUCTIONS", 300)
    assert "more instructions" in refusal(saved(tmp_path / "a.ckpt"))


def test_torchs_advice_is_not_passed_on(tmp_path: Path):
    for value in (Called(Path.mkdir, tmp_path / "made"), torch.nn.Linear(1, 1)):
        stream = io.BytesIO()
        torch.save(value, stream)
        with pytest.raises(pickle.UnpicklingError) as error:
            torch.load(io.BytesIO(stream.getvalue()), weights_only=True)
        assert "weights_only" in str(error.value)
        said = first_line(error.value)
        assert said.startswith("it names ") and said.endswith(", which could run code")
