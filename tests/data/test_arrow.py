"""Arrow files as others wrote them, whole and broken. The files here are made by pyarrow alone, never by our writer."""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pytest

from renaissance.core.errors import UserError
from renaissance.data import arrow
from renaissance.data.arrow import ArrowFile, check_file, rows_of
from renaissance.data.columns import clean
from renaissance.data.dataset_specs import CAPTION_COLUMNS
from renaissance.data.file_cache import cached, stamp
from renaissance.data.pairs import clean_all

PICTURES = [b"first", b"second image", b"3", b"four"]
CAPTIONS = [["a dog", "a  dog\nruns "], [], ["one"], ["x", "y", "z"]]
SMALL = {"image": pa.binary(), "caption": pa.list_(pa.string())}
LARGE = {"image": pa.large_binary(), "caption": pa.large_list(pa.large_string())}
MIXED = {"image": pa.large_binary(), "caption": pa.large_list(pa.string())}
VIEWS = {"image": pa.binary(), "caption": pa.list_(pa.string_view())}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "renaissance"


def write(path: Path, columns: dict, rows_per_batch: int | None = None, metadata: dict | None = None) -> str:
    table = pa.table(columns).replace_schema_metadata(metadata)
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=rows_per_batch)
    return str(path)


def captions_file(path: Path, types: dict = SMALL, rows_per_batch: int | None = None, **more) -> str:
    columns = {"image": pa.array(PICTURES, types["image"]), "caption": pa.array(CAPTIONS, types["caption"])}
    return write(path, columns | more, rows_per_batch)


def read_all(path: str) -> list[tuple[bytes, list[str]]]:
    file = ArrowFile(path, CAPTION_COLUMNS, "caption")
    rows = [(file.value("image", row), file.value("caption", row)) for row in range(file.rows)]
    places = [(row, entry) for row, (_, own) in enumerate(rows) for entry in range(len(own))]
    assert [file.locate(number) for number in range(len(places))] == places
    assert [file.value("caption", *place) for place in places] == [text for _, own in rows for text in own]
    return rows


CLEAN_ROWS = list(zip(PICTURES, [["a dog", "a dog runs"], [], ["one"], ["x", "y", "z"]], strict=True))


@pytest.mark.parametrize("rows_per_batch", [None, 1, 3])
@pytest.mark.parametrize("types", [SMALL, LARGE, MIXED, VIEWS], ids=["small", "large", "mixed", "views"])
def test_reads_every_layout(tmp_path: Path, types: dict, rows_per_batch: int | None):
    path = captions_file(tmp_path / "a.arrow", types, rows_per_batch)
    assert check_file(path, CAPTION_COLUMNS, "caption")[1][:2] == (4, 6)
    assert read_all(path) == CLEAN_ROWS


def test_reads_what_pandas_and_the_ancestors_wrote(tmp_path: Path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"image": PICTURES, "caption": CAPTIONS, "image_id": list("abcd"), "split": ["train"] * 4})
    table = pa.Table.from_pandas(frame)  # as the writers of ViLT and METER do
    assert b"pandas" in table.schema.metadata
    with pa.OSFile(str(tmp_path / "vilt.arrow"), "wb") as sink, pa.RecordBatchFileWriter(sink, table.schema) as writer:
        writer.write_table(table)
    assert check_file(str(tmp_path / "vilt.arrow"), CAPTION_COLUMNS, "caption")[1][:2] == (4, 6)
    assert read_all(str(tmp_path / "vilt.arrow")) == CLEAN_ROWS


def test_a_plain_string_column_is_one_caption_a_row(tmp_path: Path):
    path = write(tmp_path / "a.arrow", {"image": PICTURES, "caption": ["a", None, " b\tc", "d"]}, rows_per_batch=3)
    assert check_file(path, CAPTION_COLUMNS, "caption")[1][:2] == (4, 4)
    assert [texts for _, texts in read_all(path)] == [["a"], [""], ["b c"], ["d"]]


