"""VQAv2 -> vqav2_{train,val,trainable_val,rest_val,test,test-dev}.arrow.

Raw layout below `root`: `train2014/`, `val2014/`, `test2015/` with COCO's images, and the questions and annotations of
visualqa.org as they are unpacked (Goyal et al., CVPR 2017). The questions of test and test-dev may be absent.

Questions of an image, and images, stand in the order of the annotations (of the test sets: of the questions).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict

from renaissance.core.errors import require
from renaissance.core.untrusted import INT64
from renaissance.data.answers import ANNOTATORS, normalise_answer, soft_scores
from renaissance.data.dataset_specs import VQA_FILE, VQA_LABELS, VQA_LEAST_COUNT, VQA_REST_VAL

from .annotation_store import AnnotationStore, is_unicode
from .annotations import fields, json_items, require_files
from .skipped import Skipped
from .writer import Download, Plan, Row, arrow_writer, plan_file

QUESTIONS = "v2_OpenEnded_mscoco_{name}_questions.json"
ANNOTATIONS = "v2_mscoco_{name}_annotations.json"

_NAMES = {"train": "train2014", "val": "val2014", "test": "test2015", "test-dev": "test-dev2015"}
_ANNOTATED = ("train", "val")


class _Answer(TypedDict):
    answer: str


_ANNOTATION = {
    **{"question_id": INT64, "image_id": INT64, "multiple_choice_answer": str},
    **{"answer_type": str, "question_type": str, "answers": list[_Answer]},
}
_PER_QUESTION = (
    *("questions", "question_id", "raw_answers", "answer_type", "question_type"),
    *("answers", "answer_labels", "answer_scores"),
)


@arrow_writer
def make_arrow(root: Path) -> Download:
    """Writes the six files, or four where no questions of test and test-dev are there.

    The labels are the normalised `multiple_choice_answer`s of train and val that occur at least 9 times, the most
    frequent first, equally frequent ones in alphabetical order. train and trainable_val leave out questions none of
    whose answers is a label. rest_val has the last 1,000 images of val, or the last tenth if that is fewer.

    Raises:
        UserError: a missing, damaged or contradictory file, or one of the refusals of `arrow_writer`.
    """
    needed = [template.format(name=_NAMES[split]) for split in _ANNOTATED for template in (QUESTIONS, ANNOTATIONS)]
    optional = [QUESTIONS.format(name=name) for split, name in _NAMES.items() if split not in _ANNOTATED]
    found = require_files(root, needed, optional)
    answers: Counter[str] = Counter()
    splits = [split for split, name in _NAMES.items() if QUESTIONS.format(name=name) in found]
    stores = {split: _read(root, split, answers) for split in splits}
    labels = _vocabulary(answers)
    images = stores["val"][0].splits()["val"]
    rest = min(VQA_REST_VAL, max(1, images // 10))
    notes = [f"'{name}' is not there, so its file was not written." for name in optional if name not in found]
    if len(labels) != VQA_LABELS:
        notes.append(f"{len(labels):,} answers are labels where the official download gives {VQA_LABELS:,}.")
    return Download(
        "vqa",
        _plans(stores, labels, images - rest, notes),
        source={"annotations": found, "labels": {"expected": VQA_LABELS, "found": len(labels)}},
        options={"least_count": VQA_LEAST_COUNT, "rest_val": rest},
    )


def _read(root: Path, split: str, answers: Counter[str]) -> tuple[AnnotationStore, int]:
    """Reads the questions of a split, with their annotations where it has any, and counts the chosen answers.

    Returns:
        The store, and how many questions are listed.
    """
    path, annotations = (root / each.format(name=_NAMES[split]) for each in (QUESTIONS, ANNOTATIONS))
    store, questions = AnnotationStore("question"), _questions(path)
    if split not in _ANNOTATED:
        for question_id, (image_id, question) in questions.items():
            store.add(_image(split, image_id), split, [question], [[question_id, [], "", ""]])
        return store, len(questions)
    annotated: set[int] = set()
    for number, entry in enumerate(json_items(annotations, "annotations.item")):
        where = f"'{annotations}' annotation {number}"
        question_id, image_id, chosen, *types, given = fields(entry, where, **_ANNOTATION)
        given = [answer["answer"] for answer in given]
        require(len(given) == ANNOTATORS, f"{where} has {len(given)} answers, and not {ANNOTATORS}.")
        require(is_unicode("".join(given)), f"{where} has an answer that is not Unicode text.")
        answers[normalise_answer(chosen)] += 1
        if question_id not in questions:
            store.skipped[split].add("annotation without a question", f"question {question_id}")
            continue
        image, question = questions[question_id]
        fault = f"'{annotations}' lists question {question_id} twice, or for another image than '{path}'; download both again."
        require(image == image_id and question_id not in annotated, fault)
        annotated.add(question_id)
        store.add(_image(split, image_id), split, [question], [[question_id, given, *types]])
    for question_id in (each for each in questions if each not in annotated):
        store.skipped[split].add("question without an annotation", f"question {question_id}")
    few = f"'{annotations}' answers questions of '{path}' about fewer than two images."
    require(store.splits().get(split, 0) > 1, few)
    return store, len(questions)


def _questions(path: Path) -> dict[int, tuple[int, str]]:
    """Returns question_id -> (image_id, question), in the order of the file."""
    questions: dict[int, tuple[int, str]] = {}
    for number, entry in enumerate(json_items(path, "questions.item")):
        where = f"'{path}' question {number}"
        question_id, image_id, question = fields(entry, where, question_id=INT64, image_id=INT64, question=str)
        require(question_id not in questions, f"'{path}' lists question {question_id} twice; download it again.")
        questions[question_id] = (image_id, question)
    return questions


def _image(split: str, image_id: int) -> str:
    folder = _NAMES[split].replace("-dev", "")
    return f"{folder}/COCO_{folder}_{image_id:012d}.jpg"


def _vocabulary(answers: Counter[str]) -> dict[str, int]:
    """Returns answer -> its label."""
    frequent = [answer for answer, count in answers.items() if count >= VQA_LEAST_COUNT]
    require(frequent, f"No answer of train and val occurs {VQA_LEAST_COUNT} times, so there would be no label.")
    return {answer: label for label, answer in enumerate(sorted(frequent, key=lambda each: (-answers[each], each)))}


def _plans(
    stores: Mapping[str, tuple[AnnotationStore, int]], labels: Mapping[str, int], cut: int, notes: list[str]
) -> Iterator[Plan]:
    """Yields the plan of each file; trainable_val has the first `cut` images of val."""
    parts = {"train": ("train", 0, None), "val": ("val", 0, None)}
    parts |= {"trainable_val": ("val", 0, cut), "rest_val": ("val", cut, None)}
    parts |= {split: (split, 0, None) for split in stores if split not in _ANNOTATED}
    for name, (split, first, end) in parts.items():
        store, questions = stores[split]
        skipped = store.skipped[split] if name == split else Skipped()
        row = partial(_row, split, labels, skipped if name in ("train", "trainable_val") else None)
        yield plan_file(
            "vqa",
            VQA_FILE.format(split=name),
            name,
            islice(store.rows(split, row), first, end),
            metadata={"labels": list(labels)},
            listed=(store.splits()[split] if end is None else end) - first,
            skipped=skipped,
            listed_texts=questions if name == split else None,
            notes=notes if name == "train" else (),
        )


def _row(
    split: str, labels: Mapping[str, int], skipped: Skipped | None, name: str, samples: list[tuple[str, Any]]
) -> Row | None:
    """Returns the row of an image; with `skipped`, questions without a label are left out and counted."""
    kept = []
    for question, (question_id, raw_answers, *types) in samples:
        scores = {answer: score for answer, score in soft_scores(raw_answers).items() if answer in labels}
        if skipped is not None and not scores:
            skipped.add("question none of whose answers is a label", f"question {question_id}")
            continue
        numbers = [labels[answer] for answer in scores]
        kept.append((question, question_id, raw_answers, *types, list(scores), numbers, list(scores.values())))
    if not kept:
        return None
    columns = dict(zip(_PER_QUESTION, map(list, zip(*kept, strict=True)), strict=True))
    image_id = int(PurePosixPath(name).stem.rpartition("_")[2])
    return Row({"image": name}, {**columns, "image_id": image_id, "split": split})
