"""Masked language modelling: which tokens are hidden, and behind what.

Source: BERT (Devlin et al., 2019) and its later whole-word masking: a word is chosen with all its pieces, or not at
all, and each chosen piece is replaced on its own. Stop words: Bitton et al., "Data Efficient Masked Language Modeling for
Vision and Language", Findings of EMNLP 2021.
"""

from __future__ import annotations

import string
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from renaissance.core.errors import require
from renaissance.core.types import IGNORED, MlmTargets

from .text import Vocabulary

if TYPE_CHECKING:
    from tokenizers import Encoding

    from .collate import MicroBatch

_MASKED, _RANDOM = 0.8, 0.1  # shares of the chosen tokens; the rest stays as it is


class MlmMasker:
    """Builds `MlmTargets`; picklable.

    Every word is chosen with probability `mlm_prob`, independently; in a text of which no word was chosen, the one that
    was nearest to it is. Special tokens are never chosen, nor is a word with an unknown piece, nor a stop word.

    Args:
        vocabulary: of the tokenizer.
        mlm_prob: share of the words to choose, 0 < mlm_prob <= 1.
        whole_word_masking: choose words; else each piece counts as a word.
        seed: the run's seed.
        stop_words: are not chosen, in whichever case; only with whole words.

    Raises:
        UserError: the tokenizer has no mask token, or is a slow one where whole words are wanted.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        mlm_prob: float,
        whole_word_masking: bool,
        seed: int,
        stop_words: Iterable[str] = (),
    ) -> None:
        sentence = "tokenizer: masked language modelling needs a tokenizer with a mask token; this one has none."
        require(vocabulary.mask_id is not None, sentence)
        require(
            vocabulary.is_fast or not whole_word_masking,
            "whole_word_masking=True needs a fast tokenizer, which knows the word of each piece; this tokenizer is a slow "
            "one, so give whole_word_masking=False.",
        )
        self.vocabulary = vocabulary
        self.mlm_prob = mlm_prob
        self.whole_word_masking = whole_word_masking
        self.seed = seed
        self.stop_words = frozenset(map(_plain, stop_words))

    def __call__(self, micro: MicroBatch) -> MlmTargets:
        """Builds the targets of a micro-batch; a function of (seed, epoch, id) and the text of each sample."""
        words = self.words(micro)
        return hide(micro, choose(micro, words, self.vocabulary, self.mlm_prob, self.seed), self.vocabulary, self.seed)

    def words(self, micro: MicroBatch) -> np.ndarray:
        """Returns (B, L) int64, the word of each token, -1 on padding, stop words and what belongs to no word."""
        mask = micro.text.attention_mask.numpy()
        if not self.whole_word_masking:
            return np.where(mask, np.arange(mask.shape[1]), -1)
        words = np.full(mask.shape, -1, dtype=np.int64)
        for row, example, encoding in zip(words, micro.examples, micro.encoding.encodings, strict=True):
            row[: len(encoding.ids)] = self._without_stop_words(
                words_of(encoding, example.text), encoding, example.text
            )
        return words

    def _without_stop_words(self, words: list[int], encoding: Encoding, text: str) -> list[int]:
        if not self.stop_words:
            return words
        spans: dict[int, tuple[int, int]] = {}
        for word, (start, end) in zip(words, encoding.offsets, strict=True):
            spans[word] = (spans.get(word, (start,))[0], end)
        stops = {word for word, (start, end) in spans.items() if _plain(text[start:end]) in self.stop_words}
        return [-1 if word in stops else word for word in words]


def _plain(word: str) -> str:
    """A word in lower case without the punctuation and white space around it, which some tokenizers leave on it."""
    bare = word.strip().casefold()
    return bare.strip(string.punctuation) or bare


def words_of(encoding: Encoding, text: str) -> list[int]:
    """Numbers the words of a tokenised text.

    A new word begins where the tokenizer's own word index changes, and at white space. The index alone is not enough:
    tokenizers whose pre-tokenizer does not split (several SentencePiece conversions) call the whole text one word.

    Args:
        encoding: of one text, by a fast tokenizer, not padded.
        text: what was tokenised; the offsets of the encoding point into it.

    Returns:
        For each token its word, counted from 0; -1 for the special tokens that the tokenizer added.
    """
    words = []
    word, last_index, last_end = -1, None, 0
    for index, (start, end) in zip(encoding.word_ids, encoding.offsets, strict=True):
        if index is None:
            words.append(-1)
            continue
        # Up to this token's first character, because a tokenizer may count the space before a word as part of it.
        if index != last_index or any(map(str.isspace, text[last_end : start + 1])):
            word += 1
        words.append(word)
        last_index, last_end = index, end
    return words


def choose(micro: MicroBatch, words: np.ndarray, vocabulary: Vocabulary, mlm_prob: float, seed: int) -> np.ndarray:
    """Chooses the tokens to hide, whole words at a time, at least one word of a text that has any.

    Args:
        micro: the micro-batch.
        words: (B, L) int64, the word of each token counted from 0, -1 where there is nothing to choose.
        vocabulary: of the tokenizer.
        mlm_prob: share of the words to choose.
        seed: the run's seed.

    Returns:
        (B, L) bool.
    """
    size, length = words.shape
    rows = np.arange(size)[:, None]
    special = np.isin(micro.text.input_ids.numpy(), vocabulary.special_ids)
    # One column more than there can be words: index -1 finds it, and it takes what belongs to no word.
    eligible = np.zeros((size, length + 1), dtype=bool)
    eligible[rows, words] = True
    eligible[np.broadcast_to(rows, words.shape)[special], words[special]] = False
    eligible[:, -1] = False
    draws = np.where(eligible[:, :-1], micro.uniform(seed, "mlm: which words", length), np.inf)
    threshold = np.maximum(draws.min(axis=1, keepdims=True), mlm_prob)
    chosen = np.zeros_like(eligible)
    chosen[:, :-1] = eligible[:, :-1] & ((draws < mlm_prob) | (draws == threshold))
    return chosen[rows, words]


def hide(micro: MicroBatch, chosen: np.ndarray, vocabulary: Vocabulary, seed: int) -> MlmTargets:
    """Replaces the chosen tokens: 80 % by the mask token, 10 % by a random ordinary piece, 10 % not at all.

    Args:
        micro: the micro-batch.
        chosen: (B, L) bool.
        vocabulary: of the tokenizer.
        seed: the run's seed.
    """
    input_ids = micro.text.input_ids.numpy()
    length = input_ids.shape[1]
    draws = micro.uniform(seed, "mlm: replaced by what", 2 * length).reshape(-1, length, 2)
    what, which = draws[..., 0], draws[..., 1]
    pieces = vocabulary.ordinary_ids[(which * len(vocabulary.ordinary_ids)).astype(np.int64)]
    hidden = np.where(chosen & (what < _MASKED), vocabulary.mask_id, input_ids)
    hidden = np.where(chosen & (what >= _MASKED) & (what < _MASKED + _RANDOM), pieces, hidden)
    return mlm_targets(torch.from_numpy(hidden), torch.from_numpy(np.where(chosen, input_ids, IGNORED)))


def mlm_targets(input_ids: Tensor, labels: Tensor) -> MlmTargets:
    """The targets, with their positions, which are looked for here: on a GPU, looking for them would make the processor wait."""
    return MlmTargets(input_ids, labels, (labels != IGNORED).flatten().nonzero().flatten())
