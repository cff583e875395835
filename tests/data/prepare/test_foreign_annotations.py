"""Whatever one field of an annotation file holds: it is written, counted as left out, or refused in a sentence.

Every field of every format is replaced in turn, and whole files by what is none. Images are not read, so this is quick.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.prepare import raw_f30k, raw_gcc, raw_images, raw_nlvr2, raw_refcoco, raw_sbu, raw_snli, raw_vg, raw_vqa
from data.prepare.raw_files import photograph, write_karpathy
from data.prepare.raw_gcc import Sample
from renaissance.core.errors import UserError
from renaissance.core.plain_pickle import read_plain_pickle
from renaissance.data.prepare import images
from renaissance.data.prepare import writer as writer_module
from renaissance.data.prepare.entries import LeftOut

GONE = object()  # the field is not there
PLAIN: list[Any] = [
    GONE,
    None,
    True,
    -1,
    1.5,
    2**70,
    "",
    "text",
    "\ud800",
    "../../a\n\x1b[2J",
    [],
    {},
    [[None]],
    {"a": [1]},
]
WORDS = {"NaN": '"NaN"', "1e999": '"1e999"', "9" * 5000: '"9"', "[" * 2000 + "]" * 2000: '"deep"'}
RAW = list(WORDS.values())  # are replaced in the text: Python's json would not write them, or not read them


def write_captions(root: Path) -> None:
    root.mkdir()
    lines = [{"path": f"{n}.jpg", "caption": ["a", "b"], "split": "train"} for n in range(3)]
    (root / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))


class Format(NamedTuple):
    """Attributes: writer, a module of prepare; write, makes a raw download; file, the one to spoil; options."""

    writer: str
    write: Callable[[Path], Any]
    file: str
    options: dict = {}


SAMPLES = [Sample(photograph(n), f"a {n}") for n in range(3)]
FORMATS = {
    "coco": Format("karpathy", write_karpathy, "karpathy/dataset_coco.json"),
    "f30k": Format(
        "karpathy",
        lambda root: raw_f30k.write(root, dict.fromkeys("abcdef")),
        "karpathy/dataset_flickr30k.json",
        {"dataset": "f30k"},
    ),
    "vg": Format(
        "vg", lambda root: raw_vg.write(root, dict.fromkeys(range(1, 4))), "annotations/region_descriptions.json"
    ),
    "gcc": Format("web", lambda root: raw_gcc.write_list(root, SAMPLES), "train_annot.json"),
    "sbu": Format("web", lambda root: raw_sbu.write(root, SAMPLES), "annot.json", {"dataset": "sbu"}),
    "questions": Format(
        "vqa", lambda root: raw_vqa.write(root, raw_vqa.build(), False), raw_vqa.question_file("train")
    ),
    "test questions": Format(
        "vqa", lambda root: raw_vqa.write(root, raw_vqa.build(), False), raw_vqa.question_file("test")
    ),
    "answers": Format("vqa", lambda root: raw_vqa.write(root, raw_vqa.build(), False), raw_vqa.annotation_file("val")),
    "nlvr2": Format("nlvr2", lambda root: raw_nlvr2.write(root, raw_nlvr2.build()), raw_nlvr2.FILES["train"]),
    "snli": Format("snli", lambda root: raw_snli.write(root, raw_snli.build()), raw_snli.annotation_file("dev")),
    "refs": Format(
        "refcoco", lambda r: raw_refcoco.write(r, *raw_refcoco.build(), ending="json"), "refcoco/refs(unc).json"
    ),
    "pickled refs": Format(
        "refcoco", lambda root: raw_refcoco.write(root, *raw_refcoco.build()), "refcoco/refs(unc).p"
    ),
    "instances": Format(
        "refcoco", lambda root: raw_refcoco.write(root, *raw_refcoco.build()), "refcoco/instances.json"
    ),
    "captions": Format("captions", write_captions, "captions.jsonl"),
}


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path, dict], int]:
    """Runs a writer up to its images: values are brought into the columns that they go to. Returns the rows."""
    rows = []

    def take(given, schema) -> None:
        for row in given:
            if not isinstance(row, LeftOut):
                assert all(isinstance(each, bytes) or ".." not in each for each in row.images.values())
                for name, value in row.values.items():
                    pa.array([value], schema.field(name).type)
                rows.append(row)

    def write_plan(plan, *_):
        take((row() if callable(row) else row for row in plan.rows), plan.schema)
        return []

    def run(writer: str, root: Path, options: dict) -> int:
        monkeypatch.setattr(writer_module, "_write_plan", write_plan)
        rows.clear()
        import_module(f"renaissance.data.prepare.{writer}").make_arrow(root, root / "arrow", workers=1, **options)
        return len(rows)

    return run


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Every place of a value: all keys, the first of each list."""
    yield path
    for key in value if isinstance(value, dict) else range(min(len(value), 1)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def spoilt(value: Any, path: tuple, by: Any) -> Any:
    if not path:
        return by
    (first, *rest) = path
    changed = dict(value) if isinstance(value, dict) else list(value)
    if by is GONE and not rest:
        del changed[first]
    else:
        changed[first] = spoilt(value[first], tuple(rest), by)
    return changed


def text_of(value: Any, lines: bool) -> str:
    text = "\n".join(map(json.dumps, value)) if lines and isinstance(value, list) else json.dumps(value)
    for word, stands in WORDS.items():
        text = text.replace(stands, word)
    return text


@pytest.mark.parametrize("name", FORMATS)
def test_a_field_of_another_type_ends_in_rows_or_in_a_sentence(tmp_path: Path, name: str, read_only: Callable):
    form = FORMATS[name]
    form.write(tmp_path / "raw")
    file = tmp_path / "raw" / form.file
    lines = form.writer in ("snli", "nlvr2", "captions")
    if file.suffix == ".p":
        value = raw_refcoco.build()[0]
    else:
        value = [json.loads(line) for line in file.read_text().splitlines()] if lines else json.loads(file.read_text())
    assert read_only(form.writer, tmp_path / "raw", form.options) > 0
    where = [path for path in places(value) if "tokens" not in path and "segmentation" not in path]
    every = [*PLAIN, *(each.strip('"') for each in RAW)]
    stride = -(-len(where) * len(every) // 150)  # all of them would take a minute; each kind comes at many places
    for number, path in enumerate(where):
        for by in every[number % stride :: stride]:
            if by is GONE and not path:
                continue
            if file.suffix == ".p":
                file.write_bytes(pickle.dumps(spoilt(value, path, by), 2))
            else:
                file.write_text(text_of(spoilt(value, path, by), lines))
            try:
                read_only(form.writer, tmp_path / "raw", form.options)
            except UserError:
                pass
            except Exception as error:
                raise AssertionError(f"{path} = {by!r:.50}") from error


def test_depth_is_bounded_where_a_file_is_read(tmp_path: Path, read_only: Callable):
    """ijson takes the square of the depth in memory: 25 GB for 100,000 levels."""
    for inside in (
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        '["]]]]\\\\",' * 9000,
        "[" * 65536 * 2,
    ):
        (tmp_path / "annot.json").write_text(f'[["a\\"[[[", "[[[["], {inside}]')
        with pytest.raises(UserError, match="nested too deeply"):
            read_only("web", tmp_path, {"dataset": "sbu"})
    texts = [["[[[{{", '\\"[\\']] * 300  # brackets in texts are none
    (tmp_path / "annot.json").write_text(json.dumps([[f"{n}", text + "x" * n] for n, (_, text) in enumerate(texts)]))
    assert read_only("web", tmp_path, {"dataset": "sbu"}) == 300


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_a_file_that_is_none_and_one_with_a_byte_order_mark(tmp_path: Path, form: Format, read_only: Callable):
    form.write(tmp_path / "raw")
    file = tmp_path / "raw" / form.file
    whole, rows = file.read_bytes(), read_only(form.writer, tmp_path / "raw", form.options)
    if file.suffix != ".p":
        file.write_bytes(b"\xef\xbb\xbf" + whole)
        assert read_only(form.writer, tmp_path / "raw", form.options) == rows > 0
    file.unlink()
    os.mkfifo(file)
    for _ in range(2):
        with pytest.raises(UserError, match=r"a pipe, a socket or a device|lacks|needs|has none of"):
            read_only(form.writer, tmp_path / "raw", form.options)
        file.unlink()
        file.symlink_to("/dev/zero")
    file.unlink()
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match="is a git-LFS pointer"):
        read_only(form.writer, tmp_path / "raw", form.options)


COLUMNS = [
    *([None], [True], [3], [1.5], [b"\xff"], [["a", None]], [{"a": 1}], ["../../a"], ["a"]),
    pa.array([1], pa.timestamp("ns")),
    pa.array([1 << 62], pa.date64()),
    pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(bytes([0, 0, 0, 0, 1, 0, 0, 0])), pa.py_buffer(b"\xff")]),
]


