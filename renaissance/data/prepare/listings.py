"""Lists of images with their captions, in the forms that people have.

.jsonl .csv .tsv .parquet   a table; open_clip's CSV with its columns filepath and title, tabs between them
.json                       COCO's captions_*.json, or a list of {"image": path, "caption": text or texts} (ALBEF, BLIP)
.parquet                    with the images in it: bytes, or what the library `datasets` writes, a struct of bytes and path
.arrow                      what that library saves, which can also be read in place (`data.saved_datasets`)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from renaissance.core.errors import UserError, require
from renaissance.core.splits import split_of
from renaissance.core.untrusted import expect
from renaissance.data.arrow import ArrowFile, check_file
from renaissance.data.dataset_specs import CAPTION, CAPTION_COLUMNS, IMAGE, IMAGE_ID, SPLIT

from .annotation_store import plain_name, text_fault
from .annotations import json_items, opened
from .entries import LeftOut, Row
from .names import folders_in
from .tables import CAPTION_NAMES, Line, TableColumns, lines_of, records_of, schema_of_parquet

SUFFIXES = (".jsonl", ".csv", ".tsv", ".json", ".parquet")
_PATHS = ("path", "image", "filepath", "file_name", "image_path", "img")
_CAPTIONS = (*CAPTION_NAMES, "title", "text", "sentences")
_PROBED = 200  # paths of a list that are tried, to find out where they start


class Form(NamedTuple):
    """What the user says of a list. Attributes: image_column, caption_column; separator of a CSV; None = found out."""

    image_column: str | None = None
    caption_column: str | None = None
    separator: str | None = None

    @property
    def columns(self) -> TableColumns:
        paths = _PATHS if self.image_column is None else (self.image_column,)
        captions = _CAPTIONS if self.caption_column is None else (self.caption_column,)
        return TableColumns(paths, captions, self.separator)


def entries_of(listing: Path, form: Form, root: Path) -> Iterator[Line]:
    """Yields the entries of a list; paths lead from root.

    Raises:
        UserError: it is damaged, or no list of images with captions.
    """
    if listing.suffix != ".json":
        yield from lines_of(listing, form.columns)
        return
    lines = _coco(listing, form) if _begins_with(listing) == b"{" else _list(listing, form)
    first = list(islice(lines, _PROBED))
    own = split_of(listing.stem)
    folders = {folder: _split_of_folder(folder) for folder in folders_in(root)}
    # A folder of the list's own split comes first, one of another never: equal names in both are other images.
    near = sorted(
        (folder for folder, split in folders.items() if split in (own, None)), key=lambda each: folders[each] != own
    )
    places = ["", *(f"{folder.name}/" for folder in near)]
    base = next((each for each in places if any(os.path.isfile(root / each / line["path"]) for line in first)), "")
    for part in (first, lines):
        for line in part:
            yield line | {"path": base + line["path"]}


def _split_of_folder(folder: Path) -> str | None:
    try:
        return split_of(folder.name)
    except UserError:  # such as annotations_trainval2017
        return None


def _begins_with(listing: Path) -> bytes:
    with opened(listing) as file:
        return file.read(256).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]


def _coco(listing: Path, form: Form) -> Iterator[Line]:
    names: dict[int | str, str] = {}
    for image in json_items(listing, "images.item"):
        what = f"'{listing}': an entry of images"
        expect(image, dict[str, Any], what)
        own = form.image_column or "file_name"
        names[expect(image.get("id"), int | str, f"{what}: id")] = expect(image.get(own), str, f"{what}: {own}")
    for number, entry in enumerate(json_items(listing, "annotations.item")):
        what = f"'{listing}' annotation {number}"
        expect(entry, dict[str, Any], what)
        image = names.get(expect(entry.get("image_id"), int | str, f"{what}: image_id"))
        require(image is not None, f"{what} is of image {entry.get('image_id')!r}, which images does not list.")
        own = form.caption_column or "caption"
        caption = expect(entry.get(own), str, f"{what}: {own}")
        yield Line(number=number, path=image, caption=[caption], split=None)


def _list(listing: Path, form: Form) -> Iterator[Line]:
    columns = form.columns
    for number, entry in enumerate(json_items(listing, "item")):
        what = f"'{listing}' entry {number}"
        expect(entry, dict[str, Any], what)
        path = next((entry[name] for name in columns.paths if name in entry), None)
        caption = next((entry[name] for name in columns.captions if name in entry), None)
        path, caption = expect(path, str, f"{what}: image"), expect(caption, str | list[str], f"{what}: caption")
        split = expect(entry.get("split"), str | None, f"{what}: split")
        yield Line(number=number, path=path, caption=[caption] if isinstance(caption, str) else caption, split=split)


def has_images(listing: Path, form: Form) -> bool:
    """Whether a parquet file holds the images themselves."""
    return listing.suffix == ".parquet" and _image_column(listing, form) is not None


def _image_column(listing: Path, form: Form) -> str | None:
    """The first column that holds bytes, or structs of bytes and path."""
    schema = schema_of_parquet(listing)
    kinds = {name: schema.field(name).type for name in form.columns.paths if name in schema.names}
    return next((name for name, kind in kinds.items() if pa.types.is_struct(kind) or _is_bytes(kind)), None)


def splits_of_rows(listing: Path) -> list[str]:
    """The splits that a parquet file's column split names; those without one are of the split that its name says, or train.

    Raises:
        UserError: a row names none.
    """
    if SPLIT.name not in schema_of_parquet(listing).names:
        return [split_of_file(listing)]
    records = enumerate(records_of(listing, [SPLIT.name]))
    return list(dict.fromkeys(_split(listing, number, record) for number, record in records))


def split_of_file(listing: Path) -> str:
    """The split that a file's name says, or train."""
    return split_of(listing.stem) or "train"


