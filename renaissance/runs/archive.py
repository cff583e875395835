"""What a file that torch.save wrote claims to hold, found out before anything of it is allocated.

torch.save writes a zip archive: `data.pkl`, a pickle of plain values in which a tensor is a claim (shape, strides, and which
member has its bytes), and one member for each storage, all of them stored as they are. torch.load believes more than that: it
inflates what is compressed, enlarges a storage that is smaller than its tensor, and lets one number stand for a billion. So
members are held against the size of the file, and claims against the members; what torch.load gets then is no larger than that.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from renaissance.core.plain_pickle import PlainUnpickler
from renaissance.core.untrusted import MOST_BYTES

MOST_VALUES = 2 * MOST_BYTES  # bytes of data.pkl: a tokenizer's files are in it, the names of tensors, the settings
_MOST_LISTING = 32 << 20  # bytes of the archive's table: 300,000 members
_MOST_INSTRUCTIONS = 10_000_000  # of the pickle; a tensor takes about thirty
_SMALL = 4096  # bytes of a member that is neither values nor a tensor: a version, a byte order
_SHARED = 4  # times the bytes of the file: a tensor may be there under several names
_ITEM = {
    "FloatStorage": ("float32", 4), "DoubleStorage": ("float64", 8), "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2), "LongStorage": ("int64", 8), "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2), "CharStorage": ("int8", 1), "ByteStorage": ("uint8", 1), "BoolStorage": ("bool", 1),
}  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """A dense tensor as a file claims it: `dtype` by its name in torch."""

    called: ClassVar[str] = "a tensor"  # in sentences of `expect`
    dtype: str
    shape: tuple[int, ...]


class _Storage(NamedTuple):
    dtype: str
    size: int  # bytes of an item
    items: int


def refuse_swelling(path: str | os.PathLike) -> None:
    """Whether an archive is whole, and no larger in memory than on the disk.

    Raises:
        zipfile.BadZipFile, and whatever zipfile makes of damaged bytes.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        end = zipfile._EndRecData(file)  # ZipFile reads the table of members whole: its size is looked at before
        _require(end and end[zipfile._ECD_LOCATION] + zipfile.sizeEndCentDir == size, "File is not a zip file")
        _require(end[zipfile._ECD_SIZE] <= _MOST_LISTING, "its list of members is longer than any checkpoint's")
        with zipfile.ZipFile(file) as archive:
            _refuse_members(archive)
            damaged = archive.testzip()
            _require(damaged is None, f"the checksum of {damaged} is wrong")


def _require(condition: object, sentence: str) -> None:
    if not condition:
        raise zipfile.BadZipFile(sentence)


def _refuse_members(archive: zipfile.ZipFile) -> None:
    """Members are stored, lie one behind the other within the file, and each name is there once."""
    members = sorted(archive.infolist(), key=lambda member: member.header_offset)
    # torch's reader takes names for equal whose letters differ in case only.
    names = {member.filename.lower() for member in members}
    _require(0 < len(members) == len(names), "it holds two members of one name, or none")
    _require(members[0].header_offset == 0, "something stands before its first member")
    folder = members[0].filename.partition("/")[0]
    ends = [member.header_offset for member in members[1:]] + [archive.start_dir]
    for member, end in zip(members, ends, strict=True):
        stored = member.compress_type == zipfile.ZIP_STORED and member.compress_size == member.file_size
        _require(stored, "it holds compressed members, which torch.save does not write")
        begin = member.header_offset + zipfile.sizeFileHeader + len(member.filename.encode())
        _require(begin + member.file_size <= end, "a member claims more bytes than it has")
        name = member.filename.removeprefix(f"{folder}/")
        _require(name != member.filename, "its members lie in several folders")
        most = MOST_VALUES if name == "data.pkl" else math.inf if name.startswith("data/") else _SMALL
        _require(member.file_size <= most, f"its {name} has {member.file_size:,} bytes; at most {most:,} are read")


def claims(path: str | os.PathLike) -> Any:
    """The values of an archive that `refuse_swelling` let pass, with a `Claim` in the place of each tensor.

    Raises:
        Exception: of nearly any type, where they are no plain values and dense tensors, or claim more than there is.
    """
    with zipfile.ZipFile(path) as archive:
        folder = archive.namelist()[0].partition("/")[0]
        sizes = {member.filename.removeprefix(f"{folder}/data/"): member.file_size for member in archive.infolist()}
        content = archive.read(f"{folder}/data.pkl")
    reader = _Claims(sizes, _SHARED * Path(path).stat().st_size)
    names = {("torch", name): name for name in _ITEM}
    names |= {("collections", "OrderedDict"): _ordered, ("torch._utils", "_rebuild_tensor_v2"): reader.tensor}
    unpickler = PlainUnpickler(content, names, most=_MOST_INSTRUCTIONS)
    unpickler.persistent_load = reader.storage
    return unpickler.load()


def _ordered() -> OrderedDict[Any, Any]:
    """Takes nothing: a state dictionary is empty when it is made, and filled then."""
    return OrderedDict()


class _Claims:
    """Holds what a pickle says of tensors against the members of its archive.

    Args:
        sizes: bytes of each member by its key. most: bytes that all tensors may claim together.
    """

    def __init__(self, sizes: dict[str, int], most: int):
        self.sizes, self.left = sizes, most
        self.storages: dict[str, _Storage] = {}

    def storage(self, number: Any) -> _Storage:
        what, kind, key, _place, items = number
        _require(what == "storage" and _is_size(items), "it refers to something that is no storage")
        dtype, size = _ITEM[kind]
        found = _Storage(dtype, size, items)
        same = self.sizes[key] == size * items and self.storages.setdefault(key, found) == found
        _require(same, f"the storage {key} claims {size * items:,} bytes and has {self.sizes[key]:,}")
        return found

    def tensor(
        self, storage: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any, hooks: Any, metadata: Any = None
    ) -> Claim:
        plain = isinstance(storage, _Storage) and type(shape) is tuple and len(shape) == len(strides) <= 16
        plain = plain and all(map(_is_size, (offset, *shape, *strides)))
        _require(
            plain and not hooks and not metadata and type(requires_grad) is bool,
            "it holds a tensor that is no plain one",
        )
        count = math.prod(shape)
        last = (
            offset + sum((each - 1) * stride for each, stride in zip(shape, strides, strict=True)) if count else offset
        )
        fits = last + bool(count) <= storage.items and count <= storage.items and max(shape, default=0) < 1 << 40
        _require(fits, f"a tensor claims the shape {shape}, and its storage has {storage.items:,} items")
        self.left -= count * storage.size
        _require(self.left >= 0, "its tensors claim several times the bytes of the file")
        return Claim(storage.dtype, shape)


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 0
