"""The writer of every arrow file: what is written, what is left out, and what a stopped run leaves behind."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from skimage import data as skimage_data

from conftest import ROOT
from data.prepare.raw_files import bad_pictures, odd_pictures, photograph, read_rows, write_pictures
from renaissance.core.atomic import AtomicFile
from renaissance.core.errors import UserError
from renaissance.data.dataset_specs import DATASETS, METADATA_KEY, Expected
from renaissance.data.prepare import arrow_file
from renaissance.data.prepare.arrow_file import Plan
from renaissance.data.prepare.entries import LeftOut, Row
from renaissance.data.prepare.image_pool import Fault, ImagePool, Request, read_image
from renaissance.data.prepare.skipped import Skipped
from renaissance.data.prepare.writer import Download, arrow_writer, schema_of

SCHEMA = pa.schema([("image", pa.binary()), ("caption", pa.list_(pa.string()))])


def plan(pictures: list[str | bytes], name: str = "a.arrow", **more) -> Plan:
    rows = [Row({"image": picture}, {"caption": [f"caption {n}", "ä\n"]}) for n, picture in enumerate(pictures)]
    return Plan(name, SCHEMA, rows, len(rows), Skipped(), ("caption",), **more)


def write(plans: list[Plan], root: Path, out: Path, **options) -> list[dict]:
    return arrow_writer(lambda _: Download("test", plans))(root, out, **options)


def test_real_photographs_come_back_byte_for_byte(tmp_path: Path):
    folder = Path(skimage_data.__file__).parent
    names = sorted(path.name for path in folder.iterdir() if path.suffix in (".png", ".jpg", ".jpeg", ".tif", ".gif"))
    readable = [name for name in names if not isinstance(read_image((folder / name).read_bytes()), Fault)]
    assert len(readable) > 5
    write([plan(readable)], folder, tmp_path, workers=2)
    assert [row["image"] for row in read_rows(tmp_path / "a.arrow")] == [(folder / n).read_bytes() for n in readable]


def test_odd_pictures_are_kept_and_bad_ones_counted_and_named(tmp_path: Path):
    odd, bad = odd_pictures(), bad_pictures()
    write_pictures(tmp_path / "raw", odd | {name: content for name, (content, _) in bad.items()})
    names = [*odd, *bad]
    (manifest,) = write(
        [plan(names, expected=Expected(rows=20))], tmp_path / "raw", tmp_path, max_unreadable=0.5, workers=2
    )
    rows = read_rows(tmp_path / "a.arrow")
    assert [row["image"] for row in rows] == list(odd.values())
    assert rows[1] == {"image": odd["cmyk.jpg"], "caption": ["caption 1", "ä\n"]}
    counted = {kind: skipped["count"] for kind, skipped in manifest["skipped"].items()}
    assert counted == {"missing": 1, "unreadable": 5, "too large": 1}
    for name, (_, kind) in bad.items():
        assert any(first.startswith(f"{name}: ") for first in manifest["skipped"][kind]["first"])
    assert manifest["rows"] == manifest["images"] == 10
    assert manifest["texts"] == 20
    assert manifest["image_bytes"] == sum(map(len, odd.values()))
    assert manifest["bytes"] == (tmp_path / "a.arrow").stat().st_size
    assert manifest["note"] == (
        "a.arrow holds 10 rows where the official download has 20: 17 are listed in the annotations and 7 of them "
        "were left out."
    )
    assert json.loads((tmp_path / "a.json").read_text()) == manifest


def test_files_are_the_same_for_any_number_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(arrow_file, "_BATCH_ROWS", 30)
    pictures = {f"{number}.jpg": photograph(number) for number in range(100)} | {"50.jpg": b"bad"}
    write_pictures(tmp_path / "raw", pictures)
    contents = []
    for workers in (1, 2, 3):
        write([plan(list(pictures))], tmp_path / "raw", tmp_path, workers=workers, max_unreadable=0.05)
        contents.append([(tmp_path / name).read_bytes() for name in ("a.arrow", "a.json")])
    assert contents[0] == contents[1] == contents[2]
    file = pa.ipc.open_file(str(tmp_path / "a.arrow"))
    assert [file.get_batch(n).num_rows for n in range(file.num_record_batches)] == [30, 30, 30, 9]


def test_the_manifest_says_where_texts_differ_from_the_official_download(tmp_path: Path):
    def note(listed_texts: int | None, **expected: int) -> str | None:
        made = plan([photograph()], expected=Expected(**expected), listed_texts=listed_texts)
        return write([made], tmp_path, tmp_path, workers=1)[0]["note"]

    texts = "The annotations for a.arrow list 2,000 texts where those of the official download list 3,000."
    assert note(2000, texts=3000) == texts
    assert note(2000, rows=2, texts=3000).endswith(f"were left out. {texts}")
    assert [note(2000, texts=2000), note(None, texts=3000), note(2000, rows=1)] == [None, None, None]


def test_rows_that_are_left_out_are_counted_in_their_place(tmp_path: Path):
    rows = [Row({"image": photograph()}, {"caption": ["a"]}), LeftOut("empty caption", "b.jpg")]
    made = plan([])._replace(rows=rows * 3, listed=6)
    for workers in (1, 2):
        (manifest,) = write([made._replace(skipped=Skipped())], tmp_path, tmp_path, workers=workers, max_unreadable=0)
        assert (manifest["rows"], manifest["listed"]) == (3, 6)
        assert manifest["skipped"] == {"empty caption": {"count": 3, "first": ["b.jpg"] * 3}}


def test_a_record_batch_holds_a_bounded_number_of_texts(tmp_path: Path):
    rows = [Row({"image": photograph()}, {"caption": ["a"] * 60_000})] * 4
    (manifest,) = write([plan([])._replace(rows=rows, listed=4)], tmp_path, tmp_path, workers=1)
    with pa.OSFile(str(tmp_path / "a.arrow"), "rb") as file:
        reader = pa.ipc.open_file(file)
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
    assert [batch.num_rows for batch in batches] == [2, 2]
    assert manifest["texts"] == 4 * 60_000


def test_a_schema_from_the_table_of_data_sets():
    metadata = {"dataset": "vqa", "labels": ["ä"]}
    schema = schema_of(DATASETS["vqa"].columns, metadata)
    assert schema.names == [column.name for column in DATASETS["vqa"].columns]
    double = pa.list_(pa.list_(pa.float64()))
    assert [schema.field(name).type for name in ("image", "image_id", "answer_scores")] == [
        *(pa.binary(), pa.int64(), double)
    ]
    assert json.loads(schema.metadata[METADATA_KEY]) == metadata
    assert schema_of(DATASETS["refcoco"].columns).field("bboxes").type == double


def test_two_pictures_a_row_and_pictures_given_as_bytes(tmp_path: Path):
    schema = pa.schema([("image_0", pa.binary()), ("image_1", pa.binary()), ("text", pa.list_(pa.string()))])
    write_pictures(tmp_path, {"a.jpg": photograph()})
    rows = [
        Row({"image_0": "a.jpg", "image_1": photograph(1)}, {"text": ["both"]}),
        Row({"image_0": "a.jpg", "image_1": "b.jpg"}, {"text": ["one is missing"]}),
    ]
    double = Plan("pairs.arrow", schema, rows, 2, Skipped(), ("text",))
    (manifest,) = write([double], tmp_path, tmp_path, max_unreadable=None, workers=1)
    expected = {"image_0": photograph(), "image_1": photograph(1), "text": ["both"]}
    assert read_rows(tmp_path / "pairs.arrow") == [expected]
    assert manifest["images"] == 2
    assert manifest["skipped"] == {"missing": {"count": 1, "first": ["b.jpg: no such file"]}}


def test_too_many_unreadable_pictures_keep_the_old_file(tmp_path: Path):
    write_pictures(tmp_path, {f"{number}.jpg": photograph(number) for number in range(9)})
    names = [f"{number}.jpg" for number in range(10)]
    write([plan(names[:1]), plan(names[:2], "b.arrow")], tmp_path, tmp_path, workers=1)
    old = [(tmp_path / name).read_bytes() for name in ("a.arrow", "a.json")]
    with pytest.raises(UserError) as refusal:
        write([plan(names), plan(names[:3], "b.arrow")], tmp_path, tmp_path, workers=1)
    assert "1 of 10 images for a.arrow could not be read (first 9.jpg: no such file): 10.0%" in str(refusal.value)
    assert f"kept as '{tmp_path / 'a.arrow.rejected'}'" in str(refusal.value)
    assert [(tmp_path / name).read_bytes() for name in ("a.arrow", "a.json")] == old
    assert len(read_rows(tmp_path / "a.arrow.rejected")) == 9
    assert json.loads((tmp_path / "a.arrow.rejected.json").read_text())["rows"] == 9
    assert len(read_rows(tmp_path / "b.arrow")) == 3  # the error comes after all files
    write([plan(names)], tmp_path, tmp_path, workers=1, max_unreadable=0.1)
    assert len(read_rows(tmp_path / "a.arrow")) == 9


def test_a_file_without_a_row_is_rejected_whatever_the_limit(tmp_path: Path):
    with pytest.raises(
        UserError, match=r"Nothing is left for a\.arrow: .*\(missing: 1, first none\.jpg: no such file\)"
    ):
        write([plan(["none.jpg"])], tmp_path, tmp_path, workers=1, max_unreadable=None)
    assert not (tmp_path / "a.arrow").exists()


@pytest.mark.parametrize("options", [{"workers": 0}, {"workers": True}, {"max_unreadable": 2}, {"max_unreadable": "x"}])
def test_refuses_options(tmp_path: Path, options: dict):
    with pytest.raises(UserError, match=next(iter(options))):
        write([plan([photograph()])], tmp_path, tmp_path, **options)


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    write([plan([photograph()])], tmp_path, tmp_path, workers=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def rows():
        yield Row({"image": photograph()}, {"caption": ["a"]})
        raise UserError("the annotations end here")

    with pytest.raises(UserError, match="the annotations end here"):
        write([plan([])._replace(rows=rows(), listed=2)], tmp_path, tmp_path, workers=2)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_error_closes_the_bar_at_once(tmp_path: Path, capsys: pytest.CaptureFixture):
    """And not when somebody drops the traceback: its last line would stand under another command's."""
    rows = [Row({"image": photograph()}, {"caption": 3})] * 3
    with pytest.raises(TypeError) as error:  # holds the traceback
        write([plan([])._replace(rows=rows, listed=3)], tmp_path, tmp_path, workers=1)
    assert "a.arrow" in capsys.readouterr().err and error.tb


