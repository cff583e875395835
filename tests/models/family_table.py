"""Measures what each family can be, on tiny random models: the table of families in CONFIGURING_MODELS.md.

    PYTHONPATH=. python tests/models/family_table.py    # with each transformers version of the table

adds the installed version's column to docs/families.json; `python docs/tables.py` writes the Markdown.
"""

from __future__ import annotations

import json
from typing import Any

import torch
import transformers
from families import FAMILIES, picture_side, small_config

from conftest import ROOT
from renaissance.core.errors import UserError
from renaissance.core.types import TextInput
from renaissance.models import backbones
from renaissance.models.backbones.families import TEXT

YES = "yes"
RECORD = ROOT / "docs" / "families.json"


def measure(kind: str) -> dict[str, str]:
    """What a family can be with the installed transformers: {"tower", "one_tower"}, each "yes" or why not."""
    if not hasattr(transformers, FAMILIES[kind].model):
        return dict.fromkeys(("tower", "one_tower"), "not in this version")
    return {"tower": _tried(_try_tower, kind), "one_tower": _tried(_try_one_tower, kind)}


def _tried(attempt: Any, kind: str) -> str:
    torch.manual_seed(0)
    try:
        with torch.no_grad():
            moved = attempt(kind)
    except UserError as error:
        return str(error)
    return YES if moved < 1e-5 else f"padding changes its numbers by {moved:.0e}"


def _try_tower(kind: str) -> float:
    """Builds a tower; returns how much padding moves a text (0 for images)."""
    config = small_config(kind)
    if FAMILIES[kind].modality != TEXT:
        side = picture_side(config)
        backbones.build_vision_tower(config, weights=None).eval()(torch.randn(2, 3, side, side))
        return 0.0
    tower = backbones.build_text_tower(config, weights=None).eval()
    ids = torch.randint(6, 60, (2, 12))
    mask, types = torch.arange(12).expand(2, -1) < 7, torch.zeros(2, 12, dtype=torch.long)
    alone = tower(TextInput(ids[:, :7], mask[:, :7], types[:, :7])).hidden
    return (tower(TextInput(ids, mask, types)).hidden[:, :7] - alone).abs().max().item()


def _try_one_tower(kind: str) -> float:
    config = small_config(kind)
    try:
        backbones.check_modality(config, kind, "encoder")
    except UserError as error:
        version = f"needs {FAMILIES[kind].one_tower.since}" if "install transformers>=" in str(error) else None
        raise UserError(version or str(FAMILIES[kind].one_tower)) from error
    blocks = backbones.build_blocks(config, weights=None)[0].eval()
    hidden = torch.randn(2, 12, blocks.hidden_size)
    alone = blocks(hidden[:, :7], None)
    return (blocks(hidden, torch.arange(12).expand(2, -1) < 7)[:, :7] - alone).abs().max().item()


def record() -> None:
    """Puts the installed version's measurements into docs/families.json."""
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))
    recorded[transformers.__version__] = {kind: measure(kind) for kind in FAMILIES}
    RECORD.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()
