"""The generated world as the official raw downloads of the downstream tasks.

The split of a scene follows from its content (`raw.split_of`), so no model of the demo is evaluated on the content of a scene
that it was trained or pretrained on. The layouts are those that `prepare` reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from .questions import questions
from .raw import save_image, save_text, scenes, split_of, write_karpathy
from .statements import entailments, expressions, image_pairs, sentence, sentence_pair
from .world import IMAGE_SIZE, SHAPES, Scene

TASK_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}
"""Karpathy's splits, as those that a task trains on, selects a checkpoint with, and evaluates."""

POOL = 400
"""Least number of scenes that the pairs of NLVR2 are drawn from: each object is in some of them and not in most."""


class Sizes(NamedTuple):
    """Scenes of each split (NLVR2: sentences)."""

    train: int
    val: int
    test: int


def task_split(scene: Scene) -> str:
    """The split of a task that a scene belongs to."""
    return TASK_SPLITS[split_of(scene)]


def split_scenes(
    seed: int, sizes: Sizes, objects: Callable[[int], int | None] = lambda index: None
) -> dict[str, list[Scene]]:
    """The first scenes of train, val and test, by index; `objects` as for `raw.scenes`."""
    splits: dict[str, list[Scene]] = {split: [] for split in sizes._fields}
    for split, scene in scenes(seed, sizes._asdict(), task_split, objects):
        splits[split].append(scene)
    return splits


def write_vqa(root: Path, seed: int, sizes: Sizes) -> None:
    """VQAv2. `prepare` evaluates the last tenth of the images of val2014, so the test scenes come last.

    Args:
        root: gets the folders and files of the official download. seed: of the world.
        sizes: train scenes fill the nine tenths of val2014 that are trained on, then train2014; val is ignored.

    Raises:
        ValueError: fewer than nine train scenes for each test scene, and two more: test scenes would be trained on.
    """
    if sizes.train < 9 * sizes.test + 2:
        raise ValueError(f"{sizes.test} test scenes of VQA need at least {9 * sizes.test + 2} train scenes.")
    splits = split_scenes(seed, sizes._replace(val=0))
    trained, held_out = splits["train"], splits["test"]
    of_val = 9 * len(held_out)
    for name, chosen in (("train2014", trained[of_val:]), ("val2014", [*trained[:of_val], *held_out])):
        listed, annotated = [], []
        for scene in chosen:
            save_image(root / name / f"COCO_{name}_{scene.index:012d}.jpg", scene)
            for question_id, each in enumerate(questions(scene), 100 * scene.index):
                listed.append({"image_id": scene.index, "question": each.text, "question_id": question_id})
                answers = [
                    {"answer": answer, "answer_confidence": "yes", "answer_id": place}
                    for place, answer in enumerate(each.answers, 1)
                ]
                entry = {"question_type": each.question_type, "multiple_choice_answer": each.answer, "answers": answers}
                entry |= {"image_id": scene.index, "answer_type": each.answer_type, "question_id": question_id}
                annotated.append(entry)
        save_text(root / f"v2_OpenEnded_mscoco_{name}_questions.json", json.dumps({"questions": listed}))
        save_text(root / f"v2_mscoco_{name}_annotations.json", json.dumps({"annotations": annotated}))


def write_nlvr2(root: Path, seed: int, sizes: Sizes) -> None:
    """NLVR2: for each sentence four pairs of images, two of which make it true. Arguments as for `write_vqa`."""
    pools, numbers = split_scenes(seed, Sizes._make(max(POOL, size) for size in sizes)), count()
    for split, pool, size in zip(("train", "dev", "test1"), pools.values(), sizes, strict=True):
        lines = []
        for _, number in zip(range(size), numbers, strict=False):
            for pair, (left, right, true) in enumerate(image_pairs(seed, number, pool)):
                name = f"{split}-{number}-{pair}"
                line = {"identifier": f"{name}-0", "sentence": sentence(seed, number).text, "label": str(true)}
                folder = root / split
                if split == "train":
                    line["directory"] = number % 100
                    folder = root / "images" / "train" / str(number % 100)
                for side, place in enumerate((left, right)):
                    save_image(folder / f"{name}-img{side}.png", pool[place])
                lines.append(line)
        save_text(root / "nlvr2" / "data" / f"{split}.json", _json_lines(lines))


