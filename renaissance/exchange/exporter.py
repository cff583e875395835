"""Writes a checkpoint as a folder that other programs read.

checkpoint -> ExportSource: settings, model, heads -> one of FORMATS -> files, model card -> folder, whole or not at all
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from renaissance.core.errors import UserError, first_line, require
from renaissance.models import backbones

from .formats import dual_encoder, own_code, sentence_vectors, tensors_alone, vilt_layout
from .formats.source import ExportSource
from .model_card import card

FORMATS: dict[str, Callable[[ExportSource, Path], list[str]]] = {
    "transformers": own_code.write,
    "dual_encoder": dual_encoder.write,
    "vilt": vilt_layout.write,
    "sentence_transformers": sentence_vectors.write,
    "safetensors": tensors_alone.write,
}


def export(load_path: str, output: Path, format: str, trust_remote_code: bool = False) -> list[str]:
    """Writes the folder.

    Args:
        load_path: of the checkpoint, or of a folder that was exported before.
        format: a name of FORMATS. trust_remote_code: as of `restore`.

    Returns:
        What to tell the user.

    Raises:
        UserError: the format cannot hold the model, or the folder cannot be written; then nothing is left of it.
    """
    source = ExportSource(load_path, trust_remote_code)
    blind = format != "safetensors" and source.resolved.settings.objectives.blind
    require(
        not blind,
        "this model learned with blind=True, from texts alone: others would show it images; give format=safetensors.",
    )
    parent = output.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=f".{output.name}.", ignore_cleanup_errors=True) as made:
            folder = Path(made) / output.name
            folder.mkdir()
            with backbones.quiet():
                lines = FORMATS[format](source, folder)
            (folder / "README.md").write_text(card(source, output.name, format), encoding="utf-8")
            mask = _umask()
            for path in folder.rglob("*"):  # safetensors writes for its user alone
                path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
            os.rename(folder, output)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"output={output} cannot be written ({getattr(error, 'strerror', None) or first_line(error)}); give another."
        ) from error
    return lines


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
