"""The generated world as the official raw downloads, so that the demo starts where a user starts.

The layouts are those that `prepare` reads; nothing here knows what becomes of them.
"""

from __future__ import annotations

import itertools
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from . import questions, statements
from .world import OBJECTS_SHARE, Scene, captions, render, scene, vocabulary

SPLITS = {"train": 80, "restval": 5, "val": 5, "test": 10}
"""Percent of all scene contents that belong to each of Karpathy's splits."""

COCO_FOLDERS = {"train": "train2014", "restval": "val2014", "val": "val2014", "test": "val2014"}
"""Karpathy's restval, val and test are all cut from COCO's val2014."""

JPEG = {"quality": 95, "subsampling": 0}
"""4:4:4: at 48 pixels, halved colour planes would mix a small object's colour with its background."""

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def split_of(scene: Scene) -> str:
    """The split a scene belongs to, by what captions can tell of it: equal contents are never trained on and evaluated.

    The same in every world, so a model of one world can be evaluated on the held-out scenes of another.
    """
    content = ", ".join(
        f"{size} {colour} {shape} {row} {column}" for shape, colour, size, row, column, _ in scene.content
    )
    percent = zlib.crc32(content.encode()) % 100
    for split, share in SPLITS.items():
        if percent < share:
            return split
        percent -= share
    raise AssertionError("the shares of SPLITS do not add up to 100")


def write_coco(
    root: Path,
    *,
    seed: int,
    train: int,
    restval: int,
    val: int,
    test: int,
    one_object_share: float = OBJECTS_SHARE[0],
) -> None:
    """Write a world as COCO captions with the Karpathy file.

    A picture's COCO id is the scene's index: `scene(seed, scene_index_of(filename))` is what the picture shows.

    Args:
        root: gets `train2014/`, `val2014/` and `karpathy/dataset_coco.json`; made where it is missing.
        seed: which world.
        train, restval, val, test: pictures of each split.
        one_object_share: share of the pictures of each split that show one object only.
    """
    sizes = {"train": train, "restval": restval, "val": val, "test": test}
    for folder in ("train2014", "val2014", "karpathy"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    sentence_ids = itertools.count()
    images = []
    for image_id, (split, made) in enumerate(_scenes(seed, sizes, one_object_share)):
        entry = _karpathy_image(made, split, image_id, sentence_ids)
        Image.fromarray(render(made)).save(root / entry["filepath"] / entry["filename"], **JPEG)
        images.append(entry)
    text = json.dumps({"images": images, "dataset": "coco"})
    (root / "karpathy" / "dataset_coco.json").write_text(text, encoding="utf-8")


def _scenes(seed: int, sizes: dict[str, int], one_object_share: float) -> Iterator[tuple[str, Scene]]:
    """The first scenes of the world, by index, that fill every split with its share of one-object scenes."""
    wanted = {}
    for split, size in sizes.items():
        wanted[split, True] = round(size * one_object_share)
        wanted[split, False] = size - wanted[split, True]
    for index in itertools.count():
        if not any(wanted.values()):
            return
        made = scene(seed, index)
        place = split_of(made), len(made.objects) == 1
        if wanted[place]:
            wanted[place] -= 1
            yield place[0], made


def _karpathy_image(made: Scene, split: str, image_id: int, sentence_ids: Iterator[int]) -> dict[str, Any]:
    """One entry of "images", with every field of the official file and in its order."""
    folder = COCO_FOLDERS[split]
    sentences = [
        {"tokens": caption.text.split(), "raw": caption.text, "imgid": image_id, "sentid": next(sentence_ids)}
        for caption in captions(made)
    ]
    return {
        "filepath": folder,
        "sentids": [sentence["sentid"] for sentence in sentences],
        "filename": f"COCO_{folder}_{made.index:012d}.jpg",
        "imgid": image_id,
        "split": split,
        "sentences": sentences,
        "cocoid": made.index,
    }


def scene_index_of(filename: str) -> int:
    """The index of the scene that a written picture shows, from its file name (the `image_id` of an arrow file).

    Raises:
        ValueError: the name is not one of COCO's.
    """
    found = re.fullmatch(r"COCO_(?:train|val)2014_(\d{12})\.jpg", Path(filename).name)
    if found is None:
        raise ValueError(f"{filename!r} is not a file name of COCO 2014.")
    return int(found[1])


def write_tokenizer(folder: Path) -> None:
    """Write a Hugging Face tokenizer of BERT's kind over the words of the world, for models of random weights.

    Words that only questions and statements have are among them, so that a model pretrained on captions can read those.
    """
    from transformers import BertTokenizerFast  # here, because pictures are written without it and it takes seconds

    spoken = set(vocabulary())
    pieces = (*SPECIAL_TOKENS, *sorted(spoken), *sorted((questions.vocabulary() | statements.vocabulary()) - spoken))
    BertTokenizerFast(vocab={piece: number for number, piece in enumerate(pieces)}).save_pretrained(folder)
