"""The generated world as the official raw downloads of the downstream tasks.

A scene is trained on or held out by what captions can tell of it (`raw.split_of`), so no model of the demo is evaluated on
a scene whose like it has been trained or pretrained on. The layouts are those that `prepare` reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from .questions import questions
from .raw import JPEG, split_of
from .statements import entailments, expressions, picture_pairs, sentence, sentence_pair
from .world import IMAGE_SIZE, SHAPES, Scene, captions, render, scene

# Karpathy's splits of the scenes that are trained on, that select a checkpoint, and that are evaluated.
TRAIN, SELECT, HELD_OUT = ("train", "restval"), ("val",), ("test",)
SPLITS = {"train": TRAIN, "val": SELECT, "test": HELD_OUT}

PNG = {"compress_level": 1}
"""The pixels are the same at every level, and this is the fastest."""

POOL = 400
"""Scenes, at least, that the pairs of NLVR2 are made of: each object is in some of them and not in most."""


class Sizes(NamedTuple):
    """How much is written, in scenes (NLVR2: sentences). Attributes: train; val, which selects; test."""

    train: int
    val: int
    test: int


def scenes(
    seed: int, splits: tuple[str, ...], objects: Callable[[int], int | None] = lambda index: None
) -> Iterator[Scene]:
    """The scenes of the world that belong to these splits, by index; `objects` says how many a scene has, None = any."""
    made = (scene(seed, index, objects=objects(index)) for index in count())
    return (each for each in made if split_of(each) in splits)


def _split_scenes(
    seed: int, sizes: Sizes, objects: Callable[[int], int | None] = lambda index: None
) -> dict[str, list[Scene]]:
    """Scenes of train, val and test; those of val are no others' either."""
    return {split: list(islice(scenes(seed, SPLITS[split], objects), size)) for split, size in sizes._asdict().items()}


def write_vqa(root: Path, seed: int, sizes: Sizes) -> None:
    """VQAv2. Its val is cut by `prepare`: the last tenth of its pictures is evaluated, so it holds the test scenes last.

    Args:
        root: gets the folders and files of the official download. seed: of the world.
        sizes: train scenes are dealt to the nine tenths of val2014 that are trained on, and to train2014; val is not read,
            because the test scenes are the only ones that `prepare` leaves for evaluation.

    Raises:
        ValueError: fewer than nine train scenes for each test scene, and two more: test scenes would be trained on.
    """
    if sizes.train < 9 * sizes.test + 2:
        raise ValueError(f"{sizes.test} test scenes of VQA need at least {9 * sizes.test + 2} train scenes.")
    held_out = list(islice(scenes(seed, HELD_OUT), sizes.test))
    trained = list(islice(scenes(seed, TRAIN), sizes.train))
    of_val = trained[: 9 * len(held_out)]
    for name, chosen in (("train2014", trained[len(of_val) :]), ("val2014", [*of_val, *held_out])):
        asked = [(made, number, each) for made in chosen for number, each in enumerate(questions(made))]
        listed = [
            {"image_id": made.index, "question": each.text, "question_id": 100 * made.index + number}
            for made, number, each in asked
        ]
        annotated = [
            {
                "question_type": each.question_type,
                "multiple_choice_answer": each.answer,
                "answers": [
                    {"answer": answer, "answer_confidence": "yes", "answer_id": place}
                    for place, answer in enumerate(each.answers, 1)
                ],
                "image_id": entry["image_id"],
                "answer_type": each.answer_type,
                "question_id": entry["question_id"],
            }
            for entry, (_, _, each) in zip(listed, asked, strict=True)
        ]
        _json(root / f"v2_OpenEnded_mscoco_{name}_questions.json", {"questions": listed})
        _json(root / f"v2_mscoco_{name}_annotations.json", {"annotations": annotated})
        for made in chosen:
            _picture(root / name / f"COCO_{name}_{made.index:012d}.jpg", made)


def write_nlvr2(root: Path, seed: int, sizes: Sizes) -> None:
    """NLVR2: for each sentence four pairs of pictures, two of which make it true. Arguments as for `write_vqa`."""
    first = 0
    for split, shown, size in zip(("train", "dev", "test1"), SPLITS.values(), sizes, strict=True):
        pool = list(islice(scenes(seed, shown), max(POOL, size)))
        lines = []
        for number in range(first, first + size):
            for pair, (left, right, true) in enumerate(picture_pairs(seed, number, pool)):
                line = {
                    "identifier": f"{split}-{number}-{pair}-0",
                    "sentence": sentence(seed, number).text,
                    "label": str(true),
                }
                folder = split
                if split == "train":
                    line["directory"] = number % 100
                    folder = f"images/train/{number % 100}"
                for side, place in enumerate((left, right)):
                    _picture(root / folder / f"{split}-{number}-{pair}-img{side}.png", pool[place])
                lines.append(line)
        _lines(root / "nlvr2" / "data" / f"{split}.json", lines)
        first += size


