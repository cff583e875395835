"""The golden files of other programs, and their models as imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from conftest import ROOT
from renaissance.core.types import ImageInput, TextInput
from renaissance.exchange.foreign import read_foreign
from renaissance.exchange.importer import Imported, import_model
from renaissance.training.assembly import Built, build
from renaissance.training.resolution import resolve

REFERENCE = ROOT.parent / "shared" / "reference"
needs_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="the golden files of other programs are no part of the project"
)
PIECES = 100


def write_tokenizer(folder: Path, *, roberta: bool = False, pieces: int = PIECES) -> str:
    """A tokenizer of 100 pieces; padding has the number 0, or RoBERTa's 1."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if roberta else ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    begin, pad, end, unknown, mask = (
        special if roberta else (special[2], special[0], special[3], special[1], special[4])
    )
    words = [*special, *(f"w{number}" for number in range(pieces - len(special)))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(each, words.index(each)) for each in (begin, end)]
    tokenizer.post_processor = processors.TemplateProcessing(f"{begin} $A {end}", special_tokens=ends)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, unk_token=unknown, mask_token=mask, cls_token=begin, sep_token=end
    )
    fast.save_pretrained(folder)
    return str(folder)


def imported(name: str, folder: Path, **options: Any) -> Imported:
    """A golden file, by its name, as a checkpoint of ours."""
    path = REFERENCE / name
    source = read_foreign(str(path if path.is_dir() else path.with_suffix(".ckpt")), allow_download=False)
    tokenizer = write_tokenizer(folder / "tokenizer", roberta=name.startswith("meter"))
    return import_model(source, tokenizer, **options)


class Outputs:
    """What an imported model makes of the inputs of its golden file.

    Args:
        built: the model with its heads. arrays: the content of the .npz.
    """

    def __init__(self, built: Built, arrays: dict[str, np.ndarray]):
        self.model, self.heads = built.model.eval(), built.heads.eval()
        self.model.normalize = Raw()
        self.arrays = {name: torch.from_numpy(array) for name, array in arrays.items()}

    def double(self) -> None:
        """Computes in 64 bits."""
        self.model.double(), self.heads.double()
        self.arrays = {
            name: array.double() if array.is_floating_point() else array for name, array in self.arrays.items()
        }

    def text(self, name: str = "input_ids", prefix: str = "") -> TextInput:
        ids, mask = self.arrays[prefix + name].long(), self.arrays[prefix + "attention_mask"].bool()
        return TextInput(ids, mask, torch.zeros_like(ids))

    def image(self, tag: str) -> ImageInput:
        sizes = None
        if f"{tag}.pixel_mask" in self.arrays:
            mask = self.arrays[f"{tag}.pixel_mask"].bool()
            sizes = [(int(each[:, 0].sum()), int(each[0].sum())) for each in mask]
        return ImageInput(self.arrays[f"{tag}.pixel_values"], sizes)

    @torch.no_grad()
    def fused(self, text: TextInput, image: ImageInput, slot: int = 0) -> Any:
        return self.model.fuse(self.model.embed_text(text), self.model.embed_image(image), slot)


class Raw(nn.Module):
    """Pixels that are normalised already."""

    def forward(self, images: ImageInput) -> Tensor:
        return images.pixels


def outputs(name: str, checkpoint: Imported, folder: Path, **settings: Any) -> Outputs:
    """The model of a checkpoint that was written, as a command reads it, at another image size where one is given."""
    from renaissance.exchange.importer import write
    from renaissance.runs.checkpoint import load_state_dicts, read
    from renaissance.settings.resolver import ConfigResolver

    path = folder / f"{name}.ckpt"
    write(path, checkpoint.stored)
    stored = read(path)
    resolver = ConfigResolver.from_checkpoint(stored.settings, str(path), allow_download=False)
    for key, value in settings.items():
        resolver.set(key, value, "given")
    built = build(resolve(resolver, stored, reads_data=False), pretrained=False)
    load_state_dicts(built.model, built.heads, stored, str(path)).refuse_missing("load_path")
    return Outputs(built, dict(np.load(REFERENCE / f"{name}.npz")))
