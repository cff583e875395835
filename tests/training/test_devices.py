"""Which library multiplies matrices on which processor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from renaissance.training.devices import take_onednn_products


@pytest.fixture(autouse=True)
def precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def processors(folder: Path, vendor: str) -> str:
    path = folder / "cpuinfo"
    path.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
    return str(path)


@pytest.mark.parametrize("vendor", ["AuthenticAMD", "GenuineIntel", "missing"])
def test_products_stay_those_of_float32(vendor: str, tmp_path: Path):
    take_onednn_products(str(tmp_path / "none") if vendor == "missing" else processors(tmp_path, vendor))
    if vendor != "AuthenticAMD":
        assert torch.get_float32_matmul_precision() == "highest"
    torch.manual_seed(1)
    for left, right in [(torch.rand(64, 512), torch.rand(512, 96)), (torch.rand(8, 70, 64), torch.rand(8, 64, 70))]:
        assert torch.allclose((left @ right).double(), left.double() @ right.double(), rtol=1e-5)


def test_products_that_round_to_bfloat16_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain = torch.Tensor.__matmul__

    def rounding(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        if left.dtype == torch.float32:
            left, right = left.bfloat16().float(), right.bfloat16().float()
        return plain(left, right)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounding)
    take_onednn_products(processors(tmp_path, "AuthenticAMD"))
    assert torch.get_float32_matmul_precision() == "highest"
