"""Own captions -> <name>_{train,val,test}.arrow.

The annotations are one file of (path, caption), UTF-8:

    captions.jsonl    {"path": "photos/1.jpg", "caption": "a dog"}            one object a line
                      {"path": "photos/2.jpg", "caption": ["a cat", "sleeping"], "split": "val"}
    captions.csv      path,caption                                            with this header
                      photos/1.jpg,a dog

Paths lead from `root` to the pictures. A picture may come several times, anywhere in the file: its captions are put
together in their order. `split` is optional (train, val or test).
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from renaissance.errors import UserError
from renaissance.formats import OWN_FILE, OWN_NAME, OWN_SPLITS, PUBLIC_DATASETS
from renaissance.prepare.captioned import caption_plan, folder_of
from renaissance.prepare.spool import Spool
from renaissance.prepare.writer import check_options, is_share, write_files

_SUFFIXES = (".jsonl", ".csv")


class _Line(NamedTuple):
    number: int
    path: Any
    caption: Any
    split: Any


def make_arrow(
    root: str | os.PathLike,
    dataset_root: str | os.PathLike,
    *,
    name: str = OWN_NAME,
    annotations: str | None = None,
    val_share: float = 0.0,
    workers: int | None = None,
    max_unreadable: float | None = 0.01,
) -> list[dict[str, Any]]:
    """Write one file for each split that has pictures.

    Args:
        root: the folder that the paths start from.
        dataset_root: the folder to write to.
        name: the data set's name, as later given to `datasets=[...]`.
        annotations: the annotation file, below root; None = the only .jsonl or .csv file directly in root.
        val_share: share of the pictures, chosen by a hash of their paths, that goes to val instead of train where the
            annotations name no split. A picture stays on its side when others are added.
        workers: processes that read pictures, None = one a core.
        max_unreadable: share of a file's pictures that may be unreadable or missing; None = any.

    Returns:
        The manifests of the files.

    Raises:
        UserError: a bad option, a missing or malformed annotation file (with the line), or one of the refusals of
            `write_files`.
    """
    check_options(workers, max_unreadable)
    if not is_share(val_share) or val_share == 1:
        raise UserError(f"val_share={val_share!r} must be a share of at least 0 and less than 1.")
    if (
        not isinstance(name, str)
        or not name
        or os.path.basename(name) != name
        or name.startswith(".")
        or name in PUBLIC_DATASETS
    ):
        raise UserError(
            f"name='{name}' must be a plain name such as '{OWN_NAME}' (the files are {OWN_FILE}), and none of "
            f"{', '.join(PUBLIC_DATASETS)}."
        )
    listing = _annotation_file(folder_of(root, "pictures and captions.jsonl or captions.csv"), annotations)
    spool = Spool()
    for line in _lines(listing):
        _add(spool, listing, line, val_share)
    splits = [split for split in OWN_SPLITS if split in spool.splits()]
    if not splits:
        raise UserError(f"'{listing}' has no captions; expected one (path, caption) a line.")
    _refuse_leftovers(Path(dataset_root), name, splits)
    return write_files(
        (caption_plan(spool, split, OWN_FILE.format(name=name, split=split)) for split in splits),
        root,
        dataset_root,
        source={"dataset": OWN_NAME, "root": os.fspath(root), "annotations": listing.name},
        options={"name": name, "val_share": val_share},
        workers=workers,
        max_unreadable=max_unreadable,
    )


def _annotation_file(folder: Path, annotations: str | None) -> Path:
    if annotations is not None:
        if not str(annotations).endswith(_SUFFIXES) or not (folder / annotations).is_file():
            raise UserError(f"annotations='{annotations}' is not a {' or '.join(_SUFFIXES)} file in root='{folder}'.")
        return folder / annotations
    found = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES and path.is_file())
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UserError(
            f"root='{folder}' needs one .jsonl or .csv file, found {names}; choose with annotations=<file>."
        )
    return found[0]


def _lines(listing: Path) -> Iterator[_Line]:
    try:
        with open(listing, encoding="utf-8-sig", newline="") as file:
            yield from (_json_lines if listing.suffix == ".jsonl" else _csv_lines)(listing, file)
    except OSError as error:
        raise UserError(f"'{listing}' cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise UserError(f"'{listing}' is not UTF-8 text ({error.reason} near byte {error.start}).") from None


def _json_lines(listing: Path, file: Iterator[str]) -> Iterator[_Line]:
    for number, text in enumerate(file, 1):
        if not text.strip():
            continue
        try:
            entry = json.loads(text)
        except (ValueError, RecursionError):
            raise UserError(f"'{listing}' line {number} is not JSON; expected one object a line.") from None
        if not isinstance(entry, dict):
            raise UserError(f"'{listing}' line {number} is not a JSON object with path and caption.")
        yield _Line(number, entry.get("path"), entry.get("caption"), entry.get("split"))


def _csv_lines(listing: Path, file: Iterator[str]) -> Iterator[_Line]:
    table = csv.DictReader(file, strict=True)
    try:
        missing = {"path", "caption"} - set(table.fieldnames or ())
        if missing:
            header = ",".join(table.fieldnames or ()) or "nothing"
            raise UserError(
                f"'{listing}' begins with {header}; expected the header path,caption or path,caption,split."
            )
        for entry in table:
            yield _Line(table.line_num, entry["path"], entry["caption"], entry.get("split") or None)
    except csv.Error as error:
        raise UserError(f"'{listing}' line {table.line_num} is not CSV ({error}).") from None


def _add(spool: Spool, listing: Path, line: _Line, val_share: float) -> None:
    captions = [line.caption] if isinstance(line.caption, str) else line.caption
    if (
        not isinstance(line.path, str)
        or not isinstance(captions, list)
        or not all(isinstance(c, str) for c in captions)
    ):
        raise UserError(f"'{listing}' line {line.number} needs a path and a caption, text or list of texts.")
    split = line.split if line.split is not None else "val" if _hashed_share(line.path) < val_share else "train"
    if split not in OWN_SPLITS:
        raise UserError(f"'{listing}' line {line.number} has split '{split}'; the splits are {', '.join(OWN_SPLITS)}.")
    spool.add(line.path, split, captions)


def _hashed_share(path: str) -> float:
    """Return a number in [0, 1) that depends on the path alone."""
    digest = hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _refuse_leftovers(folder: Path, name: str, splits: list[str]) -> None:
    """Refuse to leave files of an earlier run beside new ones: a picture could then be in two splits."""
    files = [f"{name}.arrow"] + [OWN_FILE.format(name=name, split=split) for split in OWN_SPLITS if split not in splits]
    left = [file for file in files if (folder / file).exists()]
    if left:
        raise UserError(
            f"data_root='{folder}' holds {', '.join(left)}, which this run would not replace and which may share "
            f"pictures with what it writes; remove it, or give another name= than '{name}'."
        )
