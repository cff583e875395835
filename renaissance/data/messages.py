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
                raise UserError(f"'{path}' is compressed and cannot be memory-mapped: write it without compression.")
    except (struct.error, IndexError, ValueError, OverflowError, pa.ArrowException) as error:
        raise UserError(f"'{path}' is damaged ({first_line(error)}); copy it or write it again.") from None


def _streamed(whole: pa.Buffer) -> Iterator[memoryview]:
    """Yields the messages of an Arrow stream."""
    for message in pa.ipc.MessageReader.open_stream(whole):
        yield memoryview(message.metadata)


def _listed(content: memoryview) -> Iterator[memoryview]:
    """Yields the messages that an Arrow file's footer lists; ValueError where their batches are larger than the file."""
    total = 0
    for start, message, body in blocks(content):
        total += message + body
        if min(start, message, body) < 0 or start + message + body > len(content) or total > len(content):
            raise ValueError(f"its batches claim more than its {len(content):,} bytes")
        prefix = 8 if content[start : start + 4] == _CONTINUED else 4  # 4 before Arrow 0.15
        yield content[start + prefix : start + message]


def blocks(content: memoryview) -> Iterator[tuple[int, int, int]]:
    """Yields the place, the bytes of the message and those of the body of every batch that an Arrow file's footer lists."""
    end = len(content) - len(_MAGIC) - 4
    size = _number(content, end, "<i")
    if not 0 < size <= end:
        raise ValueError("its footer cannot be read")
    footer = content[end - size : end]
    for field in (_DICTIONARIES, _BATCHES):
        listed = _followed(footer, _field(footer, _followed(footer, 0), field))
        if listed is not None:
            first, count = listed + 4, _number(footer, listed)
            if first + count * _BLOCK.size > len(footer):
                raise ValueError("its footer cannot be read")
            yield from _BLOCK.iter_unpack(footer[first : first + count * _BLOCK.size])


def _compressed(message: memoryview) -> bool:
    """Whether a message is a batch, or the batch of a dictionary, with compressed buffers."""
    root = _followed(message, 0)
    kind, header = (_field(message, root, field) for field in (_HEADER_TYPE, _HEADER))
    header = _followed(message, header)
    if kind is not None and message[kind] == _DICTIONARY:
        header = _followed(message, _field(message, header, _DATA))
    return kind is not None and message[kind] in (_DICTIONARY, _BATCH) and bool(_field(message, header, _COMPRESSION))


# Of a FlatBuffer: a table begins with the way back to the table of places, which gives that of each field, 0 = absent. What
# leads to a table or a list stands before it by so many bytes. A place outside the buffer raises struct.error or ValueError.


def _field(buffer: memoryview, table: int | None, field: int) -> int | None:
    """Returns where a field of a table is; None where there is no such field, or no table."""
    if table is None:
        return None
    places, entry = table - _number(buffer, table, "<i"), 4 + 2 * field
    offset = _number(buffer, places + entry, "<H") if entry + 2 <= _number(buffer, places, "<H") else 0
    return table + offset if offset else None


def _followed(buffer: memoryview, at: int | None) -> int | None:
    """Returns the offset that the relative offset at `at` points to."""
    return None if at is None else at + _number(buffer, at)


def _number(buffer: memoryview, at: int, kind: str = "<I") -> int:
    if at < 0:
        raise ValueError("a message cannot be read")
    return struct.unpack_from(kind, buffer, at)[0]
