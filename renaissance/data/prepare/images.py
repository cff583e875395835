"""Images with a class -> <name>_{train,val,test}.arrow, from class folders or CIFAR-10.

    <root>/<class>/**                         one folder a class, with images at any depth
    <root>/{train,val,test}/<class>/**        the same for each split, also as Train, training, validation, dev, test_set ...
    <root>[/cifar-10-batches-py]/             CIFAR-10 in its Python form (Krizhevsky 2009): data_batch_1 ..., batches.meta

Classes are numbered in the order of their names, the same in every split; CIFAR-10's as its own file numbers them.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from PIL import Image

from renaissance.core.errors import UserError
from renaissance.core.plain_pickle import read_plain_pickle
from renaissance.data.dataset_specs import DATASETS, IMAGE, IMAGE_ID, OWN_FILE, OWN_IMAGES_NAME, OWN_SPLITS, SPLIT

from .annotations import folder_of
from .class_folders import Classes, LabelledImage, read_class_folders
from .own import check_name, check_val_share, is_validation, refuse_leftovers
from .skipped import Skipped
from .writer import Plan, Row, WriteOptions, check_options, schema_of, write_files

CIFAR_FOLDER = "cifar-10-batches-py"
VAL_SHARE = 0.1  # of the training images, where nothing else is for validation: selection must not see test
_CIFAR_FILES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}


def make_arrow(
    root: str | os.PathLike,
    dataset_root: str | os.PathLike,
    *,
    name: str | None = None,
    val_share: float | None = None,
    **writing: Unpack[WriteOptions],
) -> list[dict[str, Any]]:
    """Write one file for each split that has images.

    Args:
        root, dataset_root, writing: as for every `make_arrow`, which returns the manifests.
        name: the data set's name; None = images, or cifar10.
        val_share: share of the training images, chosen by a hash of their paths, that goes to val; None = a tenth
            where there is no other val, else 0.

    Raises:
        UserError: a bad option; fewer than two classes, or one that is not in train; a damaged CIFAR-10; or one of the
            refusals of `write_files`.
    """
    check_options(**writing)
    folder = folder_of(root, f"class folders, train/ with class folders, or {CIFAR_FOLDER}/")
    cifar = next((place for place in (folder, folder / CIFAR_FOLDER) if (place / "batches.meta").exists()), None)
    name = check_name(name or ("cifar10" if cifar else OWN_IMAGES_NAME), OWN_IMAGES_NAME)
    labels, images, notes = _cifar(cifar) if cifar else read_class_folders(folder)
    if val_share is None:
        val_share = VAL_SHARE if "train" in images and "val" not in images else 0
    check_val_share(val_share)
    if val_share and ("val" in images or "train" not in images):
        raise UserError(
            f"val_share={val_share} needs root='{folder}' to have pictures for train and none for val, found "
            f"{', '.join(images)}; leave val_share out."
        )
    if val_share:
        images = {"train": images["train"], "val": images["train"], **images}
        notes = notes | {"val": [f"val_share={val_share} of the training pictures."]}
    plans = {
        split: _plan(name, split, labels, images[split], val_share)._replace(notes=notes.get(split, []))
        for split in OWN_SPLITS
        if split in images
    }
    plans = {split: plan for split, plan in plans.items() if plan.listed}  # of a few images none may fall to val
    if not plans:
        raise UserError(f"root='{folder}' holds no picture in its class folders {', '.join(labels)}.")
    refuse_leftovers(Path(dataset_root), name, list(plans))
    form = CIFAR_FOLDER if cifar else "class folders"
    source = {"dataset": OWN_IMAGES_NAME, "root": os.fspath(root), "form": form}
    options = {"name": name, "val_share": val_share}
    return write_files(plans.values(), root, dataset_root, source=source, options=options, **writing)


def _plan(
    name: str, split: str, labels: list[str], images: Callable[[], Iterator[LabelledImage]], val_share: float
) -> Plan:
    def chosen() -> Iterator[LabelledImage]:
        divided = val_share and split != "test"
        return (each for each in images() if not divided or is_validation(each.name, val_share) == (split == "val"))

    return Plan(
        name=OWN_FILE.format(name=name, split=split),
        schema=schema_of(DATASETS[OWN_IMAGES_NAME].columns, {"dataset": name, "split": split, "labels": labels}),
        rows=(
            Row({IMAGE.name: _file(each.content)}, {"label": each.label, IMAGE_ID.name: each.name, SPLIT.name: split})
            for each in chosen()
        ),
        listed=sum(1 for _ in chosen()),
        skipped=Skipped(),
        texts=(),
    )


def _file(content: str | np.ndarray) -> str | bytes:
    if isinstance(content, str):
        return content
    png = io.BytesIO()
    Image.fromarray(content.transpose(1, 2, 0)).save(png, "PNG")
    return png.getvalue()


def _cifar(folder: Path) -> Classes:
    labels = _cifar_file(folder / "batches.meta", "label_names")["label_names"]
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise UserError(f"'{folder / 'batches.meta'}' does not list the names of the classes.")
    images = {
        split: partial(_cifar_images, [folder / name for name in names], len(labels))
        for split, names in _CIFAR_FILES.items()
    }
    return Classes(labels, images, {})


def _cifar_images(paths: list[Path], classes: int) -> Iterator[LabelledImage]:
    for path in paths:
        batch = _cifar_file(path, "data", "labels", "filenames")
        try:
            pixels = batch["data"].values.reshape(-1, 3, 32, 32)
            images = list(zip(pixels, batch["labels"], batch["filenames"], strict=True))
            if not all(
                isinstance(name, str) and type(label) is int and 0 <= label < classes for _, label, name in images
            ):
                raise ValueError
        except (AttributeError, TypeError, ValueError):
            raise UserError(f"'{path}' does not hold pictures of 32 x 32 with their labels and names.") from None
        yield from (LabelledImage(f"{path.name}/{name}", label, content) for content, label, name in images)


def _cifar_file(path: Path, *keys: str) -> dict[str, Any]:
    content = read_plain_pickle(path, "latin-1", _NAMES)
    if not isinstance(content, dict) or not all(key in content for key in keys):
        raise UserError(f"'{path}' lacks {', '.join(keys)}; is it CIFAR-10 in its Python form?")
    return content


class _Type:
    """Stands for a type of numpy. Attribute: code, "u1" for bytes."""

    def __init__(self, code: str, *_: Any):
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        """Leave out what else numpy says of a type: of bytes it is always the same."""


class _Array:
    """Stands for an array of numpy, whose own functions would do more with what a pickle says than is wanted.

    Attribute: values, uint8.
    """

    def __init__(self, *_: Any):
        """Leave out what numpy is told before it gets the content."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, by_columns, content = state
        if kind.code != "u1":
            raise TypeError
        content = content.encode("latin-1") if isinstance(content, str) else content
        self.values = np.frombuffer(content, np.uint8).reshape(shape, order="F" if by_columns else "C")


# What a pickled array names, under numpy's old module and its new one.
_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
}
