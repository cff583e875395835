"""What the files of pictures with captions have in common: their columns, and rows out of the spool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from renaissance.errors import UserError
from renaissance.formats import CAPTION, IMAGE, IMAGE_ID, SPLIT
from renaissance.prepare.spool import Spool
from renaissance.prepare.writer import Plan, Row

SCHEMA = pa.schema(
    [
        (IMAGE.name, pa.binary()),
        (CAPTION.name, pa.list_(pa.string())),
        (IMAGE_ID, pa.string()),
        (SPLIT, pa.string()),
    ]
)


def caption_plan(
    spool: Spool, split: str, file: str, *, image_id: Callable[[str], str] = str, expected: int | None = None
) -> Plan:
    """Plan the file of one split: a row a picture, with all its captions.

    Args:
        spool: the pictures and captions.
        split: which of them.
        file: the file's name.
        image_id: what a picture's path below the root is called in the file.
        expected: pictures of the official download, if there is such a number.
    """
    return Plan(
        name=file,
        schema=SCHEMA,
        rows=_rows(spool, split, image_id),
        listed=spool.splits()[split],
        skipped=spool.skipped(split),
        texts=(CAPTION.name,),
        expected=expected,
    )


def folder_of(root: str | Path, contains: str) -> Path:
    """Return `root` as a path.

    Raises:
        UserError: it is not a folder; the sentence says what it should contain.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise UserError(f"root='{root}' is not a folder; expected one that contains {contains}.")
    return folder


def _rows(spool: Spool, split: str, image_id: Callable[[str], str]) -> Iterator[Row]:
    for name, captions in spool.pictures(split):
        if captions:
            yield Row({IMAGE.name: name}, {CAPTION.name: captions, IMAGE_ID: image_id(name), SPLIT: split})
        else:
            spool.skipped(split).add("picture without a caption", name)
