"""Images in class folders, below a folder for each split or directly below the root."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from renaissance.core.errors import UserError, require, shortened
from renaissance.core.splits import split_of
from renaissance.data.dataset_specs import OWN_SPLITS

from .annotation_store import plain_name
from .annotations import opened
from .names import IMAGE_SUFFIXES, files_in, folders_in

_CLASSES_SHOWN = 20  # classes that are named in a sentence
# First bytes of the forms that are read, for files whose names do not say what they are.
_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"P5", b"P6", b"\0\0\0\x0cjP")


class LabelledImage(NamedTuple):
    """Attributes: name, unique and a path; label; content, the path below the root or (3, 32, 32) uint8 pixels."""

    name: str
    label: int
    content: str | np.ndarray


class Classes(NamedTuple):
    """Classes and images below a root.

    Attributes:
        labels: the classes, in the order of their numbers.
        images: split -> function that iterates over its images; there can be millions.
        notes: split -> sentences for the manifest: which folders were read and which were ignored.
    """

    labels: list[str]
    images: dict[str, Callable[[], Iterator[LabelledImage]]]
    notes: dict[str, list[str]]


def read_class_folders(root: Path) -> Classes:
    """Finds the classes of class folders and the images of each split.

    Raises:
        UserError: two folders for one split; folders that are neither splits nor classes; fewer than two classes, or one
            that is not in train.
    """
    places, ignored = _splits(root)
    folders: dict[str, list[Path]] = {}
    for split, place in places.items():
        within = folders_in(place)
        for inner in (inner for folder in within for inner in folders_in(folder)):
            require(
                split_of(inner.name, whole=True) in (None, split),
                f"'{inner}' is a folder of a split in one of a class, so its images would be for {split}; put the splits "
                "above: train/<class>/, val/<class>/, test/<class>/.",
            )
        folders[split] = [folder for folder in within if _has_images(folder)]
        ignored += [f"{folder.relative_to(root)}/" for folder in within if folder not in folders[split]]
        loose = sum(map(_may_be_image, files_in(place)))
        ignored += [f"{loose:,} images in {place.relative_to(root)}/ that lie in no class folder"] * (loose > 0)
    labels = sorted({plain_name(folder.name) for of in folders.values() for folder in of})
    left = f" Left alone, as no class has images there: {shortened(ignored, _CLASSES_SHOWN)}." if ignored else ""
    require(
        len(labels) > 1,
        f"root='{root}' needs at least two folders, one a class, with images in them; found "
        f"{', '.join(labels) or 'none'}.{left}",
    )
    missing = sorted(set(labels) - {folder.name for folder in folders.get("train", [])}) if "train" in places else []
    require(not missing, f"root='{root}' has no training images of {', '.join(missing[:5])}; every class needs some.")
    notes = {
        split: [f"Read from {place.relative_to(root)}/."] if place != root else [] for split, place in places.items()
    }
    notes[next(iter(places))] += [f"{len(labels):,} classes: {shortened(labels, _CLASSES_SHOWN)}.{left}"]
    images = {split: partial(_listed, root, of, labels) for split, of in folders.items()}
    return Classes(labels, images, notes)


def _splits(root: Path) -> tuple[dict[str, Path], list[str]]:
    """Returns the folder of each split (root for train if there are none), and the folders that are ignored."""
    named = {folder: split_of(folder.name, whole=True) for folder in folders_in(root)}
    # A folder named train that holds images and no folders may be a class: trains.
    splits = {folder: split for folder, split in named.items() if split and folders_in(folder)}
    places: dict[str, Path] = {}
    for folder, split in splits.items():
        other = places.get(split, folder)
        require(other is folder, f"root='{root}' has two folders for {split}, {other.name} and {folder.name}.")
        inner = folders_in(folder)  # an archive may have put the folder into one of its own name
        unpacked = len(inner) == 1 and split_of(inner[0].name, whole=True) == split
        places[split] = inner[0] if unpacked else folder
    if not places:
        return {"train": root}, []
    others = [folder for folder in named if folder not in splits]
    classes = {inner.name for place in places.values() for inner in folders_in(place)}
    strange = [
        folder.name
        for folder in others
        if (named[folder] in ("train", "val") and _has_images(folder)) or classes & {e.name for e in folders_in(folder)}
    ]
    require(
        not strange,
        f"root='{root}' has folders of splits, {', '.join(place.name for place in places.values())}, and beside them "
        f"{', '.join(strange[:5])}: which split is that? Every image is in train/<class>/, val/<class>/ or "
        "test/<class>/; rename it, or move what is not meant.",
    )
    return {split: places[split] for split in OWN_SPLITS if split in places}, [f"{folder.name}/" for folder in others]


def _has_images(folder: Path) -> bool:
    return any(map(_may_be_image, _files(folder)))


def _may_be_image(path: Path) -> bool:
    if path.suffix.lower().removeprefix(".") in IMAGE_SUFFIXES:
        return True
    try:
        with opened(path) as file:
            return file.read(16).startswith(_STARTS)
    except UserError:
        return False


def _files(folder: Path) -> Iterator[Path]:
    """Yields all files below a folder. Links are followed; each folder is visited once."""
    visited = set(folder.resolve().parents)  # a link to one is a loop
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        if place.resolve() not in visited:
            visited.add(place.resolve())
            waiting += folders_in(place)
            yield from files_in(place)


def _listed(root: Path, folders: list[Path], labels: list[str]) -> Iterator[LabelledImage]:
    for folder in folders:
        label = labels.index(folder.name)
        for file in sorted(_files(folder)):
            path = plain_name(file.relative_to(root).as_posix())
            yield LabelledImage(path, label, path)
