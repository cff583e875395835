"""Attention's other orders of products, and the cheap dropout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from renaissance.core.types import Tokens
from renaissance.models.attention import Attention, Dropout
from tiny_models import same, stirred

WIDTH, HEADS = 32, 4


def plain(attention: Attention, hidden: Tensor, other: Tokens) -> Tensor:
    """Textbook multi-head attention with the same weights, one head at a time."""
    query, key, value = (
        F.linear(source, weight, bias).chunk(HEADS, dim=-1)
        for source, weight, bias in zip(
            (hidden, other.hidden, other.hidden),
            attention.qkv.weight.chunk(3),
            attention.qkv.bias.chunk(3),
            strict=True,
        )
    )
    mixed = []
    for q, k, v in zip(query, key, value, strict=True):
        scores = q @ k.transpose(1, 2) / (WIDTH / HEADS) ** 0.5
        if other.mask is not None:
            scores = scores.masked_fill(~other.mask[:, None], -torch.inf)
        mixed.append(scores.softmax(-1) @ v)
    return attention.output.norm(attention.output.dense(torch.cat(mixed, -1)) + hidden)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("queries, keys", [(3, 40), (40, 3), (1, 40), (12, 13)])
def test_every_order_of_products_is_attention(queries: int, keys: int, masked: bool) -> None:
    torch.manual_seed(0)
    attention = stirred(Attention(WIDTH, HEADS, 0.0))
    assert attention._is_cheaper(min(queries, keys), max(queries, keys)) == (queries != 12)
    hidden, other = torch.randn(2, queries, WIDTH), torch.randn(2, keys, WIDTH)
    mask = torch.arange(keys) < torch.tensor([[keys], [2]]) if masked else None
    outputs, gradients = [], []
    for run in (attention.cross, lambda *sides: plain(attention, *sides)):
        inputs = hidden.clone().requires_grad_(), other.clone().requires_grad_()
        outputs.append(run(inputs[0], Tokens(inputs[1], mask)))
        outputs[-1].square().mul(torch.arange(WIDTH)).sum().backward()
        gradients.append([each.grad for each in (*inputs, *attention.parameters())])
        attention.zero_grad()
    same(*outputs, 1e-5)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


@pytest.mark.parametrize("queries, keys", [(3, 40), (40, 3), (12, 13)])
def test_dropout_of_probabilities_keeps_the_mean(queries: int, keys: int) -> None:
    """Before the norm the output is linear in the dropped-out probabilities: its mean over masks is that without."""
    torch.manual_seed(0)
    attention = Attention(WIDTH, HEADS, 0.3)
    attention.output.norm = torch.nn.Identity()
    attention.qkv.bias.data.normal_()
    hidden, other = torch.randn(1, queries, WIDTH), Tokens(torch.randn(1, keys, WIDTH), None)
    many = [each.expand(4000, -1, -1) for each in (hidden, other.hidden)]
    with torch.no_grad():
        mean = attention.cross(many[0], Tokens(many[1], None)).mean(0, keepdim=True)
        same(mean, attention.eval().cross(hidden, other), 0.1)


def test_dropout_drops_its_rate_keeps_the_mean_and_follows_the_seed() -> None:
    ones = torch.ones(301, 333, requires_grad=True)  # no multiple of the 4 elements that share a word
    dropout = Dropout(0.1)
    torch.manual_seed(1)
    first, second = dropout(ones), dropout(ones)
    kept = first != 0
    assert abs(float(kept.float().mean()) - 0.9) < 0.004  # 4 standard deviations
    same(first[kept], torch.full_like(first[kept], 1 / 0.9), 2e-5)
    first.sum().backward()
    same(ones.grad, first.detach(), 0)
    agree = float(((second != 0) == kept).float().mean())
    assert abs(agree - (0.81 + 0.01)) < 0.005  # independent masks
    for axis in range(2):  # neighbours are independent as well
        agree = float((kept.narrow(axis, 1, 300) == kept.narrow(axis, 0, 300)).float().mean())
        assert abs(agree - 0.82) < 0.006
    torch.manual_seed(1)
    same(dropout(ones), first, 0)
    torch.manual_seed(1)
    assert torch.equal(dropout(ones.bfloat16()), first.bfloat16())
    same(dropout.eval()(ones), ones, 0)


@pytest.mark.parametrize("rate", [1e-9, 1 - 1e-9])
def test_rates_near_0_and_1_are_the_nearest_that_there_are(rate: float) -> None:
    torch.manual_seed(0)
    kept = Dropout(rate)(torch.ones(3)) != 0
    assert kept.all() if rate < 0.5 else not kept.any()
