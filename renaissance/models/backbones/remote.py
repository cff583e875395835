"""Names of models with a pinned revision, and encoders that bring code of their own.

`owner/name@revision` pins a branch, a tag or a commit of the Hub. Code that lies beside a model's weights is run only where the
user says trust_remote_code=True, and only at one commit, so that what was read is what runs. A checkpoint keeps the name with
the commit; whoever loads it has to trust the code anew, whatever the checkpoint says.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from transformers.dynamic_module_utils import get_class_from_dynamic_module

from renaissance.core.errors import UserError

from .family import IMAGE, TEXT, Family

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_COMMIT = re.compile(r"[0-9a-f]{40}")
_NO_BLOCKS = "it brings code of its own, whose blocks this program does not know"
ROWS = {side: Family(side, model="", one_tower=_NO_BLOCKS) for side in (TEXT, IMAGE)}


class Place(NamedTuple):
    """Where a model lies. Attributes: name, a folder or an id of the Hub; revision of it, None for the newest or a folder."""

    name: str
    revision: str | None = None


def place(name: str) -> Place:
    """Takes a name apart: `owner/name`, `owner/name@revision`, or a folder."""
    if "@" not in name or Path(name).is_dir():
        return Place(name)
    where = Place(*name.rsplit("@", 1))
    if Path(where.name).is_dir():
        raise UserError(
            f"{name}: {where.name} is a folder here, which has no revisions; give it without @, or run elsewhere."
        )
    return where


class _Code(NamedTuple):
    """The classes that a repository brings; `config` is None where it uses one of transformers'."""

    model: type
    config: type | None


_trusted: dict[str, _Code] = {}  # by name with commit; what the user has trusted in this process


def trust(name: str, auto_map: dict[str, str], *, allow_download: bool) -> _Code:
    """Imports the code that a model brings.

    Args:
        name: with its commit, or a folder. auto_map: of its config.json.

    Raises:
        UserError: it is not pinned to a commit, or its code lies in another repository.
    """
    if name in _trusted:
        return _trusted[name]
    where = place(name)
    if not Path(name).is_dir() and not _COMMIT.fullmatch(where.revision or ""):
        raise UserError(
            f"trust_remote_code=True: {name} brings code of its own, which runs at one commit only: give it as {where.name}@<the "
            "40 hexadecimal digits of a commit whose code you have read>."
        )
    references = {key: auto_map[key] for key in ("AutoModel", "AutoConfig") if key in auto_map}
    for reference in references.values():
        if "--" in reference:
            raise UserError(
                f"{name} brings code that lies in another repository ({reference.split('--')[0]}), whose commit nothing pins: "
                "copy both into one folder, and give that."
            )
    options = {"revision": where.revision, "local_files_only": not allow_download}
    classes = {key: get_class_from_dynamic_module(each, where.name, **options) for key, each in references.items()}
    return _trusted.setdefault(name, _Code(classes["AutoModel"], classes.get("AutoConfig")))


def brings_code(values: dict[str, Any]) -> bool:
    """Whether a model of this config.json is of code that lies beside it."""
    return "AutoModel" in (values.get("auto_map") or {})


def trusted_config(name: str, values: dict[str, Any], *, allow_download: bool) -> PreTrainedConfig:
    """The configuration of a model that brings code, which is imported.

    Args:
        name: with its commit, or a folder. values: of its config.json.

    Raises:
        UserError: as `trust`.
    """
    code = trust(name, values["auto_map"], allow_download=allow_download)
    return (code.config or code.model.config_class).from_dict(dict(values))


def mark(config: PreTrainedConfig, name: str, modality: str) -> PreTrainedConfig:
    """Writes into a configuration that its model is of the code of `name`; a checkpoint keeps that."""
    config.remote_code, config.remote_modality = name, modality
    return config


def row_of(config: PreTrainedConfig) -> Family | None:
    """The row of a model of code of its own; None for all others."""
    return ROWS[config.remote_modality] if getattr(config, "remote_code", None) else None


def class_of_code(config: PreTrainedConfig) -> type:
    """The class of a model of code of its own, trusted before."""
    return _trusted[config.remote_code].model


def stored_config(values: dict[str, Any], *, trusted: bool, allow_download: bool) -> PreTrainedConfig:
    """The configuration of a model of code of its own, as a checkpoint holds it.

    Raises:
        UserError: the user does not trust it.
    """
    name = values["remote_code"]
    if not trusted:
        raise UserError(
            f"The checkpoint holds a model of the code of {name}, which is not run unless you say so: read it, and give "
            "trust_remote_code=True."
        )
    return trusted_config(name, values, allow_download=allow_download)
