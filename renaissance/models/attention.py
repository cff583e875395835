"""Multi-head attention of the fusion, with the cheapest order of its matrix products, and dropout from few random bits.

Attention is softmax(Q K^T) V W_o, where Q = X W_q, K = Y W_k and V = Y W_v. If one of X and Y is short (a caption beside the
patches of an image), the long one need not be projected, because matrix products are associative:

    few queries:  Q K^T = (Q W_k^T) Y^T   and   softmax(..) V = (softmax(..) Y) W_v
    few keys:     Q K^T = X (W_q K^T)     and   softmax(..) V W_o = softmax(..) (V W_o)

for each head. The long side is multiplied by heads x (short) columns instead of D: a quarter of the work for 16 word pieces
and heads of 64 channels. The outputs are the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar, Token
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from renaissance.core.types import Tokens


def _as_operator(schema: str, like: Callable[..., Tensor]) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Decorates a function that torch.compile shall call as it is: what it generates for int16 and booleans is slow.

    Args:
        schema: as of `torch.library.custom_op`. like: makes an empty result from the arguments.
    """

    def decorated(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        operator = torch.library.custom_op(
            f"renaissance::{function.__name__}",
            mutates_args=(),
            schema=schema,
            tags=torch.Tag.nondeterministic_seeded,  # what is random is not computed again in the backward pass
        )(function)
        operator.register_fake(like)

        @wraps(function)
        def called(*arguments: Any) -> Tensor:
            return (operator if torch.compiler.is_compiling() else function)(*arguments)

        return called

    return decorated


@_as_operator("(Tensor like, int dropped) -> Tensor", lambda like, _: torch.empty(like.shape, dtype=torch.int16))
def keep_mask(like: Tensor, dropped: int) -> Tensor:
    """A dropout mask in the shape (...) of a tensor: int16, 0 for an expected `dropped` of 2^16 elements, 1 for the others.

    From 16 random bits each, four times from each draw of torch's global generator. In numbers and without booleans, because
    torch's CPU kernels are vectorized for those alone.
    """
    words = torch.empty(-(-like.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    highest = dropped - 2**15 - 1  # of the int16 that are dropped
    return words.view(torch.int16)[: like.numel()].view(like.shape).clamp_(highest, highest + 1).sub_(highest)


@_as_operator(
    "(Tensor values, Tensor mask, float scale) -> Tensor",
    lambda values, *_: torch.empty(values.shape, dtype=values.dtype),
)
def apply_mask(values: Tensor, mask: Tensor, scale: float) -> Tensor:
    """values * mask * scale, in one pass over the values."""
    return torch.zeros(values.shape, dtype=values.dtype).addcmul_(values, mask.to(values.dtype), value=scale)


@_as_operator("(Tensor mask, ScalarType dtype) -> Tensor", lambda mask, dtype: torch.empty_like(mask, dtype=dtype))
def mask_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What to add to scores: 0 where a mask (...) is True, else the lowest number. Adding is cheaper than filling."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)


class _Drop(torch.autograd.Function):
    """`apply_mask`; the int16 mask is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return apply_mask(hidden, mask, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return apply_mask(grad, *ctx.saved_tensors, ctx.scale), None, None


def drop(hidden: Tensor, rate: float) -> Tensor:
    """Dropout of hidden (...) on a CPU, at a rate above 0 and below 1; see `Dropout`."""
    dropped = min(max(round(rate * 2**16), 1), 2**16 - 1)
    return _Drop.apply(hidden, keep_mask(hidden, dropped), 2**16 / (2**16 - dropped))


class Dropout(nn.Dropout):
    """Dropout whose CPU masks cost 16 random bits an element; torch's Bernoulli draws take ten times as long there.

    The rate is rounded to a multiple of 2^-16, and kept elements are scaled by the rounded rate: the mean is exact.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        """(...) -> (...), as `nn.Dropout`; masks come from torch's global generator."""
        if not self.training or not 0 < self.p < 1 or hidden.device.type != "cpu":
            return super().forward(hidden)
        return drop(hidden, self.p)


def plain_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, rate: float) -> Tensor:
    """softmax(Q K^T + bias) V by two products, with dropout of the probabilities.

    Args:
        query: (B,h,N,d), scaled. key, value: (B,h,K,d).
        bias: broadcasts to (B,h,N,K), such as `mask_bias`; None adds nothing.
        rate: of the dropout, from 0 and below 1.
    """
    scores = query @ key.transpose(-1, -2)
    if bias is not None:
        scores += bias
    probabilities = scores.softmax(-1)
    return (drop(probabilities, rate) if rate else probabilities) @ value


def is_plain_faster(query: Tensor, key: Tensor, rate: float) -> bool:
    """Whether `plain_attention` takes less time than torch's fused kernels: on CPUs, which have none with dropout.

    Theirs makes many small products, which oneDNN begins slowly: it takes 7 x as long at 100 tokens, 2 x at 256.
    """
    if query.device.type != "cpu" or rate > 0:
        return query.device.type == "cpu"
    in_16_bits = query.element_size() == 2  # then oneDNN multiplies; forward alone, the fused kernels are faster
    few = query.shape[2] * key.shape[2] <= 256**2
    return few and (query.requires_grad if in_16_bits else _onednn_multiplies())


@torch.compiler.assume_constant_result
def _onednn_multiplies() -> bool:
    """See `training.devices.set_float32_products`; a graph cannot ask."""
    return torch.get_float32_matmul_precision() != "highest"


_IS_SEEN: ContextVar[bool] = ContextVar("attention is seen", default=False)  # of each thread its own


class SeenAttention(TorchFunctionMode):
    """While it lasts, the probabilities of every attention of four dimensions are kept, for heat maps; a context manager.

    Whoever computes them calls torch's softmax, or a fused kernel, in whose place come the plain products. Outputs are the same
    up to rounding.

    Attributes:
        probabilities: (B,h,N,K) in the order in which they are computed; results depend on these very tensors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.probabilities: list[Tensor] = []
        self._tokens: list[Token[bool]] = []

    def __enter__(self) -> SeenAttention:
        self._tokens.append(_IS_SEEN.set(True))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        _IS_SEEN.reset(self._tokens.pop())

    def __torch_function__(self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if function is F.scaled_dot_product_attention and not (given.get("is_causal") or given.get("enable_gqa")):
            with self:  # for the softmax
                return _by_products(*args, **{name: given[name] for name in given if name in _PRODUCTS})
        result = function(*args, **given)
        if function in (F.softmax, torch.softmax, Tensor.softmax) and result.ndim == 4:
            self.probabilities.append(result)
        return result


_PRODUCTS = ("query", "key", "value", "attn_mask", "dropout_p", "scale")


def _by_products(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """torch's scaled_dot_product_attention, but for its other options."""
    bias = mask_bias(attn_mask, query.dtype) if attn_mask is not None and attn_mask.dtype == torch.bool else attn_mask
    return plain_attention(query * (query.shape[-1] ** -0.5 if scale is None else scale), key, value, bias, dropout_p)


class Residual(nn.Module):
    """A projection, dropout, and the layer norm (eps 1e-12 as in BERT and LXMERT) of its sum with the residual."""

    def __init__(self, width_in: int, width: int, drop_rate: float):
        super().__init__()
        self.dense = nn.Linear(width_in, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = Dropout(drop_rate)

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        return self.add(self.dense(hidden), residual)

    def add(self, projected: Tensor, residual: Tensor) -> Tensor:
        """Dropout, residual and norm, without the projection."""
        return self.norm(self.dropout(projected) + residual)


class Attention(nn.Module):
    """Multi-head attention with residual and layer norm; queries, keys and values come from one fused projection.

    Args:
        width: D; `heads` must divide it.
        drop_rate: of attention probabilities and of the output.
    """

    def __init__(self, width: int, heads: int, drop_rate: float):
        super().__init__()
        self.width, self.heads, self.scale = width, heads, (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.dropout = Dropout(drop_rate)
        self.output = Residual(width, width, drop_rate)

    def forward(self, hidden: Tensor, mask: Tensor | None, first: bool = False) -> Tensor:
        """Self-attention of (B,N,D), mask (B,N); with `first` only the first token's output (B,1,D) is computed."""
        if first:
            return self.cross(hidden[:, :1], Tokens(hidden, mask))
        query, key, value = self.qkv(hidden).chunk(3, dim=-1)
        return self._attend(query, key, value, mask, hidden)

    def cross(self, hidden: Tensor, other: Tokens) -> Tensor:
        """(B,N,D) queries over the other side's (B,K,D)."""
        queries, keys = hidden.shape[1], other.hidden.shape[1]
        # Measured on CPUs alone; a GPU keeps its fused kernels.
        cheaper = hidden.device.type == "cpu" and self._is_cheaper(min(queries, keys), max(queries, keys))
        if cheaper and (torch.compiler.is_compiling() or not _IS_SEEN.get()):
            attend = self._few_queries if queries < keys else self._few_keys
            return attend(hidden, other)
        (query,), (key, value) = self._project(hidden, 0, 1), self._project(other.hidden, 1, 3)
        return self._attend(query, key, value, other.mask, hidden)

    def _is_cheaper(self, short: int, long: int) -> bool:
        """Whether the other order needs fewer multiplications (both sides of the comparison are divided by 2 B D)."""
        return short * (self.width + (self.heads - 1) * long) < long * self.width

    def _project(self, hidden: Tensor, start: int, end: int) -> tuple[Tensor, ...]:
        """Some of query (0), key (1) and value (2), each (B,N,D)."""
        rows = slice(start * self.width, end * self.width)
        return F.linear(hidden, self.qkv.weight[rows], self.qkv.bias[rows]).chunk(end - start, dim=-1)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, residual: Tensor) -> Tensor:
        """(B,N,D) queries over (B,K,D) keys and values, mask (B,K) True on the real ones; plus `residual` (B,N,D)."""
        query, key, value = (self._by_head(each).transpose(1, 2) for each in (query, key, value))
        rate = self.dropout.p if self.training else 0.0
        mask = None if mask is None else mask[:, None, None]
        if is_plain_faster(query, key, rate):
            bias = None if mask is None else mask_bias(mask, query.dtype)
            mixed = plain_attention(query * self.scale, key, value, bias, rate)
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=rate)
        return self.output(mixed.transpose(1, 2).flatten(2), residual)

    def _few_queries(self, hidden: Tensor, other: Tokens) -> Tensor:
        """Does not compute keys and values. The keys' bias adds the same to all scores of a query: softmax ignores it."""
        (query,) = self._project(hidden, 0, 1)
        other = other._replace(hidden=other.hidden.to(query.dtype))  # once, where autocast would for each product
        _, key_weight, value_weight = self._head_weights()
        query = self._by_head(query) * self.scale
        query = torch.einsum("bnhd,hde->bhne", query, key_weight).flatten(1, 2)  # (B,hN,D)
        scores = query @ other.hidden.transpose(1, 2)
        weights = self.dropout(_softmax(scores, other.mask))
        mixed = (weights @ other.hidden).unflatten(1, (self.heads, -1))  # (B,h,N,D)
        value = torch.einsum("bhne,hde->bnhd", mixed, value_weight)
        # After dropout the weights do not sum to one: the values' bias is scaled by their sum.
        total = weights.sum(-1).unflatten(1, (self.heads, -1)).transpose(1, 2).unsqueeze(-1)  # (B,N,h,1)
        value = value + total * self.qkv.bias[2 * self.width :].view(self.heads, -1)
        return self.output(value.flatten(2), hidden)

    def _few_keys(self, hidden: Tensor, other: Tokens) -> Tensor:
        """Does not compute queries; the output projection is applied to the values before they are mixed."""
        key, value = (self._by_head(each) for each in self._project(other.hidden, 1, 3))  # (B,K,h,d)
        key = key * self.scale
        query_weight, _, _ = self._head_weights()
        bias = torch.einsum("bkhd,hd->bhk", key, self.qkv.bias[: self.width].view(self.heads, -1)).flatten(1)
        key = torch.einsum("bkhd,hde->bhke", key, query_weight).flatten(1, 2)  # (B,hK,D)
        scores = torch.baddbmm(bias[:, None], hidden, key.transpose(1, 2)).unflatten(2, (self.heads, -1))
        weights = self.dropout(_softmax(scores, other.mask))
        output_weight = self.output.dense.weight.view(self.width, self.heads, -1)
        value = torch.einsum("bkhd,ehd->bhke", value, output_weight).flatten(1, 2)
        return self.output.add(weights.flatten(2) @ value + self.output.dense.bias, hidden)

    def _by_head(self, hidden: Tensor) -> Tensor:
        """(B,N,D) -> (B,N,h,d)."""
        return hidden.unflatten(-1, (self.heads, -1))

    def _head_weights(self) -> tuple[Tensor, ...]:
        """The weights of query, key and value, each (h,d,D)."""
        return self.qkv.weight.view(3, self.heads, -1, self.width).unbind()


def _softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax over the last dimension of (B,...,K), where `mask` (B,K) is True."""
    if mask is not None:
        scores = scores + mask_bias(mask, scores.dtype).view(len(mask), *[1] * (scores.ndim - 2), -1)
    return scores.softmax(dim=-1)
