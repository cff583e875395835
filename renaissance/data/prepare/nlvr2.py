"""NLVR2 -> nlvr2_{train,dev,test1,balanced_dev,balanced_test1,unbalanced_dev,unbalanced_test1}.arrow.

Raw layout below `root`: `images/train/<directory>/`, `dev/`, `test1/` (or `images/dev/`, `images/test1/`) with
`<pair>-img0.png` and `<pair>-img1.png`, and `nlvr2/data/` of the authors' repository, lil-lab/nlvr (Suhr et al., ACL
2019). The balanced and unbalanced parts of dev and test1 may be absent; they are about images of dev and test1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from renaissance.core.errors import require
from renaissance.data.dataset_specs import NLVR2_FILE

from .annotation_store import AnnotationStore
from .annotations import fields, json_lines, require_files
from .writer import Download, Plan, Row, arrow_writer, plan_stored

_NEEDED = {split: f"nlvr2/data/{split}.json" for split in ("train", "dev", "test1")}
_OPTIONAL = {
    f"{part}_{split}": f"nlvr2/data/{part}/{part}_{split}.json"
    for part in ("balanced", "unbalanced")
    for split in ("dev", "test1")
}


@arrow_writer
def make_arrow(root: Path) -> Download:
    """Writes the seven files, or as many as there are annotations for.

    A row is a pair of images with all sentences about it, in the order of the annotations.

    Raises:
        UserError: a missing or malformed annotation file (with the line), or one of the refusals of `arrow_writer`.
    """
    found = require_files(root, list(_NEEDED.values()), list(_OPTIONAL.values()))
    absent = [f"'{file}' is not there: its file was not written." for file in _OPTIONAL.values() if file not in found]
    plans = [_plan(root, split, file) for split, file in (_NEEDED | _OPTIONAL).items() if file in found]
    plans[0] = plans[0]._replace(notes=absent)
    return Download("nlvr2", plans, source={"annotations": found})


def _plan(root: Path, split: str, file: str) -> Plan:
    """Reads the annotations of a split into a store, each pair under the beginning of its images' paths."""
    store, seen, path = AnnotationStore("sentence", "image pair without a sentence"), set(), root / file
    base = split.rpartition("_")[2]
    folder = base if base != "train" and (root / base).is_dir() else f"images/{base}"
    for number, entry in json_lines(path):
        where = f"'{path}' line {number}"
        identifier, sentence, label = fields(entry, where, identifier=str, sentence=str, label=str)
        pair = identifier.rpartition("-")[0]
        require(
            pair.startswith(f"{base}-") and label in ("True", "False") and identifier not in seen,
            f"{where} has identifier '{identifier}' and label '{label}'; identifiers are "
            f"'{base}-<number>-<number>-<number>', each once, and labels 'True' or 'False'.",
        )
        place = f"{folder}/{fields(entry, where, directory=int | str)[0]}" if base == "train" else folder
        seen.add(identifier)
        store.add(f"{place}/{pair}", split, [sentence], [[identifier, label]])
    require(seen, f"'{path}' lists no sentence; download it again.")
    name = NLVR2_FILE.format(split=split)
    return plan_stored(store, "nlvr2", name, split, store.rows(split, _row), listed_texts=len(seen))


def _row(name: str, samples: list[tuple[str, Any]]) -> Row:
    values = {
        "questions": [sentence for sentence, _ in samples],
        "answers": [label for _, (_, label) in samples],
        "identifier": name.rpartition("/")[2],
        "identifiers": [identifier for _, (identifier, _) in samples],
    }
    return Row({f"image_{side}": f"{name}-img{side}.png" for side in (0, 1)}, values)
