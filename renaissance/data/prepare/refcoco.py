"""RefCOCO, RefCOCO+, RefCOCOg -> {variant}_{split_by}_{split}.arrow: a row a reference, which is one object.

Raw layout below `root`, of the `refer` collection (Yu et al., ECCV 2016; Mao et al., CVPR 2016): `<variant>/refs(<split_by>).p`
or, with the same content, `refs(<split_by>).json`; `<variant>/instances.json`; COCO's images in `images/mscoco/train2014/`.

The candidates of a reference are all annotated objects of its image, in the order of their numbers: the boxes are
ground truth, none is detected. Its texts are the refs' "sent", the lower-case form without punctuation, not "raw".
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypedDict

from renaissance.core.errors import require
from renaissance.core.plain_pickle import read_plain_pickle
from renaissance.core.untrusted import INT64, expect
from renaissance.data.dataset_specs import REFCOCO_FILE

from .annotation_store import plain_name, text_fault
from .annotations import fields, folder_of, json_items
from .entries import rescaled_boxes, shows_some
from .skipped import Skipped
from .writer import Download, LeftOut, Plan, Row, arrow_writer, plan_file

IMAGES = "images/mscoco/train2014"
# Who split each variant, the usual one first; refcocog_google is a data set of its own when it is read.
SPLIT_BY = {
    "refcoco": ("unc", "google"),
    "refcoco+": ("unc",),
    "refcocog": ("umd", "google"),
    "refcocog_google": ("google",),
}
_SPLITS = {"unc": ("train", "val", "testA", "testB"), **dict.fromkeys(("umd", "google"), ("train", "val", "test"))}


class _Expression(TypedDict):
    sent: str


Box = tuple[float, ...]  # x, y, width, height in pixels


class _Reference(NamedTuple):
    """One object with its expressions, as the refs file has it."""

    ref_id: int
    ann_id: int
    image_id: int
    sentences: list[str]


class _Image(NamedTuple):
    """What instances.json says of an image. Attributes: file; width and height, infinite where unknown; boxes, by ann_id."""

    file: str
    width: float
    height: float
    boxes: dict[int, Box]

    def shows(self, box: Box) -> bool:
        """Whether some of a box lies inside the image."""
        return shows_some(box, self.width, self.height)


@arrow_writer
def make_arrow(root: Path, *, dataset: str = "refcoco", split_by: str | None = None) -> Download:
    """Writes a file for each split of one variant, references in the order of the refs file.

    Boxes are kept as the annotations have them, over the border or thinner than a pixel, because every candidate counts
    in the metric. A reference is left out if nothing of its own box is inside the image.

    Args:
        root: as for every `make_arrow`.
        dataset: key of `SPLIT_BY`.
        split_by: who split it; None = unc, for refcocog umd.

    Raises:
        UserError: a bad option; a missing, damaged or malformed file; a reference, image or object twice; an unknown
            split; or one of the refusals of `arrow_writer`.
    """
    split_by = split_by or SPLIT_BY[dataset][0]
    allowed = " or ".join(SPLIT_BY[dataset])
    require(split_by in SPLIT_BY[dataset], f"split_by='{split_by}' does not exist for {dataset}; give {allowed}.")
    variant = dataset.removesuffix("_google")
    folder = folder_of(root, f"{variant}/ and {IMAGES}/") / variant
    refs = _refs_file(folder, split_by)
    references = _references(refs, _SPLITS[split_by])
    images = _images(folder / "instances.json", {each.image_id for of in references.values() for each in of})
    plans = [_plan(variant, split_by, split, of, images) for split, of in references.items()]
    return Download(variant, plans, source={"annotations": f"{variant}/{refs.name}"}, options={"split_by": split_by})


def _refs_file(folder: Path, split_by: str) -> Path:
    names = [f"refs({split_by}).p", f"refs({split_by}).json"]
    found = [folder / name for name in names if (folder / name).exists()]
    present = ", ".join(sorted(path.name for path in folder.glob("*"))) or "nothing"
    require(found, f"'{folder}' needs {' or '.join(names)}, found {present}.")
    return found[0]


def _references(path: Path, splits: tuple[str, ...]) -> dict[str, list[_Reference]]:
    """Returns the references of each split that there is."""
    entries = expect(read_plain_pickle(path), list, f"'{path}'") if path.suffix == ".p" else json_items(path, "item")
    references: dict[str, list[_Reference]] = {split: [] for split in splits}
    seen: set[int] = set()
    for number, entry in enumerate(entries):
        where = f"'{path}' reference {number}"
        ref_id, ann_id, image_id, split, sentences = fields(
            entry, where, ref_id=INT64, ann_id=INT64, image_id=INT64, split=str, sentences=list[_Expression]
        )
        require(split in references, f"{where} has split {split!r}; the splits are {', '.join(splits)}.")
        require(ref_id not in seen, f"'{path}' lists reference {ref_id} twice; download it again.")
        seen.add(ref_id)
        references[split].append(_Reference(ref_id, ann_id, image_id, [sentence["sent"] for sentence in sentences]))
    require(seen, f"'{path}' lists no reference; download it again.")
    return {split: of for split, of in references.items() if of}


def _images(path: Path, wanted: set[int]) -> dict[int, _Image]:
    """Reads what instances.json says of the images that are referred to."""
    images: dict[int, _Image] = {}
    for number, entry in enumerate(json_items(path, "images.item")):
        where = f"'{path}' image {number}"
        image_id, file, *size = fields(entry, where, id=INT64, file_name=str, width=float | None, height=float | None)
        require(image_id not in images, f"'{path}' lists image {image_id} twice; download it again.")
        if image_id in wanted:
            width, height = (math.inf if side is None else side for side in size)
            images[image_id] = _Image(plain_name(file), width, height, {})
    for number, entry in enumerate(json_items(path, "annotations.item")):
        where = f"'{path}' annotation {number}"
        box_id, image_id, box = fields(entry, where, id=INT64, image_id=INT64, bbox=list[float])
        if image_id in images:
            require(len(box) == 4, f"{where} has a bbox of {len(box)} numbers, and not [x, y, width, height].")
            boxes = images[image_id].boxes
            require(box_id not in boxes, f"'{path}' lists object {box_id} twice; download it again.")
            boxes[box_id] = tuple(map(float, box))
    return images


def _plan(variant: str, split_by: str, split: str, references: list[_Reference], images: dict[int, _Image]) -> Plan:
    skipped = Skipped()
    shown = (images[image_id] for image_id in {each.image_id for each in references} & images.keys())
    odd = sum(min(box[2:]) < 1 or not image.shows(box) for image in shown for box in image.boxes.values())
    note = f"{odd:,} boxes are thinner than a pixel or outside of their image; they stay candidates."
    file, rows = (
        REFCOCO_FILE.format(variant=variant, split_by=split_by, split=split),
        _rows(references, images, skipped),
    )
    metadata, notes = {"split_by": split_by}, [note] if odd else []
    texts, listed = sum(len(each.sentences) for each in references), len(references)
    return plan_file(
        variant, file, split, rows, metadata, listed=listed, listed_texts=texts, skipped=skipped, notes=notes
    )


def _rows(references: list[_Reference], images: dict[int, _Image], skipped: Skipped) -> Iterator[Row | LeftOut]:
    for each in references:
        name, image = f"reference {each.ref_id}", images.get(each.image_id)
        faults = [text_fault(text, "expression") for text in each.sentences]
        for fault in filter(None, faults):
            skipped.add(fault, name)
        sentences = [text for text, fault in zip(each.sentences, faults, strict=True) if fault is None]
        if image is None:
            yield LeftOut("reference to an image that instances.json lacks", name)
        elif each.ann_id not in image.boxes:
            yield LeftOut("reference to an object that its image lacks in instances.json", name)
        elif not image.shows(image.boxes[each.ann_id]):
            yield LeftOut("reference to a box without area inside its image", name)
        elif not sentences:
            yield LeftOut("reference without an expression", name)
        else:
            candidates = sorted(image.boxes)
            values = {
                "sentences": sentences,
                "bboxes": [image.boxes[ann_id] for ann_id in candidates],
                "labels": candidates.index(each.ann_id),
                "image_id": each.image_id,
                "ref_id": each.ref_id,
            }
            yield Row({"image": f"{IMAGES}/{image.file}"}, values, rescaled_boxes)
