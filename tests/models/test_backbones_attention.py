"""The attention and the dropout that families' own layers get: transformers' numbers, and the right rate."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from models.families import small_config
from renaissance.models.attention import Dropout
from renaissance.models.backbones import attention
from renaissance.models.backbones.build import build_encoder
from renaissance.models.backbones.families import FAMILIES

MODULE = SimpleNamespace(is_causal=False)


def projections(heads: int = 2) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(3, heads, 7, 4, requires_grad=True) for _ in range(3)]


def masks() -> dict[str, Tensor | None]:
    real = torch.arange(7) < torch.tensor([7, 5, 1])[:, None]
    return {"none": None, "bool": real[:, None, None], "float": torch.randn(3, 2, 7, 7)}


@pytest.mark.parametrize("mask", masks().values(), ids=list(masks()))
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_with_dropout_the_numbers_are_those_of_sdpa(mask: Tensor | None, scaling: float | None, monkeypatch):
    monkeypatch.setattr("renaissance.models.attention.drop", lambda hidden, rate: hidden)
    ours, theirs = projections(), projections()
    found, _ = attention.attend(MODULE, *ours, mask, dropout=0.5, scaling=scaling, position_bias=None, use_cache=True)
    expected, _ = sdpa_attention_forward(MODULE, *theirs, mask, scaling=scaling)
    assert torch.allclose(found, expected, atol=1e-6)
    found.square().sum().backward()
    expected.square().sum().backward()
    assert all(torch.allclose(a.grad, b.grad, atol=1e-5) for a, b in zip(ours, theirs, strict=True))


@pytest.fixture
def onednn() -> Iterator[None]:
    """As on AMD's processors."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("mask", masks().values(), ids=list(masks()))
def test_where_the_fused_kernel_is_slow_the_numbers_are_its_own(mask: Tensor | None, onednn: None, monkeypatch):
    ours, theirs = projections(), projections()
    expected, _ = sdpa_attention_forward(MODULE, *theirs, mask)
    monkeypatch.setattr(attention, "sdpa_attention_forward", lambda *_, **__: pytest.fail("left to it"))
    found, _ = attention.attend(MODULE, *ours, mask)
    assert torch.allclose(found, expected, atol=1e-6)
    found.square().sum().backward()
    expected.square().sum().backward()
    assert all(torch.allclose(a.grad, b.grad, atol=1e-5) for a, b in zip(ours, theirs, strict=True))


def test_in_16_bits_the_fused_kernel_serves_evaluation_alone(monkeypatch):
    halves = [each.bfloat16() for each in projections()]
    with torch.no_grad():
        expected, _ = attention.attend(MODULE, *(each.detach() for each in halves), None)
    monkeypatch.setattr(attention, "sdpa_attention_forward", lambda *_, **__: pytest.fail("left to it"))
    found, _ = attention.attend(MODULE, *halves, None)
    assert found.dtype == torch.bfloat16 and torch.allclose(found, expected, atol=0.02)


def test_a_graph_takes_the_same_way(onednn: None):
    compiled = torch.compile(lambda *each: attention.attend(MODULE, *each, None)[0], backend="eager", fullgraph=True)
    projected = projections()
    assert torch.equal(compiled(*projected), attention.attend(MODULE, *projected, None)[0])


def test_the_fused_kernel_stays_where_it_is_fast(onednn: None, monkeypatch):
    monkeypatch.setattr(attention, "plain_attention", lambda *_: pytest.fail("not left to it"))
    query = torch.zeros(1, 1, 257, 4)
    attention.attend(MODULE, query, query, query, None)
    torch.set_float32_matmul_precision("highest")
    attention.attend(MODULE, *projections(), None)


def test_probabilities_are_dropped_at_the_rate_and_keep_their_mean():
    query, key = torch.zeros(2, 2, 2, 64, 64)
    value = torch.eye(64).expand(2, 2, 64, 64)
    torch.manual_seed(0)
    found, _ = attention.attend(MODULE, query, key, value, None, dropout=0.25)
    assert (found == 0).float().mean() == pytest.approx(0.25, abs=0.01)
    assert found.sum(-1).mean() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("module", "heads", "options"),
    [
        (SimpleNamespace(is_causal=True), 2, {}),
        (SimpleNamespace(), 2, {}),
        (MODULE, 2, {"position_bias": torch.zeros(1, 2, 7, 7)}),
        (MODULE, 2, {"is_causal": True}),
        (SimpleNamespace(is_causal=False, num_key_value_groups=2), 1, {}),
    ],
)
def test_other_kinds_of_attention_are_left_to_sdpa(module: Any, heads: int, options: dict[str, Any], monkeypatch):
    monkeypatch.setattr(attention, "plain_attention", lambda *_: pytest.fail("not left to it"))
    query, (_, key, value) = projections()[0], projections(heads)
    assert attention.attend(module, query, key, value, None, dropout=0.5, **options)[0].shape == (3, 7, 2, 4)


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_gets_both(kind: str):
    config = small_config(kind)
    model = build_encoder(config, f"{FAMILIES[kind].modality}_encoder", weights=None).model
    assert not [name for name, module in model.named_modules() if type(module) is nn.Dropout]
    takes = [getattr(type(model), name, False) for name in ("_supports_sdpa", "_supports_attention_backend")]
    assert not all(takes) or model.config._attn_implementation == attention.NAME
    rates = {module.p for module in model.modules() if isinstance(module, nn.Dropout)}
    assert all(isinstance(module, Dropout) for module in model.modules() if isinstance(module, nn.Dropout)), rates
