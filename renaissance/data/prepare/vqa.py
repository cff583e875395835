"""VQAv2 -> vqav2_{train,val,trainable_val,rest_val,test,test-dev}.arrow.

Raw layout below `root`: `train2014/`, `val2014/`, `test2015/` with COCO's images, and the questions and annotations of
visualqa.org as they are unpacked (Goyal et al., CVPR 2017). The questions of test and test-dev may be absent.

Questions of an image, and images, stand in the order of the annotations (of the test sets: of the questions).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Unpack

from renaissance.core.errors import UserError
from renaissance.data.answers import ANNOTATORS, normalise_answer, soft_scores
from renaissance.data.dataset_specs import DATASETS, UNKNOWN, VQA_FILE, VQA_LABELS, VQA_LEAST_COUNT, VQA_REST_VAL

from .annotation_store import AnnotationStore, is_unicode
from .annotations import json_items, require_files
from .skipped import Skipped
from .writer import LeftOut, Plan, Row, WriteOptions, check_options, schema_of, write_files

QUESTIONS = "v2_OpenEnded_mscoco_{name}_questions.json"
ANNOTATIONS = "v2_mscoco_{name}_annotations.json"

_NAMES = {"train": "train2014", "val": "val2014", "test": "test2015", "test-dev": "test-dev2015"}
_ANNOTATED = ("train", "val")
_IMAGE = "{folder}/COCO_{folder}_{image_id:012d}.jpg"
_PER_QUESTION = (
    "questions",
    "question_id",
    "raw_answers",
    "answer_type",
    "question_type",
    "answers",
    "answer_labels",
    "answer_scores",
)


class _Listing(NamedTuple):
    """What the raw download lists. Attributes: stores and listed questions, by split; counts of the chosen answers."""

    stores: dict[str, AnnotationStore]
    listed: dict[str, int]
    answers: Counter[str]


def make_arrow(
    root: str | os.PathLike, dataset_root: str | os.PathLike, **writing: Unpack[WriteOptions]
) -> list[dict[str, Any]]:
    """Write the six files, or four where no questions of test and test-dev are there.

    The labels are the normalised `multiple_choice_answer`s of train and val that occur at least 9 times, the most
    frequent first, equally frequent ones in alphabetical order. train and trainable_val leave out questions none of
    whose answers is a label. rest_val has the last 1,000 images of val, or the last tenth if that is fewer.

    Args:
        root, dataset_root, writing: as for every `make_arrow`, which returns the manifests.

    Raises:
        UserError: a bad option, a missing, damaged or contradictory file, or one of the refusals of `write_files`.
    """
    check_options(**writing)
    needed = [template.format(name=_NAMES[split]) for split in _ANNOTATED for template in (QUESTIONS, ANNOTATIONS)]
    optional = [QUESTIONS.format(name=name) for split, name in _NAMES.items() if split not in _ANNOTATED]
    found = require_files(root, needed, optional)
    listing = _Listing({}, {}, Counter())
    _read_annotated(Path(root), listing)
    for split, name in _NAMES.items():
        if split not in _ANNOTATED and QUESTIONS.format(name=name) in found:
            _read_test(Path(root), split, listing)
    labels = _vocabulary(listing.answers)
    images = listing.stores["val"].splits()["val"]
    rest = min(VQA_REST_VAL, max(1, images // 10))
    notes = [f"'{name}' is not there, so its file was not written." for name in optional if name not in found]
    if len(labels) != VQA_LABELS:
        notes.append(f"{len(labels):,} answers are labels where the official download gives {VQA_LABELS:,}.")
    return write_files(
        _plans(listing, labels, images - rest, notes),
        root,
        dataset_root,
        source={
            "dataset": "vqa",
            "root": os.fspath(root),
            "annotations": found,
            "labels": {"expected": VQA_LABELS, "found": len(labels)},
        },
        options={"least_count": VQA_LEAST_COUNT, "rest_val": rest},
        **writing,
    )


def _read_annotated(root: Path, listing: _Listing) -> None:
    split_of: dict[int, str] = {}
    for split in _ANNOTATED:
        questions, annotations = (root / each.format(name=_NAMES[split]) for each in (QUESTIONS, ANNOTATIONS))
        store = listing.stores[split] = AnnotationStore("question")
        asked: dict[int, tuple[int, str] | None] = {each: (image, text) for each, image, text in _questions(questions)}
        listing.listed[split] = len(asked)
        for number, entry in enumerate(json_items(annotations, "annotations.item")):
            question_id, image_id, chosen, payload = _annotation(annotations, number, entry)
            listing.answers[normalise_answer(chosen)] += 1
            if question_id not in asked:
                store.skipped(split).add("annotation without a question", f"question {question_id}")
                continue
            question, asked[question_id] = asked[question_id], None  # None: its annotation has been read
            if question is None or question[0] != image_id:
                fault = "a second time" if question is None else f"for another picture than '{questions}'"
                raise UserError(f"'{annotations}' lists question {question_id} {fault}; download both again.")
            if split_of.setdefault(image_id, split) != split:
                raise UserError(f"Picture {image_id} is listed in train and in val; it can be in one only.")
            store.add(_image(split, image_id), split, [question[1]], [payload])
        for question_id in (each for each, question in asked.items() if question is not None):
            store.skipped(split).add("question without an annotation", f"question {question_id}")
        if store.splits().get(split, 0) < 2:
            raise UserError(f"'{annotations}' answers questions of '{questions}' about fewer than two pictures.")


def _read_test(root: Path, split: str, listing: _Listing) -> None:
    store = listing.stores[split] = AnnotationStore("question")
    for question_id, image_id, question in _questions(root / QUESTIONS.format(name=_NAMES[split])):
        store.add(_image(split, image_id), split, [question], [[question_id, [], "", ""]])
        listing.listed[split] = listing.listed.get(split, 0) + 1


def _questions(path: Path) -> Iterator[tuple[int, int, str]]:
    """Yield (question_id, image_id, question)."""
    seen: set[int] = set()
    for number, entry in enumerate(json_items(path, "questions.item")):
        try:
            question_id, image_id, question = entry["question_id"], entry["image_id"], entry["question"]
        except (KeyError, TypeError):
            question_id = image_id = question = None
        if not (_is_id(question_id) and _is_id(image_id) and isinstance(question, str)):
            raise UserError(
                f"'{path}' question {number} needs question_id and image_id, numbers, and question, a text."
            )
        if question_id in seen:
            raise UserError(f"'{path}' lists question {question_id} twice; download it again.")
        seen.add(question_id)
        yield question_id, image_id, question


def _annotation(path: Path, number: int, entry: Any) -> tuple[int, int, str, list[Any]]:
    """Return question_id, image_id, multiple_choice_answer, and what the annotation store keeps of an annotation."""
    try:
        question_id, image_id, chosen = entry["question_id"], entry["image_id"], entry["multiple_choice_answer"]
        answers = [answer["answer"] for answer in entry["answers"]]
        types = [entry["answer_type"], entry["question_type"]]
        well_formed = _is_id(question_id) and _is_id(image_id) and len(answers) == ANNOTATORS
        well_formed = well_formed and is_unicode("".join([chosen, *answers, *types]))
    except (KeyError, TypeError):
        well_formed = False
    if not well_formed:
        raise UserError(
            f"'{path}' annotation {number} needs question_id and image_id, numbers, and question_type, answer_type, "
            f"multiple_choice_answer and {ANNOTATORS} answers, texts."
        )
    return question_id, image_id, chosen, [question_id, answers, *types]


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _image(split: str, image_id: int) -> str:
    return _IMAGE.format(folder=_NAMES[split].replace("-dev", ""), image_id=image_id)


def _vocabulary(answers: Counter[str]) -> dict[str, int]:
    """Return answer -> its label."""
    frequent = [answer for answer, count in answers.items() if count >= VQA_LEAST_COUNT]
    if not frequent:
        raise UserError(f"No answer of train and val occurs {VQA_LEAST_COUNT} times, so there would be no label.")
    return {answer: label for label, answer in enumerate(sorted(frequent, key=lambda each: (-answers[each], each)))}


def _plans(listing: _Listing, labels: Mapping[str, int], cut: int, notes: list[str]) -> Iterator[Plan]:
    """Yield the plan of each file; trainable_val has the first `cut` images of val."""
    parts = {"train": ("train", 0, None), "val": ("val", 0, None)}
    parts |= {"trainable_val": ("val", 0, cut), "rest_val": ("val", cut, None)}
    parts |= {split: (split, 0, None) for split in listing.stores if split not in _ANNOTATED}
    for name, (split, first, end) in parts.items():
        store, file = listing.stores[split], VQA_FILE.format(split=name)
        skipped = store.skipped(split) if name == split else Skipped()
        samples = islice(store.samples(split), first, end)
        only_labels = name in ("train", "trainable_val")
        yield Plan(
            name=file,
            schema=schema_of(DATASETS["vqa"].columns, {"dataset": "vqa", "split": name, "labels": list(labels)}),
            rows=_rows(samples, split, labels, skipped if only_labels else None),
            listed=(store.splits()[split] if end is None else end) - first,
            skipped=skipped,
            texts=("questions",),
            expected=DATASETS["vqa"].expected.get(file, UNKNOWN),
            listed_texts=listing.listed.get(name),
            notes=notes if name == "train" else (),
        )


def _rows(
    samples: Iterable[tuple[str, list[tuple[str, Any]]]], split: str, labels: Mapping[str, int], skipped: Skipped | None
) -> Iterator[Row | LeftOut]:
    """Yield a row an image; where `skipped` is given, questions without a label are left out and counted there."""
    for name, questions in samples:
        kept = []
        for question, (question_id, raw_answers, *types) in questions:
            scores = {answer: score for answer, score in soft_scores(raw_answers).items() if answer in labels}
            if skipped is not None and not scores:
                skipped.add("question none of whose answers is a label", f"question {question_id}")
                continue
            numbers = [labels[answer] for answer in scores]
            kept.append((question, question_id, raw_answers, *types, list(scores), numbers, list(scores.values())))
        if kept:
            columns = dict(zip(_PER_QUESTION, map(list, zip(*kept, strict=True)), strict=True))
            image_id = int(PurePosixPath(name).stem.rpartition("_")[2])
            yield Row({"image": name}, {**columns, "image_id": image_id, "split": split})
        else:
            yield LeftOut("picture without a question", name)
