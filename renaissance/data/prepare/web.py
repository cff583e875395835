"""Images collected from the web, each with its caption: the layouts that gcc and sbu come in, cut into shards.

A split is in one of these layouts, found out from what is in the folder:

    train_annot.json         a list of [path, caption]; paths lead from root, or from images_train/
    00000.tar, 00001.tar     shards of img2dataset (key.jpg, key.txt, key.json), with or without 00000.parquet beside them
    00000/, 00000.parquet    folders of img2dataset, and what it knows of their files (columns key and caption)
    captions.csv             or .parquet, .jsonl: a table of path (from the folder that it is in) and caption

All but the list may also lie in a folder called as the split. Names of files and folders say the split in any usual word
(`cc3m-validation-0000.tar`, `val.csv`, `dev/`); what says none is for training. Tar shards are streamed. Everything else is
first read into the annotation store: captions of a path that comes several times are put together, and nothing is written
if a listing is damaged.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, Unpack

from renaissance.core.errors import UserError
from renaissance.data.dataset_specs import CAPTION, DATASETS

from .annotation_store import AnnotationStore
from .annotations import folder_of, json_items, opened
from .captioned import caption_rows
from .names import IMAGE_SUFFIXES, is_litter, split_of
from .shards import write_shards
from .skipped import Skipped
from .tables import SUFFIXES, columns_of, is_table, lines_of, records_of
from .tars import require_whole, tar_entries
from .writer import LeftOut, Row, WriteOptions, check_options, schema_of

_PROBED = 1000  # paths of a list that are tried, to find out where they start


class _Layout(NamedTuple):
    """How a split lies on the disk.

    Attributes:
        what: for people.
        files: those that list it.
        read: gives a `_Listing` of them.
    """

    what: str
    files: list[Path]
    read: Callable[[], _Listing]


class _Listing(NamedTuple):
    """The arguments of `write_shards` that a layout decides."""

    rows_from: Callable[[int], Iterable[Row | LeftOut]]
    listed: int | None
    skipped: Skipped


def write_web(
    dataset: str,
    template: str,
    lists: Mapping[str, str],
    root: str | os.PathLike,
    dataset_root: str | os.PathLike,
    **writing: Unpack[WriteOptions],
) -> list[dict[str, Any]]:
    """Write the shards of every split that is there.

    Args:
        dataset: key of `dataset_specs.DATASETS`.
        template: the files' name with "{shard}", and "{split}" if there are several.
        lists: split -> its list of [path, caption], below root.
        root, dataset_root, writing: as for every `make_arrow`.

    Raises:
        UserError: a bad option, no split, a split in several layouts, something damaged, or a refusal of `write_shards`.
    """
    check_options(**writing)
    folder = folder_of(root, f"{' or '.join(lists.values())}, or what img2dataset leaves")
    layouts = _layouts(folder)
    several = {split: of for split, of in layouts.items() if len(of) > 1 and split in lists}
    for split, of in several.items():
        raise UserError(
            f"root='{folder}' has several layouts of {split}: {'; '.join(layout.what for layout in of)}; leave one of "
            "them there."
        )
    ignored = [f"{layout.what} ({split})" for split, of in layouts.items() if split not in lists for layout in of]
    left = [f"Left alone, as {dataset} has no such split: {'; '.join(ignored)}."] if ignored else []
    found = {split: layouts[split][0] for split in lists if split in layouts}
    if not found:
        raise UserError(
            f"root='{folder}' has none of {', '.join(lists.values())}, *.tar, *.parquet with folders of their names, "
            f"and no table of path and caption; give the folder that has. {' '.join(left)}".strip()
        )
    listings = {split: layout.read() for split, layout in found.items()}  # all, before anything is written
    manifests = []
    for split, layout in found.items():
        digest = {"layout": layout.what, "files": len(layout.files), "digest": _digest(layout.files)}
        manifests += write_shards(
            template.replace("{split}", split),
            root=root,
            dataset_root=dataset_root,
            schema=schema_of(DATASETS[dataset].columns, {"dataset": dataset, "split": split}),
            texts=(CAPTION.name,),
            source={"dataset": dataset, "root": os.fspath(root), "split": split, **digest},
            options={},
            notes=[_read_from(layout), *left],
            **listings[split]._asdict(),
            **writing,
        )
    return manifests


def _read_from(layout: _Layout) -> str:
    names = [path.name for path in layout.files if path.suffix != ".parquet"] or [path.name for path in layout.files]
    which = names[0] if len(names) == 1 else f"{len(names):,} files, {names[0]} to {names[-1]}"
    return f"Read from {layout.what}: {which}."


def _layouts(root: Path) -> dict[str, list[_Layout]]:
    """Return what there is of each split, by the names of files and folders."""
    found: dict[str, list[_Layout]] = {}
    folders = {
        path: split_of(path.name) for path in sorted(root.iterdir()) if path.is_dir() and not is_litter(path.name)
    }
    for path in _files(root):
        if path.name.endswith("annot.json"):
            split = split_of(path.stem) or "train"
            bases = ["", *(f"{folder.name}/" for folder, said in folders.items() if said == split)]
            found.setdefault(split, []).append(_Layout(path.name, [path], partial(_from_list, path, split, bases)))
    for place, said in ((root, None), *((folder, said) for folder, said in folders.items() if said)):
        for split, layout in _layouts_in(place, "" if place == root else f"{place.name}/", said):
            found.setdefault(split, []).append(layout)
    return found


def _files(place: Path) -> list[Path]:
    """Return all that is no folder, pipes too: who reads one says what it is."""
    with os.scandir(place) as entries:
        names = [entry.name for entry in entries if not entry.is_dir() and not is_litter(entry.name)]
    return sorted(place / name for name in names)


def _layouts_in(place: Path, below: str, said: str | None) -> Iterator[tuple[str, _Layout]]:
    files = _files(place)
    tars = [path for path in files if path.suffix == ".tar"]
    parts = [path for path in files if path.suffix == ".parquet" and path.with_suffix("").is_dir()]
    _refuse_halves(place, tars, parts)
    for split, of in _by_split(tars, said).items():
        beside = [path.with_suffix(".parquet") for path in of]
        yield (
            split,
            _Layout(
                f"tar shards {below}*.tar",
                of + [path for path in beside if path in files],
                partial(_from_tars, of, below, split),
            ),
        )
    for split, of in _by_split(parts, said).items():
        yield split, _Layout(f"folders beside {below}*.parquet", of, partial(_from_folders, of, below, split))
    known = {*parts, *(path.with_suffix(".parquet") for path in tars)}
    tables = [path for path in files if path.suffix in SUFFIXES and path not in known and is_table(path)]
    for split, of in _by_split(tables, said).items():
        for path in of:
            yield split, _Layout(f"table {below}{path.name}", [path], partial(_from_table, path, below, split))


def _by_split(paths: list[Path], said: str | None) -> dict[str, list[Path]]:
    """Sort files by the split that their names say, or else the name of their folder; train where neither does."""
    found: dict[str, list[Path]] = {}
    named = {path: split_of(path.stem) for path in paths}
    unclear = [path.name for path, own in named.items() if own is None]
    if unclear and "train" in named.values() and not said:
        raise UserError(
            f"'{paths[0].parent}' has files whose names say train, and beside them {', '.join(unclear[:5])}: which split is "
            "that? Rename it, or move it elsewhere."
        )
    for path, own in named.items():
        if own and said and own != said:
            raise UserError(f"'{path}' lies in a folder of {said}, but its name says {own}; move or rename it.")
        found.setdefault(own or said or "train", []).append(path)
    return found


def _refuse_halves(place: Path, tars: list[Path], parts: list[Path]) -> None:
    """Refuse numbered folders and parquet files that lack each other: img2dataset had not finished, or a part is lost."""
    whole = {path.stem for path in (*tars, *parts)}
    halves = (path for path in place.iterdir() if path.suffix == ".parquet" or (path.is_dir() and not tars))
    lost = sorted(path.name for path in halves if path.stem.isdecimal() and path.stem not in whole)
    if whole and lost:
        raise UserError(
            f"'{place}' has {', '.join(lost[:5])} without the {'tar' if tars else 'folder or the parquet'} file that "
            "img2dataset leaves beside it; finish the download, or remove what is half."
        )


def _from_list(path: Path, split: str, bases: list[str]) -> _Listing:
    store = AnnotationStore()
    for number, entry in enumerate(json_items(path, "item")):
        if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(text, str) for text in entry)):
            raise UserError(f"'{path}' entry {number} is not [path, caption].")
        store.add(entry[0], split, entry[1:])
    names = [name for name, _ in islice(store.images(split), _PROBED)]
    below = next((base for base in bases if any((path.parent / base / name).is_file() for name in names)), "")
    return _stored(store, split, below)


def _from_table(table: Path, below: str, split: str) -> _Listing:
    store = AnnotationStore()
    for line in lines_of(table):
        if line.split and split_of(line.split, whole=True) != split:
            raise UserError(f"'{table}' line {line.number} is of split '{line.split}'; expected {split} alone.")
        store.add(below + line.path, split, line.captions)
    if not store.splits():
        raise UserError(f"'{table}' has no captions; expected one (path, caption) a line.")
    return _stored(store, split)


def _from_folders(parquets: list[Path], below: str, split: str) -> _Listing:
    """What failed to download is listed too: its image is then found missing."""
    store = AnnotationStore()
    for parquet in parquets:
        needed = ["key", "caption"]
        if not set(needed) <= set(columns_of(parquet)):
            raise UserError(f"'{parquet}' lacks the columns key and caption that img2dataset writes.")
        stems = [name.rpartition(".") for name in sorted(os.listdir(parquet.with_suffix("")))]
        suffixes = {stem: suffix for stem, _, suffix in stems if suffix.lower() in IMAGE_SUFFIXES}
        for record in records_of(parquet, needed):
            key, caption = str(record["key"]), record["caption"]
            if not isinstance(caption, str | None):
                raise UserError(f"'{parquet}' has a caption of key {key} that is no text.")
            name = f"{below}{parquet.stem}/{key}.{suffixes.get(key, IMAGE_SUFFIXES[0])}"
            if not store.add(name, split, [caption or ""]):
                raise UserError(f"'{parquet}' lists key {key} twice; every picture stands there once.")
    return _stored(store, split)


def _stored(store: AnnotationStore, split: str, below: str = "") -> _Listing:
    return _Listing(
        lambda first: islice(caption_rows(store, split, below=below), first, None),
        store.splits().get(split, 0),
        store.skipped(split),
    )


def _from_tars(tars: list[Path], below: str, split: str) -> _Listing:
    for tar in tars:
        require_whole(tar)

    def rows_from(first: int) -> Iterator[Row | LeftOut]:
        made = chain.from_iterable(tar_entries(tar, f"{below}{tar.stem}/", split) for tar in tars)
        return (make() for make in islice(made, first, None))

    return _Listing(rows_from, None, Skipped())


def _digest(files: list[Path]) -> str:
    """Return what changes with the files: names, sizes, and contents too but for tars, which can be too long to read."""
    digest = hashlib.blake2b(digest_size=16)
    for path in files:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        if path.suffix != ".tar":
            with opened(path) as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()
