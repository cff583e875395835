"""Models of other programs, imported and exported: transformers computes what the programs' own code computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from exchange.golden import REFERENCE, imported, needs_reference
from exchange.test_export import theirs
from renaissance.cli.main import main
from renaissance.exchange.importer import write

pytestmark = needs_reference


@pytest.mark.parametrize("format", ["transformers", "vilt"])
@pytest.mark.parametrize("name", ["vilt_mlm_itm", "vilt_vqa", "meter_clip_vqa"])
def test_the_logits_are_those_of_the_program(name: str, format: str, tmp_path: Path):
    task, meter = ("mlm" if name == "vilt_mlm_itm" else "vqa"), name.startswith("meter")
    if meter and format == "vilt":
        pytest.skip("a two-tower is no ViLT")
    answers = tuple(f"a{number}" for number in range(7)) if task == "vqa" else ()
    checkpoint = imported(name, tmp_path, answers=answers, heads={"text_encoder": 2} if meter else {})
    write(tmp_path / "own.ckpt", checkpoint.stored)
    folder = tmp_path / "out"
    assert main(["export", "with", f"load_path={tmp_path / 'own.ckpt'}", f"output={folder}", f"format={format}"]) == 0
    own = {
        "mlm": ("AutoModelForMaskedLM", "ViltForMaskedLM"),
        "vqa": ("AutoModelForVisualQuestionAnswering", "ViltForQuestionAnswering"),
    }
    kind = own[task][format == "vilt"]
    model = getattr(transformers, kind).from_pretrained(folder).eval() if format == "vilt" else theirs(folder, kind)
    arrays = {key: torch.from_numpy(each) for key, each in np.load(REFERENCE / f"{name}.npz").items()}
    ids = arrays["mlm_input_ids" if task == "mlm" else "input_ids"].long()
    mask = arrays["attention_mask"].bool()
    tags = [tag for tag in ("square", "larger", "padded") if f"{tag}.{task}_logits" in arrays]
    assert tags
    for tag in tags:
        images = {"pixel_values": arrays[f"{tag}.pixel_values"]}
        if f"{tag}.pixel_mask" in arrays:
            images["pixel_mask"] = arrays[f"{tag}.pixel_mask"].long()
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask.long(), **images).logits
        expected = arrays[f"{tag}.{task}_logits"]
        if task == "mlm":
            logits, expected = logits[mask], expected[mask]
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
