"""The one-tower model: word pieces and patches, joined, through the transformer blocks of one encoder (as in ViLT)."""

from __future__ import annotations

from collections.abc import Set

from torch import Tensor, nn

from renaissance.core.types import ImageInput, TextInput, Tokens

from .backbones import Blocks, FamilyTextEmbeddings, facts_of, family_of, resize_position
from .base import VisionLanguageModel
from .embeddings import Normalize
from .fusion import TextAndImage, join


class OneTower(VisionLanguageModel):
    """The same three parts as `TwoTower`; here the embeddings are light and `fuse` holds the blocks.

    Args:
        blocks: hidden (B,N,D), mask (B,N) or None -> (B,N,D), the encoder's final norm included.
        text: embeddings, TextInput -> (B,L,D). image: embeddings, normalised pixels, sizes -> Tokens. One of them is the
            encoder's own.
        pooler_type: "single" pools the text, "double" each side (pooled_size D or 2D): the encoder's own side is pooled as
            its family is (first token, last, or mean), the other one by its first token.
        normalize: pixels to what the image embeddings expect.

    Attributes:
        pretrained: names of the encoder's own parts: "blocks", and "text_embeddings" or "image_embeddings".
    """

    def __init__(self, blocks: Blocks, text: nn.Module, image: nn.Module, pooler_type: str, normalize: Normalize):
        reads_text = isinstance(text, FamilyTextEmbeddings)
        pooling = (blocks.pooling, "first") if reads_text else ("first", blocks.pooling)
        super().__init__(blocks.hidden_size, pooler_type, pooling, normalize)
        self.blocks, self.text_embeddings, self.image_embeddings = blocks, text, image
        self.pretrained = ("blocks", "text_embeddings" if reads_text else "image_embeddings")
        self.unimodal_size = {"text": self.width, "image": self.width}

    def fresh_modules(self) -> list[nn.Module]:
        """The modules that the encoder does not bring."""
        embeddings = [getattr(self, n) for n in ("text_embeddings", "image_embeddings") if n not in self.pretrained]
        return [*embeddings, self.token_types, *self.poolers]

    def adapt(self, name: str, tensor: Tensor) -> Tensor | None:
        """A checkpoint's position table brought to this model's image size or text length; None for other tensors."""
        part, _, rest = name.partition(".")
        if not part.endswith("_embeddings"):
            return None
        if part in self.pretrained:
            shape, config = self.get_parameter(name).shape, self.blocks.config
            return resize_position(name, tensor, shape, family_of(config), bilinear=facts_of(config).bilinear_positions)
        return getattr(self, part).adapt(rest, tensor)

    def embed_text(self, text: TextInput) -> Tokens:
        """Word-piece embeddings. (B,L) -> Tokens (B,L,D)."""
        return Tokens(self.text_embeddings(text), text.attention_mask)

    def embed_image(self, images: ImageInput) -> Tokens:
        """Patch embeddings. (M,3,H,W) uint8 -> Tokens (M,P,D)."""
        return self.image_embeddings(self.normalize(images), images.sizes, images.kept)

    def unimodal_text(self, text: TextInput) -> Tokens:
        """Texts through the blocks without an image. (B,L) -> Tokens (B,L,D)."""
        return self.unimodal(self.embed_text(text), "text")

    def unimodal_image(self, images: ImageInput) -> Tokens:
        """Images through the blocks without a text. (M,3,H,W) uint8 -> Tokens (M,P,D)."""
        return self.unimodal(self.embed_image(images), "image")

    def unimodal(self, tokens: Tokens, side: str) -> Tokens:
        """One modality's embedded tokens through the blocks without the other modality: (B,N,D)."""
        if side == "text":
            return Tokens(self.fuse(tokens, None, needs={"text"}).text, tokens.mask)
        return Tokens(self.fuse(None, tokens, needs={"image"}).image, tokens.mask)

    def _fuse(self, text: Tokens | None, image: Tokens | None, needs: Set[str]) -> TextAndImage:
        joined, length = join(text, image), 0 if text is None else text.hidden.shape[1]
        # An image without text is pooled by the text's pooler, if there is no other.
        image_pooler = self.text_pooler if text is None and self.image_pooler is None else self.image_pooler
        needed = self.needed_tokens(needs, self.text_pooler, image_pooler)
        texts = {"all": length, "first": min(length, 1), None: 0}[needed.text]
        images = {"all": joined.hidden.shape[1] - length, "first": 1, None: 0}[needed.image if image else None]
        if not texts + images:
            return None, None
        hidden = self.blocks(joined.hidden, joined.mask, (texts, length, images))
        return hidden[:, :texts] if texts else None, hidden[:, texts:] if images else None

    def _pool(
        self, text: Tokens | None, text_hidden: Tensor | None, image: Tokens | None, image_hidden: Tensor | None
    ) -> Tensor:
        if text is None and self.image_pooler is None:
            return self.text_pooler(Tokens(image_hidden, image.mask))
        return super()._pool(text, text_hidden, image, image_hidden)
