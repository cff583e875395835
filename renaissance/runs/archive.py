"""Reads a file that torch.save wrote: plain values and dense tensors, which take no more memory than the file.

torch.save writes a zip archive: `data.pkl`, a pickle of plain values in which a tensor is a claim (shape, strides, and which
member has its bytes), and one member for each storage, all of them stored as they are. torch.load believes more than that: it
inflates what is compressed, enlarges a storage that is smaller than its tensor, and lets one number stand for a billion. So
members are held against the size of the file, and claims against the members.
"""

from __future__ import annotations

import math
import os
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from renaissance.core.errors import require
from renaissance.core.plain_pickle import PlainUnpickler
from renaissance.core.untrusted import MOST_BYTES, refuse_lfs

MOST_VALUES = 2 * MOST_BYTES  # bytes of data.pkl: a tokenizer's files are in it, the names of tensors, the settings
_MOST_LISTING = 32 << 20  # bytes of the archive's table: 300,000 members
_MOST_INSTRUCTIONS = 10_000_000  # of the pickle; a tensor takes about thirty
_SMALL = 4096  # bytes of a member that is neither values nor a tensor: a version, a byte order
_PIECE = 16 << 20  # bytes of a member that are read at once
_SHARED = 4  # times the bytes of the file: a tensor may be there under several names
_DTYPES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16,
    "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip


def read_archive(path: str | os.PathLike, harmless: Sequence[str] = ()) -> Any:
    """The values of an archive. The checksum of each tensor is looked at.

    Args:
        harmless: beginnings of names of classes that the file may name; each becomes its name, a text.

    Raises:
        Exception: of nearly any type, where it is damaged, holds anything but plain values and dense tensors, or claims more
            than there is.
    """
    with open(path, "rb") as file:
        refuse_lfs(file.read(64), "it")
        size = file.seek(0, os.SEEK_END)
        end = zipfile._EndRecData(file)  # ZipFile reads the table of members whole: its size is looked at before
        require(end and end[zipfile._ECD_LOCATION] + zipfile.sizeEndCentDir == size, "File is not a zip file")
        require(end[zipfile._ECD_SIZE] <= _MOST_LISTING, "its list of members is longer than any checkpoint's")
        with zipfile.ZipFile(file) as archive:
            folder = _checked_folder(archive)
            order = f"{folder}/byteorder"  # older files have none
            little = order not in archive.namelist() or archive.read(order).decode() == sys.byteorder
            require(little, "its numbers are in another byte order than this machine's")
            reader = _Tensors(archive, f"{folder}/data", _SHARED * size)
            names = {("torch", name): name for name in _DTYPES}
            names |= {("collections", "OrderedDict"): _ordered, ("torch._utils", "_rebuild_tensor_v2"): reader.tensor}
            if harmless:
                names |= _OTHERS
            content = archive.read(f"{folder}/data.pkl")
            unpickler = PlainUnpickler(content, _Named(names, harmless), most=_MOST_INSTRUCTIONS)
            unpickler.persistent_load = reader.storage
            return unpickler.load()


def _checked_folder(archive: zipfile.ZipFile) -> str:
    """The folder of the members, which are stored, lie one behind the other within the file, and have different names."""
    members = sorted(archive.infolist(), key=lambda member: member.header_offset)
    # torch's reader takes names for equal whose letters differ in case only.
    names = {member.filename.lower() for member in members}
    require(0 < len(members) == len(names), "it holds two members of one name, or none")
    require(members[0].header_offset == 0, "something stands before its first member")
    folder = members[0].filename.partition("/")[0]
    ends = [member.header_offset for member in members[1:]] + [archive.start_dir]
    for member, end in zip(members, ends, strict=True):
        stored = member.compress_type == zipfile.ZIP_STORED and member.compress_size == member.file_size
        require(stored, "it holds compressed members, which torch.save does not write")
        begin = member.header_offset + zipfile.sizeFileHeader + len(member.filename.encode())
        require(begin + member.file_size <= end, "a member claims more bytes than it has")
        name = member.filename.removeprefix(f"{folder}/")
        require(name != member.filename, "its members lie in several folders")
        most = MOST_VALUES if name == "data.pkl" else math.inf if name.startswith("data/") else _SMALL
        require(member.file_size <= most, f"its {name} has {member.file_size:,} bytes; at most {most:,} are read")
    return folder


class _Named(dict):
    """What names stand for; those that begin so stand for themselves."""

    def __init__(self, names: dict[tuple[str, str], Any], beginnings: Sequence[str]):
        super().__init__(names)
        self._beginnings = tuple(beginnings)

    def __contains__(self, key: Any) -> bool:
        return super().__contains__(key) or key[0].startswith(self._beginnings)

    def __missing__(self, key: tuple[str, str]) -> str:
        return ".".join(key)


def _ordered() -> OrderedDict[Any, Any]:
    """Takes nothing: a state dictionary is empty when it is made, and filled then."""
    return OrderedDict()


class _HyperParameters(dict):
    """Lightning's dictionary of a run's settings."""

    __slots__ = ()  # so a pickle can give it no attributes


def _size(numbers: Any) -> tuple[Any, ...]:
    return tuple(numbers)


# What checkpoints of other programs hold besides plain values.
_OTHERS: dict[tuple[str, str], Any] = {
    **{
        (f"{each}.utilities.parsing", "AttributeDict"): _HyperParameters
        for each in ("pytorch_lightning", "lightning.pytorch")
    },
    ("torch", "Size"): _size,
}


class _Tensors:
    """Makes the tensors of a pickle from the members of its archive.

    Args:
        folder: of the members that are storages. most: bytes that all tensors may claim together.
    """

    def __init__(self, archive: zipfile.ZipFile, folder: str, most: int):
        self.archive, self.folder, self.left = archive, folder, most
        self.storages: dict[str, Tensor] = {}

    def storage(self, number: Any) -> Tensor:
        """The items of a storage, (n,)."""
        what, kind, key, _place, items = number
        dtype = _DTYPES[kind]
        if key not in self.storages:
            content = bytearray(self.archive.getinfo(f"{self.folder}/{key}").file_size)
            with self.archive.open(f"{self.folder}/{key}") as member:
                for start in range(0, len(content), _PIECE):
                    content[start : start + _PIECE] = member.read(_PIECE)
            self.storages[key] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        found = self.storages[key]
        same = what == "storage" and found.dtype == dtype and len(found) == items
        require(same, f"a storage is not of the {len(found):,} items that its member has")
        return found

    def tensor(
        self, storage: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any, hooks: Any, metadata: Any = None
    ) -> Tensor:
        plain = isinstance(storage, Tensor) and type(shape) is tuple and len(shape) <= 16 and not hooks and not metadata
        require(plain and type(requires_grad) is bool, "it holds a tensor that is no plain one")
        count = math.prod(shape)
        require(count <= len(storage), f"a tensor claims the shape {shape}, and its storage has {len(storage):,} items")
        self.left -= count * storage.itemsize
        require(self.left >= 0, "its tensors claim several times the bytes of the file")
        return storage.as_strided(shape, strides, offset)  # which looks at its bounds
