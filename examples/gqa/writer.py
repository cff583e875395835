"""The balanced questions of GQA -> gqa_{train,val,testdev}.arrow: a row an image, with all its questions.

Raw layout below `root`, as the official archives are unpacked: `{train,val,testdev}_balanced_questions.json`, each one object
of questions by id, and `images/<imageId>.jpg`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Unpack

import ijson

from renaissance.core.errors import UserError, first_line, require
from renaissance.data.dataset_specs import DATASETS
from renaissance.data.prepare.annotation_store import AnnotationStore
from renaissance.data.prepare.annotations import opened, require_files
from renaissance.data.prepare.writer import LeftOut, Plan, Row, WriteOptions, check_options, schema_of, write_files

from . import FILES

QUESTIONS = "{split}_balanced_questions.json"


def make_arrow(
    root: str | os.PathLike, dataset_root: str | os.PathLike, **writing: Unpack[WriteOptions]
) -> list[dict[str, Any]]:
    """Write the three files. The vocabulary has all answers of train and val, the most frequent first.

    Args:
        root, dataset_root, writing: as for every `make_arrow`, which returns the manifests.

    Raises:
        UserError: a bad option, a missing or malformed file of questions, or one of the refusals of `write_files`.
    """
    check_options(**writing)
    found = require_files(root, [QUESTIONS.format(split=split) for split in FILES])
    store, answers, listed = AnnotationStore("question"), Counter(), Counter()
    for split in FILES:
        for id, image, question, answer, structural in _questions(Path(root, QUESTIONS.format(split=split))):
            store.add(f"images/{image}.jpg", split, [question], [[id, answer, structural]])
            listed[split] += 1
            answers[answer] += split != "testdev"
        require(listed[split], f"'{QUESTIONS.format(split=split)}' holds no question; download it again.")
    labels = sorted((answer for answer in answers if answers[answer]), key=lambda each: (-answers[each], each))
    plans = (_plan(store, split, listed[split], labels) for split in FILES)
    source = {"dataset": "gqa", "root": os.fspath(root), "annotations": found}
    return write_files(plans, root, dataset_root, source=source, options={}, **writing)


def _questions(path: Path) -> Iterator[list[str]]:
    """Yield id, image, question, answer and structural type."""
    try:
        with opened(path) as file:
            for id, entry in ijson.kvitems(file, ""):
                entry = entry if isinstance(entry, dict) else {}
                types = entry.get("types")
                structural = types.get("structural") if isinstance(types, dict) else None
                values = [id, *(entry.get(key) for key in ("imageId", "question", "answer")), structural]
                require(
                    all(isinstance(value, str) for value in values),
                    f"'{path}' question {id!r} needs imageId, question, answer and types.structural, texts.",
                )
                yield values
    except ijson.JSONError as error:
        raise UserError(f"'{path}' is cut short or is not JSON ({first_line(error)}); download it again.") from None


def _plan(store: AnnotationStore, split: str, listed: int, labels: list[str]) -> Plan:
    return Plan(
        name=FILES[split],
        schema=schema_of(DATASETS["gqa"].columns, {"dataset": "gqa", "split": split, "labels": labels}),
        rows=_rows(store, split),
        listed=store.splits().get(split, 0),
        skipped=store.skipped(split),
        texts=("questions",),
        expected=DATASETS["gqa"].expected[FILES[split]],
        listed_texts=listed,
    )


def _rows(store: AnnotationStore, split: str) -> Iterator[Row | LeftOut]:
    for name, samples in store.samples(split):
        ids, answers, structural = zip(*(payload for _, payload in samples), strict=True) if samples else ((),) * 3
        values = {
            "question_id": ids,
            "answers": answers,
            "structural": structural,
            "image_id": PurePosixPath(name).stem,
        }
        values["questions"] = [question for question, _ in samples]
        yield Row({"image": name}, values) if samples else LeftOut("image without a question", name)
