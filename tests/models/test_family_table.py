"""The table of families in CONFIGURING_MODELS.md is what the installed transformers can do (the newest column)."""

from __future__ import annotations

import json

import family_table
import pytest
import transformers


@pytest.mark.slow
def test_every_family_can_be_what_the_table_says():
    recorded = json.loads(family_table.RECORD.read_text(encoding="utf-8"))
    if transformers.__version__ not in recorded:
        pytest.skip(f"docs/families.json has no column for transformers {transformers.__version__}")
    measured = {kind: family_table.measure(kind) for kind in family_table.FAMILIES}
    assert measured == recorded[transformers.__version__]


def test_enough_families_serve():
    newest = max(json.loads(family_table.RECORD.read_text(encoding="utf-8")).items())[1]
    towers = [kind for kind, can in newest.items() if can["tower"] == family_table.YES]
    one_towers = [kind for kind, can in newest.items() if can["one_tower"] == family_table.YES]
    text = [kind for kind in towers if family_table.FAMILIES[kind].modality == family_table.TEXT]
    assert len(text) >= 28
    assert len(towers) - len(text) >= 28
    assert len(one_towers) >= 12