def write_snli(root: Path, seed: int, sizes: Sizes) -> None:
    """SNLI-VE: three pairs a scene, one of each label. Arguments as for `write_vqa`."""
    for split, chosen in _split_scenes(seed, sizes).items():
        lines = []
        for made in chosen:
            _picture(root / "Flickr30K" / "images" / f"{made.index}.jpg", made)
            lines += [
                {
                    "Flickr30K_ID": str(made.index),
                    "pairID": f"{made.index}.jpg#{number}",
                    "sentence1": each.premise,
                    "sentence2": each.hypothesis,
                    "gold_label": each.label,
                    "annotator_labels": [each.label],
                }
                for number, each in enumerate(entailments(made))
            ]
        _lines(root / f"snli_ve_{'dev' if split == 'val' else split}.jsonl", lines)


def write_refcoco(root: Path, seed: int, sizes: Sizes) -> None:
    """RefCOCO: every object of scenes of two (one in four) or three. Arguments as for `write_vqa`."""
    found = _split_scenes(seed, sizes, lambda index: 2 if index % 4 == 0 else 3)
    half = len(found["test"]) // 2
    splits = {
        "train": found["train"],
        "val": found["val"],
        "testA": found["test"][:half],
        "testB": found["test"][half:],
    }
    references, images, annotations, sentences = [], [], [], count()
    for split, chosen in splits.items():
        for made in chosen:
            name = f"COCO_train2014_{made.index:012d}.jpg"
            _picture(root / "images" / "mscoco" / "train2014" / name, made)
            images.append({"id": made.index, "file_name": name, "height": IMAGE_SIZE, "width": IMAGE_SIZE})
            for thing, texts in expressions(made):
                number = len(annotations)
                annotations.append({"id": number, "image_id": made.index, "bbox": list(thing.box), "category_id": 1})
                said = [
                    {"sent": text, "raw": text, "tokens": text.split(), "sent_id": next(sentences)} for text in texts
                ]
                references.append(
                    {
                        "ref_id": number,
                        "ann_id": number,
                        "image_id": made.index,
                        "category_id": 1,
                        "split": split,
                        "sentences": said,
                        "sent_ids": [each["sent_id"] for each in said],
                        "file_name": f"{name.removesuffix('.jpg')}_{number}.jpg",
                    }
                )
    _json(root / "refcoco" / "refs(unc).json", references)
    _json(root / "refcoco" / "instances.json", {"images": images, "annotations": annotations})


def write_f30k(root: Path, seed: int, sizes: Sizes) -> None:
    """Flickr30k with Karpathy's file: pictures and captions for retrieval. Arguments as for `write_vqa`."""
    images, sentences = [], count()
    for split, chosen in _split_scenes(seed, sizes).items():
        for made in chosen:
            _picture(root / "flickr30k-images" / f"{made.index}.jpg", made)
            said = [
                {"raw": each.text, "tokens": each.text.split(), "imgid": len(images), "sentid": next(sentences)}
                for each in captions(made)
            ]
            images.append(
                {
                    "filename": f"{made.index}.jpg",
                    "imgid": len(images),
                    "split": split,
                    "sentids": [each["sentid"] for each in said],
                    "sentences": said,
                }
            )
    _json(root / "karpathy" / "dataset_flickr30k.json", {"images": images, "dataset": "flickr30k"})


def write_mrpc(root: Path, seed: int, sizes: Sizes) -> None:
    """MRPC's .tsv files, which are read as they are: pairs of captions that mean the same, or do not.

    Arguments as for `write_vqa`; val is not written, because the task has one split with labels beside train.
    """
    folder = root / "MRPC"
    folder.mkdir(parents=True, exist_ok=True)
    found = _split_scenes(seed, sizes._replace(val=0))
    for name, split in (("train", "train"), ("dev", "test")):
        lines = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"]
        for number, made in enumerate(found[split]):
            pair = sentence_pair(made)
            lines.append(f"{int(pair.same)}\t{2 * number}\t{2 * number + 1}\t{pair.first}\t{pair.second}")
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_classes(root: Path, seed: int, sizes: Sizes) -> None:
    """A folder of class folders: scenes of one object by its shape, as many of each. Arguments as for `write_vqa`."""
    for split, size in sizes._asdict().items():
        # Left to chance, one shape would be a third of the few contents that are held out.
        wanted = {shape: len(range(place, size, len(SHAPES))) for place, shape in enumerate(SHAPES)}
        for made in scenes(seed, SPLITS[split], lambda index: 1):
            if not any(wanted.values()):
                break
            shape = made.objects[0].shape
            if wanted[shape]:
                wanted[shape] -= 1
                _picture(root / split / shape / f"{made.index}.png", made)


def _picture(path: Path, made: Scene) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(render(made)).save(path, **(JPEG if path.suffix == ".jpg" else PNG))


def _json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def _lines(path: Path, entries: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
