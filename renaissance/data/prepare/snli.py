"""SNLI-VE -> snli_{train,dev,test}.arrow.

Raw layout below `root`: `snli_ve_{train,dev,test}.jsonl` (Xie et al., arXiv:1901.06706) and Flickr30k's images as
`Flickr30K/images/<id>.jpg`. Their splits are not those of the captions: dev and test are other images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from renaissance.core.errors import require
from renaissance.data.dataset_specs import SNLI_FILE, SNLI_LABELS

from .annotation_store import AnnotationStore
from .annotations import fields, json_lines, require_files
from .writer import Download, Plan, Row, arrow_writer, plan_stored

_ANNOTATIONS = {split: f"snli_ve_{split}.jsonl" for split in ("train", "dev", "test")}
_UNDECIDED = "-"  # the gold label where no three of five annotators agree


@arrow_writer
def make_arrow(root: Path) -> Download:
    """Writes the three files: a row an image, with all its pairs in the order of the annotations.

    Raises:
        UserError: a missing or malformed annotation file (with the line), an image in two splits, or one of the refusals
            of `arrow_writer`.
    """
    found = require_files(root, list(_ANNOTATIONS.values()))
    store = AnnotationStore("hypothesis", "image without a pair")
    plans = [_plan(store, split, root / file) for split, file in _ANNOTATIONS.items()]
    return Download("snli", plans, source={"annotations": found})


def _plan(store: AnnotationStore, split: str, path: Path) -> Plan:
    listed = 0
    for number, entry in json_lines(path):
        where = f"'{path}' line {number}"
        image, premise, hypothesis, label = fields(
            entry, where, Flickr30K_ID=str, sentence1=str, sentence2=str, gold_label=str
        )
        listed += 1
        require(
            label in SNLI_LABELS or label == _UNDECIDED,
            f"{where} has gold_label '{label}'; the labels are {', '.join(SNLI_LABELS)}, and '{_UNDECIDED}' for none.",
        )
        name = f"Flickr30K/images/{image.removesuffix('.jpg')}.jpg"
        if label == _UNDECIDED:
            store.skipped[split].add("pair without a gold label", f"line {number}")
        texts = [] if label == _UNDECIDED else [hypothesis]
        store.add(name, split, texts, [[premise, SNLI_LABELS.get(label)]])
    require(listed, f"'{path}' lists no pair; download it again.")
    rows, labels = store.rows(split, _row), {"labels": list(SNLI_LABELS)}
    return plan_stored(store, "snli", SNLI_FILE.format(split=split), split, rows, metadata=labels, listed_texts=listed)


def _row(name: str, samples: list[tuple[str, Any]]) -> Row:
    values = {
        "sentences": [[premise, hypothesis] for hypothesis, (premise, _) in samples],
        "labels": [label for _, (_, label) in samples],
        "image_id": name.rpartition("/")[2],
    }
    return Row({"image": name}, values)
