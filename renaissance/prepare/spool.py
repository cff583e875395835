"""Annotations on their way into files: taken in any order, given back one picture after the other.

They are kept in a temporary SQLite database on disk (in TMPDIR; deleted by the system even when the process is killed),
so memory stays bounded for annotation files of any size, and an annotation file is read to its end, and found whole,
before anything is written.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

from renaissance.errors import UserError
from renaissance.prepare.skipped import Skipped

_SCHEMA = """
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    PRAGMA cache_size = -65536;
    CREATE TABLE pictures (number INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, split TEXT NOT NULL);
    CREATE TABLE texts (picture INTEGER, place INTEGER, text TEXT, PRIMARY KEY (picture, place)) WITHOUT ROWID;
"""
_ROWS = """
    SELECT name, text FROM pictures LEFT JOIN texts ON picture = number WHERE split = ? ORDER BY number, place
"""


class Spool:
    """Pictures with their captions, by split, in the order of their first appearance."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)  # "" = on disk, without a name
        self._database.executescript(_SCHEMA)
        self._database.execute("BEGIN")
        self._texts = 0
        self._skipped: dict[str, Skipped] = {}

    def add(self, name: str, split: str, captions: Iterable[str]) -> bool:
        """Add captions to a picture.

        Empty captions, and those that are no Unicode text, are left out and counted.

        Args:
            name: its path below the root, as in the annotations.
            split: the split it belongs to; the same for all its captions.
            captions: in order; they come after those that it already has.

        Returns:
            Whether the picture is new.

        Raises:
            UserError: the name leaves the root, the picture is in another split already, or the temporary disk is full.
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
            for caption in captions:
                self._add_text(number, name, split, caption)
        return old_split is None

    def splits(self) -> dict[str, int]:
        """Return the number of pictures of each split."""
        return dict(self._database.execute("SELECT split, COUNT(*) FROM pictures GROUP BY split ORDER BY MIN(number)"))

    def skipped(self, split: str) -> Skipped:
        """Return what was left out of a split so far."""
        return self._skipped.setdefault(split, Skipped())

    def pictures(self, split: str) -> Iterator[tuple[str, list[str]]]:
        """Yield (name, captions) of every picture of a split; the list is empty where all captions were left out."""
        current, captions = None, []
        with _database_errors():
            for name, text in self._database.execute(_ROWS, (split,)):
                if current is not None and name != current:
                    yield current, captions
                    captions = []
                current = name
                if text is not None:
                    captions.append(text)
        if current is not None:
            yield current, captions

    def _find(self, name: str) -> tuple[int | None, str | None]:
        found = self._database.execute("SELECT number, split FROM pictures WHERE name = ?", (name,)).fetchone()
        return found or (None, None)

    def _add_text(self, number: int, name: str, split: str, caption: str) -> None:
        if not caption.strip():
            self.skipped(split).add("empty caption", name)
        elif not is_unicode(caption):
            self.skipped(split).add("caption that is not Unicode text", name)
        else:
            self._database.execute("INSERT INTO texts VALUES (?, ?, ?)", (number, self._texts, caption))
            self._texts += 1


def plain_name(name: str) -> str:
    """Return a picture's path below the root without "./" and "//", so that one picture has one name.

    Raises:
        UserError: the name is empty, absolute, climbs with "..", or is no Unicode text.
    """
    if not name or "\0" in name or not is_unicode(name):
        raise UserError(f"Picture name {name!r} is not a path below root; give one such as 'images/1.jpg'.")
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or name[1:3] in (":\\", ":/"):
        raise UserError(f"Picture name '{name}' leads out of root; names are paths below root, without '..'.")
    return str(PurePosixPath(name))


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
    except sqlite3.OperationalError as error:
        raise UserError(
            f"The annotations do not fit the temporary folder ({error}); set the environment variable SQLITE_TMPDIR "
            "to a folder with room."
        ) from None
