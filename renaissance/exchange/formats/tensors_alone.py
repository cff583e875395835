"""format=safetensors: tensors by the names of the exported classes, and what this program needs to read them; no code."""

from __future__ import annotations

from pathlib import Path

from renaissance.runs.exported import OURS, TOWER_KEYS, WEIGHTS

from .own_code import own_part
from .source import ExportSource


def write(source: ExportSource, folder: Path) -> list[str]:
    """Writes the files into a folder; returns nothing to tell."""
    named = {key: side for side, key in TOWER_KEYS.items()}
    towers = {named[key]: {"config": config} for key, config in source.stored.towers.items()}
    source.write_own({"towers": towers, OURS: own_part(source.stored)}, folder)
    source.loading = (
        f"Tensors alone: Renaissance reads them with `load_path={folder.name}`; other programs with "
        f'`safetensors.torch.load_file("{folder.name}/{WEIGHTS}")`.'
    )
    return []
