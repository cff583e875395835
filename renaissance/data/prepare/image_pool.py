"""Reads and decodes images with a pool of processes; results keep the order of the requests.

Each image is fully decoded once, so that training meets no damaged one. Its bytes are stored unchanged; with `resize`, a
larger image is stored as a JPEG file of that size, with the pixels that a reader would see: composed over white, scaled
from 16 to 8 bits, EXIF orientation ignored.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import stat
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.connection import wait
from typing import NamedTuple

import numpy as np
from PIL import Image

from renaissance.core.errors import UserError, require
from renaissance.core.launch import available_cores
from renaissance.core.untrusted import refuse_lfs
from renaissance.data.pixels import IMAGE_FORMATS, TooLarge, open_image, to_8_bits

# Of resized images, whose colours have half the resolution, as in most photographs: an error of 1.8 levels (43 dB, mean
# of scikit-image's photographs at short sides of 224 and 288). 90 costs 3 dB for 28 % fewer bytes, 98 wins 3.5 dB for
# 37 % more.
QUALITY = 95
MAX_BYTES = 256 << 20  # of one encoded image: eight of them still fit the 31-bit offsets of a record batch
_CHUNK = 16  # images a task: spreads the cost of a round trip, about 0.2 ms
_IN_FLIGHT = 96 << 20  # bytes of images that are asked for and not yet given back, whatever the number of workers


class Fault(NamedTuple):
    """Why an image cannot be used. Attributes: kind, under which it is counted; why, for people."""

    kind: str
    why: str


class Request(NamedTuple):
    """The images of one row. Attributes: sources, each a file's path or its bytes; row, given back with the reply."""

    sources: tuple[str | bytes, ...]
    row: object


class ImagePool:
    """Processes that read and check images. A context manager; with one worker it works in this process.

    Args:
        workers: how many, None = one for every core that this process may use.
        resize: pixels that the short side of a larger image is reduced to, None = images stay as they are.
        quality: of the JPEG files that resizing makes.
    """

    def __init__(self, workers: int | None = None, resize: int | None = None, quality: int | None = QUALITY):
        self.resize, self._quality = resize, quality
        self.workers = available_cores() if workers is None else workers
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> ImagePool:
        if self.workers > 1:
            # Fork where it is sound: a script without `if __name__ == "__main__"` works, and the workers run no code
            # but Pillow's, so the threads of this process do not matter to them (Python 3.12 warns of them regardless).
            context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
                self._executor = ProcessPoolExecutor(self.workers, context, _start_worker)
                self._executor.submit(os.getpid).result()  # starts them now, before files are opened
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def read(self, requests: Iterable[Request]) -> Iterator[tuple[Request, list[bytes | Fault]]]:
        """Yields every request in order, with the bytes or the fault of each source.

        At most some 100 MiB of images are held at a time.
        """
        if self._executor is None:
            yield from ((each, *_read_rows([each.sources], self.resize, self._quality)) for each in requests)
            return
        waiting: deque[tuple[list[Request], int, Future]] = deque()
        in_flight = 0
        for chunk, size in _chunks(requests):
            while waiting and (in_flight + size > _IN_FLIGHT or len(waiting) >= 4 * self.workers):
                in_flight -= waiting[0][1]
                yield from _replies(*waiting.popleft())
            sources = [request.sources for request in chunk]
            waiting.append((chunk, size, self._executor.submit(_read_rows, sources, self.resize, self._quality)))
            in_flight += size
        while waiting:
            yield from _replies(*waiting.popleft())


def read_image(source: str | bytes, resize: int | None = None, quality: int | None = QUALITY) -> bytes | Fault:
    """Decodes an image completely; returns the bytes to store, or why it cannot be used.

    Args:
        source: the file's path, or its bytes.
        resize, quality: as for `ImagePool`.
    """
    try:
        encoded = source if isinstance(source, bytes) else _file_bytes(source)
        require(encoded, "the file is empty (0 bytes)")
        refuse_lfs(encoded, "it")
        if len(encoded) > MAX_BYTES:
            raise TooLarge(f"the file has {len(encoded):,} bytes, at most {MAX_BYTES:,} are stored")
        with warnings.catch_warnings(action="ignore"), open_image(encoded) as image:
            require(image.mode != "F", "floating-point pixels have no agreed range")
            if resize is not None and min(image.size) > resize:
                return _resized(image, resize, quality)
            # Reads every coded coefficient all the same, but a JPEG is put together at an eighth of its size.
            image.draft(None, (1, 1))
            image.load()
    except Exception as error:  # Pillow's plugins raise nearly every type on damaged data
        return fault_of(error)
    return encoded


