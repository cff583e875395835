"""Files and folders of a download, without those of the operating system."""

from __future__ import annotations

import os
from pathlib import Path

# Endings of the forms that are read (`pixels.IMAGE_FORMATS`); where a key has several images, the first is taken.
IMAGE_SUFFIXES = (
    *("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"),
    *("jpe", "jfif", "ppm", "pgm", "pbm", "pnm", "jp2", "j2k"),
)
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
