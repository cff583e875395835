"""Writes a checkpoint as a folder that other programs read.

    checkpoint -> settings, model, heads -> one of FORMATS -> files -> folder, whole or not at all
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from renaissance.core.errors import UserError, first_line, require
from renaissance.runs import checkpoint
from renaissance.runs.exported import CONFIG, WEIGHTS, exported_names
from renaissance.runs.stored import Stored
from renaissance.training.assembly import Built, restore
from renaissance.training.resolution import Resolved

from .export_facts import FILE, OURS, hub_config, own_part, processor_configs
from .model_card import card
from .one_file import code


class Source:
    """A checkpoint that is exported. Attributes: path; stored; resolved, built: of `restore`."""

    def __init__(self, path: str):
        self.path = path
        self.stored: Stored = checkpoint.read(path)
        self.resolved: Resolved
        self.built: Built
        self.resolved, self.built = restore(self.stored, path)


def export(load_path: str, output: Path, format: str) -> list[str]:
    """Writes the folder.

    Args:
        load_path: of the checkpoint, or of a folder that was exported before.
        format: a name of FORMATS.

    Returns:
        What to tell the user.

    Raises:
        UserError: the format cannot hold the model, or the folder cannot be written; then nothing is left of it.
    """
    source = Source(load_path)
    parent = output.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=f".{output.name}.", ignore_cleanup_errors=True) as made:
            folder = Path(made) / "folder"
            folder.mkdir()
            lines = FORMATS[format](source, folder)
            (folder / "README.md").write_text(card(source.path, source.stored, source.built, format), encoding="utf-8")
            os.rename(folder, output)
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise UserError(f"output={output} cannot be written ({reason}); give another folder.") from error
    return lines


def _transformers(source: Source, folder: Path) -> list[str]:
    config = hub_config(source.stored, source.resolved, source.built)
    for name, content in processor_configs(source.stored, source.resolved).items():
        write_json(folder / name, content)
    (folder / f"{FILE}.py").write_text(code(), encoding="utf-8")
    write_json(folder / CONFIG, config)
    _write_weights(source.stored, folder)
    _write_tokenizer(source.stored, folder)
    left = sorted(set(source.built.heads) - set(config["heads"]))
    notes = [f"the head of {task} has no class in {FILE}.py; load_path={folder} still reads it" for task in left]
    return [f"classes: {', '.join(name for name in config['auto_map'] if name != 'AutoConfig')}", *notes]


def _safetensors(source: Source, folder: Path) -> list[str]:
    """The tensors alone, with what this program needs to read them again; no code."""
    keys = {"text_encoder": "text", "image_encoder": "image", "encoder": "blocks"}
    towers = {keys[key]: {"config": config} for key, config in source.stored.towers.items()}
    write_json(folder / CONFIG, {"towers": towers, OURS: own_part(source.stored)})
    _write_weights(source.stored, folder)
    _write_tokenizer(source.stored, folder)
    return []


FORMATS: dict[str, Callable[[Source, Path], list[str]]] = {"transformers": _transformers, "safetensors": _safetensors}


def _write_weights(stored: Stored, folder: Path) -> None:
    tensors = exported_names(stored.model, stored.heads)
    save_tensors(tensors, folder / WEIGHTS)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Writes tensors, which may share memory, as transformers expects a file of them."""
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})


def _write_tokenizer(stored: Stored, folder: Path) -> None:
    for name, text in stored.tokenizer.items():
        (folder / Path(name).name).write_bytes(text.encode("utf-8", "surrogatepass"))


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