# -- processes of their own -----------------------------------------------------------------------------------------

PROGRAM = """
import itertools, sys, time
sys.path[:0] = {path!r}
from data.prepare.raw_files import photograph
from data.prepare.test_writer import *
def rows():
    for number in itertools.count() if {endless} else range(3000):
        if number == 2000:
            print("writing", flush=True)
        yield Row({{"image": photograph(number)}}, {{"caption": ["a"]}})
out = Path({out!r})
try:
    write([plan([])._replace(rows=rows(), listed=3000)], out, out, workers={workers})
except UserError as error:
    print(error)
"""


def program(out: Path, workers: int, endless: bool = False) -> list[str]:
    code = PROGRAM.format(path=sys.path, out=str(out), workers=workers, endless=endless)
    return [sys.executable, "-c", code]


def children_of(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task/{process}/children")
    return [int(child) for child in tasks.read_text().split()] if tasks.exists() else []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_leaves_the_old_file_and_no_process(tmp_path: Path, workers: int):
    write([plan([photograph()])], tmp_path, tmp_path, workers=1)
    old = (tmp_path / "a.arrow").read_bytes()
    process = subprocess.Popen(program(tmp_path, workers, endless=True), stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"writing\n"
        children = children_of(process.pid)
        assert len(children) == (0 if workers == 1 else workers)
        assert (tmp_path / ".a.arrow.tmp").stat().st_size > 1 << 20
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert (tmp_path / "a.arrow").read_bytes() == old
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{child}/stat").exists() and not is_zombie(child) for child in children):
        assert time.monotonic() < deadline, "the workers outlived the run"
        time.sleep(0.05)
    write([plan([photograph(1)])], tmp_path, tmp_path, workers=1)  # what was left is written over
    assert read_rows(tmp_path / "a.arrow")[0]["image"] == photograph(1)
    assert sorted(os.listdir(tmp_path)) == ["a.arrow", "a.json"]


def is_zombie(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_no_room_is_one_sentence_and_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write([plan([photograph()])], tmp_path, tmp_path, workers=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    done = subprocess.run(
        program(tmp_path, 1),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
    )
    assert done.returncode == 0, done.stderr
    assert f"There is no room left for '{tmp_path / 'a.arrow'}'" in done.stdout
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with monkeypatch.context() as patch, pytest.raises(UserError, match="There is no room left"):
        patch.setattr(os, "fsync", refuse)  # of the last bytes
        write([plan([photograph(1)])], tmp_path, tmp_path, workers=1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_script_without_a_main_guard_may_use_all_cores(tmp_path: Path):
    code = program(tmp_path, 2)[-1].replace("range(3000)", "range(40)")
    (tmp_path / "script.py").write_text(code)
    done = subprocess.run([sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "40/3000" in done.stderr  # the progress bar
    assert len(read_rows(tmp_path / "a.arrow")) == 40


def test_two_runs_for_one_file_do_not_mix(tmp_path: Path):
    with AtomicFile(tmp_path / "a.arrow", "data_root") as first:
        first.write(b"first")
        with pytest.raises(UserError, match="Another run is writing"):
            write([plan([photograph()])], tmp_path, tmp_path, workers=1)
        first.commit(tmp_path / "a.arrow")
    assert (tmp_path / "a.arrow").read_bytes() == b"first"


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be made"):
        write([plan([photograph()])], tmp_path, tmp_path / "file" / "arrow", workers=1)


def test_few_requests_are_in_flight(tmp_path: Path):
    """A slow consumer holds the readers back: memory does not grow with the annotations."""
    asked = 0

    def requests():
        nonlocal asked
        for number in range(100_000):
            asked = number
            yield Request((b"no image",), number)

    with ImagePool(2) as pool:
        replies = pool.read(requests())
        assert [next(replies)[0].row for _ in range(10)] == list(range(10))
        assert asked < 400


def test_no_module_of_prepare_loads_torch_or_transformers():
    code = """
import importlib, pkgutil, sys
from renaissance.data import prepare
names = [module.name for module in pkgutil.iter_modules(prepare.__path__)]
for name in names:
    importlib.import_module("renaissance.data.prepare." + name)
print(len(names), {"torch", "torchvision", "transformers", "pytorch_lightning"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules, loaded = done.stdout.split(maxsplit=1)
    assert int(modules) >= 8
    assert loaded == "set()\n"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 4])
def test_memory_stays_small_on_20_000_pictures(workers: int):
    code = (
        f"import prepare, json; print(json.dumps(prepare.measure(20_000, {workers}, {256 if workers == 4 else None})))"
    )
    folder = ROOT / "benchmarks"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    measured = json.loads(done.stdout)
    assert measured["rows"] == 20_000
    assert 50 < measured["writer"] < 600
    assert measured["worker"] < 600
