"""Images collected from the web, each with its caption: the layouts that gcc and sbu come in, cut into shards.

A split is in one of these layouts, found out from what is in the folder:

    train_annot.json         a list of [path, caption]; paths lead from root, or from images_train/
    00000.tar, 00001.tar     shards of img2dataset (key.jpg, key.txt, key.json), with or without 00000.parquet beside them
    00000/, 00000.parquet    folders of img2dataset, and what it knows of their files (columns key and caption)
    captions.csv             or .parquet, .jsonl: a table of path (from the folder that it is in) and caption

All but the list may also lie in a folder named after the split. Names of files and folders contain the split in any usual
word (`cc3m-validation-0000.tar`, `val.csv`, `dev/`); without one they are for training. Tar shards are streamed. Everything
else is first read into the annotation store: captions of a path that comes several times are put together, and nothing is written
if a listing is damaged.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from renaissance.core.errors import require
from renaissance.core.splits import split_of
from renaissance.data.dataset_specs import DATASETS, SHARD_ROWS

from .annotation_store import AnnotationStore
from .annotations import folder_of, json_items, opened
from .names import IMAGE_SUFFIXES, files_in, folders_in
from .skipped import Skipped
from .tables import SUFFIXES, columns_of, is_table, lines_of, records_of
from .tars import require_whole, tar_entries
from .writer import Download, Plan, arrow_writer, plan_file

_PROBED = 1000  # paths of a list that are tried, to find out where they start


class _Layout(NamedTuple):
    """How a split is stored.

    Attributes:
        split: which.
        what: the layout, for messages.
        files: those that list it.
        read: gives rows, listed and skipped of `Plan` for the split.
    """

    split: str
    what: str
    files: list[Path]
    read: Callable[[str], dict[str, Any]]


@arrow_writer
def make_arrow(root: Path, *, dataset: str = "gcc") -> Download:
    """Writes the shards of every split that is there, 100,000 rows a file.

    Raises:
        UserError: no split, a split in several layouts, something damaged, or a refusal of `arrow_writer`.
    """
    splits = DATASETS[dataset].splits
    layouts = _layouts(folder_of(root, "*annot.json, or what img2dataset leaves"))
    found = {split: [layout for layout in layouts if layout.split == split] for split in splits}
    for split, several in found.items():
        what = "; ".join(layout.what for layout in several)
        require(len(several) < 2, f"root='{root}' has several layouts of {split}: {what}; leave one of them there.")
    ignored = "; ".join(f"{layout.what} ({layout.split})" for layout in layouts if layout.split not in splits)
    left = [f"Left alone, as {dataset} has no such split: {ignored}."] if ignored else []
    # All are read before anything is written.
    plans = [_plan(dataset, layout, left) for several in found.values() for layout in several]
    require(
        plans,
        f"root='{root}' has none of *annot.json, *.tar, *.parquet with folders of their names, and no table of path and "
        f"caption; give the folder that has. {' '.join(left)}".strip(),
    )
    return Download(dataset, plans, max_unreadable=None)


def _plan(dataset: str, layout: _Layout, notes: list[str]) -> Plan:
    split, files = layout.split, layout.files
    names = [path.name for path in files if path.suffix != ".parquet"] or [path.name for path in files]
    which = names[0] if len(names) == 1 else f"{len(names):,} files, {names[0]} to {names[-1]}"
    return plan_file(
        dataset,
        DATASETS[dataset].splits[split][0],
        split,
        **layout.read(split),
        notes=[f"Read from {layout.what}: {which}.", *notes],
        source={"split": split, "layout": layout.what, "files": len(files), "digest": _digest(files)},
        shard_rows=SHARD_ROWS,
    )


def _layouts(root: Path) -> list[_Layout]:
    """Returns what there is of each split, by the names of files and folders."""
    found: list[_Layout] = []
    folders = {path: split_of(path.name) for path in folders_in(root)}
    for path in files_in(root):
        if path.name.endswith("annot.json"):
            split = split_of(path.stem) or "train"
            bases = ["", *(f"{folder.name}/" for folder, folder_split in folders.items() if folder_split == split)]
            found.append(_Layout(split, path.name, [path], partial(_from_list, path, bases)))
    found += _layouts_in(root, "", None)
    for folder, folder_split in folders.items():
        if folder_split:
            found += _layouts_in(folder, f"{folder.name}/", folder_split)
    return found


def _layouts_in(place: Path, below: str, folder_split: str | None) -> Iterator[_Layout]:
    files = files_in(place)
    tars = [path for path in files if path.suffix == ".tar"]
    parts = [path for path in files if path.suffix == ".parquet" and path.with_suffix("").is_dir()]
    _refuse_halves(place, tars, parts)
    for split, paths in _by_split(place, tars, folder_split).items():
        beside = [path for path in (tar.with_suffix(".parquet") for tar in paths) if path in files]
        yield _Layout(split, f"tar shards {below}*.tar", paths + beside, partial(_from_tars, paths, below))
    for split, paths in _by_split(place, parts, folder_split).items():
        yield _Layout(split, f"folders beside {below}*.parquet", paths, partial(_from_folders, paths, below))
    known = {*parts, *(path.with_suffix(".parquet") for path in tars)}
    tables = [path for path in files if path.suffix in SUFFIXES and path not in known and is_table(path)]
    for split, paths in _by_split(place, tables, folder_split).items():
        for path in paths:
            yield _Layout(split, f"table {below}{path.name}", [path], partial(_from_table, path, below))


def _by_split(place: Path, paths: list[Path], folder_split: str | None) -> dict[str, list[Path]]:
    """Groups files by the split in their names, else in their folder's name, else train."""
    found: dict[str, list[Path]] = {}
    named = {path: split_of(path.stem) for path in paths}
    unclear = [path.name for path, own in named.items() if own is None]
    require(
        folder_split or not unclear or "train" not in named.values(),
        f"'{place}' has files whose names say train, and beside them {', '.join(unclear[:5])}: which split is "
        "that? Rename it, or move it elsewhere.",
    )
    for path, own in named.items():
        require(
            not own or own == (folder_split or own),
            f"'{path}' lies in a folder of {folder_split}, but its name says {own}; move or rename it.",
        )
        found.setdefault(own or folder_split or "train", []).append(path)
    return found