def _split(listing: Path, number: int, record: dict[str, Any]) -> str:
    named = expect(record.get(SPLIT.name), str | None, f"'{listing}' row {number}: {SPLIT.name}")
    found = split_of(named, whole=True) if named else split_of_file(listing)
    require(found, f"'{listing}' row {number} has split '{named}'; give train, val or test.")
    return found


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def rows_of_saved(files: list[Path], form: Form, split: str) -> Iterator[Row | LeftOut]:
    """Yields the rows of arrow files of the library `datasets`, in their order.

    Raises:
        UserError: a file is damaged, or lacks a column.
    """
    names = {IMAGE.name: form.image_column or "", CAPTION.name: form.caption_column or ""}
    columns = [column._replace(source=names[column.name]) for column in CAPTION_COLUMNS]
    for path in files:
        _, found = check_file(str(path), columns, CAPTION.name)
        file = ArrowFile(str(path), columns, CAPTION.name)
        for row in range(found.rows):
            image, captions = (file.value(column.name, row) for column in columns)
            yield _row(image, captions, f"{path.name} row {row}", split)


def rows_with_images(listings: list[Path], form: Form, split: str) -> Iterator[Row | LeftOut]:
    """Yields the rows of a split of parquet files that hold images, in their order; an image that comes twice is two rows.

    Raises:
        UserError: a file is damaged, or lacks a column.
    """
    for listing in listings:
        names, image = schema_of_parquet(listing).names, _image_column(listing, form)
        caption = next((each for each in form.columns.captions if each in names), None)
        require(
            image and caption,
            f"'{listing}' has the columns {', '.join(names)}; give those of images and captions with image_column= and "
            "caption_column=.",
        )
        wanted = [image, caption, *({SPLIT.name} & {*names})]
        for number, record in enumerate(records_of(listing, wanted)):
            if _split(listing, number, record) == split:
                yield _row(record[image], record[caption], f"{listing.name} row {number}", split)


def _row(image: Any, caption: Any, name: str, split: str) -> Row | LeftOut:
    image = image.get("bytes") or image.get("path") if isinstance(image, dict) else image
    texts = [caption] if isinstance(caption, str | None) else caption
    told = isinstance(texts, list) and all(isinstance(each, str | None) for each in texts)
    require(told, f"{name}: its caption is no text and no list of texts.")
    kept = [each for each in texts if each and text_fault(each) is None]
    if not kept:
        return LeftOut(next((fault for each in texts if (fault := text_fault(each or ""))), "no caption"), name)
    if not image:
        return LeftOut("missing", f"{name}: it has no image")
    require(isinstance(image, (bytes, str)), f"{name}: its image is no image.")
    source = image if isinstance(image, bytes) else plain_name(image)
    return Row({IMAGE.name: source}, {CAPTION.name: kept, IMAGE_ID.name: name, SPLIT.name: split})
