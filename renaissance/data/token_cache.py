"""Tokens of images on disk: what a frozen image tower makes of the images of one arrow file, computed once and read by position.

    <folder>/00000.tokens   header of 4096 bytes | tokens of each image (P, D), one after the other | an entry for each image
    <folder>/00001.tokens   the next images ...

A part is written beside its target, synced and renamed, so it is whole or not there, and a stopped run loses one at most. Its
header says of which tower, transform, data and images it is. An entry has the hash of the encoded image, so that a sample is
read without its image. Parts are read with `preadv`, straight into the batch: a file that is cut short is an error, where a
memory map would end the process, and the page cache keeps what memory has room for.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from renaissance.core.atomic import AtomicFile, rename_damaged
from renaissance.core.errors import UserError, require
from renaissance.core.types import StoredTokens, Tokens

_HEADER = 4096
_ENTRY = struct.Struct(
    "<qq"
)  # of each image, and one behind the last: its hash, and how many tokens' rows are before it
_PART_BYTES = 1 << 28  # of tokens: what a stopped run may lose, and what processes share out
_MOST_OPEN = 256  # parts that a process keeps open
_OPEN: dict[tuple[int, int], int] = {}  # id of a `TokenFile` and part -> file descriptor, the oldest first


class TokenFile:
    """The tokens of the images of one arrow file, which are numbered through.

    It pickles small, and a process opens a part when it is asked for.

    Args:
        folder: of the parts.
        meta: what the tokens depend on, values that JSON can hold; a part with another is not read.
        shape: (P, D) of an image's tokens. dtype: in which they are kept.
        counts: (images,) rows of each image: one, or one for each of its boxes.
        shown: how many of the images, the first ones, are read.

    Attributes:
        images: how many there are. parts: numbers of the parts that are read. nbytes: of the tokens of each part.
    """

    def __init__(
        self,
        folder: Path,
        meta: Mapping[str, Any],
        shape: tuple[int, int],
        dtype: torch.dtype,
        counts: np.ndarray,
        shown: int,
    ):
        self.folder, self.meta, self.shape, self.dtype = folder, dict(meta), shape, dtype
        self.images, self._bytes = len(counts), shape[0] * shape[1] * dtype.itemsize
        self._size = max(1, _PART_BYTES // self._bytes)  # images of a part
        starts = np.arange(0, self.images, self._size)
        self._rows = np.add.reduceat(counts, starts).tolist()
        self.parts, self.nbytes = range(-(-shown // self._size)), [rows * self._bytes for rows in self._rows]

    def __del__(self):
        for key in [each for each in _OPEN if each[0] == id(self)]:
            os.close(_OPEN.pop(key))

    def path(self, part: int) -> Path:
        return self.folder / f"{part:05}.tokens"

    def images_of(self, part: int) -> range:
        """The numbers of a part's images."""
        return range(part * self._size, min(self.images, (part + 1) * self._size))

    def stored(self, image: int) -> list[StoredTokens]:
        """Where the tokens of an image are, or of each of its boxes.

        Raises:
            UserError: its part is not there any more, or is not whole.
        """
        part, number = divmod(image, self._size)
        entries = bytearray(2 * _ENTRY.size)
        self._read(part, entries, _HEADER + self.nbytes[part] + number * _ENTRY.size)
        (key, first), (_, end) = _ENTRY.iter_unpack(entries)
        return [StoredTokens(self, part, place, key) for place in range(first, end)]

    def read(self, part: int, place: int, into: np.ndarray) -> None:
        """Reads one row of tokens into an array (P, D). Raises as `stored`."""
        self._read(part, into, _HEADER + place * self._bytes)

    def problem(self, part: int) -> str | None:
        """What is wrong with a part; "" where it is not there, None where it is whole."""
        try:
            os.close(self._checked(part))
        except FileNotFoundError:
            return ""
        except (OSError, UserError) as error:
            return str(error)
        return None

    def write(self, part: int, file: AtomicFile, batches: Any) -> None:
        """Writes a part whole, and renames what was wrong in its place.

        Args:
            file: to write to, whose target is `path(part)`.
            batches: of the part's images in order: (rows of tokens (n, P, D) of `dtype`, hash of each image, rows of each).
        """
        file.write(self._header(part))
        entries, total = bytearray(), 0
        for tokens, keys, counts in batches:
            file.write(tokens.numpy())
            for key, count in zip(keys, counts, strict=True):
                entries += _ENTRY.pack(key, total)
                total += count
        file.write(entries + _ENTRY.pack(0, total))
        if self.problem(part):
            with contextlib.suppress(
                OSError
            ):  # another user's; then it cannot be replaced either, and `commit` says so
                rename_damaged(self.path(part))
        file.commit()

    def _header(self, part: int) -> bytes:
        images = self.images_of(part)
        content = {**self.meta, "first_image": images.start, "images": len(images), "rows": self._rows[part]}
        return json.dumps(content).encode().ljust(_HEADER - 1) + b"\n"

    def _checked(self, part: int) -> int:
        """Opens a part that is whole and of this tower and these images; raises UserError, FileNotFoundError."""
        handle, expected = os.open(self.path(part), os.O_RDONLY), self._header(part)
        try:
            size = _HEADER + self.nbytes[part] + (len(self.images_of(part)) + 1) * _ENTRY.size
            found, bytes_found = os.pread(handle, _HEADER, 0), os.fstat(handle).st_size
            if len(found) == _HEADER and found != expected:
                raise UserError(f"'{self.path(part)}' is of another image encoder or of other data.")
            if bytes_found != size:
                raise UserError(f"'{self.path(part)}' was cut short: it has {bytes_found:,} of {size:,} bytes.")
        except BaseException:
            os.close(handle)
            raise
        return handle

    def _read(self, part: int, into: Any, offset: int) -> None:
        advice, view = "start the run again, which makes what is missing", memoryview(into).cast("B")
        try:
            handle = self._open(part)
            while view:  # a network file system may give less than is asked for
                count = os.preadv(handle, [view], offset)
                require(count, f"'{self.path(part)}' was cut short while this run read it.")
                view, offset = view[count:], offset + count
        except FileNotFoundError:
            raise UserError(f"'{self.path(part)}' of cache_frozen is not there any more; {advice}.") from None
        except OSError as error:
            raise UserError(
                f"'{self.path(part)}' of cache_frozen cannot be read ({error.strerror}); {advice}."
            ) from None
        except UserError as error:
            raise UserError(f"{str(error).removesuffix('.')}; {advice}.") from None

    def _open(self, part: int) -> int:
        """The descriptor of a part, which is kept; raises as `_checked`."""
        if (key := (id(self), part)) not in _OPEN:
            if len(_OPEN) == _MOST_OPEN:
                os.close(_OPEN.pop(next(iter(_OPEN))))
            _OPEN[key] = self._checked(part)
        return _OPEN[key]


def stack_tokens(images: Sequence[StoredTokens]) -> Tokens:
    """Reads the tokens of images of one tower into one tensor: (M, P, D)."""
    file = images[0].file
    hidden = _empty(len(images), *file.shape, dtype=file.dtype)
    for image, row in zip(images, hidden.numpy(), strict=True):
        image.file.read(image.part, image.place, row)
    return Tokens(hidden, None)


def _empty(*shape: int, dtype: torch.dtype) -> Tensor:
    """An empty tensor; that of a loader process is in shared memory, where it would else be copied to be sent."""
    empty = torch.empty(0, dtype=dtype)
    if get_worker_info() is None:
        return empty.new_empty(shape)
    storage = empty._typed_storage()._new_shared(int(np.prod(shape)), device=empty.device)
    return empty.new(storage).resize_(shape)
