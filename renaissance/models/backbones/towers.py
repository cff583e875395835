"""Text and vision towers: any Hugging Face encoder as a module that gives `Tokens`."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from torch import nn

from renaissance.core.errors import UserError
from renaissance.core.types import TextInput, Tokens

from .build import build_model
from .dimensions import check_modality, encoder_dimensions, width_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig

    from .family import Family


class Tower(nn.Module):
    """What text and vision towers share.

    Attributes:
        hidden_size: width of the tokens it gives.
        pooling: where a summary is read: "first", "mean" over real tokens, or "last" real token.
        causal: True where a token sees only those before it.
        config: the configuration that builds this tower again (`config.to_dict()` goes into a checkpoint).
        unused: names of pretrained weights that the tower leaves out (heads, poolers), for the report.
    """

    def __init__(self, model: nn.Module, config: PreTrainedConfig, family: Family, unused: tuple[str, ...] = ()):
        super().__init__()
        self.model = model
        self.config = config
        self.hidden_size = width_of(config, family)
        self.pooling = family.pooling
        self.causal = family.causal
        self.unused = unused


class TextTower(Tower):
    """A text encoder."""

    def __init__(self, model: nn.Module, config: PreTrainedConfig, family: Family, unused: tuple[str, ...] = ()):
        super().__init__(model, config, family, unused)
        takes = inspect.signature(model.forward).parameters
        # A family with one row of token types has nothing to tell sentences apart with.
        self._takes_types = "token_type_ids" in takes and getattr(config, "type_vocab_size", 0) > 1

    def forward(self, text: TextInput) -> Tokens:
        """Encodes texts (B, L). Returns hidden (B, L, D); what padding holds changes no real token."""
        inputs = {"input_ids": text.input_ids, "attention_mask": text.attention_mask.long()}
        if self._takes_types:
            inputs["token_type_ids"] = text.token_type_ids
        return Tokens(self.model(**inputs).last_hidden_state, text.attention_mask.bool())


class VisionTower(Tower):
    """A picture encoder."""

    def forward(self, pixels: Tensor) -> Tokens:
        """Encodes normalised pictures (B, 3, H, W). Returns hidden (B, N, D), mask None: all tokens are real.

        N counts a flat family's CLS and register tokens; a feature map (B, D, h, w) becomes N = h * w tokens.
        """
        hidden = self.model(pixel_values=pixels).last_hidden_state
        if hidden.ndim == 4:
            hidden = hidden.flatten(2).transpose(1, 2)
        return Tokens(hidden, None)


def check_text_len(config: PreTrainedConfig, weights: str | None, max_text_len: int | None) -> None:
    """Raises a UserError where texts of `max_text_len` tokens do not fit the model's position table."""
    limit = encoder_dimensions(config, weights or config.model_type).max_text_len
    if max_text_len is not None and limit is not None and max_text_len > limit:
        raise UserError(
            f"max_text_len={max_text_len} is more than the {limit} tokens that {weights or config.model_type} has "
            f"positions for: give max_text_len={limit} or less."
        )


def build_text_tower(
    config: PreTrainedConfig,
    *,
    weights: str | None,
    allow_download: bool = True,
    max_text_len: int | None = None,
    vocab_size: int | None = None,
    attention: str = "sdpa",
) -> TextTower:
    """Builds a text tower.

    Args:
        config: of a text family.
        weights: id or folder of the pretrained weights; None leaves them random.
        max_text_len: most tokens of a text; must fit the model's position table.
        vocab_size: pieces of the tokenizer; a larger one than the model's grows the word embeddings.

    Raises:
        UserError: the family cannot serve as a text tower, or texts of this length do not fit it.
    """
    family = check_modality(config, weights or config.model_type, "text_encoder")
    check_text_len(config, weights, max_text_len)
    model, config, unused = build_model(
        config, weights=weights, allow_download=allow_download, attention=attention, vocab_size=vocab_size
    )
    return TextTower(model, config, family, unused)


def build_vision_tower(
    config: PreTrainedConfig,
    *,
    weights: str | None,
    allow_download: bool = True,
    image_size: int | None = None,
    attention: str = "sdpa",
) -> VisionTower:
    """Builds a vision tower for square pictures of `image_size` pixels (None: the family's own).

    Raises:
        UserError: the family cannot serve as a vision tower, or not at this size.
    """
    family = check_modality(config, weights or config.model_type, "image_encoder")
    model, config, unused = build_model(
        config, weights=weights, allow_download=allow_download, attention=attention, image_size=image_size
    )
    return VisionTower(model, config, family, unused)
