"""What the files of images with captions have in common: their columns, and rows out of the annotation store."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from renaissance.data.dataset_specs import CAPTION, DATASETS, IMAGE, IMAGE_ID, OWN_NAME, SPLIT, UNKNOWN, Expected

from .annotation_store import AnnotationStore
from .writer import LeftOut, Plan, Row, schema_of

NO_CAPTION = "picture without a caption"


def caption_plan(
    store: AnnotationStore,
    split: str,
    file: str,
    *,
    dataset: str,
    image_id: Callable[[str], str] = str,
    expected: Expected = UNKNOWN,
) -> Plan:
    """Plan the file of one split: a row an image, with all its captions.

    Args:
        store: the images and captions.
        split: which of them.
        file: the file's name.
        dataset: the data set's name, for the file's metadata.
        image_id: what an image's path below the root is called in the file.
        expected: what the official download gives.
    """
    return Plan(
        name=file,
        schema=schema_of(DATASETS[OWN_NAME].columns, {"dataset": dataset, "split": split}),
        rows=caption_rows(store, split, image_id),
        listed=store.splits()[split],
        skipped=store.skipped(split),
        texts=(CAPTION.name,),
        expected=expected,
    )


def caption_rows(
    store: AnnotationStore, split: str, image_id: Callable[[str], str] = str, below: str = ""
) -> Iterator[Row | LeftOut]:
    """Yield an entry for every image of a split; `below` is the folder below root that the names start from."""
    for name, captions in store.images(split):
        if captions:
            values = {CAPTION.name: captions, IMAGE_ID.name: image_id(name), SPLIT.name: split}
            yield Row({IMAGE.name: below + name}, values)
        else:
            yield LeftOut(NO_CAPTION, name)
