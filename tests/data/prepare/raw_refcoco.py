"""The `refer` collection in miniature: refs files as Python 2 pickled them, instances.json in COCO's form."""

from __future__ import annotations

import json
from pathlib import Path

from data.prepare.raw_files import photograph, write_pictures

SPLITS = {"unc": ("train", "val", "testA", "testB"), "umd": ("train", "val", "test"), "google": ("train", "val")}
FOLDER = "images/mscoco/train2014"
PICTURES = 8  # of 128 x 96 pixels, each with the objects below
# Over two borders; thinner than a pixel; inside; over the others; without area; outside.
BOXES = [
    [-3.5, -2.0, 40.25, 30.0],
    [10.0, 10.0, 0.4, 60.0],
    [1, 2, 20, 20],
    [90, 50, 90.5, 90],
    [5, 5, 0, 7],
    [128, 9, 5, 5],
]
REFERRED = 4  # objects of each image that a reference is about: the first ones


def picture_file(image_id: int) -> str:
    return f"COCO_train2014_{image_id:012d}.jpg"


def build(split_by: str = "unc") -> tuple[list[dict], dict]:
    """References and instances; the numbers of an image's objects are not in the order of their places."""
    splits = SPLITS[split_by]
    annotations = [
        {
            "segmentation": [[1.0, 2.0, 3.0]],
            "area": 9.5,
            "iscrowd": 0,
            "image_id": 500 + image,
            "bbox": box,
            "category_id": 1,
            "id": 1000 - 10 * image + (-part if part % 2 else part),
        }
        for part, box in enumerate(BOXES)
        for image in range(PICTURES)
    ]
    images = [
        {"license": 1, "file_name": picture_file(500 + image), "height": 96, "width": 128, "id": 500 + image}
        for image in range(PICTURES)
    ]
    images.append({"file_name": picture_file(9), "height": 96, "width": 128, "id": 9})  # nothing refers to it
    references = [
        {
            "sent_ids": [2 * number, 2 * number + 1],
            "file_name": f"COCO_train2014_{annotation['image_id']:012d}_{annotation['id']}.jpg",
            "ann_id": annotation["id"],
            "ref_id": 70 + number,
            "image_id": annotation["image_id"],
            "split": splits[annotation["image_id"] % len(splits)],
            "sentences": [
                {"tokens": ["thing"], "raw": f"Thing {n} é.", "sent_id": 2 * number + n, "sent": f"thing {n} é"}
                for n in range(2)
            ],
            "category_id": 1,
        }
        for number, annotation in enumerate(annotations[: REFERRED * PICTURES])
    ]
    return references, {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}


def write(
    root: Path, references: object, instances: dict, dataset: str = "refcoco", split_by: str = "unc", ending: str = "p"
) -> None:
    """Write the raw files; `ending` of the refs file is p or json."""
    folder = root / dataset
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(references).encode() if ending == "json" else pickled_by_python_2(references) + b"."
    (folder / f"refs({split_by}).{ending}").write_bytes(content)
    (folder / "instances.json").write_text(json.dumps(instances))
    pictures = {picture_file(500 + image): photograph(image) for image in range(PICTURES)}
    write_pictures(root / FOLDER, pictures)


def pickled_by_python_2(value: object) -> bytes:
    """Protocol 0: text is bytes in UTF-8, but for what stands under "raw"."""
    if isinstance(value, dict):
        items = (
            b"".join([pickled_by_python_2(key), unicode(each) if key == "raw" else pickled_by_python_2(each), b"s"])
            for key, each in value.items()
        )
        return b"(d" + b"".join(items)
    if isinstance(value, list):
        return b"(l" + b"".join(pickled_by_python_2(each) + b"a" for each in value)
    if isinstance(value, str):
        return b"S" + repr(value.encode()).removeprefix("b").encode() + b"\n"
    return b"N" if value is None else b"L%dL\n" % value


def unicode(value: str) -> bytes:
    return b"V" + value.encode("raw_unicode_escape") + b"\n"
