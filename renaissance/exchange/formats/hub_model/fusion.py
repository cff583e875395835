"""Pooling and fusion of an exported model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def pool(hidden: Tensor, mask: Tensor | None, pooling: str) -> Tensor:
    """One vector (B,D) of each sequence (B,N,D)."""
    if pooling == "first":
        return hidden[:, 0]
    mask = hidden.new_ones(hidden.shape[:2]) if mask is None else mask.to(hidden.dtype)
    if pooling == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), mask.long().sum(1) - 1]
    return (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)


class Pooler(nn.Module):
    def __init__(self, width: int, pooling: str):
        super().__init__()
        self.pooling, self.dense = pooling, nn.Linear(width, width)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        return torch.tanh(self.dense(pool(hidden, mask, self.pooling)))


class Residual(nn.Module):
    def __init__(self, width_in: int, width: int, drop_rate: float):
        super().__init__()
        self.dense, self.norm = nn.Linear(width_in, width), nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(drop_rate)

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        return self.norm(self.dropout(self.dense(hidden)) + residual)


class Attention(nn.Module):
    """Post-norm attention of (B,N,D) over itself, or over the other side's (B,K,D); mask (B,K), True on real tokens."""

    def __init__(self, width: int, heads: int, drop_rate: float):
        super().__init__()
        self.heads, self.drop_rate = heads, drop_rate
        self.qkv, self.output = nn.Linear(width, 3 * width), Residual(width, width, drop_rate)

    def forward(self, hidden: Tensor, mask: Tensor | None, other: Tensor | None = None) -> Tensor:
        weights, biases = self.qkv.weight.chunk(3), self.qkv.bias.chunk(3)
        inputs = (hidden, *[hidden if other is None else other] * 2)
        query, key, value = (
            F.linear(tokens, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for tokens, weight, bias in zip(inputs, weights, biases, strict=True)
        )
        mask = None if mask is None else mask[:, None, None]
        rate = self.drop_rate if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=rate)
        return self.output(mixed.transpose(1, 2).flatten(2), hidden)


class FeedForward(nn.Module):
    def __init__(self, width: int, mlp_ratio: float, drop_rate: float):
        super().__init__()
        inner = int(width * mlp_ratio)
        self.dense, self.output = nn.Linear(width, inner), Residual(inner, width, drop_rate)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.output(F.gelu(self.dense(hidden)), hidden)


class TransformerLayer(nn.Module):
    def __init__(self, width: int, heads: int, mlp_ratio: float, drop_rate: float):
        super().__init__()
        self.attention = Attention(width, heads, drop_rate)
        self.feed_forward = FeedForward(width, mlp_ratio, drop_rate)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        return self.feed_forward(self.attention(hidden, mask))


class SharedLayer(nn.Module):
    """LXMERT's layer: one cross-attention for both directions, then a transformer layer for each side."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, drop_rate: float):
        super().__init__()
        self.cross = Attention(width, heads, drop_rate)
        self.text, self.image = (TransformerLayer(width, heads, mlp_ratio, drop_rate) for _ in range(2))

    def forward(self, side: str, own: Tensor, mask: Tensor | None, other: Tensor | None, other_mask: Any) -> Tensor:
        hidden = own if other is None else self.cross(own, other_mask, other)
        return getattr(self, side)(hidden, mask)


class SeparateLayer(nn.Module):
    """METER's layer: each side has its own self-attention, cross-attention and feed-forward."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, drop_rate: float):
        super().__init__()
        for side in ("text", "image"):
            setattr(self, f"{side}_attention", Attention(width, heads, drop_rate))
            setattr(self, f"{side}_cross", Attention(width, heads, drop_rate))
            setattr(self, f"{side}_feed_forward", FeedForward(width, mlp_ratio, drop_rate))

    def forward(self, side: str, own: Tensor, mask: Tensor | None, other: Tensor | None, other_mask: Any) -> Tensor:
        hidden = getattr(self, f"{side}_attention")(own, mask)
        if other is not None:
            hidden = getattr(self, f"{side}_cross")(hidden, other_mask, other)
        return getattr(self, f"{side}_feed_forward")(hidden)


LAYERS = {"shared": SharedLayer, "separate": SeparateLayer, "merged": TransformerLayer}


class FusionStack(nn.Module):
    def __init__(self, width: int, kind: str, num_layers: int, num_heads: int, mlp_ratio: float, drop_rate: float):
        super().__init__()
        self.kind = kind
        layers = (LAYERS[kind](width, num_heads, mlp_ratio, drop_rate) for _ in range(num_layers))
        self.layers = nn.ModuleList(layers)

    def forward(self, text: Tensor | None, text_mask: Tensor | None, image: Tensor | None) -> tuple[Any, Any]:
        if self.kind == "merged":
            hidden, mask = join(text, text_mask, image, None)
            for layer in self.layers:
                hidden = layer(hidden, mask)
            return split(hidden, text, image)
        for layer in self.layers:
            new_text = None if text is None else layer("text", text, text_mask, image, None)
            new_image = None if image is None else layer("image", image, None, text, text_mask)
            text, image = new_text, new_image
        return text, image


def join(text: Tensor | None, text_mask: Any, image: Tensor | None, image_mask: Any) -> tuple[Tensor, Tensor | None]:
    """Text tokens, then image tokens, as one sequence (B,L+P,D), and its mask."""
    if text is None or image is None:
        return (image, image_mask) if text is None else (text, text_mask)
    masks = [
        side.new_ones(side.shape[:2], dtype=torch.bool) if mask is None else mask
        for side, mask in ((text, text_mask), (image, image_mask))
    ]
    return torch.cat([text, image], dim=1), torch.cat(masks, dim=1)


def split(hidden: Tensor, text: Tensor | None, image: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """The inverse of `join`."""
    length = 0 if text is None else text.shape[1]
    return (None if text is None else hidden[:, :length]), (None if image is None else hidden[:, length:])
