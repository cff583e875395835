"""Retrieval: the false texts that an image's own text is told apart from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from renaissance.core.errors import UserError
from renaissance.core.types import FalseTextTargets

from .identity import text_key

if TYPE_CHECKING:
    from .collate import MicroBatch

_SPARE = 16  # draws beyond those that are needed: enough where some texts are the image's own


class FalseTexts:
    """Builds `FalseTextTargets`; picklable.

    Texts are drawn from the whole data set by (seed, epoch, id). None is a caption of the image, whatever its case and
    spacing; one may come twice where the data set has few others.

    Args:
        seed: the run's seed. count: N, false texts for each image.
    """

    def __init__(self, seed: int, count: int) -> None:
        self.seed, self.count = seed, count

    def __call__(self, micro: MicroBatch) -> FalseTextTargets:
        """Builds the targets of a micro-batch.

        Raises:
            UserError: the data set has no text that is false of an image.
        """
        draws = micro.uniform(self.seed, "irtr", self.count + _SPARE)
        texts = [
            text
            for example, row in zip(micro.examples, draws, strict=True)
            for text in self._drawn(micro, example.text_keys, micro.source.others(example.step, row))
        ]
        _, encoded = micro.encode(texts)
        return FalseTextTargets(encoded, torch.zeros(len(micro.examples), dtype=torch.int64), micro.metadata)

    def _drawn(self, micro: MicroBatch, own: frozenset[int], candidates: list[int]) -> list[str]:
        found: list[str] = []
        for candidate in candidates:
            if len(found) == self.count:
                return found
            text = micro.source.dataset.text(candidate)
            if text_key(text) not in own:
                found.append(text)
        if not found:
            raise UserError(
                f"draw_false_text={self.count}: none of {len(candidates)} texts drawn from the data set is false of the "
                "image; retrieval needs images with captions of their own."
            )
        return (found * self.count)[: self.count]
