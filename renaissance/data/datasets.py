"""From names of data sets to their files, and from files to samples.

A data set is one row of `dataset_specs.DATASETS`: which files each split is made of. Splits are data, not code, so training
never reads validation and selection never reads test. Any other name stands for a user's own captions or images with
classes: `datasets=["mine"]` reads `mine_train.arrow`, `mine_val.arrow`, `mine_test.arrow`, or `mine.arrow` for training
alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from renaissance.core.errors import UserError, first_line, require, suggest
from renaissance.core.splits import split_or_none

from .arrow import dataset_of, some, texts_in
from .dataset_specs import (
    CAPTION_COLUMNS,
    CAPTIONS,
    DATASETS,
    OWN_FILE,
    OWN_IMAGES_NAME,
    OWN_NAME,
    OWN_SPLITS,
    SHARD,
    SPLIT,
    Column,
    DatasetSpec,
    caption_columns,
    file_pattern,
)
from .pairs import PairDataset
from .samples import SampleDataset
from .saved_datasets import SavedDataset, is_saved, is_saved_folder, saved_dataset

# Of own data, by kind of sample.
OWN_LAYOUTS = {DATASETS[name].sample_kind: DATASETS[name] for name in (OWN_NAME, OWN_IMAGES_NAME)}


def open_pairs(
    names: Sequence[str],
    split: str,
    data_root: str | os.PathLike,
    *,
    first: Iterable[str] = (),
    allow_missing_shards: bool = False,
    image_column: str | None = None,
    caption_column: str | None = None,
) -> PairDataset | None:
    """Opens one split of a mix of data sets of captions, concatenated in the order of the names.

    Args:
        names: keys of `dataset_specs.DATASETS` of captions, or names of own captions; what `datasets` has saved by its folder
            or its name of the Hub (`saved_datasets`).
        split: "train", "val" or "test". Training leaves out repeated and empty captions, evaluation keeps all.
        data_root: the folder of the arrow files.
        first: those of `first_datasets`, of which training reads what is not of the mix, behind it.
        allow_missing_shards: whether shard numbers may be missing before the highest one found.
        image_column, caption_column: what own captions call these columns; None = image, caption.

    Returns:
        The pairs, or None where no data set of the mix has this split (the caller says so).

    Raises:
        UserError: no data set, an unknown one, one named twice, one of other things than captions; data_root or a file
            is missing (expected and found are listed); a file cannot be used.
    """
    settings, folder = {"datasets": list(names), "first_datasets": list(first)}, os.fspath(data_root)
    mix = settings["datasets"]
    require(mix, f"datasets=[] is empty; name at least one of {', '.join(_names_of(CAPTIONS))} or your own captions.")
    for setting, named in settings.items():
        twice = sorted({name for name in named if named.count(name) > 1})
        require(not twice, f"{setting} names {', '.join(twice)} more than once; each data set counts once.")
    of = {name: setting for setting, named in reversed(settings.items()) for name in named}
    columns = own_columns([*of], image_column, caption_column)
    names = [*mix, *(name for name in of if name not in mix and split == "train")]
    specs = {name: _spec(name, CAPTIONS, of[name]) for name in names}
    found = set() if all(map(is_saved, names)) else arrow_names(folder, names)
    parts, missing = {}, []
    for name, spec in specs.items():
        try:
            parts[name] = _files(name, spec, split, folder, found, allow_missing_shards)
        except _Missing as error:
            missing.append((of[name], str(error)))
    if missing:
        setting, sentence = missing[0]
        present = [name for name in settings[setting] if name in parts]
        listed = json.dumps(present, ensure_ascii=False, separators=(",", ":"))
        advice = f" To go on with what is there, give {setting}='{listed}'." if present else ""
        raise UserError(f"{'' if setting == 'datasets' else setting + ': '}{sentence}{advice}")
    files = [(name, file) for name, part in parts.items() for file in part.files]
    if not files:
        return None
    owners: dict[str, str] = {}
    for name, file in files:
        owner = owners.setdefault(os.path.realpath(os.path.join(folder, file)), name)
        both = " and ".join(sorted({of[owner], of[name]})) + (" names" if of[owner] == of[name] else " name")
        require(owner == name, f"{both} '{owner}' and '{name}', which are one; each data set counts once.")
    own = {name: columns for name in names if name not in named_specs()}
    pairs = PairDataset(folder, files, training=split == "train", own_columns=own)
    pairs.missing_shards = tuple(file for part in parts.values() for file in part.gaps)
    saved = {name: part.saved for name, part in parts.items() if part.saved}
    for name, each in saved.items():
        if split in each.splits:
            rows = sum(file.rows for file in pairs.describe() if file.dataset == name)
            each.splits[split].require_rows(rows, f"{of[name]} names '{name}'")
            refuse_divided(name, each.splits[split].files, split)
    lacking = [f"{name}: It has no split '{split}', so none of it is read." for name in parts if not parts[name].files]
    pairs.notes = (*(f"{name}: {each.note}" for name, each in saved.items() if each.note), *lacking)
    return pairs


def own_columns(names: Sequence[str], image_column: str | None, caption_column: str | None) -> tuple[Column, ...]:
    """Returns the columns of own captions among these data sets. Raises UserError where they are named, and none is own."""
    given = {"image_column": image_column, "caption_column": caption_column}
    idle = [f"{name}={value}" for name, value in given.items() if value and named_specs().keys() >= {*names}]
    require(not idle, f"{', '.join(idle)} names a column of own data, and datasets={[*names]} are none; leave it out.")
    return caption_columns(image_column, caption_column)


def open_samples(
    name: str, split: str, data_root: str | os.PathLike, *, sample_kind: str, images: bool = True
) -> SampleDataset:
    """Opens one split of one data set with all its columns.

    Args:
        name: a key of `dataset_specs.DATASETS`, or the name of own data.
        split: one of the data set's splits, see `splits_of`. Files of "train" must have what a model learns from.
        data_root: the folder of the arrow files.
        sample_kind: what a sample has to be, such as `dataset_specs.QUESTIONS`.
        images: False leaves them out.

    Raises:
        UserError: a data set that is unknown or of another kind, a split that it has not; data_root or a file is
            missing (expected and found are listed); a file cannot be used.
    """
    folder, spec = os.fspath(data_root), _spec(name, sample_kind)
    part = _files(name, spec, split, folder, arrow_names(folder))
    if not part.files:
        splits = ", ".join(splits_of(name, folder, sample_kind=sample_kind)) or "none"
        raise UserError(f"Data set '{name}' has no split '{split}' in data_root='{folder}'; those there are: {splits}.")
    files = [(name, file) for file in part.files]
    columns = [column for column in spec.columns if images or not column.is_image]
    samples = SampleDataset(folder, files, columns, spec.samples, training=split == "train")
    samples.older_files = tuple(part.files) if part.older else ()
    return samples


def splits_of(name: str, data_root: str | os.PathLike, *, sample_kind: str) -> tuple[str, ...]:
    """Returns the splits of a data set whose files are all there, in the order of the table.

    RefCOCO as older programs wrote it has one split "test" in the place of testA and testB.

    Args:
        name, data_root, sample_kind: as for `open_samples`.

    Raises:
        UserError: as `open_samples`, missing files and splits excepted.
    """
    folder, spec, splits = os.fspath(data_root), _spec(name, sample_kind), []
    found = set() if spec is OWN_LAYOUTS[CAPTIONS] and is_saved(name) else arrow_names(folder, [name])
    for split in dict.fromkeys([*spec.splits, *spec.older_files]):
        try:
            splits += [split] if _files(name, spec, split, folder, found, allow_missing_shards=True).files else []
        except _Missing:
            continue
    return tuple(splits)


def own_layout(columns: Collection[str], captions: Sequence[Column] = CAPTION_COLUMNS) -> DatasetSpec | None:
    """Returns the layout of own data with these columns, None where they fit none; `captions`: what captions need."""
    layouts = (OWN_LAYOUTS | {CAPTIONS: captions_layout(captions)}).values()
    needs = ({each.source or each.name for each in spec.columns if each.needed} for spec in layouts)
    return next((spec for spec, names in zip(layouts, needs, strict=True) if names <= {*columns}), None)


def captions_layout(captions: Sequence[Column]) -> DatasetSpec:
    """Returns the layout of own captions with these columns in the place of those that a reader needs."""
    spec = OWN_LAYOUTS[CAPTIONS]
    return spec._replace(columns=(*captions, *spec.columns[len(captions) :]))


def arrow_names(folder: str | os.PathLike, datasets: Iterable[str] = ()) -> set[str]:
    """Returns the names of the arrow files in a folder, in which these data sets are looked for.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return {name for name in os.listdir(folder) if name.endswith(".arrow") and name[0] != "."}
    except OSError as error:
        raise UserError(
            f"data_root='{folder}' cannot be read ({first_line(error)}); give a folder of arrow files, which "
            f"`python run.py prepare` writes{''.join(map(saved_hint, datasets))}."
        ) from None


