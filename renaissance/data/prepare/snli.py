"""SNLI-VE -> snli_{train,dev,test}.arrow.

Raw layout below `root`: `snli_ve_{train,dev,test}.jsonl` (Xie et al., arXiv:1901.06706) and Flickr30k's images as
`Flickr30K/images/<id>.jpg`. Their splits are not those of the captions: dev and test are other images.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Unpack

from renaissance.core.errors import UserError
from renaissance.data.dataset_specs import DATASETS, SNLI_FILE, SNLI_LABELS

from .annotation_store import AnnotationStore
from .annotations import json_lines, require_files, texts_of
from .writer import LeftOut, Plan, Row, WriteOptions, check_options, schema_of, write_files

_ANNOTATIONS = {split: f"snli_ve_{split}.jsonl" for split in ("train", "dev", "test")}
_UNDECIDED = "-"  # the gold label where no three of five annotators agree
_IN_LINE = ("Flickr30K_ID", "sentence1", "sentence2", "gold_label")


def make_arrow(
    root: str | os.PathLike, dataset_root: str | os.PathLike, **writing: Unpack[WriteOptions]
) -> list[dict[str, Any]]:
    """Write the three files: a row an image, with all its pairs in the order of the annotations.

    Args:
        root, dataset_root, writing: as for every `make_arrow`, which returns the manifests.

    Raises:
        UserError: a bad option, a missing or malformed annotation file (with the line), an image in two splits, or
            one of the refusals of `write_files`.
    """
    check_options(**writing)
    found = require_files(root, list(_ANNOTATIONS.values()))
    store = AnnotationStore("hypothesis")
    listed = {split: _read(store, split, Path(root) / file) for split, file in _ANNOTATIONS.items()}
    plans = (_plan(store, split, count) for split, count in listed.items())
    source = {"dataset": "snli", "root": os.fspath(root), "annotations": found}
    return write_files(plans, root, dataset_root, source=source, options={}, **writing)


def _read(store: AnnotationStore, split: str, path: Path) -> int:
    """Return the number of lines."""
    listed = 0
    for number, entry in json_lines(path):
        listed += 1
        image, premise, hypothesis, label = texts_of(path, number, entry, *_IN_LINE)
        if label not in SNLI_LABELS and label != _UNDECIDED:
            raise UserError(
                f"'{path}' line {number} has gold_label '{label}'; the labels are {', '.join(SNLI_LABELS)}, and "
                f"'{_UNDECIDED}' for none."
            )
        pairs = [] if label == _UNDECIDED else [(hypothesis, [premise, SNLI_LABELS[label]])]
        if not pairs:
            store.skipped(split).add("pair without a gold label", f"line {number}")
        name = f"Flickr30K/images/{image.removesuffix('.jpg')}.jpg"
        store.add(name, split, [text for text, _ in pairs], [payload for _, payload in pairs])
    if not listed:
        raise UserError(f"'{path}' lists no pair; download it again.")
    return listed


def _plan(store: AnnotationStore, split: str, listed: int) -> Plan:
    name = SNLI_FILE.format(split=split)
    return Plan(
        name=name,
        schema=schema_of(DATASETS["snli"].columns, {"dataset": "snli", "split": split, "labels": list(SNLI_LABELS)}),
        rows=_rows(store, split),
        listed=store.splits()[split],
        skipped=store.skipped(split),
        texts=("sentences",),
        expected=DATASETS["snli"].expected[name],
        listed_texts=listed,
    )


def _rows(store: AnnotationStore, split: str) -> Iterator[Row | LeftOut]:
    for name, samples in store.samples(split):
        values = {
            "sentences": [[premise, hypothesis] for hypothesis, (premise, _) in samples],
            "labels": [label for _, (_, label) in samples],
            "image_id": name.rpartition("/")[2],
        }
        yield Row({"image": name}, values) if samples else LeftOut("picture without a pair", name)
