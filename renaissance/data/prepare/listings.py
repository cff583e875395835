"""Lists of images with their captions, in the forms that people have.

.jsonl .csv .tsv .parquet   a table; open_clip's CSV with its columns filepath and title, tabs between them
.json                       COCO's captions_*.json, or a list of {"image": path, "caption": text or texts} (ALBEF, BLIP)
.parquet                    with the images in it: bytes, or what the library `datasets` writes, a struct of bytes and path
.arrow                      what that library saves, which can also be read in place (`data.saved_datasets`)

Images that are paths alone lie below root, in whichever form.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from renaissance.core.errors import require
from renaissance.core.splits import split_of, split_or_none
from renaissance.core.untrusted import expect
from renaissance.data.arrow import open_file, require_once, require_type, valid_batches
from renaissance.data.dataset_specs import CAPTION, IMAGE, IMAGE_ID, SPLIT, Column

from .annotation_store import NO_CAPTION, plain_name, usable
from .annotations import json_items, opened
from .entries import LeftOut, Row
from .names import folders_in
from .tables import (
    CAPTION_NAMES,
    Line,
    TableColumns,
    lines_of,
    records_of,
    require_columns,
    schema_of_parquet,
    value_of,
)

_PATHS = ("path", "image", "filepath", "file_name", "image_path", "img")
_CAPTIONS = (*CAPTION_NAMES, "title", "text", "sentences")
_JSON = 'own captions are COCO\'s images and annotations, or a list of {"image": ..., "caption": ...}.'
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
        return TableColumns(paths, captions, self.separator, named=True)


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
    folders = {folder: split_or_none(folder.name) for folder in folders_in(root)}
    # A folder of the list's own split comes first, one of another never: equal names in both are other images.
    near = sorted(
        (folder for folder, split in folders.items() if split in (own, None)), key=lambda each: folders[each] != own
    )
    places = ["", *(f"{folder.name}/" for folder in near)]
    base = next((each for each in places if any(os.path.isfile(root / each / line["path"]) for line in first)), "")
    for part in (first, lines):
        for line in part:
            yield line | {"path": base + line["path"]}


def _begins_with(listing: Path) -> bytes:
    with opened(listing) as file:
        return file.read(256).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]


def _coco(listing: Path, form: Form) -> Iterator[Line]:
    names: dict[int | str, str] = {}
    for image in json_items(listing, "images.item", _JSON):
        what = f"'{listing}': an entry of images"
        expect(image, dict[str, Any], what)
        path = expect(value_of(image, (form.image_column or "file_name",), "image_column", what), str, f"{what}: image")
        names[expect(image.get("id"), int | str, f"{what}: id")] = path
    for number, entry in enumerate(json_items(listing, "annotations.item", _JSON)):
        what = f"'{listing}' annotation {number}"
        expect(entry, dict[str, Any], what)
        image = names.get(expect(entry.get("image_id"), int | str, f"{what}: image_id"))
        require(image is not None, f"{what} is of image {entry.get('image_id')!r}, which images does not list.")
        caption = value_of(entry, (form.caption_column or "caption",), "caption_column", what)
        yield Line(number=number, path=image, caption=[expect(caption, str, f"{what}: caption")], split=None)


def _list(listing: Path, form: Form) -> Iterator[Line]:
    columns = form.columns
    for number, entry in enumerate(json_items(listing, "item", _JSON)):
        what = f"'{listing}' entry {number}"
        expect(entry, dict[str, Any], what)
        path, caption = columns.path_and_caption(entry, what)
        path, caption = expect(path, str, f"{what}: image"), expect(caption, str | list[str], f"{what}: caption")
        split = expect(entry.get("split"), str | None, f"{what}: split")
        yield Line(number=number, path=path, caption=[caption] if isinstance(caption, str) else caption, split=split)


def has_images(listing: Path, form: Form) -> bool:
    """Whether a parquet file holds the images themselves."""
    return listing.suffix == ".parquet" and _image_column(listing, schema_of_parquet(listing), form) is not None


def _image_column(path: Path, schema: pa.Schema, form: Form) -> str | None:
    """The first column that holds bytes, or structs of bytes and path. Raises UserError where a name stands twice."""
    require_once(path, schema.names, (*form.columns.paths, *form.columns.captions, SPLIT.name))
    kinds = {name: schema.field(name).type for name in form.columns.paths if name in schema.names}
    return next((name for name, kind in kinds.items() if pa.types.is_struct(kind) or _is_bytes(kind)), None)


class PairFile(NamedTuple):
    """A file with images and captions in it. Attributes: path; split that its rows are of, where they name none."""

    path: Path
    split: str

    @property
    def name(self) -> str:
        """What messages call it; saved data sets have files of the same names in every split."""
        return f"{self.path.parent.name}/{self.path.name}" if self.path.suffix == ".arrow" else self.path.name


def pair_file_of(listing: Path) -> PairFile:
    """A file of which the name says the split, or train."""
    return PairFile(listing, split_of(listing.stem) or "train")


def splits_of_rows(source: PairFile, form: Form) -> list[str]:
    """The splits that the column split of a file names. It is checked to have columns of images and captions.

    Raises:
        UserError: it has not, is damaged, or a row names no split.
    """
    _columns(source.path, form)
    if SPLIT.name not in _schema(source.path).names:
        return [source.split]
    records = enumerate(_records(source.path, [SPLIT.name]))
    return list(dict.fromkeys(_split(source, number, record) for number, record in records))


def _split(source: PairFile, number: int, record: dict[str, Any]) -> str:
    named = expect(record.get(SPLIT.name), str | None, f"'{source.path}' row {number}: {SPLIT.name}")
    found = split_of(named, whole=True) if named else source.split
    require(found, f"'{source.path}' row {number} has split '{named}'; give train, val or test.")
    return found


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _schema(path: Path) -> pa.Schema:
    return schema_of_parquet(path) if path.suffix == ".parquet" else open_file(str(path), ())[0].schema


def _columns(path: Path, form: Form) -> tuple[str, str]:
    """The columns of images and captions of a file. Raises UserError where it lacks one."""
    schema = _schema(path)
    require_columns(path, schema.names, form.columns)
    image = _image_column(path, schema, form) or next(name for name in form.columns.paths if name in schema.names)
    caption = next(name for name in form.columns.captions if name in schema.names)
    of_image, of_caption = (schema.field(name).type for name in (image, caption))
    if not (pa.types.is_struct(of_image) and of_image.get_field_index("bytes") >= 0 or _is_text(of_image)):
        require_type(str(path), of_image, IMAGE._replace(source=image), schema.names)
    of_caption = of_caption.value_type if pa.types.is_dictionary(of_caption) else of_caption
    require_type(str(path), of_caption, CAPTION._replace(source=caption), schema.names)
    return image, caption


def _records(path: Path, names: list[str]) -> Iterator[dict[str, Any]]:
    """Yields column -> value of every row, in their order. Raises UserError where the file is damaged."""
    if path.suffix == ".parquet":
        yield from records_of(path, names)
        return
    columns = [Column(name, str(_schema(path).field(name).type)) for name in names]
    reader, whole, _ = open_file(str(path), ())
    for batch in valid_batches(str(path), reader, whole, columns):
        for row in range(batch.num_rows):
            yield {name: batch[name][row].as_py() for name in names}


def rows_with_images(sources: list[PairFile], form: Form, split: str, root: Path) -> Iterator[Row | LeftOut]:
    """Yields the rows of a split of files that hold images, in their order; an image that comes twice is two rows.

    Raises:
        UserError: a file is damaged, or lacks a column.
    """
    tops = [os.path.join(each, "") for each in (os.path.abspath(root), os.path.realpath(root))]
    for source in sources:
        image, caption = _columns(source.path, form)
        wanted = [image, caption, *({SPLIT.name} & {*_schema(source.path).names})]
        for number, record in enumerate(_records(source.path, wanted)):
            if _split(source, number, record) == split:
                name = f"{source.name} row {number}"
                yield _row(_image(record[image], tops, name), record[caption], name, split)


def _image(image: Any, tops: list[str], name: str) -> Any:
    """The bytes of an image, or its path below root; `tops`: what absolute paths below root begin with."""
    image = image.get("bytes") or image.get("path") if isinstance(image, dict) else image
    if not isinstance(image, str) or not image:
        return image
    below = os.path.normpath(image) if os.path.isabs(image) else image
    for top in tops:
        below = below.removeprefix(top)
    require(
        not os.path.isabs(below) and below.partition("/")[0] != os.pardir,
        f"{name}: its image is the path '{image}', which leads out of root; `save_to_disk` of the library `datasets` puts the "
        "images themselves into a data set.",
    )
    return plain_name(below)


def _row(image: Any, caption: Any, name: str, split: str) -> Row | LeftOut:
    texts = [caption] if isinstance(caption, str | None) else caption
    told = isinstance(texts, list) and all(isinstance(each, str | None) for each in texts)
    require(told, f"{name}: its caption is no text and no list of texts; give another column with caption_column=.")
    kept, others = usable(texts, name)
    if not kept:
        return others[0] if others else LeftOut(NO_CAPTION, name)
    if not image:
        return LeftOut("missing", f"{name}: it has no image")
    require(
        isinstance(image, bytes | str),
        f"{name}: its image is {type(image).__name__}; give another column with image_column=.",
    )
    return Row({IMAGE.name: image}, {CAPTION.name: kept, IMAGE_ID.name: name, SPLIT.name: split}, without=others)
