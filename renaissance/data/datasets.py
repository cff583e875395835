"""From names of data sets to their files, and from files to samples.

A data set is one row of `formats.DATASETS`: which files each split is made of. Splits are data, not code, so training
never reads validation and selection never reads test. Any other name stands for a user's own captions or pictures with
classes: `datasets=["mine"]` reads `mine_train.arrow`, `mine_val.arrow`, `mine_test.arrow`, or `mine.arrow` for training
alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from renaissance.data.arrow import metadata
from renaissance.data.pairs import PairDataset
from renaissance.data.samples import SampleDataset
from renaissance.errors import UserError, suggest
from renaissance.formats import CAPTIONS, DATASETS, OWN_FILE, OWN_IMAGES_NAME, OWN_NAME, OWN_SPLITS, DataSet

SPLITS = OWN_SPLITS
_SHARD = "{shard}"
_OWN = {DATASETS[name].offers: DATASETS[name] for name in (OWN_NAME, OWN_IMAGES_NAME)}  # layouts of own data
_TABLE = {name: row for name, row in DATASETS.items() if row not in _OWN.values()}


def open_pairs(
    names: Sequence[str], split: str, data_root: str | os.PathLike, *, allow_missing_shards: bool = False
) -> PairDataset | None:
    """Open one split of a mix of data sets of captions, concatenated in the order of the names.

    Args:
        names: keys of `formats.DATASETS` that offer captions, or names of own captions.
        split: "train", "val" or "test". Training leaves out repeated and empty captions, evaluation keeps all.
        data_root: the folder of the arrow files.
        allow_missing_shards: whether shard numbers may be missing before the highest one found.

    Returns:
        The pairs, or None where no data set of the mix has this split (the caller says so).

    Raises:
        UserError: no data set, an unknown one, one named twice, one of other things than captions; data_root or a file
            is missing (expected and found are listed); a file cannot be used.
    """
    names = list(names)
    if not names:
        raise UserError(f"datasets=[] is empty; name at least one of {_those_of(CAPTIONS)} or your own captions.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"datasets names {', '.join(twice)} more than once; each data set counts once.")
    folder = os.fspath(data_root)
    rows = {name: _row(name, CAPTIONS) for name in names}
    found = _listing(folder, names)
    files = [
        (name, file)
        for name, row in rows.items()
        for file in _files(name, row, split, folder, found, allow_missing_shards)[0]
    ]
    return PairDataset(folder, files, training=split == "train") if files else None


def open_samples(
    name: str,
    split: str,
    data_root: str | os.PathLike,
    *,
    offers: str,
    training: bool | None = None,
    allow_missing_shards: bool = False,
) -> SampleDataset:
    """Open one split of one data set with all its columns.

    Args:
        name: a key of `formats.DATASETS`, or the name of own data.
        split: one of the data set's splits, see `splits_of`.
        data_root: the folder of the arrow files.
        offers: what a sample has to be, such as `formats.QUESTIONS`.
        training: whether files without what a model learns from are refused; None = where the split is "train".
        allow_missing_shards: whether shard numbers may be missing before the highest one found.

    Raises:
        UserError: a data set that is unknown or offers something else, a split that it has not; data_root or a file is
            missing (expected and found are listed); a file cannot be used.
    """
    folder, row = os.fspath(data_root), _row(name, offers)
    files, older = _files(name, row, split, folder, _listing(folder, [name]), allow_missing_shards)
    if not files:
        there = ", ".join(splits_of(name, folder, offers=offers)) or "none"
        raise UserError(f"Data set '{name}' has no split '{split}' in data_root='{folder}'; those there are: {there}.")
    training = split == "train" if training is None else training
    pairs = [(name, file) for file in files]
    return SampleDataset(folder, pairs, row.columns, row.samples, training=training, older=older)


def splits_of(name: str, data_root: str | os.PathLike, *, offers: str) -> tuple[str, ...]:
    """Return the splits of a data set whose files are all there, in the order of the table.

    RefCOCO as older programs wrote it has one split "test" in the place of testA and testB.

    Args:
        name, data_root, offers: as for `open_samples`.

    Raises:
        UserError: as `open_samples`, missing files and splits excepted.
    """
    folder, row, there = os.fspath(data_root), _row(name, offers), []
    found = _listing(folder, [name])
    for split in dict.fromkeys([*row.splits, *row.older]):
        try:
            there += [split] if _files(name, row, split, folder, found, allow_missing_shards=True)[0] else []
        except _Missing:
            continue
    return tuple(there)


class _Missing(UserError):
    """A file is not there."""


def _row(name: str, offers: str) -> DataSet:
    """Return the row of a data set, or the layout that own data of this kind have."""
    row = _TABLE.get(name) or _OWN.get(offers)
    if row is None:
        near = suggest(name, _TABLE)
        raise UserError(f"datasets names '{name}'{near}, which does not offer {offers}; give {_those_of(offers)}.")
    if row.offers != offers:
        own = f", or the name of your own {offers}" if offers in _OWN else ""
        raise UserError(
            f"datasets names '{name}', which offers {row.offers}, not {offers}; give {_those_of(offers)}{own}."
        )
    return row


def _those_of(offers: str) -> str:
    return ", ".join(name for name, row in _TABLE.items() if row.offers == offers)


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
    if name in _TABLE:
        return _TABLE[name].splits.get(split, ())
    return (OWN_FILE.format(name=name, split=split),)


def _files(
    name: str, row: DataSet, split: str, folder: str, found: set[str], allow_missing_shards: bool
) -> tuple[list[str], list[str]]:
    """Return the existing files of one data set and split, and which of them have an older name; or raise."""
    if name not in _TABLE:
        return _own_files(name, row.offers, split, folder, found), []
    files: list[str] = []
    for template in row.splits.get(split, ()):
        if _SHARD in template:
            files += _shards(name, template, folder, found, allow_missing_shards)
        elif template in found:
            files.append(template)
        else:
            older, whose = _older(name, row, split, folder, found)
            if not older:
                raise _missing(name, template + whose, folder, found)
            return older, older
    if split in row.splits:
        return files, []
    older, _ = _older(name, row, split, folder, found)
    return older, older


def _older(name: str, row: DataSet, split: str, folder: str, found: set[str]) -> tuple[list[str], str]:
    """Return a split's file under its older name, or why a file of that name is another's."""
    older = row.older.get(split)
    if older not in found:
        return [], ""
    dataset = metadata(os.path.join(folder, older)).get("dataset", name)
    return ([older], "") if dataset == name else ([], f" ({older} is of '{dataset}')")


def _shards(name: str, template: str, folder: str, found: set[str], allow_missing_shards: bool) -> list[str]:
    pattern = re.compile(re.escape(template).replace(re.escape(_SHARD), "([0-9]+)"))
    numbers = {int(match[1]): match[0] for match in map(pattern.fullmatch, found) if match}
    if not numbers:
        raise _missing(name, template.replace(_SHARD, "0"), folder, found)
    holes = [template.replace(_SHARD, str(number)) for number in range(max(numbers)) if number not in numbers]
    if holes and not allow_missing_shards:
        raise UserError(
            f"data_root='{folder}' lacks {len(holes)} shards of '{name}' before {numbers[max(numbers)]}: {_some(holes)}"
            "; complete them, or give allow_missing_shards=True to go without."
        )
    return [numbers[number] for number in sorted(numbers)]


def _own_files(name: str, offers: str, split: str, folder: str, found: set[str]) -> list[str]:
    own = {each: OWN_FILE.format(name=name, split=each) for each in SPLITS}
    _refuse_parts(name, found)
    if own["train"] in found and f"{name}.arrow" in found:
        raise UserError(
            f"data_root='{folder}' holds both {name}.arrow and {own['train']}; '{name}' must mean one of them."
        )
    if own["train"] not in found and f"{name}.arrow" in found:
        own["train"] = f"{name}.arrow"
    if split == "train" and own["train"] not in found or not found.intersection(own.values()):
        known = [*(each for each, row in _TABLE.items() if row.offers == offers), OWN_NAME]
        raise _missing(name, f"{own['train']} or {name}.arrow", folder, found, suggest(name, known))
    return [own[split]] if own.get(split) in found else []


def _refuse_parts(name: str, found: set[str]) -> None:
    """Refuse a name that reaches for one file of a data set: it would train on validation or test pictures."""
    if os.path.basename(name) != name:
        raise UserError(f"datasets names '{name}', which is a path; give the name alone and its folder as data_root.")
    for key, row in _TABLE.items():
        for template in (*(each for files in row.splits.values() for each in files), *row.also, *row.older.values()):
            if re.fullmatch(re.escape(template).replace(re.escape(_SHARD), "[0-9]+"), f"{name}.arrow"):
                raise UserError(
                    f"datasets names '{name}', one file of the data set '{key}'; give datasets=[\"{key}\"]."
                )
    base, _, split = name.rpartition("_")
    if split in SPLITS and f"{name}.arrow" in found:
        raise UserError(f"datasets names '{name}', the {split} split of '{base}'; give datasets=[\"{base}\"].")


def _missing(name: str, expected: str, folder: str, found: set[str], near: str = "") -> _Missing:
    return _Missing(
        f"Data set '{name}'{near} needs {expected} in data_root='{folder}'; "
        f"the arrow files there are: {_some(sorted(found)) if found else 'none'}."
    )


def _some(names: Sequence[str], limit: int = 8) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
