"""Base class of both models: pixel normalisation, token types, poolers, frozen parts."""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import Self

import torch
from torch import Tensor, nn

from renaissance.core.types import Fused, Tokens

from .embeddings import Normalize, TokenTypes
from .fusion import NeededTokens, TextAndImage
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
        frozen: modules frozen by `freeze`.
        unimodal_size: width of the tokens of `unimodal_text` and `unimodal_image`, by side.
        unimodal_pooling: how these tokens are pooled, by side, as `Pooler` takes it.
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
        """The text pooler, then the image pooler if there is one."""
        return [self.text_pooler] + ([self.image_pooler] if self.image_pooler is not None else [])

    def freeze(self, parts: Iterable[str]) -> None:
        """Freezes the named parts: no gradient, and always eval mode (no dropout)."""
        self.frozen = tuple(getattr(self, name) for name in parts)
        for part in self.frozen:
            part.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for part in self.frozen:
            part.eval()
        return self

    def project(self, tokens: Tokens, side: str) -> Tokens:
        """Tokens of `unimodal_text` or `unimodal_image` brought to the width D: what `unimodal` gives of embedded tokens."""
        return tokens

    def fuse(
        self, text: Tokens | None, image: Tokens | None, slot: int | Tensor = 0, needs: Set[str] = EVERYTHING
    ) -> Fused:
        """Adds token types and runs the fusion over both modalities.

        Args:
            text: (B,L,D) or None. image: (B,P,D) or None.
            slot: 0 for the first image of an example, 1 for the second; or (B,) int64, one for each pair.
            needs: parts of the result to compute: "pooled", "text", "image".

        Returns:
            Fused, with None for a part that is absent or not in `needs`; `pooled` has zeros for an absent modality.
        """
        text, image = self.token_types.add(text, 0), self.token_types.add(image, 1 + slot)
        text_hidden, image_hidden = self._fuse(text, image, needs)
        return Fused(
            self._pool(text, text_hidden, image, image_hidden) if "pooled" in needs else None,
            text_hidden if "text" in needs else None,
            image_hidden if "image" in needs else None,
        )

    def _fuse(self, text: Tokens | None, image: Tokens | None, needs: Set[str]) -> TextAndImage:
        """Hidden states of text (B,L,D) and image (B,P,D) after the fusion; token types are added already."""
        raise NotImplementedError

    @staticmethod
    def needed_tokens(needs: Set[str], text_pooler: Pooler | None, image_pooler: Pooler | None) -> NeededTokens:
        """Tokens of the last layer to compute: "all", the "first" if only a pooler reads it, or None.

        Args:
            needs: as of `fuse`. text_pooler, image_pooler: that read each side where "pooled" is needed.
        """
        sides = {}
        for side, pooler in (("text", text_pooler), ("image", image_pooler)):
            pooler = pooler if "pooled" in needs else None
            everything = side in needs or (pooler is not None and pooler.pooling != "first")
            sides[side] = "all" if everything else None if pooler is None else "first"
        return NeededTokens(**sides)

    def _pool(
        self, text: Tokens | None, text_hidden: Tensor | None, image: Tokens | None, image_hidden: Tensor | None
    ) -> Tensor:
        """The poolers' vectors side by side, (B,pooled_size); zeros for an absent modality.

        Args:
            text, image: inputs of the fusion. text_hidden, image_hidden: its outputs; None if no pooler reads them.
        """
        halves = [None if text is None else self.text_pooler(Tokens(text_hidden, text.mask))]
        if self.image_pooler is not None:
            halves.append(None if image is None else self.image_pooler(Tokens(image_hidden, image.mask)))
        like = (image if text is None else text).hidden
        zeros = like.new_zeros(len(like), self.width)
        return torch.cat([zeros if half is None else half for half in halves], dim=-1)
