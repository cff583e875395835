"""Which answer each label of VQAv2 stands for, as the files themselves say."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from renaissance.core.errors import UserError, require
from renaissance.core.untrusted import short

from .arrow import ArrowFile, check_file, schema_metadata
from .columns import Flat
from .dataset_specs import DATASETS, VQA_LABELS

_ROW = DATASETS["vqa"]
_COLUMNS = tuple(column for column in _ROW.columns if column.name in (_ROW.samples, "answers", "answer_labels"))


def vqa_labels(data_root: str | os.PathLike, known: Sequence[str] = ()) -> list[str] | None:
    """Returns the answer of each label, in the order of their numbers; None where there is no file with answers.

    Files of our writer name their labels. For files of older programs, which do not, the answers are put together from
    the questions of train and val. Where files of both kinds lie together, they have to agree.

    Args:
        data_root: the folder of the arrow files.
        known: the answers of a checkpoint, for the labels that occur in none of the files.

    Raises:
        UserError: two files number the answers differently, or a label's answer occurs in none.
    """
    names = [name for split in ("train", "val") for name in _ROW.splits[split]] + [*_ROW.extra_files]
    paths = [path for name in names if os.path.exists(path := os.path.join(os.fspath(data_root), name))]
    answer_of: dict[int, str] = {}
    for path in paths:
        labels = schema_metadata(path).get("labels")
        for label, answer in _pairs(path) if labels is None else enumerate(labels):
            if answer_of.setdefault(label, answer) != answer:
                raise UserError(
                    f"'{path}' has the answer {short(answer)} for label {label}, which was {short(answer_of[label])} "
                    f"before it; write {', '.join(names)} anew, all in one run."
                )
    if not answer_of:
        return None
    for label, answer in enumerate(known):
        answer_of.setdefault(label, answer)
    count = max(answer_of) + 1
    hole = next((label for label in range(count) if label not in answer_of), None)
    require(
        hole is None,
        f"{', '.join(map(os.path.basename, paths))} in data_root='{data_root}' have no answer with label {hole} of 0 to "
        f"{count - 1} ({VQA_LABELS:,} in the official download); expected {' and '.join(names)} of one preparation.",
    )
    return [answer_of[label] for label in range(count)]


def _pairs(path: str) -> list[tuple[int, str]]:
    """Returns the different (label, answer) of a file."""
    _, found = check_file(path, _COLUMNS, _ROW.samples)
    if not {"answers", "answer_labels"} <= {*found.columns}:
        return []
    pairs = set()
    for batch in ArrowFile(path, _COLUMNS).slices():
        labels, answers = (Flat(batch[name], 2) for name in ("answer_labels", "answers"))
        texts = answers.values.cast(pa.large_string()).fill_null("").dictionary_encode()
        both = np.unique(np.stack([labels.numbers().astype(np.int64), texts.indices.to_numpy()]), axis=1).T.tolist()
        pairs |= {(label, texts.dictionary[code].as_py()) for label, code in both}
    return sorted(pairs)