def write_snli(root: Path, seed: int, sizes: Sizes) -> None:
    """SNLI-VE: three pairs a scene, one of each label. Arguments as for `write_vqa`."""
    for split, chosen in split_scenes(seed, sizes).items():
        lines = []
        for scene in chosen:
            save_image(root / "Flickr30K" / "images" / f"{scene.index}.jpg", scene)
            for number, each in enumerate(entailments(scene)):
                texts = {"sentence1": each.premise, "sentence2": each.hypothesis}
                line = {"Flickr30K_ID": str(scene.index), "pairID": f"{scene.index}.jpg#{number}", **texts}
                lines.append({**line, "gold_label": each.label, "annotator_labels": [each.label]})
        save_text(root / f"snli_ve_{'dev' if split == 'val' else split}.jsonl", _json_lines(lines))


def write_refcoco(root: Path, seed: int, sizes: Sizes) -> None:
    """RefCOCO: every object of scenes of two (one in four) or three. Arguments as for `write_vqa`."""
    splits = split_scenes(seed, sizes, lambda index: 2 if index % 4 == 0 else 3)
    test = splits.pop("test")
    half = len(test) // 2
    references, images, annotations, sentences = [], [], [], count()
    for split, chosen in {**splits, "testA": test[:half], "testB": test[half:]}.items():
        for scene in chosen:
            name = f"COCO_train2014_{scene.index:012d}"
            save_image(root / "images" / "mscoco" / "train2014" / f"{name}.jpg", scene)
            size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
            images.append({"id": scene.index, "file_name": f"{name}.jpg", **size})
            for thing, texts in expressions(scene):
                number = len(annotations)
                annotations.append({"id": number, "image_id": scene.index, "bbox": list(thing.box), "category_id": 1})
                sentence_entries = [
                    {"sent": text, "raw": text, "tokens": text.split(), "sent_id": next(sentences)} for text in texts
                ]
                entry = {"ref_id": number, "ann_id": number, "image_id": scene.index, "category_id": 1, "split": split}
                entry |= {"sentences": sentence_entries, "sent_ids": [each["sent_id"] for each in sentence_entries]}
                references.append({**entry, "file_name": f"{name}_{number}.jpg"})
    save_text(root / "refcoco" / "refs(unc).json", json.dumps(references))
    save_text(root / "refcoco" / "instances.json", json.dumps({"images": images, "annotations": annotations}))


def write_f30k(root: Path, seed: int, sizes: Sizes) -> None:
    """Flickr30k with Karpathy's file: images and captions for retrieval. Arguments as for `write_vqa`."""
    splits = split_scenes(seed, sizes)
    images = [
        (each, {"filename": f"{each.index}.jpg", "split": split}) for split, chosen in splits.items() for each in chosen
    ]
    for scene, fields in images:
        save_image(root / "flickr30k-images" / fields["filename"], scene)
    write_karpathy(root, "flickr30k", images)


def write_mrpc(root: Path, seed: int, sizes: Sizes) -> None:
    """MRPC's .tsv files, which are read as they are: pairs of captions that mean the same, or do not.

    Arguments as for `write_vqa`; val is not written, because the task has one split with labels beside train.
    """
    splits = split_scenes(seed, sizes._replace(val=0))
    for name, split in (("train", "train"), ("dev", "test")):
        lines = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"]
        for number, pair in enumerate(map(sentence_pair, splits[split])):
            lines.append(f"{int(pair.same)}\t{2 * number}\t{2 * number + 1}\t{pair.first}\t{pair.second}\n")
        save_text(root / "MRPC" / f"{name}.tsv", "".join(lines))


def write_classes(root: Path, seed: int, sizes: Sizes) -> None:
    """A folder of class folders: scenes of one object by its shape, as many of each. Arguments as for `write_vqa`."""
    # Left to chance, one shape would be a third of the few contents that are held out.
    counts = {
        (split, shape): len(range(place, size, len(SHAPES)))
        for split, size in sizes._asdict().items()
        for place, shape in enumerate(SHAPES)
    }
    for (split, shape), scene in scenes(
        seed, counts, lambda scene: (task_split(scene), scene.objects[0].shape), lambda index: 1
    ):
        save_image(root / split / shape / f"{scene.index}.png", scene)


def _json_lines(entries: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)
