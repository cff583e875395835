"""Reads what a Hugging Face id or a local folder holds: configuration, picture preparation, weights.

Everything that may touch the network is in this file. `HF_HUB_OFFLINE=1`, or `allow_download=False`, keeps it to the
cache; code that comes with a model is run only through `remote.py`; weights are read as safetensors, or as `.bin` with
`weights_only`.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import transformers
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import enable_progress_bars
from safetensors import SafetensorError
from transformers.utils import cached_file
from transformers.utils import logging as hf_logging

from renaissance.errors import UserError

from .facts import half_of
from .family import TEXT
from .remote import brings_code, mark, place, trusted_config

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedConfig

# transformers would ask the Hub, from a thread, to convert a `.bin` file for its owner; reading asks for nothing.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")

IMAGE_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def read_config(
    name: str, *, modality: str | None = None, allow_download: bool = True, trust_remote_code: bool = False
) -> PreTrainedConfig:
    """Reads the configuration of a tower.

    Args:
        name: a Hub id (`facebook/dino-vits16`, `timm/...` where timm is installed), `id@revision`, or a local folder.
        modality: which half of a text-and-image model (CLIP, SigLIP ...) is wanted: "text" or "image"; None takes the
            image half, the one that a one-tower model can be made of.
        allow_download: False reads only local folders and the cache.
        trust_remote_code: runs the code that the model brings, if any; see `remote.py`.

    Raises:
        UserError: the id is unknown, unreachable or not in the cache, or its model type is not one of transformers'.
    """
    where = place(name)
    options = {"revision": where.revision, "local_files_only": not allow_download}
    with quiet(), explained(name, allow_download):
        if trust_remote_code:
            values, _ = transformers.PreTrainedConfig.get_config_dict(where.name, **options)
            if brings_code(values):
                return mark(trusted_config(name, values, allow_download=allow_download), name, modality or TEXT)
        config = transformers.AutoConfig.from_pretrained(where.name, trust_remote_code=False, **options)
    return half_of(config, name, modality)


def read_image_processor(name: str, *, allow_download: bool = True) -> dict[str, Any] | None:
    """Reads how a model wants its pictures.

    Returns:
        {"mean": 3 floats, "std": 3 floats, "size": pixels of the square side or None}, or None where the model brings
        no such file or the file does not name a mean.
    """
    where = place(name)
    for file in IMAGE_PROCESSOR_FILES:
        with quiet(), explained(name, allow_download):
            path = cached_file(
                where.name,
                file,
                revision=where.revision,
                local_files_only=not allow_download,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
        if path is not None:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            values = values.get("image_processor", values)
            if values.get("do_normalize") is False:
                values |= {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
            if "image_mean" in values and "image_std" in values:
                return {
                    "mean": _three(values["image_mean"]),
                    "std": _three(values["image_std"]),
                    "size": _side(values.get("crop_size")) or _side(values.get("size")),
                }
    return None


def read_weights(
    model_class: type, name: str, config: PreTrainedConfig, *, allow_download: bool, attention: str, **options: Any
) -> tuple[Any, dict[str, Any]]:
    """Loads a pretrained model in fp32.

    Returns:
        The model and transformers' loading info: `missing_keys`, `unexpected_keys`, `mismatched_keys`.

    Raises:
        UserError: there are no weights under this name, or they cannot be read.
    """
    where = place(name)
    with quiet(), explained(name, allow_download):
        return model_class.from_pretrained(
            where.name,
            revision=where.revision or "main",
            config=config,
            dtype="float32",
            attn_implementation=attention,
            local_files_only=not allow_download,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the loading info, and refused in a sentence
            weights_only=True,
            **options,
        )


class BringsCodeError(UserError):
    """Something cannot be read without code of its own, which is never run."""


def offline(allow_download: bool) -> bool:
    """True where nothing may be asked of the network."""
    return constants.HF_HUB_OFFLINE or not allow_download


@contextmanager
def explained(name: str, allow_download: bool, code: str = "") -> Iterator[None]:
    """Turns what transformers and huggingface_hub raise about `name` into one sentence.

    Args:
        code: what it brings where it brings code, and what to do about it; "" names trust_remote_code.
    """
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, UnpicklingError, SafetensorError) as error:
        if code and "custom code" in str(error):
            raise BringsCodeError(f"{name} brings {code}.") from error
        raise UserError(_sentence(name, error, offline(allow_download))) from error


def _sentence(name: str, error: BaseException, is_offline: bool) -> str:
    chain = _chain(error)
    if "custom code" in str(error):
        pin = (
            ""
            if Path(name).is_dir()
            else f", and pin the commit that you have read: {place(name).name}@<40 hexadecimal digits>"
        )
        asked = "which is not run unless you say so: read it, and give trust_remote_code=True"
        return f"{name} brings code of its own, {asked}{pin}."
    if Path(name).is_dir():
        files = ", ".join(sorted(path.name for path in Path(name).iterdir())[:12]) or "nothing"
        return f"The folder {name} does not hold a readable Hugging Face model (found: {files}): {_first_line(error)}"
    if any(isinstance(link, GatedRepoError) for link in chain):
        return f"{name} on the Hugging Face Hub asks for an agreement: accept it on its page, then run `hf auth login`."
    if any(isinstance(link, HFValidationError) for link in chain):
        return f"{name!r} is neither a folder that exists nor a Hugging Face id of the form owner/name."
    if is_offline and any(isinstance(link, LocalEntryNotFoundError | OSError) for link in chain):
        return (
            f"{name} is neither a local folder nor in the Hugging Face cache ({constants.HF_HUB_CACHE}), and downloads "
            "are off (HF_HUB_OFFLINE or allow_download=False): download it once, or give a local folder."
        )
    if any(isinstance(link, RepositoryNotFoundError) for link in chain):
        return f"{name} is neither a local folder nor a model on the Hugging Face Hub: check its spelling."
    if isinstance(error, ImportError):
        return f"{name} needs a package that is not installed: {_first_line(error)}"
    if any(isinstance(link, LocalEntryNotFoundError) or "connect" in type(link).__name__.lower() for link in chain):
        return (
            f"{name} is not in the Hugging Face cache ({constants.HF_HUB_CACHE}) and the Hub cannot be reached: check "
            "the connection, or give a local folder."
        )
    return f"{name} cannot be read as a Hugging Face model: {_first_line(error)}"


def _chain(error: BaseException | None) -> list[BaseException]:
    links: list[BaseException] = []
    while error is not None and error not in links:
        links.append(error)
        error = error.__cause__ or error.__context__
    return links


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers' load tables and its bar off the screen: what matters of them is in our own report.

    The bar of a download stays: that one can take minutes.
    """
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


def _three(values: float | list[float]) -> list[float]:
    return [float(values)] * 3 if isinstance(values, int | float) else [float(value) for value in values]


def _side(size: Any) -> int | None:
    """Pixels of a square side from the forms that image processors write it in."""
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge")
    elif isinstance(size, list | tuple):
        size = size[0] if size else None
    return int(size) if size else None
