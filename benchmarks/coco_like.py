"""Captions and photographs of the size and length of COCO's, made up, as an arrow file and a tokenizer for it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCAB_SIZE, MAX_TEXT_LEN = 30522, 50
_MEAN_LENGTH, _SPREAD = 12.5, 2.5  # of COCO captions in BERT's word pieces, [CLS] and [SEP] included
_HEIGHT, _WIDTH = 480, 640
_BYTES = (140_000, 180_000)


def write_captions(path: Path, images: int, seed: int = 0, stored: Callable[[bytes], bytes] = bytes) -> None:
    """Writes an arrow file of `images` JPEG files, each as `stored` leaves it, with one caption each."""
    generator = np.random.default_rng(seed)
    captions = [[_caption(generator)] for _ in range(images)]
    table = pa.table({"image": [stored(photograph(generator)) for _ in range(images)], "caption": captions})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def tokenizer() -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer of BERT's size whose pieces are the words of our captions."""
    vocabulary = {piece: index for index, piece in enumerate((*SPECIAL, *map(_word, range(len(SPECIAL), VOCAB_SIZE))))}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=made, **dict(zip(names, SPECIAL, strict=True)))


def photograph(generator: np.random.Generator) -> bytes:
    """A JPEG file of 640 x 480 pixels and 140 to 180 kB: soft colours with as much grain as that takes."""
    coarse = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    soft = np.asarray(Image.fromarray(coarse).resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC), np.float32)
    grain = generator.standard_normal((_HEIGHT, _WIDTH, 1), np.float32)
    low, high = 0.0, 64.0
    while True:
        strength = (low + high) / 2
        buffer = io.BytesIO()
        Image.fromarray((soft + strength * grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
        size = buffer.tell()
        if _BYTES[0] <= size <= _BYTES[1]:
            return buffer.getvalue()
        low, high = (strength, high) if size < _BYTES[0] else (low, strength)


def _caption(generator: np.random.Generator) -> str:
    length = int(np.clip(np.rint(generator.normal(_MEAN_LENGTH, _SPREAD)), 5, MAX_TEXT_LEN)) - 2
    return " ".join(map(_word, generator.integers(len(SPECIAL), VOCAB_SIZE, length).tolist()))


def _word(index: int) -> str:
    return f"w{index}"
