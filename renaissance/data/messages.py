"""What the messages of an Arrow file claim, read before Arrow acts on it: compression, and sizes beyond the file's own.

Arrow decompresses all columns of a record batch when it reads one, also those that nobody wants, and two megabytes may hold
gigabytes. What it is about to do stands in the messages (https://arrow.apache.org/docs/format/Columnar.html): FlatBuffers,
tables whose fields are found through a table of places.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pyarrow as pa

from renaissance.core.errors import UserError, first_line

_MAGIC, _CONTINUED = b"ARROW1", b"\xff\xff\xff\xff"
_BLOCK = struct.Struct("<qi4xq")  # of a footer: place, bytes of the message, bytes of the body
# Numbers of the fields in Arrow's Message.fbs and File.fbs.
_DICTIONARIES, _BATCHES = 2, 3  # of Footer
_HEADER_TYPE, _HEADER = 1, 2  # of Message
_DICTIONARY, _BATCH = 2, 3  # values of _HEADER_TYPE
_DATA, _COMPRESSION = 1, 3  # of DictionaryBatch, of RecordBatch


def refuse_claims(path: str, whole: pa.Buffer, *, stream: bool = False) -> None:
    """Refuses a file that Arrow would decompress, or whose batches are together larger than the file.

    Args:
        path: for messages.
        whole: the file's content, mapped.
        stream: whether it is an Arrow stream, as `datasets` saves them, or an Arrow file.

    Raises:
        UserError: that, or a file that cannot be read.
    """
    try:
        for message in _streamed(whole) if stream else _listed(memoryview(whole).cast("B")):
            if _compressed(message):
                raise UserError(
                    f"'{path}' is compressed, so it cannot be memory-mapped: write it again without compression."
                )
    except (struct.error, IndexError, ValueError, OverflowError, pa.ArrowException) as error:
        raise UserError(f"'{path}' is damaged ({first_line(error)}); copy it or write it again.") from None


def _streamed(whole: pa.Buffer) -> Iterator[memoryview]:
    """The messages of an Arrow stream."""
    for message in pa.ipc.MessageReader.open_stream(whole):
        yield memoryview(message.metadata)


def _listed(content: memoryview) -> Iterator[memoryview]:
    """The messages that an Arrow file's footer lists; ValueError where their batches are larger than the file."""
    total = 0
    for start, message, body in blocks(content):
        total += message + body
        if min(start, message, body) < 0 or start + message + body > len(content) or total > len(content):
            raise ValueError(f"its batches claim more than its {len(content):,} bytes")
        prefix = 8 if content[start : start + 4] == _CONTINUED else 4  # 4 before Arrow 0.15
        yield content[start + prefix : start + message]


def blocks(content: memoryview) -> Iterator[tuple[int, int, int]]:
    """The place, the bytes of the message and those of the body of every batch that an Arrow file's footer lists."""
    end = len(content) - len(_MAGIC) - 4
    size = struct.unpack_from("<i", content, end)[0]
    if not 0 < size <= end:
        raise ValueError("its footer cannot be read")
    footer = _Table.root(content[end - size : end])
    for field in (_DICTIONARIES, _BATCHES):
        yield from footer.structs(field, _BLOCK)


def _compressed(message: memoryview) -> bool:
    found = _Table.root(message)
    kind, header = found.number(_HEADER_TYPE, "<B"), found.table(_HEADER)
    if kind == _DICTIONARY and header is not None:
        header = header.table(_DATA)
    return kind in (_DICTIONARY, _BATCH) and header is not None and header.table(_COMPRESSION) is not None


class _Table:
    """A table of a FlatBuffer: at its place the way back to the table of places, which gives that of each field, 0 = absent.

    Raises:
        struct.error, ValueError: from all of its methods, for a place outside the buffer.
    """

    def __init__(self, buffer: memoryview, at: int):
        self._buffer, self._at = buffer, at
        self._places = at - self._read("<i", at)

    @classmethod
    def root(cls, buffer: memoryview) -> _Table:
        return cls(buffer, struct.unpack_from("<I", buffer, 0)[0])

    def number(self, field: int, kind: str) -> int:
        place = self._place(field)
        return self._read(kind, place) if place else 0

    def table(self, field: int) -> _Table | None:
        place = self._place(field)
        return _Table(self._buffer, place + self._read("<I", place)) if place else None

    def structs(self, field: int, form: struct.Struct) -> Iterator[tuple[int, ...]]:
        place = self._place(field)
        if not place:
            return
        start = place + self._read("<I", place)
        first, end = start + 4, start + 4 + self._read("<I", start) * form.size
        if end > len(self._buffer):
            raise ValueError(end)
        yield from form.iter_unpack(self._buffer[first:end])

    def _place(self, field: int) -> int:
        entry = 4 + 2 * field
        held = entry + 2 <= self._read("<H", self._places)
        offset = self._read("<H", self._places + entry) if held else 0
        return self._at + offset if offset else 0

    def _read(self, kind: str, at: int) -> int:
        if at < 0:
            raise ValueError(at)
        return struct.unpack_from(kind, self._buffer, at)[0]
