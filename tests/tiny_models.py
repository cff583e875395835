"""Two-tower and one-tower models small enough for milliseconds, straight from configurations, and inputs for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeVar

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import BertConfig, PreTrainedConfig, PreTrainedTokenizerFast, ViTConfig

from models.families import small_config
from renaissance.core.types import ImageInput, TextInput
from renaissance.models import backbones
from renaissance.models.embeddings import Normalize, PatchEmbeddings, TextEmbeddings
from renaissance.models.fusion import FusionStack
from renaissance.models.one_tower import OneTower
from renaissance.models.two_tower import TwoTower

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PLAIN = "two small images a red blue green square circle is left right of the above"
WORDS = (*SPECIAL, *PLAIN.split())
VOCAB, WIDTH, FUSED, SIDE, PATCH, MAX_TEXT_LEN = len(WORDS), 16, 24, 32, 8, 20
HALF = (0.5, 0.5, 0.5)
FUSIONS = ("shared", "separate", "merged")
Model = TypeVar("Model", bound=nn.Module)


def text_config(**given: object) -> BertConfig:
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return BertConfig(**{**sizes, "vocab_size": VOCAB, "max_position_embeddings": MAX_TEXT_LEN, **given})


def image_config(**given: object) -> ViTConfig:
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    drops = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    return ViTConfig(**{**sizes, **drops, "image_size": SIDE, "patch_size": PATCH, **given})


def two_tower(
    fusion: str = "shared",
    pooler_type: str = "double",
    *,
    pooling: str = "first",
    image_size: int = SIDE,
    image: PreTrainedConfig | None = None,
    num_layers: int = 2,
) -> TwoTower:
    """BERT and ViT (or `image`) under a fusion of width FUSED; `pooling` is that of the text tower."""
    text_tower = backbones.build_text_tower(text_config(), weights=None)
    image_tower = backbones.build_vision_tower(image or image_config(), weights=None, image_size=image_size)
    text_tower.pooling = pooling
    stack = FusionStack(fusion, num_layers, FUSED, 2, 2, 0.1)
    model = TwoTower(text_tower, image_tower, stack, pooler_type, Normalize(HALF, HALF))
    return stirred(model)


def one_tower(
    encoder: str | PreTrainedConfig,
    pooler_type: str = "double",
    *,
    image_size: int = SIDE,
    text_len: int = MAX_TEXT_LEN,
) -> OneTower:
    """Over the blocks of a "text" encoder (BERT), of an "image" encoder (ViT), or of one by its configuration."""
    config = {"text": text_config, "image": image_config}[encoder]() if isinstance(encoder, str) else encoder
    blocks, own = backbones.build_blocks(config, weights=None, image_size=image_size)
    if isinstance(own, backbones.FamilyTextEmbeddings):
        text, image = own, PatchEmbeddings(WIDTH, image_size, PATCH, 0.1)
    else:
        text, image = TextEmbeddings(VOCAB, WIDTH, text_len, 0.1), own
    return stirred(OneTower(blocks, text, image, pooler_type, Normalize(HALF, HALF)))


# Of every kind: each fusion, poolers, patches that are a grid or none, a tower of either side.
MODELS: dict[str, Callable[[], nn.Module]] = {
    "two-tower": two_tower,
    "two-tower, merged, one pooler": lambda: two_tower("merged", "single", pooling="mean"),
    "two-tower of Swin": lambda: two_tower(image=small_config("swin")),
    "two-tower of ResNet": lambda: two_tower(image=small_config("resnet")),
    "one-tower of BERT": lambda: one_tower("text"),
    "one-tower of SigLIP": lambda: one_tower(small_config("siglip_vision_model")),
    "one-tower of ViT": lambda: one_tower("image", "single"),
}
every_model = pytest.mark.parametrize("name", MODELS)


@torch.no_grad()
def stirred(model: Model, seed: int = 0) -> Model:
    """Draws every parameter so that it has an effect: families start with zeros in places. In eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            parameter.copy_(noise * parameter[0].numel() ** -0.5)
        else:
            parameter.copy_(noise * 0.1 + (not name.endswith("bias")))
    return model.eval()


def texts(lengths: Sequence[int] = (7, 4), padding: int = 0, seed: int = 1, filler: int | None = None) -> TextInput:
    """Texts of random words, behind them padding to the longest and `padding` more; `filler` draws what it holds."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, VOCAB, (len(lengths), max(lengths)), generator=generator)
    ids = nn.functional.pad(ids, (0, padding))
    mask = torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]
    junk = torch.zeros_like(ids)
    if filler is not None:
        junk = torch.randint(0, VOCAB, ids.shape, generator=torch.Generator().manual_seed(filler))
    return TextInput(torch.where(mask, ids, junk), mask, torch.zeros_like(ids))


def pictures(count: int = 2, height: int = SIDE, width: int = SIDE, seed: int = 2) -> ImageInput:
    """Noise."""
    generator = torch.Generator().manual_seed(seed)
    return ImageInput(torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8))


def counted_parts(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each part of a model runs from now on."""
    calls: Counter[str] = Counter()
    for part in ("embed_text", "embed_image", "fuse"):
        whole = getattr(model, part)

        def counted(*given: object, part: str = part, whole: Callable[..., object] = whole) -> object:
            calls[part] += 1
            return whole(*given)

        monkeypatch.setattr(model, part, counted)
    return calls


def same(actual: Tensor | None, expected: Tensor | None, tolerance: float) -> None:
    """Asserts that both are None, or equal up to `tolerance`, relative and absolute."""
    assert (actual is None) == (expected is None)
    if actual is not None:
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer of WORDS with BERT's special tokens."""
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [(word, WORDS.index(word)) for word in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=made, **dict(zip(names, SPECIAL, strict=True)))
