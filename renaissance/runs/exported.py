"""Reads a folder that `export` wrote as what a checkpoint holds; the code in it is never run.

    model.safetensors   tensors by the names that the exported classes have; in several files where transformers split it
    config.json         configurations of the towers; under "renaissance" what else a checkpoint holds
    tokenizer files     as a checkpoint has them

transformers keeps "renaissance" when it saves such a model again, so what was finetuned elsewhere comes back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from renaissance.core.errors import UserError, first_line, require, shortened
from renaissance.core.untrusted import expect, parse_json, read_bytes, refuse_special

from .stored import TrainingState

CONFIG, WEIGHTS, OURS, MODEL = "config.json", "model.safetensors", "renaissance", "renaissance."
_INDEX = f"{WEIGHTS}.index.json"
TOWER_KEYS = {"text": "text_encoder", "image": "image_encoder", "blocks": "encoder"}  # our names of towers there
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_CLASSIFIER = {"head.": "classifier."}
# Names in the heads of a task -> in an exported model; those of other tasks come behind "heads.".
_HEADS: dict[str, dict[str, str]] = {
    **{task: {"head.": f"{task}_head."} for task in ("mlm", "itm", "irtr")},
    "itc": {"": f"{MODEL}itc."},
    **dict.fromkeys(("vqa", "nlvr2", "snli", "ref"), _CLASSIFIER),
    "glue": {"classifier.": "classifier.", "pooler.": "pooler."},
    "images": {"classifier.": "classifier."},
}


def exported_names(model: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a model and of its heads by the names that the exported classes have."""
    named = {MODEL + name: tensor for name, tensor in model.items()}
    for name, tensor in heads.items():
        task, _, rest = name.partition(".")
        table = _HEADS.get(task, {})
        start = next((each for each in table if rest.startswith(each)), None)
        named[f"heads.{name}" if start is None else table[start] + rest.removeprefix(start)] = tensor
    return named


def own_names(state: Mapping[str, Tensor], tasks: list[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The inverse of `exported_names`. tasks: that the file has heads of. Other tensors are left out.

    Saved by transformers' AutoModel, the model's names have no beginning of their own.
    """
    if not any(name.startswith(MODEL) for name in state):
        state = {MODEL + name: tensor for name, tensor in state.items()}
    starts = {theirs: f"{task}.{own}" for task in tasks for own, theirs in _HEADS.get(task, {}).items()}
    starts["heads."] = ""
    model, heads = {}, {}
    for name, tensor in state.items():
        start = next((each for each in starts if name.startswith(each)), None)
        if start is not None:
            heads[starts[start] + name.removeprefix(start)] = tensor
        elif name.startswith(MODEL):
            model[name.removeprefix(MODEL)] = tensor
    return model, heads


def weight_files(folder: Path, where: str) -> list[Path]:
    """The files of the tensors: one, or those that `save_pretrained` named in an index, of which each may be missing.

    Args:
        folder: that `export` wrote. where: "load_path=..." for the sentence.

    Raises:
        UserError: the index is none, or names files elsewhere.
    """
    index = folder / _INDEX
    if (folder / WEIGHTS).exists() or not index.exists():
        return [folder / WEIGHTS]
    what = f"{where}: {_INDEX}"
    content = parse_json(read_bytes(index, what), dict[str, Any], what)
    names = sorted(set(expect(content.get("weight_map"), dict[str, str], f"{what}: weight_map").values()))
    _require_beside(names, what)
    return [folder / name for name in names]


def model_files(folder: Path, where: str) -> list[Path]:
    """All files that `read_folder` reads; arguments and errors are its own. Each may be missing."""
    return [folder / CONFIG, *(folder / name for name in _read_config(folder, where)[2]), *weight_files(folder, where)]


def model_digest(load_path: str) -> str:
    """A hash of all files of a checkpoint, or of a folder that `export` wrote.

    Raises:
        UserError: one cannot be read.
    """
    path, where = Path(load_path), f"load_path={load_path}"
    digest = hashlib.sha256()
    for each in model_files(path, where) if path.is_dir() else [path]:
        refuse_special(each, f"{where}: {each.name}")
        try:
            with open(each, "rb") as file:
                hashlib.file_digest(file, lambda: digest)
        except OSError as error:
            raise UserError(f"{where}: {each.name} cannot be read ({error.strerror}).") from error
    return digest.hexdigest()


def _read_config(folder: Path, where: str) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """config.json, what is ours there, and the names of the tokenizer's files."""
    config = parse_json(read_bytes(folder / CONFIG, f"{where}: {CONFIG}"), dict[str, Any], f"{where}: {CONFIG}")
    ours, what = config.get(OURS), f"{where}: {OURS} in {CONFIG}"
    require(
        isinstance(ours, dict),
        f"{where} is a folder that `export` did not write; a model of ViLT comes in by `python run.py import`, an encoder "
        "is given as image_encoder=, text_encoder= or encoder=.",
    )
    files = expect(ours.get("tokenizer"), list[str], f"{what}: tokenizer")
    _require_beside(files, what)
    return config, ours, files


def _require_beside(names: list[str], what: str) -> None:
    require(all(Path(name).name == name for name in names), f"{what} names files that do not lie beside it.")


def read_folder(folder: Path, where: str) -> dict[str, Any]:
    """The parts of a checkpoint, by name, not yet checked.

    Args:
        folder: that `export` wrote. where: "load_path=..." for the sentence.

    Raises:
        UserError: it is a model of another program, or not whole.
    """
    config, ours, files = _read_config(folder, where)
    what = f"{where}: {OURS} in {CONFIG}"
    parts = {
        name: expect(ours.get(name), dict[str, Any], f"{what}: {name}") for name in ("settings", "image", "labels")
    }
    tasks = expect(ours.get("tasks"), list[str], f"{what}: tasks")
    there = [folder / name for name in files if (folder / name).is_file()]
    lacking = [name for name in files if folder / name not in there]
    require(
        files and not lacking,
        f"{where} lacks files of its tokenizer ({', '.join(lacking)}); save its processor there, too.",
    )
    try:
        tokenizer = {each.name: read_bytes(each, f"{where}: {each.name}").decode() for each in there}
        state: dict[str, Tensor] = {}
        for file in weight_files(folder, where):
            refuse_special(file, f"{where}: {file.name}")
            state |= load_file(file)
    except (OSError, SafetensorError, UnicodeDecodeError) as error:
        raise UserError(f"{where} is not whole ({first_line(error)}); copy or export it again.") from error
    odd = [name for name, tensor in state.items() if tensor.dtype not in (*_FLOATS, torch.int64)]
    require(not odd, f"{where}: {WEIGHTS} holds numbers of a kind that no weights have ({shortened(odd)}).")
    state = {name: tensor.float() if tensor.dtype in _FLOATS else tensor for name, tensor in state.items()}
    model, heads = own_names(state, tasks)
    towers = expect(config.get("towers"), dict[str, dict[str, Any]], f"{where}: towers in {CONFIG}")
    configs = {TOWER_KEYS.get(name, name): facts.get("config") for name, facts in towers.items()}
    training = TrainingState(step=expect(ours.get("step", 0), int, f"{what}: step"))
    return parts | {
        "towers": configs, "tokenizer": tokenizer, "model": model, "heads": heads, "training": training._asdict()
    }  # fmt: skip
