"""A small data set of pairs in memory, in the place of `pairs.PairDataset`."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from renaissance.core.types import Example
from renaissance.data.identity import content_key, text_key


class PairStub:
    """Two captions an image; the images differ in size and content, and pair `broken` has none that can be read."""

    def __init__(self, captions: list[str], broken: int | None = None) -> None:
        self.captions = captions
        self.broken = broken

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, id: int) -> Example:
        picture = id // 2
        noise = np.random.default_rng(picture).integers(0, 256, (30 + picture % 5 * 6, 40, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, "PNG")
        image = b"not an image" if id == self.broken else buffer.getvalue()
        texts = frozenset(map(text_key, self.captions[picture * 2 : picture * 2 + 2]))
        return Example(id, (image,), self.captions[id], texts, content_key(image), f"stub.arrow row {picture}")
