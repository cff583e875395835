"""A model's files of weights: checked before they are read, in a folder without any other file."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig

from renaissance.core.errors import UserError, first_line, printable, require
from renaissance.core.untrusted import expect, read_json, refuse_lfs, refuse_special
from renaissance.settings.bounds import bounded

from .hub import explain_errors, find_file
from .remote import split_revision

# In the order of transformers: the first that exists is read.
WHOLE, INDEX = ("model.safetensors", "pytorch_model.bin"), ".index.json"


def check_weights(name: str, random_setting: str) -> None:
    """Refuses missing and damaged weights; nothing is downloaded.

    Args:
        name: as for `read_config`. random_setting: the setting for random weights, for the sentence.

    Raises:
        UserError: a folder without weights, git-LFS pointers, files cut short, parts that are missing.
    """
    files = weight_files(name, allow_download=False)
    require(
        files or not Path(name).is_dir(),
        f"The folder {name} holds no weights ({' or '.join(WHOLE)}): give {random_setting}=True to start from random ones.",
    )
    _check(files, name)


def weight_files(name: str, *, allow_download: bool) -> dict[str, Path]:
    """A model's files of weights and their index, {file name: path}; empty if there are none.

    Raises:
        UserError: an index names missing parts, or files outside the model's folder.
    """
    for whole in WHOLE:
        if (path := find_file(name, whole, allow_download=allow_download)) is not None:
            return {whole: path}
        index = whole + INDEX
        if (path := find_file(name, index, allow_download=allow_download)) is None:
            continue
        what = f"{index} of {name}"
        parts = expect(read_json(path, dict[str, Any], what).get("weight_map"), dict[str, str], f"weight_map in {what}")
        require(parts, f"{what} has an empty weight_map.")
        files = {index: path}
        for part in sorted(set(parts.values())):
            beside = Path(part).name == part and Path(part).suffix in (".safetensors", ".bin")
            require(beside, f"{what} names {printable(part)!r}, which is no file of weights beside it.")
            where = find_file(name, part, allow_download=allow_download)
            if where is not None:
                files[part] = where
            elif allow_download or Path(name).is_dir():
                raise UserError(f"{what} names {part}, which is not there: the model is not whole.")
        return files
    return {}


def _check(files: dict[str, Path], name: str) -> None:
    """Refuses a file that is a pointer, cut short, or claims more than it holds."""
    for file, path in files.items():
        what = f"{file} of {name}"
        size = refuse_special(path, what).st_size
        with path.open("rb") as opened:
            start = opened.read(64)
        refuse_lfs(start, what)
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, "pt"):
                    pass
            elif start.startswith(b"PK"):
                with zipfile.ZipFile(path) as archive:
                    claimed = sum(member.file_size for member in archive.infolist())
                if claimed > size:
                    raise zipfile.BadZipFile(f"{claimed:,} bytes packed into {size:,}")
            elif path.suffix == ".bin" and not start.startswith(b"\x80"):
                raise zipfile.BadZipFile("no file of torch.save")
        except (SafetensorError, zipfile.BadZipFile, OSError, ValueError) as error:
            raise UserError(f"{what} is cut short or damaged ({first_line(error)}): download it again.") from error


def read_weights(
    model_class: type, name: str, config: PreTrainedConfig, *, allow_download: bool, **options: Any
) -> tuple[Any, dict[str, Any]]:
    """Loads a pretrained model in fp32.

    Returns:
        The model and transformers' loading info: `missing_keys`, `unexpected_keys`, `mismatched_keys`.

    Raises:
        UserError: there are no weights under this name, or they cannot be read.
    """
    options |= {"config": config, "dtype": "float32", "output_loading_info": True, "weights_only": True}
    options |= {"ignore_mismatched_sizes": True}  # they are in the loading info, and refused in a sentence
    if getattr(config, "remote_code", None):  # may read files of its own
        repository, revision = split_revision(name)
        options |= {"revision": revision or "main", "local_files_only": not allow_download}
        with explain_errors(name, allow_download):
            return model_class.from_pretrained(repository, **options)
    files = weight_files(name, allow_download=allow_download)
    if not files:  # says why
        find_file(name, WHOLE[0], allow_download=allow_download, required=True)
    _check(files, name)
    size = sum(path.stat().st_size for path in files.values())
    # Loading registers each parameter twice; the constant is for buffers that no file holds, such as positions.
    most = 2**26 + 8 * size
    sentence = f"The configuration of {name} asks for more than its weights of {size:,} bytes hold."
    # A folder of these files alone, so that transformers sees no others (adapters that name a base model, other weights).
    with tempfile.TemporaryDirectory() as folder, explain_errors(name, allow_download, folder), bounded(most, sentence):
        for file, path in files.items():
            (Path(folder) / file).symlink_to(path.resolve())
        return model_class.from_pretrained(folder, local_files_only=True, **options)
