"""A model's files of weights: looked at before anything is read, and read from nothing but themselves."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from renaissance.core.errors import UserError, first_line, printable
from renaissance.core.untrusted import read_json, refuse_lfs, refuse_special

from .bounds import bounded
from .hub import explained, found, quiet
from .remote import place

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# In transformers' order; the first that is there counts.
WHOLE, INDEX = ("model.safetensors", "pytorch_model.bin"), ".index.json"
_START = 64  # bytes that tell what a file is


def check_weights(name: str, random_setting: str) -> None:
    """Refuses weights that a folder does not hold, or that cannot be what they say; asks no network.

    Args:
        name: as for `read_config`. random_setting: the setting that makes weights needless, for the sentence.

    Raises:
        UserError: a folder without weights, git-LFS pointers, files cut short, parts that are missing.
    """
    files = weight_files(name, allow_download=False)
    if not files and Path(name).is_dir():
        raise UserError(
            f"The folder {name} holds no weights ({' or '.join(WHOLE)}): give {random_setting}=True to start from random ones."
        )
    for file in files.values():
        _check(file, f"{file.name} of {name}")


def weight_files(name: str, *, allow_download: bool) -> dict[str, Path]:
    """A model's files of weights and their index, {file name: where it lies}; empty where there are none.

    Raises:
        UserError: an index that names parts which are not there, or lie elsewhere.
    """
    for whole in WHOLE:
        if (path := found(name, whole, allow_download=allow_download)) is not None:
            return {whole: path}
        index = whole + INDEX
        if (path := found(name, index, allow_download=allow_download)) is None:
            continue
        parts = read_json(path, dict[str, Any], f"{index} of {name}").get("weight_map")
        if not isinstance(parts, dict) or not parts or not all(isinstance(each, str) for each in parts.values()):
            raise UserError(f"{index} of {name} has no weight_map of tensors to files.")
        files = {index: path}
        for part in sorted(set(parts.values())):
            if Path(part).name != part or Path(part).suffix not in (".safetensors", ".bin"):
                raise UserError(f"{index} of {name} names {printable(part)!r}, which is no file of weights beside it.")
            where = found(name, part, allow_download=allow_download)
            if where is not None:
                files[part] = where
            elif allow_download or Path(name).is_dir():
                raise UserError(f"{index} of {name} names {part}, which is not there: the model is not whole.")
        return files
    return {}


def _check(path: Path, name: str) -> None:
    """Refuses a file that is a pointer, cut short, or claims more than it holds."""
    size = refuse_special(path, name).st_size
    with path.open("rb") as file:
        start = file.read(_START)
    refuse_lfs(start, name)
    if path.name.endswith(INDEX):
        return
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt"):
                pass
        elif start.startswith(b"PK"):
            with zipfile.ZipFile(path) as archive:
                claimed = sum(member.file_size for member in archive.infolist())
            if claimed > size:
                raise zipfile.BadZipFile(f"{claimed:,} bytes packed into {size:,}")
        elif not start.startswith(b"\x80"):
            raise zipfile.BadZipFile("no file of torch.save")
    except (SafetensorError, zipfile.BadZipFile, OSError, ValueError) as error:
        raise UserError(f"{name} is cut short or damaged ({first_line(error)}): download it again.") from error


def read_weights(
    model_class: type, name: str, config: PreTrainedConfig, *, allow_download: bool, attention: str, **options: Any
) -> tuple[Any, dict[str, Any]]:
    """Loads a pretrained model in fp32.

    Returns:
        The model and transformers' loading info: `missing_keys`, `unexpected_keys`, `mismatched_keys`.

    Raises:
        UserError: there are no weights under this name, or they cannot be read.
    """
    options |= {
        "config": config,
        "dtype": "float32",
        "attn_implementation": attention,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # they are in the loading info, and refused in a sentence
        "weights_only": True,
    }
    if getattr(config, "remote_code", None):  # may read files of its own
        where = place(name)
        with quiet(), explained(name, allow_download):
            revision = where.revision or "main"
            return model_class.from_pretrained(
                where.name, revision=revision, local_files_only=not allow_download, **options
            )
    files = weight_files(name, allow_download=allow_download)
    if not files:  # says why
        found(name, WHOLE[0], allow_download=allow_download, required=True)
    for path in files.values():
        _check(path, f"{path.name} of {name}")
    # A folder of these files alone: what else lies beside them (adapters that name a base model, other weights) is not looked at.
    size = sum(path.stat().st_size for path in files.values())
    with (
        tempfile.TemporaryDirectory() as folder,
        quiet(),
        explained(name, allow_download, hide=folder),
        bounded(f"The model of {name}", size),
    ):
        for file, path in files.items():
            (Path(folder) / file).symlink_to(path.resolve())
        return model_class.from_pretrained(folder, local_files_only=True, **options)
