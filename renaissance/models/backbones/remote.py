"""Models with a pinned revision, and models with custom code (transformers' trust_remote_code).

`owner/name@revision` pins a branch, a tag or a commit of the Hub. A model's own code is run only with trust_remote_code=True,
and only at one commit, so that the code that was read is the code that runs. A checkpoint keeps the name with the commit, but
never the trust: the code has to be trusted anew when it is loaded.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from renaissance.core.errors import require

from .family import Family

TRUST_NEEDED = "which is not run unless you say so: read it, and give trust_remote_code=True"
_trusted: dict[str, type] = {}  # {name with commit: model class} of the code trusted in this process


def split_revision(name: str) -> tuple[str, str | None]:
    """A folder or an id of the Hub, and its revision: `owner/name@revision`; None for the newest or a folder."""
    if "@" not in name or Path(name).is_dir():
        return name, None
    repository, _, revision = name.rpartition("@")
    is_folder = Path(repository).is_dir()
    require(not is_folder, f"{name}: {repository} is a folder here, which has no revisions; give it without @.")
    return repository, revision


def trusted_config(name: str, values: dict[str, Any], modality: str, *, allow_download: bool) -> PreTrainedConfig:
    """Imports the custom code of a model and makes its configuration, which names the repository of the code.

    Args:
        name: with its commit, or a folder.
        values: of its config.json.

    Raises:
        UserError: it is not pinned to a commit, or its code lies in another repository.
    """
    repository, revision = split_revision(name)
    require(
        Path(name).is_dir() or re.fullmatch(r"[0-9a-f]{40}", revision or ""),
        f"trust_remote_code=True: {name} brings code of its own, which runs at one commit only: give it as {repository}@<the "
        "40 hexadecimal digits of a commit whose code you have read>.",
    )
    references = {key: each for key, each in values["auto_map"].items() if key in ("AutoModel", "AutoConfig")}
    for reference in references.values():
        require(
            "--" not in reference,
            f"{name} brings code that lies in another repository ({reference.split('--')[0]}), whose commit nothing pins: copy "
            "both into one folder, and give that.",
        )
    options = {"revision": revision, "local_files_only": not allow_download}
    classes = {key: get_class_from_dynamic_module(each, repository, **options) for key, each in references.items()}
    _trusted[name] = classes["AutoModel"]
    config = classes.get("AutoConfig", classes["AutoModel"].config_class).from_dict(dict(values))
    config.remote_code, config.remote_modality = name, modality
    return config


def row_of(config: PreTrainedConfig) -> Family | None:
    """The row of a model with custom code that was trusted before; None for all others."""
    if getattr(config, "remote_code", None) is None:
        return None
    no_blocks = "it brings code of its own, whose blocks this program does not know"
    return Family(config.remote_modality, _trusted[config.remote_code], one_tower=no_blocks)