def saved_hint(name: str) -> str:
    """Returns what to give where a name is not that of own data but of a saved data set's folder, "" elsewhere."""
    is_folder = not is_saved(name) and is_saved_folder(Path(name))
    return f" (for the folder give datasets=['./{name}'])" if is_folder else ""


def named_specs() -> dict[str, DatasetSpec]:
    """Returns the rows of the table, but not the layouts of own data, whose names are no data sets."""
    return {name: spec for name, spec in DATASETS.items() if spec not in OWN_LAYOUTS.values()}


def matching(template: str, names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Returns the names that a template of `DatasetSpec.splits` stands for, and those of shards missing before the last.

    Shards are in the order of their numbers.
    """
    matches = filter(None, map(file_pattern(template).fullmatch, names))
    shards = {int(match[1]) if match.lastindex else 0: match[0] for match in matches}
    gaps = [template.replace(SHARD, str(number)) for number in range(max(shards, default=0)) if number not in shards]
    return [shards[number] for number in sorted(shards)], gaps


class SplitFiles(NamedTuple):
    """The files of a split.

    Attributes:
        files: name of each file -> the template of `DatasetSpec.splits` that it goes by.
        older: whether the file has the name that older programs gave it.
        absent: templates of which there is no file.
        gaps: names of shards that are missing before the last one.
        saved: the data set of the library `datasets` that they are of.
    """

    files: Mapping[str, str]
    older: bool = False
    absent: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()
    saved: SavedDataset | None = None


def split_files(name: str, spec: DatasetSpec, split: str, folder: str, names: set[str]) -> SplitFiles:
    """Finds the files of a split of a data set of the table among the names in a folder, shards in the order of numbers."""
    files, absent, gaps = {}, [], []
    for template in spec.splits.get(split, ()):
        found, missing = matching(template, names)
        files |= dict.fromkeys(found, template)
        gaps += missing
        absent += [] if found else [template.replace(SHARD, "0")]
    older = spec.older_files.get(split)
    # An older name can also be the name of another data set now: our own files say what they are.
    if older in names and (absent or not files) and dataset_of(os.path.join(folder, older), name) == name:
        return SplitFiles({older: absent[0] if absent else older}, older=True)
    return SplitFiles(files, absent=tuple(absent), gaps=tuple(gaps))


class _Missing(UserError):
    """A file is not there."""


def _spec(name: str, sample_kind: str, setting: str = "datasets") -> DatasetSpec:
    """Returns the row of a data set that a setting names, or the layout that own data of this kind have."""
    spec = named_specs().get(name) or OWN_LAYOUTS.get(sample_kind)
    if spec is None or spec.sample_kind != sample_kind:
        near = suggest(name, named_specs()) if spec is None else ""
        holds = f"holds no {sample_kind}" if spec is None else f"holds {spec.sample_kind}, not {sample_kind}"
        own = [f"the name of your own {sample_kind}"] if sample_kind in OWN_LAYOUTS else []
        allowed = ", or ".join([*filter(None, [", ".join(_names_of(sample_kind))]), *own])
        raise UserError(f"{setting} names '{name}'{near}, which {holds}; give {allowed}.")
    return spec


def _names_of(sample_kind: str) -> list[str]:
    return [name for name, spec in named_specs().items() if spec.sample_kind == sample_kind]


def _files(
    name: str, spec: DatasetSpec, split: str, folder: str, found: set[str], allow_missing_shards: bool = False
) -> SplitFiles:
    """Returns the existing files of one data set and split; or raises."""
    if name not in named_specs() and spec.sample_kind == CAPTIONS and is_saved(name):
        saved = saved_dataset(name, folder)
        if split == "train" and split not in saved.splits:
            raise _Missing(
                f"Data set '{name}' has no split train, but {', '.join(saved.splits)}; to train on one, save it as "
                "DatasetDict(train=...).save_to_disk(folder)."
            )
        files = saved.splits[split].files if split in saved.splits else ()
        return SplitFiles(dict.fromkeys(map(os.path.abspath, files), ""), saved=saved)
    if name not in named_specs():
        return SplitFiles(dict.fromkeys(_own_files(name, spec.sample_kind, split, folder, found), ""))
    part = split_files(name, spec, split, folder, found)
    if part.absent:
        raise _missing(name, part.absent[0], folder, found)
    require(
        not part.gaps or allow_missing_shards,
        f"data_root='{folder}' lacks {len(part.gaps)} shards of '{name}': {some(part.gaps)}; complete them, or give "
        "allow_missing_shards=True to go without.",
    )
    return part


def _own_files(name: str, kind: str, split: str, folder: str, found: set[str]) -> tuple[str, ...]:
    """Returns the files of own data, none where this split is not there."""
    _refuse_parts(name, found)
    own, plain = {each: OWN_FILE.format(name=name, split=each) for each in OWN_SPLITS}, f"{name}.arrow"
    if plain in found:
        both = f"data_root='{folder}' holds both {plain} and {own['train']}; '{name}' must mean one of them."
        require(own["train"] not in found, both)
        own["train"] = plain
    if (split == "train" and own["train"] not in found) or not found.intersection(own.values()):
        near = suggest(name, [*_names_of(kind), OWN_NAME])
        near = (kind == CAPTIONS and saved_hint(name)) or near
        raise _missing(name, f"{own['train']} or {plain}", folder, found, near)
    return (own[split],) if own.get(split) in found else ()


def refuse_divided(name: str, files: Iterable[str], split: str) -> None:
    """Refuses a saved data set whose column `split`, which nothing but `prepare` reads, has rows of anything else."""
    words = set().union(*(texts_in(file, SPLIT) for file in files))
    others = sorted(word for word in words if split_or_none(word, whole=True) != split)
    require(
        not others,
        f"datasets names '{name}', whose column split has rows of {some(others)} among those of {split}; `python run.py "
        "prepare with dataset=captions` divides it by train, val and test; rename others, or remove the column.",
    )


def _refuse_parts(name: str, found: set[str]) -> None:
    """Refuses the name of a single file of a data set: it would train on validation or test images."""
    if os.path.basename(name) != name:
        raise UserError(f"datasets names '{name}', which is a path; give the name alone and its folder as data_root.")
    base, _, split = name.rpartition("_")
    owner = next((key for key, spec in named_specs().items() if spec.owns(f"{name}.arrow")), None)
    if owner is None and split in OWN_SPLITS and f"{name}.arrow" in found:
        owner = base
    if owner:
        raise UserError(f"datasets names '{name}', one file of the data set '{owner}'; give datasets=[\"{owner}\"].")


def _missing(name: str, expected: str, folder: str, found: set[str], near: str = "") -> _Missing:
    return _Missing(
        f"Data set '{name}'{near} needs {expected} in data_root='{folder}'; "
        f"the arrow files there are: {some(sorted(found)) or 'none'}."
    )
