"""RefCOCO, RefCOCO+, RefCOCOg -> {variant}_{split_by}_{split}.arrow: a row a reference, which is one object.

Raw layout below `root`, of the `refer` collection (Yu et al., ECCV 2016; Mao et al., CVPR 2016): `<variant>/refs(<split_by>).p`
or, with the same content, `refs(<split_by>).json`; `<variant>/instances.json`; COCO's images in `images/mscoco/train2014/`.

The candidates of a reference are all annotated objects of its image, in the order of their numbers: the boxes are
ground truth, none is detected. Its texts are the refs' "sent", the lower-case form without punctuation, not "raw".
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Unpack

from renaissance.core.errors import UserError
from renaissance.core.plain_pickle import read_plain_pickle
from renaissance.data.dataset_specs import DATASETS, REFCOCO_FILE, UNKNOWN

from .annotation_store import plain_name, text_fault
from .annotations import folder_of, json_items
from .skipped import Skipped
from .writer import LeftOut, Plan, Row, WriteOptions, check_options, schema_of, write_files

IMAGES = "images/mscoco/train2014"
# Who split each variant, the usual one first; refcocog_google is a data set of its own when it is read.
SPLIT_BY = {
    "refcoco": ("unc", "google"),
    "refcoco+": ("unc",),
    "refcocog": ("umd", "google"),
    "refcocog_google": ("google",),
}
_SPLITS = {
    "unc": ("train", "val", "testA", "testB"),
    "umd": ("train", "val", "test"),
    "google": ("train", "val", "test"),
}

Box = tuple[float, ...]  # x, y, width, height in pixels


class _Reference(NamedTuple):
    """One object with its expressions, as the refs file has it."""

    ref_id: int
    ann_id: int
    image_id: int
    sentences: tuple[str, ...]


class _Image(NamedTuple):
    """What instances.json says of an image. Attributes: file; width and height, infinite where unknown; boxes, by ann_id."""

    file: str
    width: float
    height: float
    boxes: dict[int, Box]

    def shows(self, box: Box) -> bool:
        """Whether some of a box lies inside the image."""
        x, y, width, height = box
        return min(x + width, self.width) > max(x, 0) and min(y + height, self.height) > max(y, 0)


def make_arrow(
    root: str | os.PathLike,
    dataset_root: str | os.PathLike,
    *,
    dataset: str = "refcoco",
    split_by: str | None = None,
    **writing: Unpack[WriteOptions],
) -> list[dict[str, Any]]:
    """Write a file for each split of one variant, references in the order of the refs file.

    Boxes are kept as the annotations have them, over the border or thinner than a pixel, because every candidate counts
    in the metric. A reference is left out if nothing of its own box is inside the image.

    Args:
        root, dataset_root, writing: as for every `make_arrow`, which returns the manifests.
        dataset: the variant, refcoco, refcoco+ or refcocog.
        split_by: who split it; None = unc, for refcocog umd.

    Raises:
        UserError: a bad option; a missing, damaged or malformed file; a reference, image or object twice; an unknown
            split; or one of the refusals of `write_files`.
    """
    check_options(**writing)
    if dataset not in SPLIT_BY:
        raise UserError(f"dataset='{dataset}' is no variant of RefCOCO; the variants are {', '.join(SPLIT_BY)}.")
    split_by = split_by or SPLIT_BY[dataset][0]
    if split_by not in SPLIT_BY[dataset]:
        raise UserError(f"split_by='{split_by}' does not exist for {dataset}; give {' or '.join(SPLIT_BY[dataset])}.")
    variant = dataset.removesuffix("_google")
    folder = folder_of(root, f"{variant}/ and {IMAGES}/") / variant
    refs = _refs_file(folder, split_by)
    references = _references(refs, _SPLITS[split_by])
    images = _images(folder / "instances.json", {each.image_id for of in references.values() for each in of})
    plans = [_plan(variant, split_by, split, of, images) for split, of in references.items()]
    source = {"dataset": variant, "root": os.fspath(root), "annotations": f"{variant}/{refs.name}"}
    return write_files(plans, root, dataset_root, source=source, options={"split_by": split_by}, **writing)


def _refs_file(folder: Path, split_by: str) -> Path:
    names = [f"refs({split_by}).p", f"refs({split_by}).json"]
    found = [folder / name for name in names if (folder / name).exists()]
    if not found:
        there = ", ".join(sorted(path.name for path in folder.glob("*"))) or "nothing"
        raise UserError(f"'{folder}' needs {' or '.join(names)}, found {there}.")
    return found[0]


def _references(path: Path, splits: tuple[str, ...]) -> dict[str, list[_Reference]]:
    """Return the references of each split that there is."""
    entries = read_plain_pickle(path) if path.suffix == ".p" else json_items(path, "item")
    if not isinstance(entries, Iterable):
        raise UserError(f"'{path}' is not a list of references; is it the official file?")
    references: dict[str, list[_Reference]] = {split: [] for split in splits}
    seen: set[int] = set()
    for number, entry in enumerate(entries):
        try:
            sentences = tuple(sentence["sent"] for sentence in entry["sentences"])
            reference = _Reference(*(_id(entry[key]) for key in ("ref_id", "ann_id", "image_id")), sentences)
            split = entry["split"]
            if not all(isinstance(text, str) for text in (split, *sentences)):
                raise TypeError
        except (KeyError, TypeError):
            raise UserError(
                f"'{path}' reference {number} needs ref_id, ann_id and image_id, whole numbers, split, a text, and "
                "sentences, each with a text sent."
            ) from None
        if split not in references:
            raise UserError(f"'{path}' reference {number} has split {split!r}; the splits are {', '.join(splits)}.")
        if reference.ref_id in seen:
            raise UserError(f"'{path}' lists reference {reference.ref_id} twice; download it again.")
        seen.add(reference.ref_id)
        references[split].append(reference)
    if not seen:
        raise UserError(f"'{path}' lists no reference; download it again.")
    return {split: of for split, of in references.items() if of}


def _id(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise TypeError
    return value


def _images(path: Path, wanted: set[int]) -> dict[int, _Image]:
    """Read what instances.json says of the images that are referred to."""
    images: dict[int, _Image] = {}
    try:
        for entry in json_items(path, "images.item"):
            if _new(entry["id"], images, path) in wanted:
                size = (float(entry.get(side, math.inf)) for side in ("width", "height"))
                images[entry["id"]] = _Image(plain_name(entry["file_name"]), *size, {})
        for entry in json_items(path, "annotations.item"):
            if entry["image_id"] in images:
                box = tuple(map(float, entry["bbox"]))
                if len(box) != 4 or not all(map(math.isfinite, box)):
                    raise ValueError
                boxes = images[entry["image_id"]].boxes
                boxes[_new(entry["id"], boxes, path)] = box
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError):
        raise UserError(
            f"'{path}' is not in COCO's form: images need id and file_name, annotations id, image_id and bbox, "
            "[x, y, width, height]."
        ) from None
    return images


def _new(value: object, known: dict[int, Any], path: Path) -> int:
    if _id(value) in known:
        raise UserError(f"'{path}' lists a picture or an object with id {value} twice; download it again.")
    return value


def _plan(variant: str, split_by: str, split: str, references: list[_Reference], images: dict[int, _Image]) -> Plan:
    name, skipped = REFCOCO_FILE.format(variant=variant, split_by=split_by, split=split), Skipped()
    shown = (images[image_id] for image_id in {each.image_id for each in references} & images.keys())
    odd = sum(min(box[2:]) < 1 or not image.shows(box) for image in shown for box in image.boxes.values())
    return Plan(
        name=name,
        schema=schema_of(DATASETS[variant].columns, {"dataset": variant, "split": split, "split_by": split_by}),
        rows=_rows(references, images, skipped),
        listed=len(references),
        skipped=skipped,
        texts=("sentences",),
        expected=next((row.expected[name] for row in DATASETS.values() if name in row.expected), UNKNOWN),
        listed_texts=sum(len(each.sentences) for each in references),
        notes=[f"{odd:,} boxes are thinner than a pixel or outside of their picture; they stay candidates."]
        * (odd > 0),
    )


def _rows(references: list[_Reference], images: dict[int, _Image], skipped: Skipped) -> Iterator[Row | LeftOut]:
    for each in references:
        name, image = f"reference {each.ref_id}", images.get(each.image_id)
        faults = [text_fault(text, "expression") for text in each.sentences]
        for fault in filter(None, faults):
            skipped.add(fault, name)
        sentences = [text for text, fault in zip(each.sentences, faults, strict=True) if fault is None]
        if image is None:
            yield LeftOut("reference to a picture that instances.json lacks", name)
        elif each.ann_id not in image.boxes:
            yield LeftOut("reference to an object that its picture lacks in instances.json", name)
        elif not image.shows(image.boxes[each.ann_id]):
            yield LeftOut("reference to a box without area inside its picture", name)
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
            yield Row({"image": f"{IMAGES}/{image.file}"}, values, _rescaled)


def _rescaled(values: dict[str, Any], across: float, down: float) -> dict[str, Any]:
    return {**values, "bboxes": [[x * across, y * down, w * across, h * down] for x, y, w, h in values["bboxes"]]}
