"""The files of GLUE: the same samples out of every layout, with what real files do, and one sentence for each mistake."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data.raw_glue import LAYOUTS, Row, hub_table, rows_of, splits_of, write_parquet, write_saved, write_split
from renaissance.core.errors import UserError
from renaissance.data.glue import GlueDataset, glue_splits


def contents(samples: GlueDataset) -> list[dict]:
    return [samples[n].values for n in range(len(samples))]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_rows_that_were_written(name: str, tmp_path: Path) -> None:
    for split in splits_of(name):
        rows = rows_of(name, split)
        expected = [
            {"text": row.texts[0], "second": row.texts[1] if row.texts[1:] else None, "label": row.label, "id": n}
            for n, row in enumerate(rows)
        ]
        write_split(tmp_path / "tsv", name, split, rows)
        write_split(tmp_path / "windows" / "glue", name, split, rows, newline="\r\n")
        write_parquet(tmp_path / "parquet", name, split, hub_table(name, rows), shards=3)
        write_saved(tmp_path / "saved" / "glue", name, split, hub_table(name, rows), shards=2)
        for layout in ("tsv", "windows", "parquet", "saved"):
            samples = GlueDataset(tmp_path / layout, name, split, training=split == "train")
            assert contents(samples) == expected, (split, layout)
            assert ("label" in samples.columns) == (not split.startswith("test"))
            assert samples[3].images == () and samples.broken == 0
    for layout in ("tsv", "windows", "parquet", "saved"):
        assert glue_splits(name, tmp_path / layout) == tuple(splits_of(name))


def test_it_pickles_small_and_reads_the_same_files_again(tmp_path: Path) -> None:
    rows = [Row(("a sentence of some length " * 10,), n % 2) for n in range(1000)]
    path = write_split(tmp_path, "sst2", "train", rows)
    samples = GlueDataset(tmp_path, "sst2", "train", training=True)
    pickled = pickle.dumps(samples)
    assert len(pickled) < 2000
    assert pickle.loads(pickled)[999] == samples[999]
    (file,) = samples.describe()
    assert file[1:] == ("SST-2/train.tsv", 1000, 1000)
    write_split(tmp_path, "sst2", "train", rows[:-1])
    with pytest.raises(UserError, match="was changed since this run began"):
        pickle.loads(pickled)[0]
    assert path.exists()


def test_samples_know_their_file_and_a_fingerprint_tells_content_apart(tmp_path: Path) -> None:
    table = hub_table("rte", rows_of("rte", "val"))
    write_parquet(tmp_path, "rte", "val", table, shards=3)  # 4 + 4 + 2 rows
    samples = GlueDataset(tmp_path, "rte", "val")
    assert [samples[n].where for n in (3, 4, 9)] == [
        "rte/validation-00000-of-00003.parquet row 3",
        "rte/validation-00001-of-00003.parquet row 0",
        "rte/validation-00002-of-00003.parquet row 1",
    ]
    before = samples.fingerprint()
    assert [each["pairs"] for each in before.values()] == [4, 4, 2]
    changed = table.set_column(2, "label", pa.array([1 - n for n in table["label"].to_pylist()]))
    write_parquet(tmp_path, "rte", "val", changed, shards=3)
    after = GlueDataset(tmp_path, "rte", "val").fingerprint()
    assert after.keys() == before.keys()
    assert all(after[file]["ends"] != before[file]["ends"] for file in before)
    with pytest.raises(IndexError):
        samples[10]


def test_broken_lines_of_training_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [Row((f"question {n}", "another"), n % 2) for n in range(2500)]
    path = write_split(tmp_path, "qqp", "train", rows)
    lines = path.read_text().splitlines(keepends=True)
    lines[8] = "97\t1\t2\tcut off\n"  # line 9 holds question 7
    path.write_text("".join(lines))
    samples = GlueDataset(tmp_path, "qqp", "train", training=True)
    assert (len(samples), samples.broken) == (2499, 1)
    assert samples[7].values["text"] == "question 8"
    assert samples.describe()[0][2:4] == (2500, 2499)
    lines[20] = lines[30] = "1\t2\n"
    path.write_text("".join(lines))
    with pytest.raises(UserError, match=r"line 9 has 4 columns, expected 6 \(3 such lines\)"):
        GlueDataset(tmp_path, "qqp", "train")


def damaged(name: str, split: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        path = write_split(root, name, split, rows_of(name, split))
        path.write_bytes(change(path.read_bytes()))

    return write


def two_layouts(root: Path) -> None:
    write_split(root, "rte", "val", rows_of("rte", "val"))
    write_parquet(root, "rte", "val", hub_table("rte", rows_of("rte", "val")))


def hub(name: str, change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    return lambda root: write_saved(root, name, "val", change(hub_table(name, rows_of(name, "val"))))


def with_labels(labels: list) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.column_names.index("label"), "label", pa.array(labels))


def lost_shard(root: Path) -> None:
    write_parquet(root, "rte", "val", hub_table("rte", rows_of("rte", "val")), shards=3).unlink()


def cut(root: Path) -> None:
    path = write_saved(root, "rte", "val", hub_table("rte", rows_of("rte", "val")))
    path.write_bytes(path.read_bytes()[:-300])


def bad_offsets(root: Path) -> None:
    path = write_saved(root, "cola", "val", hub_table("cola", [Row(("aaaa",), 0), Row(("bbbb",), 1)]))
    content = path.read_bytes()
    offsets = np.array([0, 4, 8], np.int32).tobytes()
    assert content.count(offsets) == 1
    path.write_bytes(content.replace(offsets, np.array([0, 2**30, 8], np.int32).tobytes()))


def swelling(root: Path) -> None:
    table = with_labels([b"a" * 1000] * 10)(hub_table("rte", rows_of("rte", "val")))
    write_parquet(root, "rte", "val", table.replace_schema_metadata(None))


def unlisted(root: Path) -> None:
    path = write_saved(root, "rte", "val", hub_table("rte", rows_of("rte", "val")))
    (path.parent / "state.json").write_text("{}")


REFUSED = {
    "an unknown name": (lambda root: None, "col", r"names 'col' \(nearest: cola\).*give one of cola, sst2, mrpc"),
    "nothing there": (
        lambda root: (root / "arrow").mkdir(),
        "rte",
        r"needs RTE/dev\.tsv, rte/validation-00000-of-00001\.parquet or rte/validation/state\.json in .*found.*: arrow\.",
    ),
    "two layouts": (two_layouts, "rte", r"holds split 'val' of 'rte' twice, .*rte/validation-0.* and .*RTE/dev\.tsv"),
    "a lost shard": (lost_shard, "rte", r"validation-00000-of-00003\.parquet' cannot be read \(No such file"),
    "a file cut short": (cut, "rte", r"is damaged"),
    "bad offsets": (bad_offsets, "cola", r"cannot be read or is damaged"),
    "unlisted files": (unlisted, "rte", r"_data_files in .*state\.json is None, but has to be a list"),
    "a missing column": (
        damaged("rte", "val", lambda content: content.replace(b"sentence2", b"second")),
        "rte",
        r"needs one column sentence2; its columns are index, sentence1, second, label\.",
    ),
    "a missing column of the Hub": (
        hub("mnli", lambda table: table.drop_columns(["premise"])),
        "mnli",
        r"needs one column premise",
    ),
    "a label out of range": (
        hub("sst2", with_labels([0, 1, 2, *[0] * 7])),
        "sst2",
        r"row 2 has label 2; expected negative, positive or 0 to 1\.",
    ),
    "an unknown word": (
        damaged("mnli", "val", lambda content: content.replace(b"\tentailment\n", b"\tmaybe\n")),
        "mnli",
        r"has label maybe; expected entailment, neutral, contradiction or 0 to 2\.",
    ),
    "a score out of range": (
        hub("stsb", with_labels([*[2.5] * 9, 5.2])),
        "stsb",
        r"row 9 has label 5\.2; expected a number from 0 to 5\.",
    ),
    "a score that is none": (
        damaged("stsb", "val", lambda content: content.replace(b"\t3.8\n", b"\thigh\n")),
        "stsb",
        r"dev\.tsv' cannot be read or is damaged \(.*high",
    ),
    "labels in some rows": (
        hub("sst2", with_labels([0, -1, *[0] * 8])),
        "sst2",
        r"has labels in 9 of 10 rows; expected one in every row, or in none\.",
    ),
    "classes in another order": (
        lambda root: write_saved(root, "rte", "val", hub_table("rte", rows_of("rte", "val"), ["no", "yes"])),
        "rte",
        r"numbers its labels no, yes; expected entailment, not_entailment\.",
    ),
    "a text that is none": (
        hub("cola", lambda table: table.set_column(0, "sentence", pa.array(range(10)))),
        "cola",
        r"has a column sentence of int64 where a string is expected",
    ),
    "labels that swell": (
        swelling,
        "rte",
        r"has a column label of binary where a number or a string is expected",
    ),
    "a text without content": (
        hub("cola", lambda table: table.set_column(0, "sentence", pa.array(["a"] * 9 + [None]))),
        "cola",
        r"row 9 has no text\.",
    ),
    "no rows": (hub("cola", lambda table: table.slice(0, 0)), "cola", r"has no rows"),
    "no UTF-8": (
        damaged("rte", "val", lambda content: content.replace(b"He said", b"\xff\xfe")),
        "rte",
        r"cannot be read or is damaged \(.*UTF8",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    write, name, sentence = REFUSED[case]
    write(tmp_path)
    with pytest.raises(UserError, match=sentence) as refused:
        GlueDataset(tmp_path, name, "val")
    assert "\n" not in str(refused.value)


def test_a_test_needs_every_line_and_every_number_once(tmp_path: Path) -> None:
    path = write_split(tmp_path, "qqp", "test", rows_of("qqp", "test"))
    content = path.read_text()
    path.write_text(content.replace("\n3\t", "\n4\t"))
    with pytest.raises(UserError, match="has duplicate ids"):
        GlueDataset(tmp_path, "qqp", "test")
    path.write_text(re.sub("\n3\t.*?\n", "\n3\tcut\n", content))
    with pytest.raises(UserError, match="line 5 has 2 columns, expected 3"):
        GlueDataset(tmp_path, "qqp", "test")


def test_training_and_splits_are_refused_where_they_are_not(tmp_path: Path) -> None:
    unlabelled = [row._replace(label=None) for row in rows_of("rte", "train")]
    write_parquet(tmp_path, "rte", "train", hub_table("rte", unlabelled))
    with pytest.raises(UserError, match="has labels in 0 of 10 rows; training needs one in every row"):
        GlueDataset(tmp_path, "rte", "train", training=True)
    with pytest.raises(UserError, match="'rte' of GLUE has no split 'dev'; its splits are train, val, test"):
        GlueDataset(tmp_path, "rte", "dev")
    with pytest.raises(UserError, match="needs RTE/train.tsv, .*nowhere'; found: nothing"):
        glue_splits("rte", tmp_path / "nowhere")
    with pytest.raises(UserError, match="GLUE's 'cola' needs CoLA/train.tsv"):
        glue_splits("cola", tmp_path)
