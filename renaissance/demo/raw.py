"""The generated world as official raw downloads of COCO, in the layout that `prepare` reads.

`raw_tasks.py` writes those of the downstream tasks.
"""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from . import questions, statements
from .world import OBJECTS_SHARE, Scene, captions, make_scene, render, vocabulary

SPLITS = {"train": 80, "restval": 5, "val": 5, "test": 10}
"""Percent of all scene contents that belong to each of Karpathy's splits."""

SAVING = {".jpg": {"quality": 95, "subsampling": 0}, ".png": {"compress_level": 1}}
"""JPEG in 4:4:4: at 48 pixels, halved colour planes would mix a small object's colour with its background.
PNG with the fastest compression: the pixels are the same at every level."""

ONE_OBJECT = "one_object.jsonl"

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def split_of(scene: Scene) -> str:
    """The split of a scene, by a hash of its content: equal contents are never both trained on and evaluated.

    It does not depend on the seed, so a model of one world can be evaluated on the held-out scenes of another.
    """
    content = ", ".join(
        f"{size} {colour} {shape} {row} {column}" for shape, colour, size, row, column, _ in scene.content
    )
    percent = zlib.crc32(content.encode()) % 100
    ends = itertools.accumulate(SPLITS.values())
    return next(split for split, end in zip(SPLITS, ends, strict=True) if percent < end)


def scenes(
    seed: int,
    counts: Mapping[Any, int],
    key: Callable[[Scene], Any],
    objects: Callable[[int], int | None] = lambda index: None,
) -> Iterator[tuple[Any, Scene]]:
    """The first scenes of the world, by index, until there are as many of each key as `counts` has.

    Args:
        seed: of the world.
        counts: how many scenes of each key; scenes of other keys are skipped.
        key: of a scene.
        objects: how many objects a scene has, by its index; None = any number.
    """
    missing = dict(counts)
    for index in itertools.count():
        if not any(missing.values()):
            return
        scene = make_scene(seed, index, objects=objects(index))
        if missing.get(key(scene)):
            missing[key(scene)] -= 1
            yield key(scene), scene


def write_coco(root: Path, *, seed: int, one_object_share: float = OBJECTS_SHARE[0], **sizes: int) -> None:
    """Writes a world as COCO captions with the Karpathy file, and its easiest images as own captions.

    An image's COCO id is the scene's index: `make_scene(seed, scene_index_of(filename))` is what the image shows.

    Args:
        root: gets `train2014/`, `val2014/`, `karpathy/dataset_coco.json`, and `one_object.jsonl`, which lists the training
            images of one object; created if missing.
        seed: which world.
        one_object_share: share of the images of each split that show one object only.
        sizes: images of each of `SPLITS`.
    """
    counts = {}
    for split, size in sizes.items():
        counts[split, True] = round(size * one_object_share)
        counts[split, False] = size - counts[split, True]
    images = []
    for (split, _), scene in scenes(seed, counts, lambda scene: (split_of(scene), len(scene.objects) == 1)):
        folder = "train2014" if split == "train" else "val2014"  # restval, val and test are all cut from val2014
        filename = f"COCO_{folder}_{scene.index:012d}.jpg"
        save_image(root / folder / filename, scene)
        images.append((scene, {"filepath": folder, "filename": filename, "split": split, "cocoid": scene.index}))
    write_karpathy(root, "coco", images)
    easy = [
        {"path": f"{of['filepath']}/{of['filename']}", "caption": [caption.text for caption in captions(scene)]}
        for scene, of in images
        if of["split"] in ("train", "restval") and len(scene.objects) == 1
    ]
    save_text(root / ONE_OBJECT, "".join(f"{json.dumps(each)}\n" for each in easy))


def write_karpathy(root: Path, dataset: str, images: Iterable[tuple[Scene, Mapping[str, Any]]]) -> None:
    """Writes `karpathy/dataset_<dataset>.json`: the captions of scenes, with further fields of their images."""
    entries, numbers = [], itertools.count()
    for image_id, (scene, fields) in enumerate(images):
        sentences = [
            {"tokens": caption.text.split(), "raw": caption.text, "imgid": image_id, "sentid": next(numbers)}
            for caption in captions(scene)
        ]
        sentence_ids = [sentence["sentid"] for sentence in sentences]
        entries.append({**fields, "imgid": image_id, "sentids": sentence_ids, "sentences": sentences})
    save_text(root / "karpathy" / f"dataset_{dataset}.json", json.dumps({"images": entries, "dataset": dataset}))


def save_image(path: Path, scene: Scene) -> None:
    """Writes the image of a scene, as JPEG or PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(render(scene)).save(path, **SAVING[path.suffix])


def save_text(path: Path, text: str) -> None:
    """Writes a text file; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def scene_index_of(filename: str) -> int:
    """The index of the scene that a written image of COCO shows, from its file name (the `image_id` of an arrow file)."""
    return int(filename.removesuffix(".jpg").rpartition("_")[2])


def write_tokenizer(folder: Path) -> int:
    """Writes a BERT tokenizer of Hugging Face over the words of the world, for models of random weights.

    It includes the words that only questions and statements use, so that a model pretrained on captions can read those.

    Returns:
        The size of its vocabulary.
    """
    from transformers import BertTokenizerFast  # takes seconds, and images are written without it

    spoken = set(vocabulary())
    pieces = (*SPECIAL_TOKENS, *sorted(spoken), *sorted((questions.vocabulary() | statements.vocabulary()) - spoken))
    BertTokenizerFast(vocab={piece: number for number, piece in enumerate(pieces)}).save_pretrained(folder)
    return len(pieces)
