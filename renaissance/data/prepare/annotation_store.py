"""Annotations on their way into files: taken in any order, given back one image after the other.

They are kept in a temporary SQLite database on disk (in TMPDIR; deleted by the system even when the process is killed),
so memory stays bounded for annotation files of any size, and an annotation file is read to its end, and found whole,
before anything is written.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby, repeat
from operator import itemgetter
from pathlib import PurePosixPath
from typing import Any

from renaissance.core.errors import UserError

from .skipped import Skipped

_SCHEMA = """
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    PRAGMA cache_size = -65536;
    CREATE TABLE pictures (number INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, split TEXT NOT NULL);
    CREATE TABLE texts (picture INTEGER, place INTEGER, samples TEXT, PRIMARY KEY (picture, place)) WITHOUT ROWID;
"""
_ROWS = """
    SELECT name, samples FROM pictures LEFT JOIN texts ON picture = number WHERE split = ? ORDER BY number, place
"""

MOST_TEXT = 1 << 20  # characters; a text of a million is no caption, and a few bytes of a file can stand for it


class AnnotationStore:
    """Images with their texts, by split, in the order of their first appearance.

    Args:
        noun: what a text is called where it is counted as left out.
    """

    def __init__(self, noun: str = "caption") -> None:
        self._noun = noun
        self._database = sqlite3.connect("", isolation_level=None)  # "" = on disk, without a name
        self._database.executescript(_SCHEMA)
        self._database.execute("BEGIN")
        self._adds = 0
        self._skipped: dict[str, Skipped] = {}

    def add(self, name: str, split: str, captions: Iterable[str], payloads: Iterable[Any] | None = None) -> bool:
        """Add captions, or other texts, to an image.

        Empty texts, and those that are no Unicode text, are left out and counted.

        Args:
            name: its path below the root, as in the annotations.
            split: the split it belongs to; the same for all its captions.
            captions: in order; they come after those that it already has.
            payloads: what belongs to each text, given back with it: anything that JSON can say.

        Returns:
            Whether the image is new.

        Raises:
            UserError: the name leaves the root, the image is in another split already, or the temporary disk is full.
        """
        name = plain_name(name)
        with _database_errors():
            number, old_split = self._find(name)
            if number is None:
                number = self._database.execute(
                    "INSERT INTO pictures(name, split) VALUES (?, ?)", (name, split)
                ).lastrowid
            elif split != old_split:
                raise UserError(
                    f"Picture '{name}' is listed in split '{old_split}' and in '{split}'; it can be in one only."
                )
            samples = list(self._usable(name, split, captions, payloads))
            if samples:  # together: 5.4 million texts are then 108,000 rows
                said = json.dumps(samples)
                self._database.execute("INSERT INTO texts VALUES (?, ?, ?)", (number, self._adds, said))
                self._adds += 1
        return old_split is None

    def splits(self) -> dict[str, int]:
        """Return the number of images of each split."""
        return dict(self._database.execute("SELECT split, COUNT(*) FROM pictures GROUP BY split ORDER BY MIN(number)"))

    def skipped(self, split: str) -> Skipped:
        """Return what was left out of a split so far."""
        return self._skipped.setdefault(split, Skipped())

    def images(self, split: str) -> Iterator[tuple[str, list[str]]]:
        """Yield (name, captions) of every image of a split; the list is empty where all captions were left out."""
        for name, samples in self.samples(split):
            yield name, [text for text, _ in samples]

    def samples(self, split: str) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
        """Yield (name, [(text, payload)]) of every image of a split, as `images` does."""
        with _database_errors():
            rows = self._database.execute(_ROWS, (split,))
            for name, group in groupby(rows, key=itemgetter(0)):
                yield name, [tuple(sample) for _, said in group if said is not None for sample in json.loads(said)]

    def _find(self, name: str) -> tuple[int | None, str | None]:
        found = self._database.execute("SELECT number, split FROM pictures WHERE name = ?", (name,)).fetchone()
        return found or (None, None)

    def _usable(
        self, name: str, split: str, texts: Iterable[str], payloads: Iterable[Any] | None
    ) -> Iterator[tuple[str, Any]]:
        for text, payload in zip(texts, repeat(None) if payloads is None else payloads, strict=False):
            fault = text_fault(text, self._noun)
            if fault is None:
                yield text, payload
            else:
                self.skipped(split).add(fault, name)


def plain_name(name: str) -> str:
    """Return an image's path below the root without "./" and "//", so that one image has one name.

    Raises:
        UserError: the name is empty, absolute, climbs with "..", or is no Unicode text.
    """
    if not name or "\0" in name or not is_unicode(name):
        raise UserError(f"Picture name {name!r} is not a path below root; give one such as 'images/1.jpg'.")
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or name[1:3] in (":\\", ":/"):
        raise UserError(f"Picture name '{name}' leads out of root; names are paths below root, without '..'.")
    return str(PurePosixPath(name))


def text_fault(text: str, noun: str = "caption") -> str | None:
    """Return why a text is left out, as it is counted; None = it can be used."""
    if not text.strip():
        return f"empty {noun}"
    if len(text) > MOST_TEXT:
        return f"{noun} of more than {MOST_TEXT:,} characters"
    return None if is_unicode(text) else f"{noun} that is not Unicode text"


def is_unicode(text: str) -> bool:
    """Whether a string can be stored: JSON escapes can spell halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def _database_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise UserError(
            f"The annotations do not fit the temporary folder ({error}); set the environment variable SQLITE_TMPDIR "
            "to a folder with room."
        ) from None