def test_slices_cover_every_row_once(tmp_path: Path):
    captions = [["t"] * (row % 7) for row in range(50)]
    path = write(tmp_path / "a.arrow", {"image": [b"x"] * 50, "caption": captions}, rows_per_batch=13)
    slices = list(ArrowFile(path, CAPTION_COLUMNS).slices(5))
    texts = [len(own) for batch in slices for own in batch["caption"].to_pylist()]
    assert texts == [row % 7 for row in range(50)] and max(batch.num_rows for batch in slices) == 5


def test_white_space_is_the_same_for_one_text_and_for_all():
    characters = [chr(code) for code in range(0x3100)] + ["\U0001f642"]
    texts = [f"{c}a{c}{c}b {c}" for c in characters] + ["", "   ", "plain text"]
    assert clean_all(pa.array([*texts, None])).to_pylist() == [*map(clean, texts), ""]


# -- what is refused ------------------------------------------------------------------------------------------------


def message(path: str | Path) -> str:
    with pytest.raises(UserError) as refusal:
        check_file(str(path), CAPTION_COLUMNS, "caption")
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_refuses_what_is_no_arrow_file(tmp_path: Path):
    for content, sentence in [
        (b"", "begins with b''"),
        (b"\x89PNG\r\n\x1a\n and more", "it begins with b'\\x89PNG"),
        (b"ARROW1", "damaged"),
        (b"ARROW1" + bytes(1000) + b"ARROW1", "damaged"),
    ]:
        (tmp_path / "a.arrow").write_bytes(content)
        assert sentence in message(tmp_path / "a.arrow")
    assert "cannot be read (No such file or directory)" in message(tmp_path / "none.arrow")
    assert "is a folder, and no file" in message(tmp_path)


def test_refuses_compression_in_files_and_streams(tmp_path: Path):
    table = pa.table({"image": PICTURES * 50, "caption": CAPTIONS * 50})
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(str(tmp_path / "stream.arrow"), table.schema, options=options) as writer:
        writer.write_table(table)
    assert "compressed" in message(tmp_path / "stream.arrow")
    pyarrow.feather.write_feather(table, str(tmp_path / "feather.arrow"), compression="lz4")
    assert "compressed" in message(tmp_path / "feather.arrow")
    with pytest.raises(UserError, match="is compressed"):  # before a batch is
        rows_of(str(tmp_path / "feather.arrow"))


def test_refuses_wrong_columns(tmp_path: Path):
    assert "needs one column 'caption'; its columns are image, text" in message(
        write(tmp_path / "a.arrow", {"image": PICTURES, "text": ["a"] * 4})
    )
    assert "column 'image' is string; expected binary" in message(
        write(tmp_path / "b.arrow", {"image": ["a"] * 4, "caption": CAPTIONS})
    )
    assert "column 'caption' is list<item: int64>; expected list<string>" in message(
        write(tmp_path / "c.arrow", {"image": PICTURES, "caption": [[1]] * 4})
    )


def test_refuses_no_rows_and_rows_without_a_picture(tmp_path: Path):
    empty = {"image": pa.array([], pa.binary()), "caption": pa.array([], pa.list_(pa.string()))}
    assert "has no rows" in message(write(tmp_path / "a.arrow", empty))
    for hole in (None, b""):
        columns = {"image": [b"a", b"b", hole, hole], "caption": CAPTIONS}
        assert "row 2 has no image in 'image': write" in message(write(tmp_path / "b.arrow", columns, rows_per_batch=3))


