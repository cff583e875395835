"""How long the texts of a data set are, against what a run cuts them to."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Letters with their marks and digits are a word; of everything else but white space, each character counts.
_WORD = r"[\p{L}\p{M}\p{N}_]+|[^\p{L}\p{M}\p{N}_\s]"
_SPECIAL = 2  # tokens that a tokenizer puts around a text: [CLS] and [SEP]
QUANTILES = (0.5, 0.9, 0.99)

Measure = Callable[[pa.Array], np.ndarray]  # (n,) strings without null -> (n,) lengths


def words(strings: pa.Array) -> np.ndarray:
    """Estimates the length of texts in tokens: words and punctuation marks, and two special tokens.

    Word pieces are as many or more: a tokenizer cuts rare words into several.
    """
    return pc.count_substring_regex(strings, _WORD).to_numpy(zero_copy_only=False) + _SPECIAL


def pieces(tokenizer: Any) -> Measure:
    """Returns a function that measures texts in word pieces of a tokenizer of transformers, special tokens included."""
    from renaissance.data.text import tokenize  # imports transformers, which takes seconds

    # Its threads do not survive the fork of the next file's pool.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

    def measure(strings: pa.Array) -> np.ndarray:
        ids = tokenize(tokenizer, [strings.to_pylist()], verbose=False)["input_ids"] if len(strings) else []
        return np.array(list(map(len, ids)), np.int64)

    return measure


class Lengths:
    """Counts texts by length; memory depends on the longest text, not on how many there are.

    Args:
        measure: returns the lengths of texts.
    """

    def __init__(self, measure: Measure) -> None:
        self._measure = measure
        self.counts = np.zeros(1, np.int64)  # texts of each length

    def add(self, strings: pa.Array) -> None:
        """Counts more texts, none of them null."""
        more = np.bincount(self._measure(strings), minlength=len(self.counts))
        more[: len(self.counts)] += self.counts
        self.counts = more

    def row(self, limit: int) -> tuple[str, ...]:
        """Returns texts, quantiles, longest, and the share of texts that are longer than `limit`, as a row of a table."""
        total, reached = int(self.counts.sum()), self.counts.cumsum()
        at = [int(np.searchsorted(reached, np.ceil(quantile * total))) for quantile in QUANTILES]
        longer = self.counts[limit + 1 :].sum() / total
        return (f"{total:,}", *map(str, at), f"{len(self.counts) - 1:,}", f"{longer:.2%}")