def _refuse_halves(place: Path, tars: list[Path], parts: list[Path]) -> None:
    """Refuses numbered folders and parquet files without each other: img2dataset did not finish, or a part is lost."""
    whole = {path.stem for path in (*tars, *parts)}
    halves = (path for path in place.iterdir() if path.suffix == ".parquet" or (path.is_dir() and not tars))
    lost = sorted(path.name for path in halves if path.stem.isdecimal() and path.stem not in whole)
    require(
        not (whole and lost),
        f"'{place}' has {', '.join(lost[:5])} without the {'tar' if tars else 'folder or the parquet'} file that "
        "img2dataset leaves beside it; finish the download, or remove what is half.",
    )


def _from_list(path: Path, bases: list[str], split: str) -> dict[str, Any]:
    store = AnnotationStore()
    for number, entry in enumerate(json_items(path, "item")):
        is_pair = isinstance(entry, list) and [*map(type, entry)] == [str, str]
        require(is_pair, f"'{path}' entry {number} is not [path, caption].")
        store.add(entry[0], split, entry[1:])
    names = [name for name, _ in islice(store.samples(split), _PROBED)]
    below = next((base for base in bases if any((path.parent / base / name).is_file() for name in names)), "")
    return _stored(store, split, below)


def _from_table(table: Path, below: str, split: str) -> dict[str, Any]:
    store = AnnotationStore()
    for line in lines_of(table):
        require(
            not line["split"] or split_of(line["split"], whole=True) == split,
            f"'{table}' line {line['number']} is of split '{line['split']}'; expected {split} alone.",
        )
        store.add(below + line["path"], split, line["caption"])
    require(store.splits(), f"'{table}' has no captions; expected one (path, caption) a line.")
    return _stored(store, split)


def _from_folders(parquets: list[Path], below: str, split: str) -> dict[str, Any]:
    """Failed downloads are listed too, and counted as missing."""
    store = AnnotationStore()
    for parquet in parquets:
        needed = ["key", "caption"]
        require(
            set(needed) <= set(columns_of(parquet)),
            f"'{parquet}' lacks the columns key and caption that img2dataset writes.",
        )
        stems = [name.rpartition(".") for name in sorted(os.listdir(parquet.with_suffix("")))]
        suffixes = {stem: suffix for stem, _, suffix in stems if suffix.lower() in IMAGE_SUFFIXES}
        for record in records_of(parquet, needed):
            key, caption = str(record["key"]), record["caption"]
            require(isinstance(caption, str | None), f"'{parquet}' has a caption of key {key} that is no text.")
            name = f"{below}{parquet.stem}/{key}.{suffixes.get(key, IMAGE_SUFFIXES[0])}"
            store.add(name, split, [caption or ""], once_in=parquet)
    return _stored(store, split)


def _stored(store: AnnotationStore, split: str, below: str = "") -> dict[str, Any]:
    rows = store.caption_rows(split, below=below)
    return {"rows": rows, "listed": store.splits().get(split, 0), "skipped": store.skipped[split]}


def _from_tars(tars: list[Path], below: str, split: str) -> dict[str, Any]:
    for tar in tars:
        require_whole(tar)
    entries = chain.from_iterable(tar_entries(tar, f"{below}{tar.stem}/", split) for tar in tars)
    return {"rows": entries, "listed": None, "skipped": Skipped()}


def _digest(files: list[Path]) -> str:
    """Returns a digest of names, sizes and, except for tars, contents."""
    digest = hashlib.blake2b(digest_size=16)
    for path in files:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        if path.suffix != ".tar":
            with opened(path) as file:
                hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()
