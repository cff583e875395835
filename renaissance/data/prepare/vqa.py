"""VQAv2 -> vqav2_{train,val,trainable_val,rest_val,test,test-dev}.arrow.

Raw layout below `root`: `train2014/`, `val2014/`, `test2015/` with COCO's images, and the questions and annotations of
visualqa.org as they are unpacked (Goyal et al., CVPR 2017). The questions of test and test-dev may be absent.

Questions of an image, and images, stand in the order of the annotations (of the test sets: of the questions).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypedDict

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


class _Listing(NamedTuple):
    """What the raw download lists. Attributes: stores and listed questions, by split; counts of the chosen answers."""

    stores: dict[str, AnnotationStore]
    listed: dict[str, int]
    answers: Counter[str]


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
    listing = _Listing({}, {}, Counter())
    _read_annotated(root, listing)
    for split, name in _NAMES.items():
        if split not in _ANNOTATED and QUESTIONS.format(name=name) in found:
            _read_test(root, split, listing)
    labels = _vocabulary(listing.answers)
    images = listing.stores["val"].splits()["val"]
    rest = min(VQA_REST_VAL, max(1, images // 10))
    notes = [f"'{name}' is not there, so its file was not written." for name in optional if name not in found]
    if len(labels) != VQA_LABELS:
        notes.append(f"{len(labels):,} answers are labels where the official download gives {VQA_LABELS:,}.")
    return Download(
        "vqa",
        _plans(listing, labels, images - rest, notes),
        source={"annotations": found, "labels": {"expected": VQA_LABELS, "found": len(labels)}},
        options={"least_count": VQA_LEAST_COUNT, "rest_val": rest},
    )


def _read_annotated(root: Path, listing: _Listing) -> None:
    for split in _ANNOTATED:
        questions, annotations = (root / each.format(name=_NAMES[split]) for each in (QUESTIONS, ANNOTATIONS))
        store = listing.stores[split] = AnnotationStore("question")
        asked: dict[int, tuple[int, str] | None] = {each: (image, text) for each, image, text in _questions(questions)}
        listing.listed[split] = len(asked)
        for number, entry in enumerate(json_items(annotations, "annotations.item")):
            where = f"'{annotations}' annotation {number}"
            question_id, image_id, chosen, *types, answers = fields(entry, where, **_ANNOTATION)
            answers = [answer["answer"] for answer in answers]
            require(len(answers) == ANNOTATORS, f"{where} has {len(answers)} answers, and not {ANNOTATORS}.")
            require(is_unicode("".join(answers)), f"{where} has an answer that is not Unicode text.")
            listing.answers[normalise_answer(chosen)] += 1
            if question_id not in asked:
                store.skipped[split].add("annotation without a question", f"question {question_id}")
                continue
            question, asked[question_id] = asked[question_id], None  # None: its annotation has been read
            fault = "a second time" if question is None else f"for another image than '{questions}'"
            require(
                question is not None and question[0] == image_id,
                f"'{annotations}' lists question {question_id} {fault}; download both again.",
            )
            store.add(_image(split, image_id), split, [question[1]], [[question_id, answers, *types]])
        for question_id in (each for each, question in asked.items() if question is not None):
            store.skipped[split].add("question without an annotation", f"question {question_id}")
        require(
            store.splits().get(split, 0) > 1,
            f"'{annotations}' answers questions of '{questions}' about fewer than two images.",
        )


def _read_test(root: Path, split: str, listing: _Listing) -> None:
    store = listing.stores[split] = AnnotationStore("question")
    for question_id, image_id, question in _questions(root / QUESTIONS.format(name=_NAMES[split])):
        store.add(_image(split, image_id), split, [question], [[question_id, [], "", ""]])
        listing.listed[split] = listing.listed.get(split, 0) + 1


def _questions(path: Path) -> Iterator[tuple[int, int, str]]:
    """Yields (question_id, image_id, question)."""
    seen: set[int] = set()
    for number, entry in enumerate(json_items(path, "questions.item")):
        where = f"'{path}' question {number}"
        question_id, image_id, question = fields(entry, where, question_id=INT64, image_id=INT64, question=str)
        require(question_id not in seen, f"'{path}' lists question {question_id} twice; download it again.")
        seen.add(question_id)
        yield question_id, image_id, question


def _image(split: str, image_id: int) -> str:
    folder = _NAMES[split].replace("-dev", "")
    return f"{folder}/COCO_{folder}_{image_id:012d}.jpg"


def _vocabulary(answers: Counter[str]) -> dict[str, int]:
    """Returns answer -> its label."""
    frequent = [answer for answer, count in answers.items() if count >= VQA_LEAST_COUNT]
    require(frequent, f"No answer of train and val occurs {VQA_LEAST_COUNT} times, so there would be no label.")
    return {answer: label for label, answer in enumerate(sorted(frequent, key=lambda each: (-answers[each], each)))}


def _plans(listing: _Listing, labels: Mapping[str, int], cut: int, notes: list[str]) -> Iterator[Plan]:
    """Yields the plan of each file; trainable_val has the first `cut` images of val."""
    parts = {"train": ("train", 0, None), "val": ("val", 0, None)}
    parts |= {"trainable_val": ("val", 0, cut), "rest_val": ("val", cut, None)}
    parts |= {split: (split, 0, None) for split in listing.stores if split not in _ANNOTATED}
    for name, (split, first, end) in parts.items():
        store = listing.stores[split]
        skipped = store.skipped[split] if name == split else Skipped()
        row = _row_of(split, labels, skipped if name in ("train", "trainable_val") else None)
        yield plan_file(
            "vqa",
            VQA_FILE.format(split=name),
            {"dataset": "vqa", "split": name, "labels": list(labels)},
            rows=islice(store.rows(split, row), first, end),
            listed=(store.splits()[split] if end is None else end) - first,
            skipped=skipped,
            listed_texts=listing.listed.get(name),
            notes=notes if name == "train" else (),
        )


def _row_of(
    split: str, labels: Mapping[str, int], skipped: Skipped | None
) -> Callable[[str, list[tuple[str, Any]]], Row | None]:
    """Returns a function that makes the row of an image; with `skipped`, questions without a label are left out and counted."""

    def row(name: str, samples: list[tuple[str, Any]]) -> Row | None:
        kept = []
        for question, (question_id, raw_answers, *types) in samples:
            scores = {answer: score for answer, score in soft_scores(raw_answers).items() if answer in labels}
            if skipped is not None and not scores:
                skipped.add("question none of whose answers is a label", f"question {question_id}")
                continue
            numbers = [labels[answer] for answer in scores]
            kept.append((question, question_id, raw_answers, *types, list(scores), numbers, list(scores.values())))
        columns = dict(zip(_PER_QUESTION, map(list, zip(*kept, strict=True)), strict=True)) if kept else {}
        image_id = int(PurePosixPath(name).stem.rpartition("_")[2])
        return Row({"image": name}, {**columns, "image_id": image_id, "split": split}) if kept else None

    return row
