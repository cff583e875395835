"""The fusion stacks of a two-tower model: text and image tokens attend to each other. Trained from scratch.

Three kinds, all post-norm transformer layers of width D with GELU feed-forward layers:

* `shared`    LXMERT's cross-modality layer (Tan & Bansal 2019): ONE cross-attention serves both directions, then
              self-attention and feed-forward for each side.
* `separate`  METER's co-attention (Dou et al. 2022): each side has its own self-attention, cross-attention and
              feed-forward.
* `merged`    METER's merged attention: one transformer stack over both token sequences, joined.

A stack is called as `stack(text, image, needed)` with `Tokens` or None for either side. Where one side is None,
cross-attention to it is skipped, not masked: a softmax over masked keys alone still leaks. `needed` says which tokens of
each side to compute in the last layer: "all", only the "first", or None (`merged` always computes all).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from renaissance.core.registry import FUSIONS
from renaissance.core.types import Tokens

from .attention import Attention, Residual

TextAndImage = tuple[Tensor | None, Tensor | None]  # hidden states (B,N,D) of text and image


class NeededTokens(NamedTuple):
    """Tokens of the last layer to compute. Attributes: text, image: "all", "first" or None."""

    text: str | None = "all"
    image: str | None = "all"


class FeedForward(nn.Module):
    """Position-wise feed-forward layer with residual and layer norm: D -> mlp_ratio x D -> D."""

    def __init__(self, width: int, mlp_ratio: float, drop_rate: float):
        super().__init__()
        inner = int(width * mlp_ratio)
        self.dense = nn.Linear(width, inner)
        self.output = Residual(inner, width, drop_rate)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.output(F.gelu(self.dense(hidden)), hidden)


class TransformerLayer(nn.Module):
    """A transformer layer over the tokens of one modality: self-attention, then the feed-forward layer."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, drop_rate: float):
        super().__init__()
        self.attention = Attention(width, heads, drop_rate)
        self.feed_forward = FeedForward(width, mlp_ratio, drop_rate)

    def forward(self, hidden: Tensor, mask: Tensor | None, needed: str | None) -> Tensor | None:
        return None if needed is None else self.feed_forward(self.attention(hidden, mask, first=needed == "first"))


class SharedLayer(nn.Module):
    """LXMERT's layer: cross-attention (one set of weights, both directions), then a transformer layer for each side."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, drop_rate: float):
        super().__init__()
        self.cross = Attention(width, heads, drop_rate)
        self.text, self.image = (TransformerLayer(width, heads, mlp_ratio, drop_rate) for _ in range(2))

    def forward(self, text: Tokens | None, image: Tokens | None, needed: NeededTokens) -> TextAndImage:
        text_hidden, image_hidden = (None if side is None else side.hidden for side in (text, image))
        if text is not None and image is not None:
            text_hidden = self.cross.cross(text.hidden, image) if needed.text else None
            image_hidden = self.cross.cross(image.hidden, text) if needed.image else None
        return (
            None if text is None else self.text(text_hidden, text.mask, needed.text),
            None if image is None else self.image(image_hidden, image.mask, needed.image),
        )


class SeparateLayer(nn.Module):
    """METER's co-attention layer: self-attention, then cross-attention to the other side's input, then feed-forward."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, drop_rate: float):
        super().__init__()
        for side in ("text", "image"):
            setattr(self, f"{side}_attention", Attention(width, heads, drop_rate))
            setattr(self, f"{side}_cross", Attention(width, heads, drop_rate))
            setattr(self, f"{side}_feed_forward", FeedForward(width, mlp_ratio, drop_rate))

    def forward(self, text: Tokens | None, image: Tokens | None, needed: NeededTokens) -> TextAndImage:
        return self._side("text", text, image, needed.text), self._side("image", image, text, needed.image)

    def _side(self, name: str, own: Tokens | None, other: Tokens | None, needed: str | None) -> Tensor | None:
        if own is None or needed is None:
            return None
        hidden = getattr(self, f"{name}_attention")(own.hidden, own.mask, first=needed == "first")
        if other is not None:
            hidden = getattr(self, f"{name}_cross").cross(hidden, other)
        return getattr(self, f"{name}_feed_forward")(hidden)


class FusionStack(nn.Module):
    """Layers of one kind, each reading both sides of the layer before.

    Args:
        kind: a name of `FUSIONS`, such as "shared".
        num_layers, width, heads, mlp_ratio, drop_rate: sizes of the layers; `heads` must divide `width`.

    Attributes:
        around_layer: `around_layer(layer, *inputs)` runs each layer in training, if it is set.
    """

    around_layer: Callable[..., Any] | None = None

    def __init__(self, kind: str, num_layers: int, width: int, heads: int, mlp_ratio: float, drop_rate: float):
        super().__init__()
        self.kind, self.width, layer = kind, width, FUSIONS[kind]
        self.layers = nn.ModuleList(layer(width, heads, mlp_ratio, drop_rate) for _ in range(num_layers))

    def forward(self, text: Tokens | None, image: Tokens | None, needed: NeededTokens) -> TextAndImage:
        """Returns: text (B,L,D) and image (B,P,D), or (B,1,D) if only the first token is needed, or None."""
        if self.kind == "merged":
            joined = join(text, image)
            hidden = joined.hidden
            for layer in self.layers:
                hidden = self._run(layer, hidden, joined.mask, "all")
            return split(hidden, text, image)
        for layer in self.layers:
            needed_here = needed if layer is self.layers[-1] else NeededTokens()
            text_hidden, image_hidden = self._run(layer, text, image, needed_here)
            text = None if text_hidden is None else Tokens(text_hidden, text.mask)
            image = None if image_hidden is None else Tokens(image_hidden, image.mask)
        return text_hidden, image_hidden

    def _run(self, layer: nn.Module, *inputs: Any) -> Any:
        if self.around_layer is not None and self.training and torch.is_grad_enabled():
            return self.around_layer(layer, *inputs)
        return layer(*inputs)


def join(text: Tokens | None, image: Tokens | None) -> Tokens:
    """Text tokens, then image tokens, as one sequence (B, L+P, D). One of the two may be None."""
    if text is None or image is None:
        return image if text is None else text
    hidden = torch.cat([text.hidden, image.hidden], dim=1)
    masks = [
        side.hidden.new_ones(side.hidden.shape[:2], dtype=torch.bool) if side.mask is None else side.mask
        for side in (text, image)
    ]
    return Tokens(hidden, torch.cat(masks, dim=1))


def split(hidden: Tensor, text: Tokens | None, image: Tokens | None) -> TextAndImage:
    """The inverse of `join`: (B, L+P, D) into (B,L,D) and (B,P,D)."""
    length = 0 if text is None else text.hidden.shape[1]
    return (None if text is None else hidden[:, :length]), (None if image is None else hidden[:, length:])
