"""The first samples of a split, to evaluate a part of it; numbers of a part are marked wherever they are shown."""

from __future__ import annotations

from typing import Any

import numpy as np

from renaissance.core.types import Example

from .samples import FileSummary


class DatasetView:
    """A map-style data set that shows another one otherwise; what a subclass does not define is that of the whole."""

    def __init__(self, whole: Any):
        self._whole = whole

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # asked for before it is unpickled
            raise AttributeError(name)
        return getattr(self._whole, name)

    def __len__(self) -> int:
        return len(self._whole)


class LimitedDataset(DatasetView):
    """The first samples of a data set, in its order.

    Args:
        whole: a `TaskDataset`, or a `PairDataset`.
        limit: how many samples stay, or images with all of their samples.
        by_image: which of the two.

    Attributes:
        limit: the same.
        of: samples of the whole.
    """

    def __init__(self, whole: Any, limit: int, by_image: bool = False):
        super().__init__(whole)
        self.limit, self.of, self._by_image = limit, len(whole), by_image
        self._size = min(limit, self.of)
        if by_image:
            rows = whole.rows()
            images = np.unique(rows)
            self._size = self.of if len(images) <= limit else int(np.searchsorted(rows, images[limit]))

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self._size:
            raise IndexError(f"sample {index} of {self._size}")
        return self._whole[index]

    def __str__(self) -> str:
        first = f"the first {self.limit:,} images, " if self._by_image else "the first "
        return f"eval_limit={self.limit}: {first}{len(self):,} of {self.of:,} samples"

    def rows(self) -> np.ndarray:
        """Returns the row of each sample; see `SampleDataset.rows`."""
        return self._whole.rows()[: self._size]

    def images_shown(self) -> list[int]:
        """Returns how many images of each file are read; see `SampleDataset.images_shown`."""
        return self._whole.images_shown(self._size)

    def describe(self) -> list[FileSummary]:
        """Returns what each file gives; those that give nothing are left out."""
        left, found = self._size, []
        for file in self._whole.describe():
            if left:
                found.append(file._replace(samples=min(file.samples, left)))
                left -= found[-1].samples
        return found


def limited(samples: Any, limit: int | None, by_image: bool = False) -> Any:
    """Limits a data set to its first samples; unchanged if it is not larger."""
    if samples is None or limit is None:
        return samples
    part = LimitedDataset(samples, limit, by_image)
    return part if len(part) < len(samples) else samples
