"""The balanced questions of GQA -> gqa_{train,val,testdev}.arrow: a row an image, with all its questions.

Raw layout below `root`, as the official archives are unpacked: `{train,val,testdev}_balanced_questions.json`, each one object
of questions by id, and `images/<imageId>.jpg`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import ijson

from renaissance.core.errors import UserError, first_line, require
from renaissance.data.prepare.annotation_store import AnnotationStore
from renaissance.data.prepare.annotations import fields, opened, require_files
from renaissance.data.prepare.entries import Row
from renaissance.data.prepare.writer import Download, arrow_writer, plan_stored

from . import FILES

QUESTIONS = "{split}_balanced_questions.json"


@arrow_writer
def make_arrow(root: Path) -> Download:
    """Write the three files. The vocabulary has all answers of train and val, the most frequent first.

    Raises:
        UserError: a missing or malformed file of questions, or one of the refusals of `arrow_writer`.
    """
    found = require_files(root, [QUESTIONS.format(split=split) for split in FILES])
    store, answers, listed = AnnotationStore("question"), Counter(), Counter()
    for split in FILES:
        for id, image, question, answer, structural in _questions(root / QUESTIONS.format(split=split)):
            store.add(f"images/{image}.jpg", split, [question], [[id, answer, structural]])
            listed[split] += 1
            answers.update([answer] if split != "testdev" else [])
        require(listed[split], f"'{QUESTIONS.format(split=split)}' holds no question; download it again.")
    metadata = {"labels": sorted(answers, key=lambda answer: (-answers[answer], answer))}
    plans = [
        plan_stored(store, "gqa", file, split, store.rows(split, _row), metadata=metadata, listed_texts=listed[split])
        for split, file in FILES.items()
    ]
    return Download("gqa", plans, source={"annotations": found})


def _questions(path: Path) -> Iterator[list[str]]:
    """Yield id, image, question, answer and structural type."""
    try:
        with opened(path) as file:
            for id, entry in ijson.kvitems(file, ""):
                where = f"'{path}' question {id}"
                *values, types = fields(entry, where, imageId=str, question=str, answer=str, types=dict)
                yield [id, *values, *fields(types, f"{where} types", structural=str)]
    except ijson.JSONError as error:
        raise UserError(f"'{path}' is cut short or is not JSON ({first_line(error)}); download it again.") from None


def _row(name: str, samples: list[tuple[str, Any]]) -> Row:
    ids, answers, structural = zip(*(payload for _, payload in samples), strict=True)
    values = {"question_id": ids, "answers": answers, "structural": structural, "image_id": PurePosixPath(name).stem}
    return Row({"image": name}, values | {"questions": [question for question, _ in samples]})
