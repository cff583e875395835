"""The nine tasks of GLUE in every layout, written from the same rows: the official .tsv files, and those of the Hub.

Nothing here knows the reader: columns are spelled as the official files and as `datasets` spell them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


class Layout(NamedTuple):
    """A task as it is laid out. {0}, {1}: texts; {n}: row; {label}. Attributes: folder of the .tsv files; train and
    test, (header, line) of their .tsv files; hub, text columns; names of labels."""

    folder: str
    train: tuple[str, str]
    test: tuple[str, str]
    hub: tuple[str, ...]
    names: tuple[str, ...] = ()


_MNLI = "index promptID pairID genre s1_binary_parse s2_binary_parse s1_parse s2_parse sentence1 sentence2"
_MNLI_LINE = "{n} 7 7n fiction ( ( ( ( {0} {1}"
_STSB = "index genre filename year old_index source1 source2 sentence1 sentence2"
_PAIR = ("index sentence1 sentence2 label", "{n} {0} {1} {label}")
_PAIR_TEST = ("index sentence1 sentence2", "{n} {0} {1}")
_ENTAILED = ("entailment", "not_entailment")
# Fields are separated by blanks here and by tabs in the files; "~" in a header is a blank ("#1 ID").
LAYOUTS = {
    "cola": Layout(
        "CoLA", ("", "gj04 {label} * {0}"), ("index sentence", "{n} {0}"), ("sentence",), ("unacceptable", "acceptable")
    ),
    "sst2": Layout(
        "SST-2",
        ("sentence label", "{0} {label}"),
        ("index sentence", "{n} {0}"),
        ("sentence",),
        ("negative", "positive"),
    ),
    "mrpc": Layout(
        "MRPC",
        ("\ufeffQuality #1~ID #2~ID #1~String #2~String", "{label} 11 12 {0} {1}"),
        ("index #1~ID #2~ID #1~String #2~String", "{n} 11 12 {0} {1}"),
        ("sentence1", "sentence2"),
        ("not_equivalent", "equivalent"),
    ),
    "qqp": Layout(
        "QQP",
        ("id qid1 qid2 question1 question2 is_duplicate", "9{n} 1 2 {0} {1} {label}"),
        ("id question1 question2", "{n} {0} {1}"),
        ("question1", "question2"),
        ("not_duplicate", "duplicate"),
    ),
    "stsb": Layout(
        "STS-B",
        (f"{_STSB} score", "{n} news MSRvid 2012 0001 none none {0} {1} {label}"),
        (_STSB, "{n} news MSRvid 2012 0001 none none {0} {1}"),
        ("sentence1", "sentence2"),
    ),
    "mnli": Layout(
        "MNLI",
        (f"{_MNLI} label1 gold_label", f"{_MNLI_LINE} neutral {{label}}"),
        (_MNLI, _MNLI_LINE),
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
    ),
    "qnli": Layout(
        "QNLI",
        ("index question sentence label", "{n} {0} {1} {label}"),
        ("index question sentence", "{n} {0} {1}"),
        ("question", "sentence"),
        _ENTAILED,
    ),
    "rte": Layout("RTE", _PAIR, _PAIR_TEST, ("sentence1", "sentence2"), _ENTAILED),
    "wnli": Layout("WNLI", _PAIR, _PAIR_TEST, ("sentence1", "sentence2"), ("not_entailment", "entailment")),
}
# As they come: unbalanced quotes, a trailing blank, what looks like a missing value, nothing, other scripts.
TEXTS = (
    'He said "no',
    "it 's fun ",
    "NA",
    "",
    "null",
    "naïve Ünïcode 東京",
    'a "quoted" one',
    "-1",
    "\\N",
    "two  blanks",
)
NAMED_IN_TSV = ("mnli", "qnli", "rte")  # the others have numbers
SPLITS = {"train": ("train", "train"), "val": ("validation", "dev"), "test": ("test", "test")}
MNLI_SPLITS = {
    "train": ("train", "train"),
    "val": ("validation_matched", "dev_matched"),
    "val_mismatched": ("validation_mismatched", "dev_mismatched"),
    "test": ("test_matched", "test_matched"),
    "test_mismatched": ("test_mismatched", "test_mismatched"),
}


class Row(NamedTuple):
    """Attributes: texts, one or two; label, a number, None where it is hidden."""

    texts: tuple[str, ...]
    label: int | float | None


def splits_of(name: str) -> dict[str, tuple[str, str]]:
    return MNLI_SPLITS if name == "mnli" else SPLITS


def rows_of(name: str, split: str, count: int = 10) -> list[Row]:
    """Rows of a split, hidden in a test; of STS-B the first scores are the ends of the scale and odd fractions."""
    layout, random = LAYOUTS[name], np.random.default_rng(len(name) + len(split))
    labels = random.integers(0, len(layout.names) or 1, count).tolist()
    if not layout.names:
        labels = [0.0, 5.0, 3.8, 2.857, *np.round(random.uniform(0, 5, count - 4), 3).tolist()]
    hidden = split.startswith("test")
    return [
        Row(tuple(TEXTS[(n + 3 * side) % len(TEXTS)] for side in range(len(layout.hub))), None if hidden else label)
        for n, label in enumerate(labels)
    ]


def write_tsv(root: Path, name: str) -> None:
    """Every split of a task as the official download has it."""
    for split in splits_of(name):
        write_split(root, name, split, rows_of(name, split))


def write_split(root: Path, name: str, split: str, rows: Sequence[Row], newline: str = "\n") -> Path:
    """As the official download has it: no quoting, CoLA without a header."""
    layout = LAYOUTS[name]
    header, line = layout.test if split.startswith("test") else layout.train
    lines = [header.replace(" ", "\t").replace("~", " ")] if header else []
    for n, row in enumerate(rows):
        label = row.label if row.label is None or name not in NAMED_IN_TSV else layout.names[row.label]
        fields = [field.format(*row.texts, n=n, label=label) for field in line.split(" ")]
        lines.append("\t".join(fields))
    path = root / layout.folder / f"{splits_of(name)[split][1]}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(each + newline for each in lines).encode())
    return path


def hub_table(name: str, rows: Sequence[Row], names: Sequence[str] | None = None) -> pa.Table:
    """As `datasets` makes it: hidden labels are -1, `names` of labels stand in the schema's metadata."""
    layout = LAYOUTS[name]
    columns = {column: [row.texts[place] for row in rows] for place, column in enumerate(layout.hub)}
    kind = pa.int64() if layout.names else pa.float32()
    label = pa.array([-1 if row.label is None else row.label for row in rows], kind)
    table = pa.table({**columns, "label": label, "idx": pa.array(range(len(rows)), pa.int32())})
    feature = {"names": list(names or layout.names), "_type": "ClassLabel"}
    features = {
        **{column: {"dtype": "string", "_type": "Value"} for column in layout.hub},
        "label": feature if layout.names else {"dtype": "float32", "_type": "Value"},
        "idx": {"dtype": "int32", "_type": "Value"},
    }
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write_parquet(root: Path, name: str, split: str, table: pa.Table, shards: int = 1) -> Path:
    """As the Hub has it; returns the first shard."""
    folder, size = root / name, -(-len(table) // shards)
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(shards):
        file = folder / f"{splits_of(name)[split][0]}-{n:05d}-of-{shards:05d}.parquet"
        pq.write_table(table.slice(n * size, size), file)
    return folder / f"{splits_of(name)[split][0]}-00000-of-{shards:05d}.parquet"


def write_saved(root: Path, name: str, split: str, table: pa.Table, shards: int = 1) -> Path:
    """As `DatasetDict.save_to_disk` writes it: arrow *streams* and what lists them; returns the first of them."""
    folder, size = root / name / splits_of(name)[split][0], -(-len(table) // shards)
    folder.mkdir(parents=True, exist_ok=True)
    files = [f"data-{n:05d}-of-{shards:05d}.arrow" for n in range(shards)]
    for n, file in enumerate(files):
        with pa.OSFile(str(folder / file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.slice(n * size, size), max_chunksize=2)
    state = {"_data_files": [{"filename": file} for file in files], "_format_type": None, "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    (root / name / "dataset_dict.json").write_text(json.dumps({"splits": sorted(splits_of(name))}))
    return folder / files[0]
