"""The base of both kinds of model: normalised pixels, token types, poolers, frozen parts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor, nn

from renaissance.core.types import Tokens

from .embeddings import Normalize, TokenTypes
from .heads import Pooler

EVERYTHING = frozenset({"pooled", "text", "image"})


class VisionLanguageModel(nn.Module):
    """Base class of `TwoTower` and `OneTower`.

    Args:
        width: D, of the fused tokens.
        pooler_type: "single" pools the text side only, "double" both sides (pooled_size D or 2D).
        pooling: of the text and of the image side, as `Pooler` takes it.
        normalize: pixels to what the image side expects.

    Attributes:
        frozen: the parts that `freeze` froze.
        unimodal_size: width of the tokens of `unimodal_text` and `unimodal_image`, by side.
        unimodal_pooling: which of their vectors summarises them, by side, as `Pooler` takes it.
    """

    def __init__(self, width: int, pooler_type: str, pooling: tuple[str, str], normalize: Normalize):
        super().__init__()
        self.width, self.normalize = width, normalize
        self.pooled_size = 2 * width if pooler_type == "double" else width
        self.token_types = TokenTypes(width)
        self.text_pooler = Pooler(width, pooling[0])
        self.image_pooler = Pooler(width, pooling[1]) if pooler_type == "double" else None
        self.frozen: tuple[nn.Module, ...] = ()
        self.unimodal_size: dict[str, int] = {}
        self.unimodal_pooling = dict(zip(("text", "image"), pooling, strict=True))

    @property
    def poolers(self) -> list[Pooler]:
        """The text pooler, then the image pooler where there is one."""
        return [self.text_pooler] + ([self.image_pooler] if self.image_pooler is not None else [])

    def freeze(self, parts: Iterable[str]) -> None:
        """Freezes the named parts: no gradient, and eval mode (no dropout) in whatever mode the model is."""
        self.frozen = tuple(getattr(self, name) for name in parts)
        for part in self.frozen:
            part.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for part in self.frozen:
            part.eval()
        return self

    def _pool(
        self, text: Tokens | None, text_hidden: Tensor | None, image: Tokens | None, image_hidden: Tensor | None
    ) -> Tensor:
        """The poolers' vectors side by side, (B,pooled_size); zeros for an absent modality.

        Args:
            text, image: what went into the fusion. text_hidden, image_hidden: what came out; None where nobody pools it.
        """
        halves = [self.text_pooler(text_hidden, text.mask) if text is not None else None]
        if self.image_pooler is not None:
            halves.append(self.image_pooler(image_hidden, image.mask) if image is not None else None)
        like = (image if text is None else text).hidden
        zeros = like.new_zeros(len(like), self.width)
        return torch.cat([zeros if half is None else half for half in halves], dim=-1)
