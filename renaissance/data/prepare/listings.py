"""Lists of images with their captions, in the forms that people have.

.jsonl .csv .tsv .parquet   a table; open_clip's CSV with its columns filepath and title, tabs between them
.json                       COCO's captions_*.json, or a list of {"image": path, "caption": text or texts} (ALBEF, BLIP)
.parquet                    with the images in it: bytes, or what the library `datasets` writes, a struct of bytes and path
.arrow                      what that library saves, which can also be read in place (`data.saved_datasets`)
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from renaissance.core.errors import require
from renaissance.core.untrusted import expect
from renaissance.data.arrow import ArrowFile, check_file
from renaissance.data.dataset_specs import CAPTION, CAPTION_COLUMNS, IMAGE, IMAGE_ID, SPLIT
from renaissance.data.splits import split_of

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
    lines = _coco(listing) if _begins_with(listing) == b"{" else _list(listing, form)
    first = list(islice(lines, _PROBED))
    own = split_of(listing.stem)
    folders = {folder: split_of(folder.name) for folder in folders_in(root)}
    # A folder of the list's own split comes first, one of another never: equal names in both are other images.
    near = sorted(
        (folder for folder, split in folders.items() if split in (own, None)), key=lambda each: folders[each] != own
    )
    places = ["", *(f"{folder.name}/" for folder in near)]
    base = next((each for each in places if any((root / each / line["path"]).is_file() for line in first)), "")
    for part in (first, lines):
        for line in part:
            yield line | {"path": base + line["path"]}


def _begins_with(listing: Path) -> bytes:
    with opened(listing) as file:
        return file.read(256).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]


def _coco(listing: Path) -> Iterator[Line]:
    names: dict[Any, str] = {}
    for image in json_items(listing, "images.item"):
        what = f"'{listing}': an entry of images"
        expect(image, dict[str, Any], what)
        names[image.get("id")] = expect(image.get("file_name"), str, f"{what}: file_name")
    for number, entry in enumerate(json_items(listing, "annotations.item")):
        what = f"'{listing}' annotation {number}"
        expect(entry, dict[str, Any], what)
        image = names.get(entry.get("image_id"))
        require(image is not None, f"{what} is of image {entry.get('image_id')!r}, which images does not list.")
        yield Line(
            number=number, path=image, caption=[expect(entry.get("caption"), str, f"{what}: caption")], split=None
        )


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
    if listing.suffix != ".parquet":
        return False
    schema = schema_of_parquet(listing)
    name = next((each for each in form.columns.paths if each in schema.names), None)
    return name is not None and (pa.types.is_struct(kind := schema.field(name).type) or _is_bytes(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def rows_of_saved(files: list[Path], form: Form, split: str) -> Iterator[Row]:
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
            values = {CAPTION.name: file.value(CAPTION.name, row), IMAGE_ID.name: f"{path.name} row {row}"}
            yield Row({IMAGE.name: file.value(IMAGE.name, row)}, values | {SPLIT.name: split})


def rows_with_images(listings: list[Path], form: Form, split: str) -> Iterator[Row | LeftOut]:
    """Yields the rows of parquet files that hold images, in their order.

    Raises:
        UserError: a file is damaged, or lacks a column.
    """
    for listing in listings:
        names = schema_of_parquet(listing).names
        chosen = [next((each for each in wanted if each in names), None) for wanted in form.columns[:2]]
        here = ", ".join(names)
        require(
            None not in chosen,
            f"'{listing}' has the columns {here}; give those of images and captions with image_column= and caption_column=.",
        )
        for number, record in enumerate(records_of(listing, chosen)):
            image, caption = (record[name] for name in chosen)
            name = f"{listing.name} row {number}"
            image = image.get("bytes") or image.get("path") if isinstance(image, dict) else image
            captions = [caption] if isinstance(caption, str) else caption
            texts = isinstance(captions, list) and all(isinstance(each, str) for each in captions)
            require(texts, f"'{listing}' row {number}: {chosen[1]} is no text and no list of texts.")
            if not image:
                yield LeftOut("missing", f"{name}: it has no image")
                continue
            require(isinstance(image, (bytes, str)), f"'{listing}' row {number}: {chosen[0]} is no image.")
            yield Row({IMAGE.name: image}, {CAPTION.name: captions, IMAGE_ID.name: name, SPLIT.name: split})
