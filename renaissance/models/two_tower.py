"""The two-tower model: a text encoder, an image encoder, and a fusion stack with cross-attention on top of both."""

from __future__ import annotations

from collections.abc import Set

from torch import Tensor, nn

from renaissance.core.types import ImageInput, TextInput, Tokens

from .backbones import Tower, family_of, resize_position
from .base import VisionLanguageModel
from .embeddings import Normalize
from .fusion import FusionStack, TextAndImage


class TwoTower(VisionLanguageModel):
    """embed_text, embed_image, fuse: each encoding is computed once and may be fused many times.

    Args:
        text_tower: TextInput -> Tokens. image_tower: normalised pixels -> Tokens.
        fusion: of width D, to which both towers are projected.
        pooler_type: "single" pools the text side only, "double" both sides (pooled_size D or 2D).
        normalize: pixels to what the image tower expects.
    """

    def __init__(
        self, text_tower: Tower, image_tower: Tower, fusion: FusionStack, pooler_type: str, normalize: Normalize
    ):
        super().__init__(fusion.width, pooler_type, (text_tower.pooling, image_tower.pooling), normalize)
        self.text_tower, self.image_tower, self.fusion = text_tower, image_tower, fusion
        self.unimodal_size = {"text": text_tower.hidden_size, "image": image_tower.hidden_size}
        self.text_projection = nn.Linear(text_tower.hidden_size, self.width)
        self.image_projection = nn.Linear(image_tower.hidden_size, self.width)

    def fresh_modules(self) -> list[nn.Module]:
        """The modules that no pretrained encoder brings."""
        return [self.text_projection, self.image_projection, self.token_types, self.fusion, *self.poolers]

    def adapt(self, name: str, tensor: Tensor) -> Tensor | None:
        """A checkpoint's position table brought to this model's image size; None for any other tensor."""
        if not name.startswith("image_tower."):
            return None
        return resize_position(name, tensor, self.get_parameter(name).shape, family_of(self.image_tower.config))

    def embed_text(self, text: TextInput) -> Tokens:
        """The whole text encoder, then the projection. (B,L) -> Tokens (B,L,D)."""
        return self.project(self.unimodal_text(text), "text")

    def embed_image(self, images: ImageInput | Tokens) -> Tokens:
        """The whole image encoder, then the projection. (M,3,H,W) uint8 -> Tokens (M,P,D)."""
        return self.project(self.unimodal_image(images), "image")

    def unimodal_text(self, text: TextInput) -> Tokens:
        """The text encoder's own hidden states. (B,L) -> Tokens (B,L,H)."""
        return self.text_tower(text)

    def unimodal_image(self, images: ImageInput | Tokens) -> Tokens:
        """The image encoder's own hidden states. (M,3,H,W) uint8, or these states as they were kept -> Tokens (M,P,H)."""
        if isinstance(images, Tokens):
            return images._replace(hidden=images.hidden.to(self.image_projection.weight.dtype))
        return self.image_tower(self.normalize(images), images.kept)

    def project(self, tokens: Tokens, side: str) -> Tokens:
        projection = self.text_projection if side == "text" else self.image_projection
        return Tokens(projection(tokens.hidden), tokens.mask)

    def unimodal(self, tokens: Tokens, side: str) -> Tokens:
        """One modality's embedded tokens without the other modality: here they are encoded already."""
        return tokens

    def _fuse(self, text: Tokens | None, image: Tokens | None, needs: Set[str]) -> TextAndImage:
        return self.fusion(text, image, self.needed_tokens(needs, self.text_pooler, self.image_pooler))
