"""Writes and reads a checkpoint, and copies its weights into a model.

A checkpoint is one file of plain values and tensors: it holds all that builds the model again
(settings, each tower's configuration, the tokenizer's files, the images' mean and deviation), so loading never asks the Hub.
It is written beside its target, flushed to the disk and renamed: a reader finds the old file or the new one, never half of one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from renaissance.core.atomic import AtomicFile
from renaissance.core.checks import is_exported, require_checkpoint
from renaissance.core.errors import UserError, first_line, require, shortened

from .archive import read_archive
from .exported import read_folder
from .stored import Stored, check_parts

FORMAT = 1
OTHERS = ("pytorch_lightning.", "lightning.")  # whose classes checkpoints of other programs name beside their tensors


@dataclass
class LoadReport:
    """Which parameters were loaded from a checkpoint, by name.

    `missing` are in the model but not in the checkpoint, `unexpected` the reverse, `resized` were interpolated or cut;
    `started` says which parts of new heads started from those of other tasks.
    """

    path: str
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)

    def refuse_missing(self, setting: str) -> None:
        """Refuses a checkpoint that lacks weights of its own model; they would stay random.

        Args:
            setting: that named it.
        """
        require(
            not self.missing,
            f"{setting}={self.path} lacks {len(self.missing)} of the tensors of its own model ({shortened(self.missing)}); "
            "it is damaged, or was not written by this program.",
        )

    def __str__(self) -> str:
        parts = {"new, random weights": self.missing, "not used": self.unexpected, "resized": self.resized}
        lines = [f"{what}: {len(names)} ({shortened(names, 4)})" for what, names in parts.items() if names]
        return "\n  ".join([f"loaded {len(self.loaded)} tensors from {self.path}", *lines, *self.started])


def save(path: str | os.PathLike, stored: Stored, setting: str = "log_dir") -> None:
    """Writes a checkpoint atomically. setting: that decided where, for the sentence.

    Raises:
        UserError: the disk is full or the folder cannot be written; the old file is untouched.
    """
    with AtomicFile(Path(path), setting) as file:
        torch.save({"format": FORMAT, **stored._asdict()}, file)
        file.commit()


def read(path: str | os.PathLike, setting: str = "load_path") -> Stored:
    """Reads a checkpoint.

    Args:
        path: the file, or for load_path a folder that `export` wrote. setting: that named it, for the sentence.

    Raises:
        UserError: no such file, not a checkpoint of ours, cut short, a bit of it has changed, or it would swell.
    """
    path = Path(path)
    where = f"{setting}={path}"
    if setting == "load_path" and is_exported(path):
        return _checked(read_folder(path, where), where)
    require_checkpoint(setting, path)
    try:
        content = read_archive(path, harmless=OTHERS)
    except Exception as error:  # zlib, struct, zipfile and pickle each have their own ways to fail on damaged bytes
        raise UserError(
            f"{where} cannot be read as a checkpoint ({first_line(error)}); it is cut short, damaged, or was not written by "
            "this program."
        ) from error
    values = list(content.values()) if isinstance(content, dict) else []
    foreign = values and ("state_dict" in content or all(isinstance(each, Tensor) for each in values))
    require(
        not foreign,
        f"{where} is a checkpoint of another program: `python run.py import with source={path} output=<file.ckpt>` makes one of "
        "this program of it, if it knows that one.",
    )
    version = content.get("format") if isinstance(content, dict) else None
    what = f"has format {version}" if isinstance(version, int) else "is not a checkpoint of this program"
    require(version == FORMAT, f"{where} {what}; this version reads format {FORMAT}.")
    return _checked(content, where)


def _checked(content: Mapping[str, Any], where: str) -> Stored:
    settings = check_parts(content, where)
    parts = {name: content[name] for name in Stored._fields} | {
        name: dict(content[name]) for name in ("model", "heads")
    }
    tensors = {**parts["model"], **parts["heads"]}
    bad = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    require(
        not bad,
        f"{where} holds NaN or infinite values in {len(bad)} of its {len(tensors)} tensors ({shortened(bad)}); take an "
        "earlier checkpoint of its run.",
    )
    return Stored(**parts | {"settings": settings})


def load_state_dicts(model: nn.Module, heads: nn.Module, stored: Stored, path: str) -> LoadReport:
    """Copies the weights of a checkpoint into a model, resizing position embeddings.

    Args:
        model: its method `adapt(name, tensor)` brings a tensor of another shape to the model's, or returns None.
        heads: heads of tasks that the checkpoint does not know stay as they are, or start from other tasks' parts, which
            their `starts_from` names.

    Raises:
        UserError: no tower of the checkpoint fits the model.
    """
    report = LoadReport(path)
    _copy(model, stored.model, report, model.adapt)
    require(
        any(not name.startswith(("token_types", "text_pooler", "image_pooler")) for name in report.loaded),
        f"load_path={path} holds another model: none of its {len(stored.model)} tensors fits; give its own towers.",
    )
    _copy(heads, _with_started(heads, stored.heads, report), report, lambda name, tensor: None)
    return report


def _with_started(heads: nn.Module, state: Mapping[str, Tensor], report: LoadReport) -> dict[str, Tensor]:
    """The state of the heads, with the parameters that new heads are initialised from under their new names."""
    named, own, started = dict(state), heads.state_dict(), set()
    for head, task in heads.named_children():
        if any(name.startswith(f"{head}.") for name in state):
            continue
        for part, other in getattr(task, "starts_from", {}).items():
            found = {name.removeprefix(other): tensor for name, tensor in state.items() if name.startswith(f"{other}.")}
            if found:
                named |= {f"{head}.{part}{rest}": tensor for rest, tensor in found.items()}
                started |= {f"{other}{rest}" for rest in found}
                report.started.append(f"{head}.{part} starts from {other}")
    return {name: tensor for name, tensor in named.items() if name in own or name not in started}


def _copy(module: nn.Module, state: Mapping[str, Tensor], report: LoadReport, adapt: Any) -> None:
    own = module.state_dict()
    taken = {}
    for name, tensor in state.items():
        if name not in own:
            report.unexpected.append(name)
        elif own[name].shape == tensor.shape:
            taken[name] = tensor
        elif own[name].ndim == tensor.ndim and getattr(adapted := adapt(name, tensor), "shape", 0) == own[name].shape:
            taken[name] = adapted
            report.resized.append(name)
        else:
            report.unexpected.append(name)
    report.loaded += list(taken)
    report.missing += [name for name in own if name not in taken]
    if not any(tensor.is_meta for tensor in own.values()):  # else only the report is wanted
        module.load_state_dict(taken, strict=False)