@pytest.mark.parametrize("layout", ["captions", "folders", "tars"])
def test_columns_of_another_type_end_in_rows_or_in_a_sentence(tmp_path: Path, layout: str, read_only: Callable):
    for number, column in enumerate(COLUMNS):
        for name in ("path", "caption", "captions", "split", "key", "status"):
            root = tmp_path / f"{number} {name}"
            (root / "00000").mkdir(parents=True)
            good = {"path": ["a"], "caption": ["b"], "key": ["0"], "status": ["failed"]}
            pq.write_table(pa.table(good | {name: column}), root / "00000.parquet")
            if layout == "tars":
                (root / "00000").rmdir()
                raw_gcc.write_tar(root / "00000.tar", [("1.jpg", b"..."), ("1.txt", b"a")])
            with contextlib.suppress(UserError):
                read_only("captions" if layout == "captions" else "web", root, {})


def test_pickled_pictures_of_another_type_end_in_rows_or_in_a_sentence(tmp_path: Path):
    raw_images.write_cifar(tmp_path)
    for file, keys in {"batches.meta": ["label_names"], "test_batch": ["data", "labels", "filenames"]}.items():
        whole = (tmp_path / file).read_bytes()
        good = {"label_names": ["a", "b", "c"], "data": [], "labels": [0], "filenames": ["a"]}
        for key in keys:
            for by in (by for by in [*PLAIN, [True], [1.0], [2**70], ["a\x1b"] * 3, [["a"]]] if by is not GONE):
                (tmp_path / file).write_bytes(pickle.dumps(good | {key: by}, 2))
                with contextlib.suppress(UserError):
                    images.make_arrow(tmp_path, tmp_path / "arrow", workers=1)
        (tmp_path / file).write_bytes(whole)


def test_a_pickle_that_names_one_value_very_often_is_refused(tmp_path: Path):
    """Of 60 kB: a thousand references to one list of ten thousand references to one sentence; a list in itself."""
    sentence = {"sent": "a" * 1000}
    sentences = [sentence] * 10_000
    lists = [{"ref_id": n, "ann_id": 1, "image_id": 1, "split": "train", "sentences": sentences} for n in range(1000)]
    circle: list = []
    circle.append(circle)
    doubled = [0]
    for _ in range(60):
        doubled = [doubled, doubled]
    for value in (lists, circle, doubled):
        (tmp_path / "refs.p").write_bytes(pickle.dumps(value, 2))
        with pytest.raises(UserError, match="names the same values so often"):
            read_plain_pickle(tmp_path / "refs.p")
