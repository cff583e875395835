"""Names of files and folders: which split they name, and which are files of the operating system."""

from __future__ import annotations

import functools
import os
import re
import unicodedata
from pathlib import Path

from renaissance.core.errors import printable, require

# Endings of the forms that are read (`pixels.IMAGE_FORMATS`); where a key has several images, the first is taken.
IMAGE_SUFFIXES = (
    *("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"),
    *("jpe", "jfif", "ppm", "pgm", "pbm", "pnm", "jp2", "j2k"),
)
_SPLIT_WORDS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "validate", "dev", "devel", "development", "eval", "evaluation", "minival"),
    "test": ("test", "testing", "tst"),
    "train and val": ("trainval",),
}
_SPLIT_OF = {word: split for split, words in _SPLIT_WORDS.items() for word in words}
# Words that may stand beside one in the name of a folder of a split: "training_set", "val images", "Test2015".
_BESIDE = frozenset(
    {"a", "b", "c", "of", "data", "dataset", "folder", "image", "images", "img", "imgs", "photos", "pictures", "pics"}
    | {"part", "set", "shard", "split"}
)
_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SYSTEM_FILES = frozenset({"__macosx", "thumbs.db", "desktop.ini", "ehthumbs.db", "@eadir", "lost+found"})


def is_system_file(name: str) -> bool:
    """Whether a name is that of a hidden file or folder, or of one that macOS or Windows creates."""
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def folders_in(place: Path) -> list[Path]:
    """Returns the folders in a folder, sorted, with links but without system folders."""
    with os.scandir(place) as entries:  # tells folders from files without a stat call for every image
        return sorted(place / entry.name for entry in entries if entry.is_dir() and not is_system_file(entry.name))


def files_in(place: Path) -> list[Path]:
    """Returns everything else in a folder, sorted, without system files; a pipe is refused when it is opened."""
    with os.scandir(place) as entries:
        return sorted(place / entry.name for entry in entries if not entry.is_dir() and not is_system_file(entry.name))


@functools.lru_cache
def split_of(name: str, *, whole: bool = False) -> str | None:
    """Returns the split that a name contains (train, val or test, in any usual word and spelling), or None.

    All readers use this function, so that no validation set is read as training because of its name.

    Args:
        name: of a file (without what follows its last dot), a folder, or a split in a table.
        whole: only if it contains nothing else: "test_set" is a split, "test tube" may be a class.

    Raises:
        UserError: it contains two splits.
    """
    words = re.findall(r"[^\W\d_]+", unicodedata.normalize("NFC", name))
    words = [part.lower() for word in words for part in (_CAMEL.findall(word) if word.isascii() else [word])]
    found = {_SPLIT_OF[word] for word in words if word in _SPLIT_OF}
    if whole and any(word not in _SPLIT_OF and word not in _BESIDE for word in words):
        return None
    require(
        len(found) < 2 and "train and val" not in found,
        f"'{printable(name)}' says {' and '.join(sorted(found))}: it has to be of one split; rename or divide it.",
    )
    return next(iter(found), None)
