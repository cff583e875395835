"""The table of data sets for pretraining, and how a choice of them becomes pairs.

A data set is one row of `TABLE`: which files each split is made of. Splits are data, not code, so training never reads
validation and selection never reads test. Any other name stands for a user's own captions (columns image, caption):
`datasets=["mine"]` reads `mine_train.arrow`, `mine_val.arrow`, `mine_test.arrow`, or `mine.arrow` for training alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from renaissance.data.pairs import FileSummary, PairDataset, RawPair
from renaissance.errors import UserError, suggest
from renaissance.formats import COCO_FILE, F30K_FILE, GCC_FILE, OWN_FILE, OWN_NAME, OWN_SPLITS, SBU_FILE, VG_FILE

__all__ = ["SPLITS", "TABLE", "FileSummary", "PairDataset", "RawPair", "open_pairs"]

SPLITS = OWN_SPLITS
_SHARD = "{shard}"


def _each(template: str, *splits: str) -> tuple[str, ...]:
    return tuple(template.replace("{split}", split) for split in splits)


# data set -> split -> files; "{shard}" stands for every number that is found.
TABLE: dict[str, dict[str, tuple[str, ...]]] = {
    "coco": {
        "train": _each(COCO_FILE, "train", "restval"),
        "val": _each(COCO_FILE, "val"),
        "test": _each(COCO_FILE, "test"),
    },
    "f30k": {split: _each(F30K_FILE, split) for split in SPLITS},
    "vg": {"train": (VG_FILE,)},
    "gcc": {split: _each(GCC_FILE, split) for split in ("train", "val")},
    "sbu": {"train": (SBU_FILE,)},
}


def open_pairs(
    names: Sequence[str], split: str, data_root: str | os.PathLike, *, allow_missing_shards: bool = False
) -> PairDataset | None:
    """Open one split of a mix of data sets, concatenated in the order of the names.

    Args:
        names: keys of `TABLE`, or names of own captions.
        split: "train", "val" or "test". Training leaves out repeated and empty captions, evaluation keeps all.
        data_root: the folder of the arrow files.
        allow_missing_shards: whether shard numbers may be missing before the highest one found.

    Returns:
        The pairs, or None where no data set of the mix has this split (the caller says so).

    Raises:
        UserError: no data set, an unknown one, one named twice; data_root or a file is missing (expected and found are
            listed); a file cannot be used.
    """
    names = list(names)
    if not names:
        raise UserError(f"datasets=[] is empty; name at least one of {', '.join(TABLE)} or your own captions.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"datasets names {', '.join(twice)} more than once; each data set counts once.")
    folder = os.fspath(data_root)
    found = _listing(folder, names)
    files = [(name, file) for name in names for file in _files(name, split, folder, found, allow_missing_shards)]
    return PairDataset(folder, files, training=split == "train") if files else None


def _listing(folder: str, names: Sequence[str]) -> set[str]:
    try:
        return {name for name in os.listdir(folder) if name.endswith(".arrow")}
    except OSError as error:
        wanted = ", ".join(file for name in names for file in _templates(name, "train"))
        raise UserError(
            f"data_root='{folder}' cannot be read ({error.strerror}); expected a folder with {wanted} "
            "(`python run.py prepare` writes them)."
        ) from None


def _templates(name: str, split: str) -> tuple[str, ...]:
    if name in TABLE:
        return TABLE[name].get(split, ())
    return (OWN_FILE.format(name=name, split=split),)


def _files(name: str, split: str, folder: str, found: set[str], allow_missing_shards: bool) -> list[str]:
    """Return the existing files of one data set and split, or raise with what is missing."""
    if name not in TABLE:
        return _own_files(name, split, folder, found)
    files = []
    for template in _templates(name, split):
        if _SHARD in template:
            files += _shards(name, template, folder, found, allow_missing_shards)
        elif template in found:
            files.append(template)
        else:
            raise _missing(name, template, folder, found)
    return files


def _shards(name: str, template: str, folder: str, found: set[str], allow_missing_shards: bool) -> list[str]:
    pattern = re.compile(re.escape(template).replace(re.escape(_SHARD), "([0-9]+)"))
    numbers = {int(match[1]): match[0] for match in map(pattern.fullmatch, found) if match}
    if not numbers:
        raise _missing(name, template.replace(_SHARD, "0"), folder, found)
    holes = [template.replace(_SHARD, str(number)) for number in range(max(numbers)) if number not in numbers]
    if holes and not allow_missing_shards:
        raise UserError(
            f"data_root='{folder}' lacks {len(holes)} shards of '{name}' before {numbers[max(numbers)]}: {_some(holes)}"
            "; complete them."
        )
    return [numbers[number] for number in sorted(numbers)]


def _own_files(name: str, split: str, folder: str, found: set[str]) -> list[str]:
    own = {each: OWN_FILE.format(name=name, split=each) for each in SPLITS}
    _refuse_parts(name, found)
    if own["train"] in found and f"{name}.arrow" in found:
        raise UserError(
            f"data_root='{folder}' holds both {name}.arrow and {own['train']}; '{name}' must mean one of them."
        )
    if own["train"] not in found and f"{name}.arrow" in found:
        own = {"train": f"{name}.arrow"}
    if own["train"] not in found:
        expected = f"{own['train']} or {name}.arrow"
        raise _missing(name, expected, folder, found, suggest(name, [*TABLE, OWN_NAME]))
    return [own[split]] if own.get(split) in found else []


def _refuse_parts(name: str, found: set[str]) -> None:
    """Refuse a name that reaches for one file of a data set: it would train on validation or test pictures."""
    if os.path.basename(name) != name:
        raise UserError(f"datasets names '{name}', which is a path; give the name alone and its folder as data_root.")
    for key, splits in TABLE.items():
        for template in (template for templates in splits.values() for template in templates):
            if re.fullmatch(re.escape(template).replace(re.escape(_SHARD), "[0-9]+"), f"{name}.arrow"):
                raise UserError(
                    f"datasets names '{name}', one file of the data set '{key}'; give datasets=[\"{key}\"]."
                )
    base, _, split = name.rpartition("_")
    if split in SPLITS and f"{name}.arrow" in found:
        raise UserError(f"datasets names '{name}', the {split} split of '{base}'; give datasets=[\"{base}\"].")


def _missing(name: str, expected: str, folder: str, found: set[str], near: str = "") -> UserError:
    return UserError(
        f"Data set '{name}'{near} needs {expected} in data_root='{folder}'; "
        f"the arrow files there are: {_some(sorted(found)) if found else 'none'}."
    )


def _some(names: Sequence[str], limit: int = 8) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
