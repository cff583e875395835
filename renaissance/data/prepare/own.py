"""Options of a user's own data: the name, the share for validation, files of earlier runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from renaissance.core.checks import number
from renaissance.core.errors import require
from renaissance.data.dataset_specs import DATASETS, OWN_FILE, OWN_SPLITS


def check_name(name: object, own: str) -> str:
    """Returns a data set's name that can be part of a file's name and is no other's.

    Args:
        name: what the user gave.
        own: what data of this kind are called unless the user says otherwise.

    Raises:
        UserError: it is not plain, or is the name of other data.
    """
    plain = isinstance(name, str) and name and Path(name).name == name and not name.startswith(".")
    others = [dataset for dataset in DATASETS if dataset != own]
    require(
        plain and name not in others,
        f"name={name!r} must be a plain name such as '{own}' (the files are {OWN_FILE}), and none of "
        f"{', '.join(others)}, which mean other data.",
    )
    taken = [(file, dataset) for file in _files(name) for dataset, row in DATASETS.items() if row.owns(file)]
    file, dataset = taken[0] if taken else ("", "")
    require(not taken, f"name='{name}' stands for {file}, a file of '{dataset}'; give another name.")
    return name


def check_val_share(share: object) -> None:
    """Refuses a share for validation outside [0, 1)."""
    fits = number(0, 1).test(share) and share < 1
    require(fits, f"val_share={share!r} must be a share of at least 0 and less than 1.")


def is_validation(path: str, val_share: float) -> bool:
    """Whether an image is one of this share: a function of its path, so it stays where it is when others are added."""
    digest = hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < val_share


def leftovers(name: str, splits: Iterable[str]) -> list[str]:
    """Returns the files of an earlier run that a run with these splits would not replace."""
    return [file for file in _files(name) if file not in {OWN_FILE.format(name=name, split=split) for split in splits}]


def _files(name: str) -> list[str]:
    return [f"{name}.arrow", *(OWN_FILE.format(name=name, split=split) for split in OWN_SPLITS)]
