"""Small real tokenizers, trained on the spot, of each kind that towers come with."""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CAPTIONS = [
    f"a {size} {colour} {shape} sits {place} the {other}, looking unmistakably contented."
    for size in ("tiny", "gigantic", "medium-sized")
    for colour in ("red", "turquoise", "green", "purple")
    for shape in ("square", "triangle", "hexagon")
    for place in ("beside", "underneath", "above")
    for other in ("elephant", "circle")
]


def _word_piece() -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer, trainers.WordPieceTrainer(vocab_size=90, special_tokens=SPECIAL, show_progress=False)


def _byte_level() -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return tokenizer, trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, show_progress=False, initial_alphabet=alphabet
    )


def _unigram() -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer, trainers.UnigramTrainer(
        vocab_size=90, special_tokens=SPECIAL, show_progress=False, unk_token="[UNK]"
    )


def _unsplit() -> tuple[Tokenizer, trainers.Trainer]:
    """As Gemma's and Llama's: white space becomes a symbol and nothing splits, so the text is one 'word'."""
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()  # while training; taken off below
    return tokenizer, trainers.BpeTrainer(vocab_size=90, special_tokens=SPECIAL, show_progress=False)


KINDS = {"word_piece": _word_piece, "byte_level": _byte_level, "unigram": _unigram, "unsplit": _unsplit}


@cache  # the trainers break ties by chance
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    tokenizer, trainer = KINDS[kind]()
    tokenizer.train_from_iterator(CAPTIONS, trainer)
    if kind == "unsplit":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    if kind == "byte_level":
        tokenizer.post_processor = processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2), trim_offsets=True)
    else:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **dict(zip(names, SPECIAL, strict=True)))
