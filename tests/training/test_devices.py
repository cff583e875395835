"""Which library multiplies matrices on which processor."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from renaissance.training import devices
from renaissance.training.devices import float32_products, set_float32_products


@pytest.fixture(autouse=True)
def precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("amd", [True, False])
def test_products_stay_those_of_float32(amd: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(devices, "is_amd", lambda: amd)
    set_float32_products("highest", cpu=True)
    assert amd or torch.get_float32_matmul_precision() == "highest"
    torch.manual_seed(1)
    for left, right in [(torch.rand(64, 512), torch.rand(512, 96)), (torch.rand(8, 70, 64), torch.rand(8, 64, 70))]:
        assert torch.allclose((left @ right).double(), left.double() @ right.double(), rtol=1e-5)


def test_products_that_round_to_bfloat16_are_not_taken(monkeypatch: pytest.MonkeyPatch):
    plain = torch.Tensor.__matmul__

    def rounding(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        if left.dtype == torch.float32:
            left, right = left.bfloat16().float(), right.bfloat16().float()
        return plain(left, right)

    monkeypatch.setattr(devices, "is_amd", lambda: True)
    monkeypatch.setattr(torch.Tensor, "__matmul__", rounding)
    set_float32_products("highest", cpu=True)
    assert torch.get_float32_matmul_precision() == "highest"


def test_products_are_as_before_after_an_error():
    with pytest.raises(RuntimeError, match="of a tower"), float32_products("medium", cpu=True):
        assert torch.get_float32_matmul_precision() == "medium"
        raise RuntimeError("of a tower")
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(
    ("precision", "lacks", "said"), [("bf16-mixed", True, 1), ("bf16-mixed", False, 0), (32, True, 0)]
)
def test_a_precision_that_is_slower_here_is_said(precision: Any, lacks: bool, said: int, monkeypatch):
    monkeypatch.setattr(devices, "lacks_bf16", lambda: lacks)
    notes = devices.precision_notes(SimpleNamespace(machine=SimpleNamespace(precision=precision, accelerator="cpu")))
    assert len(notes) == said and all("precision=32" in note for note in notes)
