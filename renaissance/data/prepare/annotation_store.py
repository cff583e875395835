"""Annotations grouped by image: added in any order, read one image after the other.

They are kept in a temporary SQLite database on disk (in TMPDIR; deleted by the system even when the process is killed),
so memory stays bounded for annotation files of any size. An annotation file is read to its end before anything is
written, so a damaged one leaves no files behind.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby, repeat
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any

from renaissance.core.errors import UserError, require
from renaissance.data.dataset_specs import CAPTION, IMAGE, IMAGE_ID, SPLIT

from .entries import LeftOut, Row
from .skipped import Skipped

_SCHEMA = """
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    PRAGMA cache_size = -65536;
    CREATE TABLE images (number INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, split TEXT NOT NULL);
    CREATE TABLE texts (image INTEGER, place INTEGER, samples TEXT, PRIMARY KEY (image, place)) WITHOUT ROWID;
"""
_ROWS = "SELECT name, samples FROM images LEFT JOIN texts ON image = number WHERE split = ? ORDER BY number, place"
NO_CAPTION = "image without a caption"
MOST_TEXT = 1 << 20  # characters; a text of a million is no caption, and a few bytes of a file can stand for it


class AnnotationStore:
    """Images with their texts, by split, in the order in which they were first added.

    Args:
        noun: what a text is called where it is counted as left out.
        without: what an image without a usable text is counted as; None = "image without a <noun>".

    Attributes:
        skipped: split -> what was left out of it so far.
    """

    def __init__(self, noun: str = "caption", without: str | None = None) -> None:
        self._noun, self._without = noun, without or f"image without a {noun}"
        self._database = sqlite3.connect("", isolation_level=None)  # "" = on disk, without a name
        self._database.executescript(_SCHEMA)
        self._database.execute("BEGIN")
        self.skipped: dict[str, Skipped] = defaultdict(Skipped)

    def add(
        self,
        name: str,
        split: str,
        texts: Iterable[str],
        payloads: Iterable[Any] = repeat(None),
        *,
        once_in: Path | None = None,
    ) -> None:
        """Adds captions, or other texts, to an image.

        Empty texts, and those that are no Unicode text, are left out and counted.

        Args:
            name: its path below the root, as in the annotations.
            split: the split it belongs to; the same for all its texts.
            texts: in order; they come after those that it already has.
            payloads: what belongs to each text, given back with it: anything that JSON can say.
            once_in: the annotation file, where an image must not come twice in it.

        Raises:
            UserError: the name leaves the root, the image is there already (in another split), or the temporary disk is
                full.
        """
        name = plain_name(name)
        samples = []
        for text, payload in zip(texts, payloads, strict=False):
            fault = text_fault(text, self._noun)
            if fault is None:
                samples.append((text, payload))
            else:
                self.skipped[split].add(fault, name)
        with _explained():
            found = self._database.execute("SELECT number, split FROM images WHERE name = ?", (name,)).fetchone()
            number, known = found or (None, split)
            require(
                split == known,
                f"Image '{name}' is listed in split '{known}' and in '{split}'; it can be in one only.",
            )
            require(found is None or once_in is None, f"'{once_in}' lists '{name}' twice; give each image once.")
            if found is None:
                insert = "INSERT INTO images(name, split) VALUES (?, ?)"
                number = self._database.execute(insert, (name, split)).lastrowid
            if samples:  # together: 5.4 million texts are then 108,000 rows
                row = (number, self._database.total_changes, json.dumps(samples))
                self._database.execute("INSERT INTO texts VALUES (?, ?, ?)", row)

    def splits(self) -> dict[str, int]:
        """Returns the number of images of each split."""
        return dict(self._database.execute("SELECT split, COUNT(*) FROM images GROUP BY split ORDER BY MIN(number)"))

    def samples(self, split: str) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
        """Yields (name, [(text, payload)]) of every image of a split; the list is empty where all texts were left out."""
        with _explained():
            rows = self._database.execute(_ROWS, (split,))
            for name, group in groupby(rows, key=itemgetter(0)):
                yield name, [tuple(sample) for _, texts in group if texts is not None for sample in json.loads(texts)]

    def rows(self, split: str, row: Callable[[str, list[tuple[str, Any]]], Row | None]) -> Iterator[Row | LeftOut]:
        """Yields `row(name, samples)` of every image of a split; an image without samples, or a row, is left out."""
        for name, samples in self.samples(split):
            yield (row(name, samples) if samples else None) or LeftOut(self._without, name)

    def caption_rows(self, split: str, below: str = "") -> Iterator[Row | LeftOut]:
        """Yields the row of every image of a split, with all its captions; `below`: the folder that the names start from."""

        def row(name: str, samples: list[tuple[str, Any]]) -> Row:
            values = {CAPTION.name: [text for text, _ in samples], IMAGE_ID.name: name, SPLIT.name: split}
            return Row({IMAGE.name: below + name}, values)

        return self.rows(split, row)


def plain_name(name: str) -> str:
    """Returns an image's path below the root without "./" and "//", so that one image has one name.

    Raises:
        UserError: the name is empty, absolute, climbs with "..", or is no Unicode text.
    """
    require(
        name and "\0" not in name and is_unicode(name),
        f"Image name {name!r} is not a path below root; give one such as 'images/1.jpg'.",
    )
    path = PurePosixPath(name.replace("\\", "/"))
    require(
        not path.is_absolute() and ".." not in path.parts and name[1:3] not in (":\\", ":/"),
        f"Image name '{name}' leads out of root; names are paths below root, without '..'.",
    )
    return str(PurePosixPath(name))


def text_fault(text: str, noun: str = "caption") -> str | None:
    """Returns why a text is left out, as it is counted; None = it can be used."""
    if not text.strip():
        return f"empty {noun}"
    if len(text) > MOST_TEXT:
        return f"{noun} of more than {MOST_TEXT:,} characters"
    return None if is_unicode(text) else f"{noun} that is not Unicode text"


def usable(texts: Iterable[str | None], name: str) -> tuple[list[str], tuple[LeftOut, ...]]:
    """Returns the captions of an image that can be used, and the others as they are counted."""
    faults = [(text, text_fault(text or "")) for text in texts]
    kept = [text for text, fault in faults if fault is None]
    return kept, tuple(LeftOut(fault, name) for _, fault in faults if fault)


def is_unicode(text: str) -> bool:
    """Whether a string can be stored: JSON escapes can spell halves of surrogate pairs."""
    return text.encode(errors="ignore").decode() == text


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise UserError(
            f"The annotations do not fit the temporary folder ({error}); set the environment variable SQLITE_TMPDIR "
            "to a folder with room."
        ) from None
