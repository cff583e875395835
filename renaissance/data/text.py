"""From captions to padded tokens, and what masking needs to know of a tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from transformers import BatchEncoding, PreTrainedTokenizerBase

from renaissance.core.errors import UserError, first_line, printable
from renaissance.core.types import TextInput

# Few lengths instead of many, so that kernels are chosen once for each; more padding would be computed in vain. The kernels that
# torch.compile makes want more.
PAD_MULTIPLE, COMPILED_PAD_MULTIPLE = 4, 8

_CHARACTERS_SHOWN = 60  # characters of a text that a sentence tells

# Rows that vocabularies keep in reserve: [unused12] (BERT), <unused12> (Gemma), <extra_id_12> (T5).
_RESERVED_PIECE = re.compile(r"[\[<](unused_?|extra_id_)\d+[\]>]")


class Vocabulary(NamedTuple):
    """The pieces of a tokenizer, as masking sees them.

    Attributes:
        mask_id: id of the mask token, None where the tokenizer has none.
        special_ids: (S,) ids of the special tokens, among them padding and "unknown".
        ordinary_ids: (V',) ids of the pieces that texts are made of: neither special nor kept in reserve.
        is_fast: whether the tokenizer knows which word a piece belongs to.
    """

    mask_id: int | None
    special_ids: np.ndarray
    ordinary_ids: np.ndarray
    is_fast: bool


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """Reads from a tokenizer what `masking.MlmMasker` needs."""
    special = set(tokenizer.all_special_ids)
    special |= {id for id, added in tokenizer.added_tokens_decoder.items() if added.special}
    pieces = tokenizer.get_vocab()
    ordinary = [id for piece, id in pieces.items() if id not in special and not _RESERVED_PIECE.fullmatch(piece)]
    return Vocabulary(
        mask_id=tokenizer.mask_token_id,
        special_ids=np.array(sorted(special), dtype=np.int64),
        ordinary_ids=np.array(sorted(ordinary), dtype=np.int64),
        is_fast=tokenizer.is_fast,
    )


def wordless_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of the special tokens that stand for no word of a text; the unknown one does, unless it is an end, too (CLIP's)."""
    ends = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}
    return {*tokenizer.all_special_ids} - ({tokenizer.unk_token_id} - ends)


def encode(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_text_len: int,
    seconds: Sequence[str] | None = None,
    *,
    multiple: int = PAD_MULTIPLE,
    where: Sequence[str] = (),
) -> tuple[BatchEncoding, TextInput]:
    """Tokenises a batch of texts and pads it on the right.

    Args:
        tokenizer: any tokenizer of transformers.
        texts: B captions.
        max_text_len: longer texts are cut to this many tokens, special tokens included.
        seconds: B second texts, where each sample is a pair of sentences; the longer of a pair is cut first.
        multiple: of tokens, to which the batch's longest text is rounded up, but never beyond max_text_len.
        where: what a sentence calls each text, such as its file and row.

    Returns:
        What the tokenizer gave, not padded, and the padded tensors.

    Raises:
        UserError: the tokenizer panics at a text.
    """
    pairs = [list(texts)] if seconds is None else [list(texts), list(seconds)]
    encoding = tokenize(tokenizer, pairs, where, truncation=True, max_length=max_text_len, padding=False)
    lengths = [len(ids) for ids in encoding["input_ids"]]
    longest = -(-max(lengths) // multiple) * multiple
    shape = (len(lengths), min(longest, max_text_len))
    input_ids = np.full(shape, tokenizer.pad_token_id or 0, dtype=np.int64)
    token_type_ids = np.zeros(shape, dtype=np.int64)
    for i, length in enumerate(lengths):
        input_ids[i, :length] = encoding["input_ids"][i]
        if "token_type_ids" in encoding:
            token_type_ids[i, :length] = encoding["token_type_ids"][i]
    attention_mask = np.arange(shape[1]) < np.array(lengths)[:, None]
    return encoding, TextInput(
        input_ids=torch.from_numpy(input_ids),
        attention_mask=torch.from_numpy(attention_mask),
        token_type_ids=torch.from_numpy(token_type_ids),
    )


def cut_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_text_len: int) -> list[bool]:
    """Returns of each text whether `encode` cuts it."""
    encoding = tokenize(tokenizer, [list(texts)], truncation=True, max_length=max_text_len + 1, padding=False)
    return [len(ids) > max_text_len for ids in encoding["input_ids"]]


def tokenize(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[list[str]], where: Sequence[str] = (), **options
) -> BatchEncoding:
    """Calls a tokenizer.

    Args:
        tokenizer: any tokenizer of transformers.
        pairs: the texts, and where each is one of a pair, the second texts.
        where: as for `encode`.
        options: of the tokenizer's call.

    Raises:
        UserError: its Rust code panics, which is a BaseException and would end a loader process without a word.
    """
    try:
        return tokenizer(*pairs, **options)
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        if len(pairs[0]) > 1:  # which of them it is
            for number in range(len(pairs[0])):
                one = slice(number, number + 1)
                tokenize(tokenizer, [texts[one] for texts in pairs], where[one], **options)
        text = " | ".join(texts[0] for texts in pairs)
        shown = printable(text[:_CHARACTERS_SHOWN]) + ("..." if len(text) > _CHARACTERS_SHOWN else "")
        of = f" of {where[0]}" if where else ""
        raise UserError(f"The tokenizer cannot read the text{of}, '{shown}' ({first_line(error)}).") from None
