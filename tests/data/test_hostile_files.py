"""Files that claim, hold or hide anything: each works or gets one sentence; none swells, hangs or ends the process."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.foreign_files import FOREIGN, by_pandas
from data.raw_glue import hub_table, rows_of, write_parquet, write_saved, write_split
from renaissance.core.errors import UserError
from renaissance.data import arrow
from renaissance.data.arrow import check_file
from renaissance.data.dataset_specs import CAPTION_COLUMNS, DATASETS, METADATA_KEY
from renaissance.data.datasets import open_pairs
from renaissance.data.glue import GlueDataset
from renaissance.data.messages import _BLOCK as BLOCK
from renaissance.data.messages import blocks
from renaissance.data.samples import SampleDataset

KINDS = {  # what a column may be instead of what it is to be
    "null": lambda n: pa.nulls(n),
    "integers": lambda n: pa.array(range(n)),
    "negative": lambda n: pa.array([[-1]] * n),
    "NaN": lambda n: pa.array([[[float("nan")]]] * n),
    "lists of lists of lists": lambda n: pa.array([[[["a"]]]] * n),
    "lists of null": lambda n: pa.array([[None, None]] * n, pa.list_(pa.null())),
    "null lists": lambda n: pa.array([None] * n, pa.list_(pa.string())),
    "structs": lambda n: pa.array([{"bytes": b"a", "path": "b"}] * n),
    "large strings": lambda n: pa.array(["a"] * n, pa.large_string()),
    "views": lambda n: pa.array(["a" * 20] * n, pa.string_view()),
    "codes": lambda n: pa.array(["a"] * n).dictionary_encode(),
    "runs": lambda n: pa.RunEndEncodedArray.from_arrays([n], ["a"]),
    "extension": lambda n: pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(16)] * n, pa.binary(16))),
    "dates": lambda n: pa.array([0] * n, pa.timestamp("us")),
    "list views": lambda n: pa.array([["a"]] * n, pa.list_view(pa.string())),
    "half floats": lambda n: pa.array(np.ones(n, np.float16)),
}


_POOLS: list[pa.MemoryPool] = []  # what they gave has to be given back to them


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """What Arrow allocates inside is at most so many bytes at any time."""
    usual = pa.default_memory_pool()
    counted = pa.proxy_memory_pool(usual)
    _POOLS.append(counted)
    pa.set_memory_pool(counted)
    try:
        yield
    finally:
        pa.set_memory_pool(usual)
    assert counted.max_memory() < size


def write(path: Path, table: pa.Table, **options: Any) -> str:
    with pa.ipc.new_file(str(path), table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return str(path)


def read(path: str, dataset: str) -> None:
    """Everything that a run does with a file, images excepted."""
    row = DATASETS[dataset]
    samples = SampleDataset(os.path.dirname(path), [(dataset, os.path.basename(path))], row.columns, row.samples)
    for number in range(min(len(samples), 3)):
        assert samples[number].images
    samples.fingerprint(), samples.schema_metadata()


@pytest.mark.parametrize(
    "dataset", ["coco", "vg", "vqa", "nlvr2", "snli", "refcoco", "images", "winoground", "aro_relation"]
)
def test_columns_of_any_type_work_or_get_a_sentence(dataset: str, tmp_path: Path) -> None:
    table, refused = by_pandas(FOREIGN[dataset].rows), 0
    changes = {f"{name} as {kind}": (name, make) for name in table.column_names for kind, make in KINDS.items()}
    tables = {
        what: table.set_column(table.column_names.index(name), name, make(table.num_rows))
        for what, (name, make) in changes.items()
    }
    tables["no rows"] = table.slice(0, 0)
    tables["twice"] = table.append_column(table.column_names[0], table.column(0))
    tables["control characters"] = table.rename_columns(["\x1b[31m\n" + name for name in table.column_names])
    tables["no columns"] = table.select([])
    tables["ten thousand columns"] = pa.table({f"c{number}": pa.nulls(1) for number in range(10_000)})
    for number, (what, changed) in enumerate(tables.items()):
        try:
            read(write(tmp_path / f"{number}.arrow", changed), dataset)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and "\x1b" not in str(error) and len(str(error)) < 1500, what
    assert refused > len(KINDS)


def claims(path: Path, case: str) -> str:
    """A small file that claims, or would become, a large one."""
    table = pa.table({"image": [b"a"] * 2, "caption": [["a"]] * 2})
    if case == "a compressed column that nobody reads":
        table = table.append_column("x", pa.array([bytes(20 << 20)] * 2, pa.large_binary()))
        return write(path, table, compression="zstd")
    if case == "a compressed dictionary":
        codes = pa.array([b"x" * (20 << 20)]).dictionary_encode().take(pa.array([0, 0]))
        return write(path, table.append_column("x", codes), compression="lz4")
    if case == "lists of billions of nulls":
        nulls = pa.Array.from_buffers(pa.null(), (1 << 31) - 1, [None])
        return write(
            path, table.set_column(1, "caption", pa.LargeListArray.from_arrays(pa.array([0, 1, (1 << 31) - 1]), nulls))
        )
    if case == "billions of empty lists":
        count, kind = (1 << 31) - 1, pa.list_(pa.string(), 0)
        inner = pa.Array.from_buffers(kind, count, [None], children=[pa.array([], pa.string())])
        lists = pa.ListArray.from_arrays(pa.array([0, 1, count], pa.int32()), inner)
        return write(path, pa.table({"image": [b"a"] * 2, "sentences": lists}))
    content = Path(write(path, table)).read_bytes()
    ((start, message, body),) = blocks(memoryview(content))
    larger = content.replace(BLOCK.pack(start, message, body), BLOCK.pack(start, message, 1 << 40))
    assert larger != content
    path.write_bytes(larger)
    return str(path)


@pytest.mark.parametrize(
    ("case", "dataset", "sentence"),
    [
        ("a compressed column that nobody reads", "coco", "is compressed"),
        ("a compressed dictionary", "coco", "is compressed"),
        ("lists of billions of nulls", "coco", "claims 2,147,483,647 values in column 'caption'"),
        ("billions of empty lists", "snli", "claims 2,147,483,647 values in column 'sentences'"),
        ("a body larger than the file", "coco", "its batches claim more than its"),
    ],
)
def test_what_a_file_claims_is_bounded_by_the_file(case: str, dataset: str, sentence: str, tmp_path: Path) -> None:
    path = claims(tmp_path / "a.arrow", case)
    row = DATASETS[dataset]
    with at_most(1 << 20), pytest.raises(UserError, match=sentence):
        check_file(path, [column for column in row.columns if column.name != "labels"], row.samples)


PLAIN = pa.table({"image": [b"a"], "caption": [["a"]]})


@pytest.mark.parametrize("said", [b"[]", b"{", b"null", b"[" * 100_000, b'{"labels": {"a": 1}}', b'{"labels": [1]}', b"\xff",
    b'{"dataset": 3}', b'{"split": NaN}', b'{"split": "a", "split": "b"}'])  # fmt: skip
def test_what_a_file_says_of_itself_is_checked(said: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "a.arrow", PLAIN.replace_schema_metadata({METADATA_KEY: said}))
    with pytest.raises(UserError, match=r"metadata 'renaissance' of '.*a\.arrow'") as error:
        check_file(path, CAPTION_COLUMNS, "caption")
    assert "\n" not in str(error.value) and arrow.dataset_of(path, "coco") == "coco"


def test_a_file_without_a_name_of_its_data_set_counts_as_the_other(tmp_path: Path) -> None:
    path = write(tmp_path / "a.arrow", PLAIN.replace_schema_metadata({METADATA_KEY: b'{"dataset": null}'}))
    assert arrow.dataset_of(path, "coco") == "coco"


def test_pipes_and_pointers(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "mine.arrow")
    for ask in (lambda path: check_file(path, CAPTION_COLUMNS), arrow.schema_metadata):
        with pytest.raises(UserError, match="is a pipe, a socket or a device, and no file"):
            ask(str(tmp_path / "mine.arrow"))
    (tmp_path / "lfs.arrow").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(UserError, match="git-LFS pointer"):
        check_file(str(tmp_path / "lfs.arrow"), CAPTION_COLUMNS)
    with pytest.raises(UserError, match="cannot be read"):
        check_file("a\0.arrow", CAPTION_COLUMNS)


RECORDS: dict[str, Callable[[Path], None]] = {
    "a list": lambda record: record.write_text("[]"),
    "null": lambda record: record.write_text("null"),
    "deep": lambda record: record.write_text("[" * 100_000),
    "of no text": lambda record: record.write_bytes(b"\xff\xfe\0"),
    "cut short": lambda record: record.write_bytes(record.read_bytes()[:-3]),
    "no values": lambda record: record.write_text(json.dumps({"key": json.loads(record.read_text())["key"]})),
    "another type": lambda record: record.write_text(
        record.read_text().replace(": 3", ": null").replace("[1", "[null")
    ),
    "of another file": lambda record: record.write_text(record.read_text().replace("mine.arrow", "other.arrow")),
    "a folder": lambda record: (record.unlink(), record.mkdir()),
}


@pytest.mark.parametrize("case", RECORDS)
def test_a_record_that_is_not_ours_is_ignored(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    table = pa.table({"image": [b"a", b"b", b"c"], "caption": [["a", "a", " "], ["b"], ["c", ""]]})
    write(tmp_path / "mine.arrow", table)
    sound = open_pairs(["mine"], "train", tmp_path)
    for record in list((tmp_path / "cache").rglob("*.json")):
        RECORDS[case](record)
    again = open_pairs(["mine"], "train", tmp_path)
    assert again.describe() == sound.describe() and [again.text(n) for n in range(len(again))] == ["a", "b", "c"]


def test_no_home_folder_means_no_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    path = write(tmp_path / "a.arrow", PLAIN)
    assert check_file(path, CAPTION_COLUMNS, "caption")[1].rows == 1


# -- GLUE ------------------------------------------------------------------------------------------------------------


def parquet(root: Path, table: pa.Table) -> None:
    path = write_parquet(root, "cola", "val", hub_table("cola", rows_of("cola", "val")))
    pq.write_table(table, path, store_schema=False)


def saved(root: Path, table: pa.Table, **options: Any) -> None:
    path = write_saved(root, "cola", "val", hub_table("cola", rows_of("cola", "val")))
    with pa.ipc.new_stream(str(path), table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)


def bomb(rows: int, text: str, coded: bool = True) -> pa.Table:
    """The same text in every row; parquet takes its room once."""
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), [text])
    return pa.table({"sentence": texts if coded else texts.cast(pa.string()), "label": np.zeros(rows, np.int64)})


def state(root: Path, content: str) -> None:
    path = write_saved(root, "cola", "val", hub_table("cola", rows_of("cola", "val")))
    (path.parent / "state.json").write_text(content)


def of_huggingface(root: Path, said: bytes) -> None:
    saved(root, hub_table("cola", rows_of("cola", "val")).replace_schema_metadata({"huggingface": said}))


def tsv(root: Path, change: Callable[[bytes], bytes], name: str = "cola") -> None:
    path = write_split(root, name, "val", rows_of(name, "val"))
    path.write_bytes(change(path.read_bytes()))


GLUE_CASES: dict[str, tuple[Callable[[Path], None], str | None]] = {
    "millions of rows in some kB": (lambda root: parquet(root, bomb(5_000_001, "a")), "claims 5,000,001 rows"),
    "a long text in every row": (lambda root: parquet(root, bomb(2_000, "x" * 1_000_000)), "bytes of content"),
    "compressed": (lambda root: saved(root, bomb(10, "a", False), compression="zstd"), "is compressed"),
    "duplicate columns": (
        lambda root: saved(root, bomb(10, "a", False).append_column("label", pa.nulls(10))), "needs one column label"),
    "a path in state.json": (
        lambda root: state(root, '{"_data_files": [{"filename": "../../secret.arrow"}]}'), r"\.\./secret\.arrow of .* missing"),
    "numbers in state.json": (lambda root: state(root, '{"_data_files": [3, null]}'), r"state\.json\[0\] is 3"),
    "a list as state.json": (lambda root: state(root, "[]"), "state.json'? is"),
    "a deep state.json": (lambda root: state(root, "[" * 100_000), "nested too deeply|cannot be read as JSON"),
    "deep metadata": (lambda root: of_huggingface(root, b"[" * 100_000), "nested too deeply|cannot be read as JSON"),
    "metadata of another form": (lambda root: of_huggingface(root, b'{"info": {"features": [1]}}'), None),
    "numbers as names": (
        lambda root: of_huggingface(root, b'{"info": {"features": {"label": {"names": [0, 1]}}}}'), "numbers its labels 0, 1"),
    "a byte order mark": (lambda root: tsv(root, lambda content: b"\xef\xbb\xbf" + content, "rte"), None),
    "NUL in a text": (lambda root: tsv(root, lambda content: content.replace(b"null", b"nu\0l")), None),
    "a field of 200,000 characters": (lambda root: tsv(root, lambda content: content.replace(b"null", b"n" * 200_000)), None),
    "no line end in two megabytes": (lambda root: tsv(root, lambda content: b"x" * (2 << 20)), "needs one column|damaged"),
    "only NUL": (lambda root: tsv(root, lambda content: bytes(1000)), "needs one column|damaged"),
    "empty": (lambda root: tsv(root, lambda content: b""), "needs one column|damaged|no rows"),
    "ESC in a header": (
        lambda root: tsv(root, lambda content: content.replace(b"sentence1", b"\x1b[31m"), "rte"), r"needs one column sentence1"),
    "a header twice": (
        lambda root: tsv(root, lambda content: content.replace(b"sentence1", b"sentence2"), "wnli"), "needs one column"),
}  # fmt: skip


@pytest.mark.parametrize("case", GLUE_CASES)
def test_glue_of_any_form_works_or_gets_a_sentence(case: str, tmp_path: Path) -> None:
    make, sentence = GLUE_CASES[case]
    make(tmp_path)
    name = next(name for name, folder in (("cola", "CoLA"), ("rte", "RTE"), ("wnli", "WNLI"), ("cola", "cola"))
                if (tmp_path / folder).exists())  # fmt: skip
    if sentence is None:
        samples = GlueDataset(tmp_path, name, "val")
        assert len(samples) == 10 and samples[9].values["text"] is not None
    else:
        with at_most(64 << 20), pytest.raises(UserError, match=sentence) as error:
            GlueDataset(tmp_path, name, "val")
        assert "\n" not in str(error.value) and "\x1b" not in str(error.value)


@pytest.mark.parametrize("form", [parquet, saved], ids=["parquet", "saved"])
def test_glue_columns_of_any_type_work_or_get_a_sentence(form: Callable, tmp_path: Path) -> None:
    table = hub_table("cola", rows_of("cola", "val"))
    for number, (name, kind) in enumerate((name, kind) for name in table.column_names for kind in KINDS):
        changed = table.set_column(table.column_names.index(name), name, KINDS[kind](table.num_rows))
        try:
            form(tmp_path / str(number), changed)
        except (pa.ArrowException, NotImplementedError):  # no file of this form has such a column
            continue
        try:
            samples = GlueDataset(tmp_path / str(number), "cola", "val")
            assert samples[0].values["text"] is not None
        except UserError as error:
            assert "\n" not in str(error), (name, kind)


def test_shards_of_different_string_types_are_one_split(tmp_path: Path) -> None:
    table = hub_table("cola", rows_of("cola", "val"))
    path = write_saved(tmp_path, "cola", "val", table, shards=2)
    wide = table.slice(0, 5).set_column(0, "sentence", table["sentence"].slice(0, 5).cast(pa.large_string()))
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, wide.schema) as writer:
        writer.write_table(wide)
    path.write_bytes(sink.getvalue())
    assert len(GlueDataset(tmp_path, "cola", "val")) == 10
