"""Data sets of the library `datasets`, read in place: a folder of `save_to_disk`, or a data set of the Hub in its cache.

    folder/dataset_dict.json, folder/train/state.json, folder/train/data-00000-of-00002.arrow     a DatasetDict
    folder/state.json, folder/data-00000-of-00001.arrow                                           a Dataset: of its own split
    <cache>/owner___name/<configuration>/<version>/<hash>/name-train-00000-of-00002.arrow         load_dataset("owner/name")

All are Arrow streams; an image is a struct of bytes and path, of which the bytes are read. What `load_dataset` has put into the
cache is as many rows as its dataset_info.json says; that of `save_to_disk` still says what there were before a `filter`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from renaissance.core.errors import UserError, require, shortened
from renaissance.core.splits import split_of
from renaissance.core.untrusted import expect, parse_json, read_bytes, read_json

from .dataset_specs import LISTS, TAR

_SHARD = re.compile(r"(?!cache-)(.+?)-([\w.]+?)(?:-(\d{5})-of-(\d{5}))?\.arrow")  # cache-*.arrow is what `map` leaves
_STATE, _DICT, _INFO = "state.json", "dataset_dict.json", "dataset_info.json"


class SavedSplit(NamedTuple):
    """A split of a saved data set.

    Attributes:
        files: by path, in their order.
        rows: those that dataset_info.json notes, None = none.
        exact: whether there must be as many.
    """

    files: list[str]
    rows: int | None
    exact: bool

    def require_rows(self, found: int, what: str) -> None:
        """Refuses another number of rows than there must be; `what` begins the sentence."""
        require(
            not self.exact or self.rows in (None, found),
            f"{what}: it is not whole: {_INFO} beside {self.files[0]} says {self.rows or 0:,} rows, found are {found:,}; "
            "load it again with the library `datasets`.",
        )


class SavedDataset(NamedTuple):
    """Attributes: splits, those that are train, val and test; unread, names of the others."""

    splits: Mapping[str, SavedSplit]
    unread: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """A sentence about the splits that are not read, "" without any."""
        names = shortened(self.unread, 8)
        return f"Its splits {names} are not read: only train, val and test are, in any usual word." if names else ""


def is_saved(name: str) -> bool:
    """Whether a name of a data set is that of a folder or of the Hub."""
    return "/" in name or os.sep in name


def is_saved_folder(folder: Path) -> bool:
    """Whether `save_to_disk` wrote a folder, or `load_dataset` one of the cache."""
    cached = os.path.isfile(folder / _INFO) and any(folder.glob("*.arrow"))
    return cached or any(os.path.isfile(folder / name) for name in (_STATE, _DICT))


def saved_dataset(name: str, data_root: str) -> SavedDataset:
    """The splits of a saved data set.

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
    return read_saved(folder or _cached(name), f"datasets names '{name}'")


def read_saved(folder: Path, what: str) -> SavedDataset:
    """The splits in a folder of `save_to_disk` or of the cache; `what` begins the sentences of its errors.

    Raises:
        UserError: it is none, is not whole, or has no split that is train, val or test.
    """
    if os.path.isfile(folder / _DICT):
        about = read_json(folder / _DICT, dict[str, Any], f"{what}: {folder / _DICT}")
        splits = expect(about.get("splits"), list[str], f"{what}: splits in {_DICT}")
        wrong = [each for each in splits if Path(each).name != each]
        require(not wrong, f"{what}: its {_DICT} names splits elsewhere.")
        found = {each: state_files(folder / each, what) for each in splits}
    elif os.path.isfile(folder / _STATE):
        # Of `load_dataset(..., split="test[:50%]")` it is "test[:50%]"; of data sets made by hand it is null.
        said = str(read_json(folder / _STATE, dict[str, Any], f"{what}: {folder / _STATE}").get("_split") or "train")
        parts = {*re.findall(r"(?:^|\+)\s*(\w+)", said)} or {"train"}
        require(len(parts) == 1, f"{what}: it is of several splits ('{said}'); save each as a data set of its own.")
        found = {parts.pop(): state_files(folder, what)}
    else:
        found = _shards(folder, what)
    by_split: dict[str, SavedSplit] = {}
    for each, files in found.items():
        split = split_of(each, whole=True)
        if split is not None:
            twice = f"{what}: of its splits ({', '.join(found)}) several are {split}; save those that you want."
            require(split not in by_split, twice)
            require(files, f"{what}: its split {each} has no rows; leave that split out when you save it.")
            exact = not os.path.isfile(Path(files[0]).parent / _STATE)
            by_split[split] = SavedSplit(files, _noted_rows(Path(files[0]).parent, each, exact, what), exact)
    require(
        by_split,
        f"{what}: its splits are {shortened(found, 8) or 'none'}; none of them is train, val or test: save those that you "
        "want under these names, such as DatasetDict(train=...).save_to_disk(folder).",
    )
    return SavedDataset(by_split, tuple(each for each in found if split_of(each, whole=True) is None))


def _noted_rows(folder: Path, split: str, exact: bool, what: str) -> int | None:
    """The rows that dataset_info.json notes for a split; the file belongs to nobody's contract, so anything may be missing.

    One that cannot be read is refused where there must be as many rows; elsewhere it only informs.
    """
    about: Any = None
    if os.path.isfile(folder / _INFO):
        name = f"{what}: {folder / _INFO}"
        try:
            about = parse_json(read_bytes(folder / _INFO, name), name=name, nan_is_null=True)
        except UserError:
            if exact:
                raise
    for key in ("splits", split, "num_examples"):
        about = about.get(key) if isinstance(about, dict) else None
    return about if isinstance(about, int) and not isinstance(about, bool) else None


def state_files(folder: Path, what: str) -> list[str]:
    """The files of one split of `save_to_disk`, which are there; none where it has no rows. Raises UserError where one lacks."""
    state: dict[str, Any] = read_json(folder / _STATE, dict[str, Any], f"{what}: {folder / _STATE}")
    listed = expect(state.get("_data_files"), list[dict[str, Any]], f"{what}: _data_files in {folder / _STATE}")
    names = [expect(each.get("filename"), str, f"{what}: filename in {folder / _STATE}") for each in listed]
    absent = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    require(not absent, f"{what}: it is not whole: {shortened(absent)} of {folder} is missing.")
    return [str(folder / name) for name in names]


def _shards(folder: Path, what: str) -> dict[str, list[str]]:
    """The files of each split of a folder of the cache."""
    found: dict[str, dict[int, str]] = {}
    counts: dict[str, int] = {}
    for path in sorted(folder.glob("*.arrow")):
        if match := _SHARD.fullmatch(path.name):
            found.setdefault(match[2], {})[int(match[3] or 0)] = str(path)
            counts[match[2]] = int(match[4] or 1)
    lists = sorted({path.suffix for path in folder.glob("*")} & {*LISTS, TAR})
    way = (
        f"; `python run.py prepare with dataset=captions root={folder}` reads {', '.join(lists)} files" if lists else ""
    )
    require(found, f"{what}: {folder} holds no data set that the library `datasets` has saved{way}.")
    for split, files in found.items():
        whole = sorted(files) == [*range(counts[split])]
        require(whole, f"{what}: it is not whole: {folder} has {len(files)} of {counts[split]} files of {split}.")
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
