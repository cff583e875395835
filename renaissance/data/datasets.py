"""From names of data sets to their files, and from files to samples.

A data set is one row of `dataset_specs.DATASETS`: which files each split is made of. Splits are data, not code, so training
never reads validation and selection never reads test. Any other name stands for a user's own captions or pictures with
classes: `datasets=["mine"]` reads `mine_train.arrow`, `mine_val.arrow`, `mine_test.arrow`, or `mine.arrow` for training
alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from renaissance.core.errors import UserError, suggest

from .arrow import dataset_of, some
from .dataset_specs import (
    CAPTIONS,
    DATASETS,
    OWN_FILE,
    OWN_IMAGES_NAME,
    OWN_NAME,
    OWN_SPLITS,
    SHARD,
    DatasetSpec,
    file_pattern,
)
from .pairs import PairDataset
from .samples import SampleDataset

SPLITS = OWN_SPLITS
_OWN = {DATASETS[name].sample_kind: DATASETS[name] for name in (OWN_NAME, OWN_IMAGES_NAME)}  # layouts of own data


def open_pairs(
    names: Sequence[str], split: str, data_root: str | os.PathLike, *, allow_missing_shards: bool = False
) -> PairDataset | None:
    """Open one split of a mix of data sets of captions, concatenated in the order of the names.

    Args:
        names: keys of `dataset_specs.DATASETS` that offer captions, or names of own captions.
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
    parts, missing = {}, None
    for name, row in rows.items():
        try:
            parts[name] = _files(name, row, split, folder, found, allow_missing_shards)
        except _Missing as error:
            missing = missing or error
    if missing and parts:  # the others are there: say how to go on with them alone
        there = json.dumps(list(parts), ensure_ascii=False, separators=(",", ":"))
        raise _Missing(f"{str(missing)[:-1]}. To go on with what is there, give datasets='{there}'.")
    if missing:
        raise missing
    files = [(name, file) for name, part in parts.items() for file in part.files]
    if not files:
        return None
    pairs = PairDataset(folder, files, training=split == "train")
    pairs.missing_shards = tuple(file for part in parts.values() for file in part.missing)
    return pairs


def open_samples(
    name: str,
    split: str,
    data_root: str | os.PathLike,
    *,
    sample_kind: str,
    training: bool | None = None,
    allow_missing_shards: bool = False,
) -> SampleDataset:
    """Open one split of one data set with all its columns.

    Args:
        name: a key of `dataset_specs.DATASETS`, or the name of own data.
        split: one of the data set's splits, see `splits_of`.
        data_root: the folder of the arrow files.
        sample_kind: what a sample has to be, such as `dataset_specs.QUESTIONS`.
        training: whether files without what a model learns from are refused; None = where the split is "train".
        allow_missing_shards: whether shard numbers may be missing before the highest one found.

    Raises:
        UserError: a data set that is unknown or offers something else, a split that it has not; data_root or a file is
            missing (expected and found are listed); a file cannot be used.
    """
    folder, row = os.fspath(data_root), _row(name, sample_kind)
    part = _files(name, row, split, folder, _listing(folder, [name]), allow_missing_shards)
    if not part.files:
        there = ", ".join(splits_of(name, folder, sample_kind=sample_kind)) or "none"
        raise UserError(f"Data set '{name}' has no split '{split}' in data_root='{folder}'; those there are: {there}.")
    training = split == "train" if training is None else training
    files = [(name, file) for file in part.files]
    samples = SampleDataset(folder, files, row.columns, row.samples, training=training)
    samples.missing_shards, samples.older = tuple(part.missing), tuple(part.older)
    return samples


def splits_of(name: str, data_root: str | os.PathLike, *, sample_kind: str) -> tuple[str, ...]:
    """Return the splits of a data set whose files are all there, in the order of the table.

    RefCOCO as older programs wrote it has one split "test" in the place of testA and testB.

    Args:
        name, data_root, sample_kind: as for `open_samples`.

    Raises:
        UserError: as `open_samples`, missing files and splits excepted.
    """
    folder, row, there = os.fspath(data_root), _row(name, sample_kind), []
    found = _listing(folder, [name])
    for split in dict.fromkeys([*row.splits, *row.older]):
        try:
            there += [split] if _files(name, row, split, folder, found, allow_missing_shards=True).files else []
        except _Missing:
            continue
    return tuple(there)


