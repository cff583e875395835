"""Data sets of the library `datasets`, read in place: a folder of `save_to_disk`, or a data set of the Hub in its cache.

    folder/dataset_dict.json, folder/train/state.json, folder/train/data-00000-of-00002.arrow     a DatasetDict
    folder/state.json, folder/data-00000-of-00001.arrow                                           a Dataset: train alone
    <cache>/owner___name/<configuration>/<version>/<hash>/name-train-00000-of-00002.arrow         load_dataset("owner/name")

All are Arrow streams; an image is a struct of bytes and path, of which the bytes are read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from renaissance.core.errors import require, shortened
from renaissance.core.splits import split_of
from renaissance.core.untrusted import expect, read_json

_SHARD = re.compile(r"(.+?)-(\w+?)(?:-(\d{5})-of-(\d{5}))?\.arrow")
_STATE, _DICT = "state.json", "dataset_dict.json"


def is_saved(name: str) -> bool:
    """Whether a name of a data set is that of a folder or of the Hub."""
    return "/" in name or os.sep in name


def is_saved_folder(folder: Path) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    return any(os.path.isfile(folder / name) for name in (_STATE, _DICT))


def saved_files(name: str, data_root: str) -> Mapping[str, list[str]]:
    """The files of each split (train, val, test) of a saved data set, by path, in their order.

    Args:
        name: a folder, absolute, or below the current one or data_root; or owner/name of the Hub.

    Raises:
        UserError: there is none, or it is not whole.
    """
    places = [Path(os.path.expanduser(name)), Path(data_root) / name]
    folder = next(filter(os.path.isdir, places), None)
    beside = [each for place in places if os.path.isdir(place.parent) for each in os.listdir(place.parent)]
    is_file = any(each.startswith(Path(name).name) and each.endswith(".arrow") for each in beside) and folder is None
    require(not is_file, f"datasets names '{name}', which is a path; give the name alone and its folder as data_root.")
    folder, what = folder or _cached(name), f"datasets names '{name}'"
    if os.path.isfile(folder / _DICT):
        splits = expect(
            read_json(folder / _DICT, dict[str, Any]).get("splits"), list[str], f"{what}: splits in {_DICT}"
        )
        wrong = [each for each in splits if Path(each).name != each]
        require(not wrong, f"{what}, whose {_DICT} names splits elsewhere.")
        found = {each: _state_files(folder / each, what) for each in splits}
    elif os.path.isfile(folder / _STATE):
        found = {"train": _state_files(folder, what)}
    else:
        found = _shards(folder, what)
    by_split: dict[str, list[str]] = {}
    for each, files in found.items():
        split = split_of(each, whole=True)
        if split is not None:
            twice = f"{what}, of whose splits ({', '.join(found)}) several are {split}; save those that you want."
            require(split not in by_split, twice)
            by_split[split] = files
    require(by_split, f"{what}, whose splits are {shortened(found, 8)}; none of them is train, val or test.")
    return by_split


def _state_files(folder: Path, what: str) -> list[str]:
    """The files of one split of `save_to_disk`."""
    state: dict[str, Any] = read_json(folder / _STATE, dict[str, Any], f"{what}: {folder / _STATE}")
    listed = expect(state.get("_data_files"), list[dict[str, Any]], f"{what}: _data_files in {folder / _STATE}")
    names = [expect(each.get("filename"), str, f"{what}: filename in {folder / _STATE}") for each in listed]
    absent = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    require(names and not absent, f"{what}, which is not whole: {shortened(absent) or 'all'} of {folder} is missing.")
    return [str(folder / name) for name in names]


def _shards(folder: Path, what: str) -> dict[str, list[str]]:
    """The files of each split of a folder of the cache."""
    found: dict[str, dict[int, str]] = {}
    counts: dict[str, int] = {}
    for path in sorted(folder.glob("*.arrow")):
        if match := _SHARD.fullmatch(path.name):
            found.setdefault(match[2], {})[int(match[3] or 0)] = str(path)
            counts[match[2]] = int(match[4] or 1)
    require(found, f"{what}: {folder} holds no data set that the library `datasets` has saved.")
    for split, files in found.items():
        whole = sorted(files) == [*range(counts[split])]
        require(whole, f"{what}, which is not whole: {folder} has {len(files)} of {counts[split]} files of {split}.")
    return {split: [files[number] for number in sorted(files)] for split, files in found.items()}


def _cached(name: str) -> Path:
    """The folder of a data set of the Hub in the cache of `datasets`."""
    home = os.environ.get("HF_HOME") or os.path.join("~", ".cache", "huggingface")
    cache = Path(os.environ.get("HF_DATASETS_CACHE") or os.path.join(home, "datasets")).expanduser()
    owner, _, last = name.rpartition("/")
    last = re.sub(r"([a-z\d])([A-Z])", r"\1_\2", re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", last)).lower()
    named = cache / f"{owner.replace('/', '___')}___{last}"
    folders = sorted({path.parent for path in named.glob("*/*/*/*.arrow") if path.parent.suffix != ".incomplete"})
    advice = "give a folder of `save_to_disk`, or load it once with the library `datasets`"
    require(
        folders, f"datasets names '{name}', which is no folder and not in the cache of `datasets` ({cache}); {advice}."
    )
    several = f"datasets names '{name}', which the cache has in several forms ({shortened(folders)}); give one of them."
    require(len(folders) == 1, several)
    return folders[0]
