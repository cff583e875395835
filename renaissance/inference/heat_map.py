"""What a heat map is, and the methods that make one; neither torch nor transformers is needed to know them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

METHODS = ("gradient", "rollout", "attention", "transport")  # the first is the default
EMPTY = "no patch weighs anything"
WORD, MATCH, POOLED = "word", "match", "pooled"


class HeatMap(NamedTuple):
    """What each patch of an image weighs for a word or an output of the model.

    Attributes:
        values: (rows, columns) float64, at least 0, of sum 1; all 0 where no patch weighs anything.
        word: whose map it is; None: that of the pooled vector.
        method: one of METHODS.
        target: what is explained: WORD, MATCH, an answer, or POOLED where attention is followed from the pooled vector.
        box: where the patches lie in the picture: left, top, right and bottom as shares of its sides. A model that cuts out
            the middle square sees no more than that.
    """

    values: np.ndarray
    word: str | None
    method: str
    target: str
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)

    @property
    def is_empty(self) -> bool:
        """Whether no patch weighs anything."""
        return not self.values.any()

    def peaks_at(self, row: int, column: int) -> bool:
        """Whether this patch weighs more than every other one."""
        return np.count_nonzero(self.values >= self.values[row, column]) == 1

    @property
    def title(self) -> str:
        """What it shows, in words."""
        output = {WORD: "", MATCH: "image-text match", POOLED: "pooled vector"}.get(
            self.target, f'answer "{self.target}"'
        )
        word = "" if self.word is None else f'word "{self.word}"'
        end = f": {EMPTY}" if self.is_empty else ""
        return f"{' for '.join(filter(None, (word, output)))}, by {self.method}{end}"
