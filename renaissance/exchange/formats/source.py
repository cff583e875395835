"""A checkpoint that goes out, and the writing of files that every form has."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from renaissance.core.errors import require
from renaissance.core.types import ImageInput, TextInput
from renaissance.data.text import encode
from renaissance.models import backbones
from renaissance.runs import checkpoint
from renaissance.runs.exported import CONFIG, OURS, WEIGHTS, exported_names
from renaissance.training.assembly import restore

TEXTS = ("a photo of two dogs that play with a red ball on the grass", "a cat")
CLOSE = 1e-4  # relative difference up to which two libraries compute the same


class ExportSource:
    """A checkpoint, or a folder that was exported before.

    Attributes:
        path; stored; resolved, model, heads: of it, in eval mode.
        classes: of transformers that load what is written, the most telling one last. loading: how it is loaded, for the
            model card. A form sets them.
    """

    def __init__(self, path: str, trust_remote_code: bool):
        self.path, self.stored = path, checkpoint.read(path)
        self.resolved, built = restore(self.stored, path, trust_remote_code=trust_remote_code)
        self.model, self.heads = built.model.eval(), built.heads.eval()
        self.classes: list[str] = []
        self.loading = ""

    def probe(self) -> tuple[TextInput, ImageInput]:
        """Two texts, one of them padded, and two images of noise: what a form is compared on."""
        settings = self.resolved.settings.model
        _, text = encode(self.resolved.tokenizer, TEXTS, settings.max_text_len)
        generator = torch.Generator().manual_seed(0)
        shape = (2, 3, settings.image_size, settings.image_size)
        return text, ImageInput(torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8))

    def inputs(self) -> dict[str, Tensor]:
        """`probe` by the names of transformers."""
        text, image = self.probe()
        with torch.no_grad():
            return {
                **text._asdict(),
                "attention_mask": text.attention_mask.long(),
                "pixel_values": self.model.normalize(image),
            }

    def refuse_difference(self, found: Tensor, expected: Tensor, format: str) -> None:
        """Refuses a form that computes something else than the checkpoint; nobody shall find out later."""
        difference = ((found - expected).abs().max() / expected.abs().max()).item()
        close = found.shape == expected.shape and difference < CLOSE
        require(
            close,
            f"format={format} cannot hold this model: it would compute something else (relative difference {difference:.1g}); "
            "give format=transformers.",
        )

    @cached_property
    def digest(self) -> str:
        """What the tensors are known by: a card holds for them alone."""
        digest = hashlib.sha256()
        for part in (self.stored.model, self.stored.heads):
            for name in sorted(part):
                digest.update(name.encode())
                digest.update(part[name].detach().contiguous().numpy().data)
        return digest.hexdigest()

    def write_own(self, config: dict[str, Any], folder: Path) -> None:
        """What `runs.exported` reads back: config.json, tensors by the names of the exported classes, and the tokenizer.

        The tokenizer is as it was rebuilt of the checkpoint's files, which may come from anybody.
        """
        tensors = exported_names(self.stored.model, self.stored.heads)
        write_json(folder / CONFIG, config | {OURS: config[OURS] | {"digest": self.digest}})
        save_tensors(tensors, folder / WEIGHTS)
        for name, text in backbones.tokenizer_files(self.resolved.tokenizer).items():
            (folder / name).write_bytes(text.encode("utf-8", "surrogatepass"))


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Writes tensors, which may share memory, as transformers expects a file of them."""
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
