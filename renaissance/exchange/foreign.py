"""Reads what another program has saved: tensors by name, and what stands beside them. Nothing in it is run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from renaissance.core.errors import UserError, first_line, require, shortened
from renaissance.core.untrusted import read_json, short
from renaissance.models.backbones.hub import find_file
from renaissance.models.backbones.image_processor import read_image_processor
from renaissance.models.backbones.weights import weight_files
from renaissance.runs.archive import read_archive
from renaissance.runs.checkpoint import OTHERS


class ForeignModel(NamedTuple):
    """A model of another program.

    Attributes:
        name: what the user called it. state: its tensors by name.
        settings: those of its run, or the config.json of a folder; {} where it says none.
        folder: that it lies in, or None.
        image: {"mean", "std"} of its pixels, where the folder says them.
    """

    name: str
    state: dict[str, Tensor]
    settings: dict[str, Any]
    folder: Path | None = None
    image: dict[str, Any] | None = None


def read_foreign(name: str, *, allow_download: bool) -> ForeignModel:
    """Reads a checkpoint of torch.save, a folder in the Hub's layout, or a Hub id.

    Raises:
        UserError: there is none, it is damaged, or it holds more than plain values and tensors.
    """
    return _read_checkpoint(name) if os.path.isfile(name) else _read_folder(name, allow_download)


def _read_checkpoint(name: str) -> ForeignModel:
    where = f"source={name}"
    require(not name.endswith(".safetensors"), f"{where} is a file of weights alone; give the folder that it lies in.")
    try:
        content = read_archive(name, harmless=OTHERS)
    except Exception as error:  # damaged bytes fail in any way they like
        raise UserError(
            f"{where} cannot be read ({first_line(error)}); it is cut short, damaged, or no file of torch.save with tensors and "
            "plain values alone."
        ) from error
    require(isinstance(content, dict), f"{where} holds no dictionary of tensors; give a checkpoint.")
    require(
        "format" not in content or "heads" not in content,
        f"{where} is a checkpoint of this program; give it as load_path.",
    )
    state = content.get("state_dict", content)
    tensors = isinstance(state, dict) and all(
        isinstance(name, str) and isinstance(each, Tensor) for name, each in state.items()
    )
    require(tensors and state, f"{where} has no state_dict of tensors (it has {shortened(map(str, content))}).")
    saved = content.get("hyper_parameters", {})
    settings = saved.get("config", saved) if isinstance(saved, dict) else {}
    return ForeignModel(name, dict(state), settings if isinstance(settings, dict) else {})


def _read_folder(name: str, allow_download: bool) -> ForeignModel:
    config = find_file(name, "config.json", allow_download=allow_download, required=True)
    settings = read_json(config, dict[str, Any], f"config.json of {name}")
    kind = settings.get("model_type")
    own = f"source={name} is a folder that `export` wrote; give it as load_path."
    require(kind != "renaissance" and "renaissance" not in settings, own)
    require(
        kind == "vilt",
        f"source={name} is a model of type {short(kind)}; of the Hub's models, those of type vilt can be imported.",
    )
    state: dict[str, Tensor] = {}
    files = weight_files(name, allow_download=allow_download)
    require(files, f"source={name} holds no weights (model.safetensors or pytorch_model.bin).")
    for file, path in files.items():
        if not file.endswith(".json"):
            state |= _read_tensors(name, path) if path.suffix == ".safetensors" else _read_checkpoint(str(path)).state
    image = read_image_processor(name, allow_download=allow_download)
    return ForeignModel(name, state, settings, config.parent, image)


def _read_tensors(name: str, path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"source={name}: {path.name} cannot be read ({first_line(error)}); it is cut short or damaged."
        ) from error