@pytest.mark.parametrize("types", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("column", ["image", "list", "string"])
@pytest.mark.parametrize("wrong", [-1, 0, 2**30, 2**31 - 1])
def test_refuses_a_corrupt_offset(tmp_path: Path, types: dict, column: str, wrong: int):
    """The last offset of each kind in turn; reading through one would end the process with a segmentation fault."""
    path = captions_file(tmp_path / "a.arrow", types)
    batch = pa.ipc.open_file(path).get_batch(0)
    lists = batch["caption"]
    width = 8 if types is LARGE else 4
    true = {"image": batch["image"], "list": lists, "string": lists.values}[column].buffers()[1].to_pybytes()
    count = {"image": 5, "list": 5, "string": 7}[column]
    content = Path(path).read_bytes()
    assert content.count(true[: count * width]) == 1
    place = content.index(true[: count * width]) + (count - 1) * width
    corrupt = struct.pack("<q" if width == 8 else "<i", wrong)
    Path(path).write_bytes(content[:place] + corrupt + content[place + width :])
    assert "damaged" in message(path)


def test_refuses_a_file_cut_anywhere(tmp_path: Path):
    whole = Path(captions_file(tmp_path / "a.arrow")).read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "a.arrow").write_bytes(whole[:length])
        message(tmp_path / "a.arrow")


def test_no_damage_ends_the_process(tmp_path: Path):
    """Bytes changed at random: each file is refused in a sentence or can be read to its end."""
    code = f"""
import random, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_arrow import *
whole, rng, refused = Path({str(tmp_path / "a.arrow")!r}).read_bytes(), random.Random(0), 0
for number in range(400):
    damaged = bytearray(whole)
    for _ in range(rng.choice([1, 2, 8])):
        damaged[rng.randrange(len(damaged))] = rng.choice([0, 1, 127, 128, 255])
    path = {str(tmp_path / "b")!r} + str(number)
    Path(path).write_bytes(damaged)
    try:
        check_file(path, CAPTION_COLUMNS)
        read_all(path)
    except UserError:
        refused += 1
print(refused)
"""
    captions_file(tmp_path / "a.arrow", rows_per_batch=2)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert 100 < int(done.stdout) < 400


# -- what is cached -------------------------------------------------------------------------------------------------


def test_a_check_is_done_once_until_the_file_changes(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch):
    checked = []
    original = arrow._check
    monkeypatch.setattr(arrow, "_check", lambda *args: checked.append(args[0]) or original(*args))
    path = captions_file(tmp_path / "a.arrow")
    assert check_file(path, CAPTION_COLUMNS) == check_file(path, CAPTION_COLUMNS)
    assert len(checked) == 1
    os.utime(path, ns=(1, 1))
    check_file(path, CAPTION_COLUMNS)
    assert len(checked) == 2
    (record,) = own_cache.glob("*.json")
    record.write_text(json.dumps({"key": "of something else"}))
    check_file(path, CAPTION_COLUMNS)
    record.write_text("cut sho")
    check_file(path, CAPTION_COLUMNS)
    assert len(checked) == 4


def test_records_of_more_than_64_mib_are_found_again(tmp_path: Path):
    (tmp_path / "a.arrow").write_bytes(b"")
    now, hints, long = stamp(str(tmp_path / "a.arrow")), {"gaps": str}, "1" * (65 << 20)
    assert cached(str(tmp_path / "a.arrow"), now, "repeats", hints, lambda: {"gaps": long}) == {"gaps": long}
    assert cached(str(tmp_path / "a.arrow"), now, "repeats", hints, lambda: pytest.fail("again")) == {"gaps": long}


def test_works_without_a_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    path = captions_file(tmp_path / "a.arrow")
    assert check_file(path, CAPTION_COLUMNS, "caption")[1][:2] == (4, 6)


def test_an_open_file_holds_no_descriptor(tmp_path: Path):
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("counts descriptors in /proc")
    path = captions_file(tmp_path / "a.arrow")
    before = len(list(descriptors.iterdir()))
    files = [ArrowFile(path, CAPTION_COLUMNS) for _ in range(20)]
    assert len(list(descriptors.iterdir())) == before
    assert files[random.Random(0).randrange(20)].value("image", 1) == b"second image"
