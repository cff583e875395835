"""Rows of the annotations and their images, in order.

    rows -> requests -> ImagePool (all cores) -> column -> value, or left out and why

An entry is a position in the annotations, whether or not it becomes a row.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from renaissance.data.dataset_specs import BBOXES, IMAGE_ID

from .image_pool import Fault, ImagePool, Request, size_of
from .skipped import Skipped


class Row(NamedTuple):
    """A row to be written.

    Attributes:
        images: column -> path of the image below the root, or its encoded bytes.
        values: every other column -> value.
        rescale: where values are in pixels of the (first) image: (values, horizontal factor, vertical factor) -> the
            values for the image as it is stored, which `resize` can make smaller. None = no value is in pixels.
        without: what of it is left out, such as an empty caption.
    """

    images: dict[str, str | bytes]
    values: dict[str, Any]
    rescale: Callable[[dict[str, Any], float, float], dict[str, Any]] | None = None
    without: tuple[LeftOut, ...] = ()


def rescaled_boxes(values: dict[str, Any], across: float, down: float) -> dict[str, Any]:
    """Returns the values of a row with its boxes in pixels of the image as it is stored: the `rescale` of a `Row`."""
    name = BBOXES.name
    return {**values, name: [[x * across, y * down, w * across, h * down] for x, y, w, h in values[name]]}


def shows_some(box: Sequence[float], width: float, height: float) -> bool:
    """Whether some of a box [x, y, width, height] lies inside an image of this size."""
    x, y, across, down = box
    return min(x + across, width) > max(x, 0) and min(y + down, height) > max(y, 0)


class LeftOut(NamedTuple):
    """An entry that is left out. Attributes: kind, under which it is counted; name."""

    kind: str
    name: str


def read_entries(
    rows: Iterable[Row | LeftOut], root: str | os.PathLike, pool: ImagePool, progress: Callable[[Iterable], Iterable]
) -> Iterator[Row | LeftOut]:
    """Yields every row, in order, with its images as they are stored, or as left out because one cannot be read.

    Args:
        rows: what the annotations list.
        root: the folder of the images.
        pool: what reads them.
        progress: shows how far the replies are.
    """
    for (sources, row), images in progress(pool.read(_request(row, root) for row in rows)):
        if isinstance(row, LeftOut):
            yield row
            continue
        faults = [each for each in zip(row.images.values(), images, strict=True) if isinstance(each[1], Fault)]
        values = row.values
        if faults:
            source, fault = faults[0]
            where = source if isinstance(source, str) else f"the image of {values.get(IMAGE_ID.name) or 'a row'}"
            yield LeftOut(fault.kind, f"{where}: {fault.why}")
            continue
        if pool.resize is not None and row.rescale is not None:
            (width, height), (full_width, full_height) = size_of(images[0]), size_of(sources[0])
            values = row.rescale(values, width / full_width, height / full_height)
        yield row._replace(images=dict(zip(row.images, images, strict=True)), values=values)


def _request(row: Row | LeftOut, root: str | os.PathLike) -> Request:
    sources = () if isinstance(row, LeftOut) else row.images.values()
    return Request(tuple(os.path.join(root, each) if isinstance(each, str) else each for each in sources), row)


class EntryIterator:
    """An iterator over entries with one entry of lookahead, so that a shard ends just before the first row of the next.

    Attributes:
        position: how many entries of the listing were taken.
    """

    def __init__(self, entries: Iterator[Row | LeftOut], position: int = 0):
        self._entries = entries
        self._next = next(entries, None)
        self.position = position

    @property
    def ended(self) -> bool:
        """Whether all entries were taken."""
        return self._next is None

    def take(self, most: int | None, skipped: Skipped) -> Iterator[dict[str, Any]]:
        """Yields up to `most` rows (None = all) as column -> value; counts what is left out before, in and right after them."""
        taken = 0
        while self._next is not None:
            is_row = isinstance(self._next, Row)
            if is_row and taken == most:
                return
            for each in self._next.without if is_row else [self._next]:
                skipped.add(each.kind, each.name)
            if is_row:
                taken += 1
                yield {**self._next.images, **self._next.values}
            self._next = next(self._entries, None)
            self.position += 1
