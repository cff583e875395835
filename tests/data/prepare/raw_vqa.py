"""VQAv2 in miniature, as it is unpacked: questions, annotations with ten answers, COCO's images."""

from __future__ import annotations

import json
import random
from pathlib import Path

from data.prepare.raw_files import photograph, write_pictures

NAMES = {"train": "train2014", "val": "val2014", "test": "test2015", "test-dev": "test-dev2015"}
COUNTS = {"train": 12, "val": 20, "test": 4, "test-dev": 2}  # images; those of test-dev are test's first
QUESTIONS = 3  # of each image
CHOSEN = ("no",) * 40 + ("Yes.", "yes") * 10 + ("two", "2") * 5 + ("dont know",) * 8 + ("red", "the blue") * 9
"""What train and val are answered, as given: "2" is a label only if both its spellings count."""
NORMAL = {"Yes.": "yes", "two": "2", "dont know": "don't know", "the blue": "blue"}
LABELS = ["no", "yes", "2", "blue", "red"]  # 40, 20, 10, 9 and 9 times; "don't know" 8 times


def question_file(split: str) -> str:
    return f"v2_OpenEnded_mscoco_{NAMES[split]}_questions.json"


def annotation_file(split: str) -> str:
    return f"v2_mscoco_{NAMES[split]}_annotations.json"


def picture_file(split: str, image_id: int) -> str:
    folder = NAMES[split].replace("test-dev", "test")
    return f"{folder}/COCO_{folder}_{image_id:012d}.jpg"


def build() -> dict[str, tuple[list[dict], list[dict]]]:
    """Questions and annotations by split; those of an image do not stand together."""
    chosen = list(CHOSEN)
    random.Random(0).shuffle(chosen)
    splits = {}
    for split, count in COUNTS.items():
        first = {"train": 100, "val": 5000}.get(split, 70_000)
        asked = [(first + 7 * picture, n) for n in range(QUESTIONS) for picture in range(count)]
        questions = [
            {"image_id": image, "question": f"what is {n} ü\n?", "question_id": image * 1000 + n} for image, n in asked
        ]
        annotations = [
            annotation(question, chosen.pop(), place) for place, question in enumerate(questions) if "test" not in split
        ]
        splits[split] = (questions[::-1], annotations)  # the two files need not have one order
    assert not chosen
    return splits


def annotation(question: dict, chosen: str, place: int) -> dict:
    count = place % 11  # how many of the ten say what was chosen
    others = [("no", "Yes.", "the blue", "a rare thing", "dont know")[n % 5] for n in range(place, place + 10 - count)]
    answers = [chosen] * count + others
    return {
        "question_type": f"what is {place % 3}",
        "multiple_choice_answer": chosen,
        "answers": [{"answer": a, "answer_confidence": "yes", "answer_id": n} for n, a in enumerate(answers, 1)],
        "image_id": question["image_id"],
        "answer_type": ("yes/no", "number", "other")[place % 3],
        "question_id": question["question_id"],
    }


def write(root: Path, splits: dict[str, tuple[list[dict], list[dict]]], pictures: bool = True) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for split, (questions, answered) in splits.items():
        header = {"info": {"version": "2.0"}, "license": {"name": "a"}, "data_type": "mscoco"}
        (root / question_file(split)).write_text(json.dumps(header | {"task_type": "x", "questions": questions}))
        if "test" not in split:
            (root / annotation_file(split)).write_text(json.dumps(header | {"annotations": answered}))
        for image in {question["image_id"] for question in questions} if pictures else ():
            path = root / picture_file(split, image)
            write_pictures(path.parent, {path.name: photograph(image)})