def fault_of(error: BaseException) -> Fault:
    """Why an image cannot be used, by the error of reading or decoding it."""
    if isinstance(error, FileNotFoundError):
        return Fault("missing", "no such file")
    if isinstance(error, (TooLarge, Image.DecompressionBombError)):
        return Fault("too large", str(error))
    if isinstance(error, (UserError, ValueError)):
        return Fault("unreadable", str(error).removesuffix("."))
    return Fault("unreadable", getattr(error, "strerror", None) or f"{type(error).__name__}: {error}")


def size_of(source: str | bytes) -> tuple[int, int]:
    """Returns (width, height) of an image that can be read, from its path or its bytes."""
    with warnings.catch_warnings(action="ignore"):
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        return Image.open(file, formats=IMAGE_FORMATS).size


def _resized(image: Image.Image, short_side: int, quality: int | None) -> bytes:
    """Encodes an opened image with its short side reduced, by an antialiased bicubic filter."""
    scale = short_side / min(image.size)
    size = tuple(round(side * scale) for side in image.size)
    # A JPEG may be put together at 1/2, 1/4 or 1/8 if that is still twice the size. The last pixels of its rows and
    # columns can then stand for less than a whole one: `box` is where the image ends.
    drafted = image.draft(None, (2 * size[0], 2 * size[1]))
    box = drafted[1] if drafted else None
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion would clip at 255
        image = Image.fromarray(to_8_bits(np.asarray(image)))
    elif image.has_transparency_data:
        layer = image.convert("RGBA").resize(size, Image.Resampling.BICUBIC)
        image = Image.alpha_composite(Image.new("RGBA", size, "white"), layer)
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    image = image.resize(size, Image.Resampling.BICUBIC, box)
    image.info = {}  # comments, EXIF and colour profiles, which readers ignore, stay behind
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def _file_bytes(path: str) -> bytes:
    if not stat.S_ISREG(mode := os.stat(path).st_mode) and not stat.S_ISDIR(mode):
        raise OSError(0, "a pipe, a socket or a device, and no file")  # reading it could block for ever
    with open(path, "rb") as file:
        return file.read(MAX_BYTES + 1)


def _read_rows(
    rows: list[tuple[str | bytes, ...]], resize: int | None, quality: int | None
) -> list[list[bytes | Fault]]:
    return [[read_image(source, resize, quality) for source in sources] for sources in rows]


def _replies(chunk: list[Request], _: int, future: Future) -> Iterator[tuple[Request, list[bytes | Fault]]]:
    try:
        read = future.result()
    except BrokenProcessPool:
        names = [source for request in chunk for source in request.sources if isinstance(source, str)]
        raise UserError(
            f"A process that reads images was ended from outside, at or after '{names[0] if names else '?'}', most "
            "likely for want of memory; give fewer workers=."
        ) from None
    yield from zip(chunk, read, strict=True)


def _chunks(requests: Iterable[Request]) -> Iterator[tuple[list[Request], int]]:
    """Groups requests into tasks; each comes with the bytes that its images will take."""
    chunk, size = [], 0
    for request in requests:
        chunk.append(request)
        size += sum(map(_size, request.sources))
        if len(chunk) >= _CHUNK or size >= _IN_FLIGHT // 8:
            yield chunk, size
            chunk, size = [], 0
    if chunk:
        yield chunk, size


def _size(source: str | bytes) -> int:
    with suppress(OSError):
        return len(source) if isinstance(source, bytes) else min(os.stat(source).st_size, MAX_BYTES)
    return 0


def _start_worker() -> None:
    """Ignores interrupts, which the parent handles, and exits when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