def matching(template: str, names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the names that a template of `DatasetSpec.splits` stands for, and the shards that are missing between them.

    Shards are in the order of their numbers.
    """
    matches = filter(None, map(file_pattern(template).fullmatch, names))
    if SHARD not in template:
        return [match[0] for match in matches], []
    shards = {int(match[1]): match[0] for match in matches}
    holes = [template.replace(SHARD, str(number)) for number in range(max(shards, default=0)) if number not in shards]
    return [shards[number] for number in sorted(shards)], holes


class _Missing(UserError):
    """A file is not there."""


class _Part(NamedTuple):
    """A split of one data set. Attributes: files; older, those with an older name; missing, shards that are not there."""

    files: list[str]
    older: list[str] = []
    missing: list[str] = []


def _row(name: str, sample_kind: str) -> DatasetSpec:
    """Return the row of a data set, or the layout that own data of this kind have."""
    row = _table().get(name) or _OWN.get(sample_kind)
    if row is None:
        near = suggest(name, _table())
        raise UserError(
            f"datasets names '{name}'{near}, which does not offer {sample_kind}; give {_those_of(sample_kind)}."
        )
    if row.sample_kind != sample_kind:
        own = f", or the name of your own {sample_kind}" if sample_kind in _OWN else ""
        raise UserError(
            f"datasets names '{name}', which offers {row.sample_kind}, not {sample_kind}; give {_those_of(sample_kind)}{own}."
        )
    return row


def _table() -> dict[str, DatasetSpec]:
    """All but the layouts of own data, which no name stands for."""
    return {name: row for name, row in DATASETS.items() if row not in _OWN.values()}


def _those_of(sample_kind: str) -> str:
    return ", ".join(name for name, row in _table().items() if row.sample_kind == sample_kind)


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
    if name in _table():
        return _table()[name].splits.get(split, ())
    return (OWN_FILE.format(name=name, split=split),)


def _files(name: str, row: DatasetSpec, split: str, folder: str, found: set[str], allow_missing_shards: bool) -> _Part:
    """Return the existing files of one data set and split; or raise."""
    if name not in _table():
        return _Part(_own_files(name, row.sample_kind, split, folder, found))
    older, whose = _older(name, row, split, folder, found)
    if split not in row.splits:
        return _Part(older, older)
    files, missing = [], []
    for template in row.splits[split]:
        there, holes = matching(template, found)
        if not there and older:
            return _Part(older, older)
        if not there:
            raise _missing(name, template.replace(SHARD, "0") + whose, folder, found)
        if holes and not allow_missing_shards:
            raise UserError(
                f"data_root='{folder}' lacks {len(holes)} shards of '{name}' before {there[-1]}: {some(holes)}; "
                "complete them, or give allow_missing_shards=True to go without."
            )
        files += there
        missing += holes
    return _Part(files, missing=missing)


def _older(name: str, row: DatasetSpec, split: str, folder: str, found: set[str]) -> tuple[list[str], str]:
    """Return a split's file under its older name, or why a file of that name is another's."""
    older = row.older.get(split)
    if older not in found:
        return [], ""
    dataset = dataset_of(os.path.join(folder, older), name)
    return ([older], "") if dataset == name else ([], f" ({older} is of '{dataset}')")


def _own_files(name: str, sample_kind: str, split: str, folder: str, found: set[str]) -> list[str]:
    own = {each: OWN_FILE.format(name=name, split=each) for each in SPLITS}
    _refuse_parts(name, found)
    if own["train"] in found and f"{name}.arrow" in found:
        raise UserError(
            f"data_root='{folder}' holds both {name}.arrow and {own['train']}; '{name}' must mean one of them."
        )
    if own["train"] not in found and f"{name}.arrow" in found:
        own["train"] = f"{name}.arrow"
    if split == "train" and own["train"] not in found or not found.intersection(own.values()):
        known = [*(each for each, row in _table().items() if row.sample_kind == sample_kind), OWN_NAME]
        raise _missing(name, f"{own['train']} or {name}.arrow", folder, found, suggest(name, known))
    return [own[split]] if own.get(split) in found else []


def _refuse_parts(name: str, found: set[str]) -> None:
    """Refuse a name that reaches for one file of a data set: it would train on validation or test pictures."""
    if os.path.basename(name) != name:
        raise UserError(f"datasets names '{name}', which is a path; give the name alone and its folder as data_root.")
    key = next((key for key, row in _table().items() if row.owns(f"{name}.arrow")), None)
    if key:
        raise UserError(f"datasets names '{name}', one file of the data set '{key}'; give datasets=[\"{key}\"].")
    base, _, split = name.rpartition("_")
    if split in SPLITS and f"{name}.arrow" in found:
        raise UserError(f"datasets names '{name}', the {split} split of '{base}'; give datasets=[\"{base}\"].")


def _missing(name: str, expected: str, folder: str, found: set[str], near: str = "") -> _Missing:
    return _Missing(
        f"Data set '{name}'{near} needs {expected} in data_root='{folder}'; "
        f"the arrow files there are: {some(sorted(found)) if found else 'none'}."
    )
