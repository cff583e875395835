"""What a user's own data have in common: a name, a share for validation, no files of an earlier run beside new ones."""

from __future__ import annotations

import hashlib
from pathlib import Path

from renaissance.core.errors import UserError
from renaissance.data.dataset_specs import DATASETS, OWN_FILE, OWN_SPLITS

from .writer import is_share


def check_name(name: object, own: str) -> str:
    """Return a data set's name that can be part of a file's name and is no other's.

    Args:
        name: what the user gave.
        own: what data of this kind are called unless the user says otherwise.

    Raises:
        UserError: it cannot.
    """
    plain = isinstance(name, str) and name and Path(name).name == name and not name.startswith(".")
    others = [dataset for dataset in DATASETS if dataset != own]
    if not plain or name in others:
        raise UserError(
            f"name={name!r} must be a plain name such as '{own}' (the files are {OWN_FILE}), and none of "
            f"{', '.join(others)}, which mean other data."
        )
    files = [f"{name}.arrow", *(OWN_FILE.format(name=name, split=split) for split in OWN_SPLITS)]
    taken = [(file, dataset) for file in files for dataset, row in DATASETS.items() if row.owns(file)]
    if taken:
        raise UserError(f"name='{name}' stands for {taken[0][0]}, a file of '{taken[0][1]}'; give another name.")
    return name


def check_val_share(share: object) -> None:
    """Refuse a share for validation outside [0, 1).

    Raises:
        UserError: it is none.
    """
    if not is_share(share) or share == 1:
        raise UserError(f"val_share={share!r} must be a share of at least 0 and less than 1.")


def is_validation(path: str, val_share: float) -> bool:
    """Whether an image is one of this share: a function of its path, so it stays where it is when others are added."""
    digest = hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < val_share


def refuse_leftovers(folder: Path, name: str, splits: list[str]) -> None:
    """Refuse to leave files of an earlier run beside new ones: an image could then be in two splits.

    Args:
        folder: where the files go. name: of the data set. splits: those that will be written.

    Raises:
        UserError: there are such files.
    """
    files = [f"{name}.arrow"] + [OWN_FILE.format(name=name, split=split) for split in OWN_SPLITS if split not in splits]
    left = [file for file in files if (folder / file).exists()]
    if left:
        raise UserError(
            f"data_root='{folder}' holds {', '.join(left)}, which this run would not replace and which may share "
            f"pictures with what it writes; remove it, or give another name= than '{name}'."
        )
