"""Images with a class -> <name>_{train,val,test}.arrow, from class folders or CIFAR-10.

    <root>/<class>/**                         one folder a class, with images at any depth
    <root>/{train,val,test}/<class>/**        the same for each split, also as Train, training, validation, dev, test_set ...
    <root>[/cifar-10-batches-py]/             CIFAR-10 in its Python form (Krizhevsky 2009): data_batch_1 ..., batches.meta

Classes are numbered in the order of their names, the same in every split; CIFAR-10's as its own file numbers them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from renaissance.core.errors import require
from renaissance.core.plain_pickle import read_plain_pickle
from renaissance.data.dataset_specs import IMAGE, IMAGE_ID, OWN_FILE, OWN_IMAGES_NAME, OWN_SPLITS, SPLIT

from .annotation_store import is_unicode
from .annotations import fields, folder_of
from .class_folders import Classes, LabelledImage, read_class_folders
from .own import check_name, check_val_share, is_validation, leftovers
from .skipped import Skipped
from .writer import Download, Plan, Row, arrow_writer, plan_file

CIFAR_FOLDER = "cifar-10-batches-py"
VAL_SHARE = 0.1  # of the training images, if there is no other validation set: selection must not see test
_Images = Callable[[], Iterator[LabelledImage]]
_CIFAR_FILES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}


@arrow_writer
def make_arrow(root: Path, *, name: str | None = None, val_share: float | None = None) -> Download:
    """Writes one file for each split that has images.

    Args:
        root: as for every `make_arrow`.
        name: the data set's name; None = images, or cifar10.
        val_share: share of the training images, chosen by a hash of their paths, that goes to val; None = a tenth
            where there is no other val, else 0.

    Raises:
        UserError: a bad option; fewer than two classes, or one that is not in train; a damaged CIFAR-10; or one of the
            refusals of `arrow_writer`.
    """
    folder_of(root, f"class folders, train/ with class folders, or {CIFAR_FOLDER}/")
    cifar = next((place for place in (root, root / CIFAR_FOLDER) if (place / "batches.meta").exists()), None)
    name = check_name(name or ("cifar10" if cifar else OWN_IMAGES_NAME), OWN_IMAGES_NAME)
    classes = _cifar(cifar) if cifar else read_class_folders(root)
    images, notes = classes.images, classes.notes
    if val_share is None:
        val_share = VAL_SHARE if "train" in images and "val" not in images else 0
    check_val_share(val_share)
    if val_share:
        require(
            "train" in images and "val" not in images,
            f"val_share={val_share} needs root='{root}' to have images for train and none for val, found "
            f"{', '.join(images)}; leave val_share out.",
        )
        divided = {split: partial(_part, images["train"], val_share, split) for split in ("train", "val")}
        images = {**images, **divided}
        notes = {**notes, "val": [f"val_share={val_share} of the training images."]}
    splits = [split for split in OWN_SPLITS if split in images]
    plans = {split: _plan(name, split, classes.labels, images[split], notes.get(split, ())) for split in splits}
    plans = {split: plan for split, plan in plans.items() if plan.listed}  # of a few images none may fall to val
    require(plans, f"root='{root}' holds no image in its class folders {', '.join(classes.labels)}.")
    return Download(
        OWN_IMAGES_NAME,
        list(plans.values()),
        source={"form": CIFAR_FOLDER if cifar else "class folders"},
        options={"name": name, "val_share": val_share},
        leftovers=leftovers(name, plans),
    )


def _part(images: _Images, val_share: float, split: str) -> Iterator[LabelledImage]:
    """Yields the training images that stay in train, or go to val."""
    return (each for each in images() if is_validation(each.name, val_share) == (split == "val"))


def _plan(name: str, split: str, labels: list[str], images: _Images, notes: Sequence[str]) -> Plan:
    file, metadata = OWN_FILE.format(name=name, split=split), {"dataset": name, "labels": labels}
    rows = (
        Row({IMAGE.name: _file(each.content)}, {"label": each.label, IMAGE_ID.name: each.name, SPLIT.name: split})
        for each in images()
    )
    listed = sum(1 for _ in images())
    return plan_file(OWN_IMAGES_NAME, file, split, rows, metadata, listed=listed, skipped=Skipped(), notes=notes)


def _file(content: str | np.ndarray) -> str | bytes:
    if isinstance(content, str):
        return content
    png = io.BytesIO()
    Image.fromarray(content.transpose(1, 2, 0)).save(png, "PNG")
    return png.getvalue()


def _cifar(folder: Path) -> Classes:
    (labels,) = _cifar_file(folder / "batches.meta", label_names=list[str])
    images = {
        split: partial(_cifar_images, [folder / name for name in names], len(labels))
        for split, names in _CIFAR_FILES.items()
    }
    return Classes(labels, images, {})


def _cifar_images(paths: list[Path], classes: int) -> Iterator[LabelledImage]:
    for path in paths:
        data, labels, names = _cifar_file(path, data=ByteArray, labels=list[int], filenames=list[str])
        require(
            data.values.size == 3 * 32 * 32 * len(labels)
            and len(labels) == len(names)
            and all(0 <= label < classes for label in labels)
            and is_unicode("".join(names)),
            f"'{path}' does not hold images of 32 x 32 with their labels and names.",
        )
        for content, label, name in zip(data.values.reshape(-1, 3, 32, 32), labels, names, strict=True):
            yield LabelledImage(f"{path.name}/{name}", label, content)


def _cifar_file(path: Path, **hints: Any) -> list[Any]:
    return fields(read_plain_pickle(path, "latin-1", _NAMES), f"'{path}'", **hints)


class ByteType:
    """Stands for a numpy dtype. Attribute: code, "u1" for bytes."""

    def __init__(self, code: str, *_: Any):
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        """Ignores the rest of the state: for bytes it is always the same."""


class ByteArray:
    """Stands for a numpy array; numpy's own functions would allocate whatever a pickle claims.

    Attribute: values, uint8.
    """

    values = np.empty(0, np.uint8)

    def __init__(self, *_: Any):
        """Ignores the arguments; the content comes with the state."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, by_columns, content = state
        if kind.code != "u1":
            raise TypeError
        content = content.encode("latin-1") if isinstance(content, str) else content
        self.values = np.frombuffer(content, np.uint8).reshape(shape, order="F" if by_columns else "C")


# What a pickled array names, under numpy's old module and its new one.
_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): ByteArray,
    ("numpy._core.multiarray", "_reconstruct"): ByteArray,
    ("numpy", "ndarray"): ByteArray,
    ("numpy", "dtype"): ByteType,
}
