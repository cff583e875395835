"""Finds the files of a Hugging Face id or a local folder, and reads its configuration.

Everything that may touch the network is in this file. `HF_HUB_OFFLINE=1`, or `allow_download=False`, keeps it to the
cache; code that comes with a model is run only through `remote.py`; weights are read as safetensors, or as `.bin` with
`weights_only`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import enable_progress_bars
from safetensors import SafetensorError
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.utils import cached_file
from transformers.utils import logging as hf_logging

from renaissance.core.errors import UserError, first_line, require
from renaissance.core.untrusted import expect, read_json

from .configs import make_config
from .dimensions import check_sizes, default_dimensions
from .families import DUAL, FAMILIES, class_of, refuse_family, sub_config
from .family import IMAGE, TEXT
from .remote import TRUST_NEEDED, split_revision, trusted_config

# Else transformers asks the Hub, in a thread, to convert `.bin` files of the model to safetensors.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")


def find_file(name: str, file: str, *, allow_download: bool, required: bool = False) -> Path | None:
    """Path of a file of a model on this machine; downloads it if needed.

    Args:
        name: as for `read_config`. required: raise instead of returning None.

    Returns:
        None if the model has no such file, or it is not in the cache and cannot be downloaded.

    Raises:
        UserError: the model is unknown, or a required file cannot be read.
    """
    repository, revision = split_revision(name)
    raising = {f"_raise_exceptions_for_{kind}": required for kind in ("missing_entries", "connection_errors")}
    with explain_errors(name, allow_download):
        path = cached_file(repository, file, revision=revision, local_files_only=not allow_download, **raising)
        if path is None and required:
            raise OSError(f"it has no {file}")
    return None if path is None else Path(path)


def is_family(name: str) -> bool:
    """Whether a name is that of a family (`vit`, `bert`), which has sizes but neither weights nor files."""
    return name in FAMILIES and not Path(name).is_dir()


def read_config(
    name: str,
    *,
    modality: str | None = None,
    allow_download: bool = True,
    trust_remote_code: bool = False,
    untrained: bool = False,
    notes: list[str] | None = None,
) -> PreTrainedConfig:
    """Reads the configuration of a tower.

    Args:
        name: a Hub id (`facebook/dino-vits16`, `timm/...` if timm is installed), `id@revision`, or a local folder.
        modality: which half of a text-and-image model (CLIP, SigLIP ...) to take, "text" or "image"; None takes the image
            half, which a one-tower model can be made of.
        allow_download: False reads only local folders and the cache.
        trust_remote_code: runs the code that the model brings, if any; see `remote.py`.
        untrained: weights will be random, so the name of a family (`vit`) is enough.
        notes: gets a line about sizes that config.json leaves to defaults.

    Raises:
        UserError: the id is unknown, unreachable or not in the cache, or its model type is not one of transformers'.
    """
    if is_family(name):
        advice = "give a Hub id or a folder, or ask for random ones (random_init_... or ..._manual_configuration)"
        require(untrained, f"{name} is the name of a family, which has no weights: {advice}.")
        return class_of(FAMILIES[name]).config_class()
    path = find_file(name, "config.json", allow_download=allow_download, required=True)
    values = read_json(path, dict[str, Any], f"config.json of {name}")
    if "model_type" not in values and isinstance(values.get("pretrained_cfg"), dict):
        values["model_type"] = "timm_wrapper"  # the Hub's timm models say it so
    kind = expect(values.get("model_type"), str | None, f"model_type in config.json of {name}")
    if "AutoModel" in (values.get("auto_map") or {}) and (trust_remote_code or kind not in CONFIG_MAPPING):
        require(trust_remote_code, f"{name} brings code of its own, {TRUST_NEEDED}.")
        return trusted_config(name, values, modality or TEXT, allow_download=allow_download)
    if kind not in FAMILIES and kind not in DUAL:
        refuse_family(kind, name)
    config_class = class_of(FAMILIES[kind]).config_class if kind in FAMILIES else CONFIG_MAPPING[kind]
    config = sub_config(make_config(values, config_class, name), name, modality)
    check_sizes(config, name)
    stated = values if kind in FAMILIES else values.get(DUAL[kind][modality or IMAGE]) or {}
    if notes is not None and (assumed := default_dimensions(config, stated)):
        notes.append(f"config.json of {name} does not say {', '.join(assumed)}: the defaults of transformers are taken")
    return config


@contextmanager
def explain_errors(name: str, allow_download: bool, hide: str = "") -> Iterator[None]:
    """Turns errors of transformers and huggingface_hub about `name` into a UserError.

    Args:
        hide: a temporary folder of ours, replaced by `name` in the sentence.
    """
    try:
        with quiet():
            yield
    except UserError:
        raise
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, UnpicklingError, SafetensorError) as error:
        sentence = _sentence(name, error, offline=constants.HF_HUB_OFFLINE or not allow_download)
        raise UserError(sentence.replace(hide, name) if hide else sentence) from error


def _sentence(name: str, error: BaseException, offline: bool) -> str:
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)

    def caused_by(kind: type[BaseException]) -> bool:
        return any(isinstance(link, kind) for link in chain)

    if caused_by(UnpicklingError):
        return f"The weights of {name} hold more than tensors, which could run code: not read; give safetensors."
    if Path(name).is_dir():
        files = ", ".join(sorted(path.name for path in Path(name).iterdir())[:12]) or "nothing"
        return f"The folder {name} does not hold a readable Hugging Face model (found: {files}): {first_line(error)}"
    if caused_by(GatedRepoError):
        return f"{name} on the Hugging Face Hub asks for an agreement: accept it on its page, then run `hf auth login`."
    if caused_by(HFValidationError):
        return f"{name!r} is neither a folder that exists nor a Hugging Face id of the form owner/name."
    if caused_by(RepositoryNotFoundError):
        return f"{name} is neither a local folder nor a model on the Hugging Face Hub: check its spelling."
    if caused_by(OSError if offline else LocalEntryNotFoundError):
        why = "downloads are off (HF_HUB_OFFLINE or allow_download=False)" if offline else "the Hub cannot be reached"
        place = f"in the Hugging Face cache ({constants.HF_HUB_CACHE})"
        return f"{name} is neither a local folder nor {place}, and {why}: download it once, or give a local folder."
    return f"{name} cannot be read as a Hugging Face model: {first_line(error)}"


@contextmanager
def quiet() -> Iterator[None]:
    """Hides transformers' load reports and progress bars; our own report has what matters. Bars of downloads stay."""
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    if bars:
        enable_progress_bars()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()
