"""`encode`: vectors of splits, folders and files against the model itself; batches, processes and stops change nothing."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

from conftest import ROOT
from exchange.checkpoints import write_checkpoint
from renaissance.cli.main import main
from renaissance.core.atomic import AtomicFile
from renaissance.core.errors import UserError
from renaissance.data.prepare.image_pool import Fault
from renaissance.inference.inputs import FileInputs
from renaissance.inference.loaded import Loaded
from renaissance.models.heads import pool
from small_run import Ended, damage_picture, write_coco_vg
from small_tasks import TASKS

TWO, ONE = {"text_encoder": "bert", "image_encoder": "vit"}, {"encoder": "vit"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of both kinds and a split of 9 images with 18 captions."""
    folder = tmp_path_factory.mktemp("encode")
    write_checkpoint(folder / "two", TWO, ("itm", "itc"))
    write_checkpoint(folder / "one", ONE, ("itm", "itc"), pooler_type="double")
    write_coco_vg(folder / "arrow")
    return folder


def encode(capsys: pytest.CaptureFixture[str], place: Path, output: Path, *words: str, model: str = "two") -> Ended:
    capsys.readouterr()
    given = [f"load_path={place / model / 'model.ckpt'}", f"output={output}", "num_workers=0"]
    if not any(word.startswith(("images=", "texts=", "datasets=")) for word in words):
        given += ["datasets=['coco']", f"data_root={place / 'arrow'}"]
    code = main(["encode", "with", *given, *words])
    return Ended(code, *capsys.readouterr())


def read(output: Path, side: str, column: str = "vector") -> np.ndarray:
    return np.stack(pd.read_parquet(output / side)[column])


@pytest.mark.parametrize("model", ["two", "one"])
def test_vectors_are_those_of_the_model(model, place, tmp_path, capsys):
    assert encode(capsys, place, tmp_path, "what=text,image,fused,tokens", model=model).code == 0
    loaded = Loaded(place / model / "model.ckpt")
    texts, images, pairs = (pd.read_parquet(tmp_path / side) for side in ("text", "image", "fused"))
    assert (len(texts), len(images), len(pairs)) == (18, 9, 18)
    first = texts.image_key.drop_duplicates().tolist()
    assert first == images.image_key.tolist() and pairs.image_key.tolist() == texts.image_key.tolist()
    source = pd.read_feather(place / "arrow" / "coco_caption_karpathy_val.arrow")
    shown = source["image"].tolist()
    assert texts.text.tolist() == [" ".join(each.split()) for row in source.caption for each in row]
    itc, network = loaded.heads["itc"], loaded.model
    with torch.no_grad():
        for row in (0, 7, 17):  # one by one, without padding
            text = loaded._texts([texts.text[row]])
            tokens = network.unimodal_text(text)
            mask = tokens.mask[0]
            torch.testing.assert_close(
                torch.tensor(np.stack(texts.tokens[row])), tokens.hidden[0][mask], rtol=0, atol=1e-5
            )
            expected = pool(tokens, network.unimodal_pooling["text"])[0]
            torch.testing.assert_close(torch.tensor(texts.vector[row]), expected, rtol=0, atol=1e-5)
            expected = itc.vectors(network.unimodal(network.embed_text(text), "text"), "text")[0]
            torch.testing.assert_close(torch.tensor(texts.contrastive[row]), expected, rtol=0, atol=1e-5)
            expected = loaded.encode(shown[row // 2], texts.text[row])[0]
            torch.testing.assert_close(torch.tensor(pairs.vector[row]), expected, rtol=0, atol=1e-5)
        tokens = network.unimodal(loaded._image([shown[4]]), "image")
        expected = itc.vectors(tokens, "image")[0]
        torch.testing.assert_close(torch.tensor(images.contrastive[4]), expected, rtol=0, atol=1e-5)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["complete"] and manifest["rows"] == manifest["samples"] == {"text": 18, "image": 9, "fused": 18}


def test_batches_processes_and_loaders_change_no_number(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("renaissance.inference.features._ROWS", 4)
    assert encode(capsys, place, tmp_path / "a", "what=text,image,fused").code == 0
    assert encode(capsys, place, tmp_path / "b", "what=text,image,fused", "batch_size=3", "num_workers=1").code == 0
    monkeypatch.undo()
    assert encode(capsys, place, tmp_path / "c", "what=text,image,fused", "num_processes=2", "batch_size=7").code == 0
    for side in ("text", "image", "fused"):
        expected = read(tmp_path / "a", side)
        assert len([*(tmp_path / "a" / side).iterdir()]) > 1
        for other in ("b", "c"):
            np.testing.assert_allclose(read(tmp_path / other, side), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("file_type", ["parquet", "npy"])
def test_a_command_that_was_stopped_goes_on(file_type, place, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("renaissance.inference.features._ROWS", 4)
    words = ("what=text", f"file_type={file_type}")
    write = "renaissance.inference.features.Encoder._write"
    calls = []

    def stopped(self: Any, *given: Any) -> None:
        calls.append(given[0].number)
        if len(calls) == 3:
            raise KeyboardInterrupt
        original(self, *given)

    from renaissance.inference.features import Encoder

    original = Encoder._write
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(write, stopped)
        encode(capsys, place, tmp_path / "a", *words)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "a" / "text").glob("part*")}
    assert len(kept) == 2 and not json.loads((tmp_path / "a" / "manifest.json").read_text())["complete"]
    assert encode(capsys, place, tmp_path / "a", *words).code == 0
    assert encode(capsys, place, tmp_path / "whole", *words).code == 0
    names = sorted(path.name for path in (tmp_path / "whole" / "text").iterdir())
    assert sorted(path.name for path in (tmp_path / "a" / "text").iterdir()) == names
    for name in names:
        assert (tmp_path / "a" / "text" / name).read_bytes() == (tmp_path / "whole" / "text" / name).read_bytes()
    if file_type == "parquet":
        assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    assert encode(capsys, place, tmp_path / "a", *words).code == 0  # all is there
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}


def test_arrays_are_the_columns(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("renaissance.inference.features._ROWS_WITH_TOKENS", 5)
    assert encode(capsys, place, tmp_path / "a", "what=tokens").code == 0
    assert encode(capsys, place, tmp_path / "b", "what=tokens", "file_type=npy", "store=float16").code == 0
    for side in ("text", "image"):
        table, rows = pd.read_parquet(tmp_path / "a" / side), pd.read_parquet(tmp_path / "b" / side / "rows.parquet")
        assert rows["name"].tolist() == table["name"].tolist()
        for column in ("vector", "contrastive"):
            array = np.load(tmp_path / "b" / side / f"{column}.npy")
            assert array.dtype == np.float16
            np.testing.assert_allclose(array, np.stack(table[column]), rtol=1e-3, atol=1e-3)
        flat = np.load(tmp_path / "b" / side / "tokens.npy")
        assert rows.tokens_of.tolist() == table.tokens.map(len).tolist()
        np.testing.assert_allclose(
            flat, np.concatenate([np.stack(each) for each in table.tokens]), rtol=1e-3, atol=2e-3
        )


@pytest.mark.parametrize("task", ["nlvr2", "ref", "vqa", "snli"])
def test_data_sets_of_every_kind_are_read(task, place, tmp_path, capsys):
    TASKS[task].write(tmp_path / "raw", tmp_path / "arrow")
    name = {"ref": "refcoco"}.get(task, task)
    words = (f"datasets=['{name}']", f"data_root={tmp_path / 'arrow'}", "what=text,image,fused")
    assert encode(capsys, place, tmp_path / "out", *words, model="one").code == 0
    texts, images, pairs = (pd.read_parquet(tmp_path / "out" / side) for side in ("text", "image", "fused"))
    assert len(texts) == texts.id.nunique()
    assert pairs.groupby("id").place.apply(lambda each: each.tolist() == [*range(len(each))]).all()
    if task == "nlvr2":
        assert (pairs.groupby("id").size() == 2).all() and len(images) >= 2
    if task == "ref":
        assert pairs.groupby("id").size().max() > 1
    assert set(pairs.text) == set(texts.text)


def test_the_second_image_of_a_pair_is_fused_as_one(place, tmp_path, capsys):
    TASKS["nlvr2"].write(tmp_path / "raw", tmp_path / "arrow")
    words = ("datasets=['nlvr2']", f"data_root={tmp_path / 'arrow'}", "what=fused")
    assert encode(capsys, place, tmp_path / "out", *words).code == 0
    pairs, loaded = pd.read_parquet(tmp_path / "out" / "fused"), Loaded(place / "two" / "model.ckpt")
    row = pd.read_feather(next((tmp_path / "arrow").glob("nlvr2_dev*"))).iloc[0]
    image = loaded._image([row[[name for name in row.index if name.startswith("image")][1]]])
    with torch.no_grad():
        fused = loaded.model.fuse(loaded._text([pairs.text[1]]), image, 1, needs={"pooled"}).pooled[0]
    torch.testing.assert_close(torch.tensor(pairs.vector[1]), fused, rtol=0, atol=1e-5)


def test_a_folder_and_a_text_file_are_read(place, tmp_path, capsys):
    (tmp_path / "in" / "below").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in ("b.png", "a.JPG", "below/c.webp"):
        Image.fromarray(random.integers(0, 256, (40, 30, 3), np.uint8)).save(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    (tmp_path / "texts.txt").write_text("a red circle\ntwo images\nthe square\n")
    words = (f"images={tmp_path / 'in'}", f"texts={tmp_path / 'texts.txt'}", "what=text,image,fused")
    ended = encode(capsys, place, tmp_path / "out", *words)
    pairs, loaded = pd.read_parquet(tmp_path / "out" / "fused"), Loaded(place / "two" / "model.ckpt")
    assert (
        "pairs go by" in ended.out and "'a.JPG' with 'a red circle', ..., 'below/c.webp' with 'the square'" in ended.out
    )
    assert pairs["name"].tolist() == ["a.JPG", "b.png", "below/c.webp"]
    expected = loaded.encode([tmp_path / "in" / name for name in pairs["name"]], pairs.text.tolist())
    torch.testing.assert_close(torch.tensor(np.stack(pairs.vector)), expected, rtol=0, atol=1e-5)


def _file(folder: Path, name: str, content: bytes) -> str:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return str(folder / name)


def _images(folder: Path, count: int) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(folder / f"{number}.png")
    return folder


REFUSED = {
    "nothing to encode": (lambda folder: ["datasets=None"], "give either datasets="),
    "both": (lambda folder: ["datasets=['coco']", f"images={folder}"], "give either datasets="),
    "no folder": (lambda folder: [f"images={folder / 'none'}"], "is no folder"),
    "no images": (lambda folder: [f"images={folder}"], "holds no images"),
    "an empty line": (lambda folder: [f"texts={_file(folder, 'a.txt', b'a' + bytes([10, 10]) + b'b')}"], "empty line (2)"),
    "no text": (lambda folder: [f"texts={_file(folder, 'a.txt', b'')}"], "a.txt is empty; give"),
    "bytes": (lambda folder: [f"texts={_file(folder, 'a.txt', bytes([255, 254, 1]))}"], "no text in UTF-8"),
    "no pairs": (lambda folder: [f"texts={_file(folder, 'a.txt', b'a')}", "what=fused"], "fused needs them; give images=, or"),
    "no texts": (lambda folder: [f"texts={_file(folder, 'a.txt', b'a')}", "what=image,text"], "image needs them"),
    "idle texts": (lambda folder: [f"texts={_file(folder, 'a.txt', b'a')}", "what=image"], "is not read with what=image"),
    "a split of files": (lambda folder: [f"images={folder}", "split=val", "image_column=i"], "split=val, image_column=i is"),
    "a data_root of files": (lambda folder: [f"images={folder}", "data_root=data/arrow"], "data_root=data/arrow is of data sets"),
    "no such data set": (lambda folder: ["datasets=['nothing']", f"data_root={folder}"], "nothing"),
    "no such split": (lambda folder: ["datasets=['coco']", "split=testB"], "those there are: coco: train, val, test."),
    "uneven pairs": (
        lambda folder: [f"images={_images(folder / 'in', 3)}", f"texts={_file(folder, 'a.txt', b'a')}", "what=fused"],
        "has 3 images and texts=",
    ),
    "an output among images": (lambda folder: [f"images={folder.parent}"], "lie in one another"),
    "images in the output": (lambda folder: [f"images={folder.parent / 'out' / 'in'}"], "lie in one another"),
    "no such kind": (lambda folder: ["what=vectors"], "what='vectors' is not allowed"),
}  # fmt: skip


@pytest.mark.parametrize("case", [*REFUSED])
def test_bad_input_is_one_sentence(case, place, tmp_path, capsys):
    (tmp_path / "own").mkdir()
    words, sentence = REFUSED[case]
    given = words(tmp_path / "own")
    if any(word.startswith("datasets=['coco']") for word in given):
        given.append(f"data_root={place / 'arrow'}")
    if not any(word.startswith("what") for word in given):
        given.append("what=" + ("image" if "images=" in " ".join(given) else "text"))
    ended = encode(capsys, place, tmp_path / "out", *given)
    lines = [line for line in ended.err.splitlines() if "encoding:" not in line]
    assert ended.code == 1 and sentence in lines[-1], ended
    assert not [*tmp_path.glob("out/*/part*")]


def test_a_folder_of_something_else_is_refused(place, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert "is there already and not empty" in encode(capsys, place, tmp_path).sentence()
    assert os.listdir(tmp_path) == ["file"]
    assert encode(capsys, place, tmp_path / "out", "what=text").code == 0
    assert (
        "another command (other store)"
        in encode(capsys, place, tmp_path / "out", "what=text", "store=float16").sentence()
    )
    ended = encode(capsys, place, tmp_path / "out", "what=text", model="one")
    assert "another command (other model)" in ended.sentence()


def test_a_manifest_of_something_else_is_not_replaced(place, tmp_path, capsys):
    (tmp_path / "manifest.json").write_text('{"mine": 1}')
    for _ in range(2):
        assert "is there already and not empty" in encode(capsys, place, tmp_path, "what=text").sentence()
        assert (tmp_path / "manifest.json").read_text() == '{"mine": 1}'
        (tmp_path / "text").mkdir(exist_ok=True)
        (tmp_path / "text" / "mine").touch()
    with pytest.MonkeyPatch.context() as patch:  # a command that ended before it made anything
        patch.setattr("renaissance.inference.processes.fill", lambda *_: None)
        assert "parts are not there" in encode(capsys, place, tmp_path / "out", "what=text").sentence()
    (tmp_path / "out" / "mine").touch()
    assert "not empty" in encode(capsys, place, tmp_path / "out", "what=text", "store=float16").sentence()
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["store"] == "float32"


def test_another_process_completes_a_folder_only_where_it_is_at_it(place, tmp_path, capsys):
    assert encode(capsys, place, tmp_path, "what=text").code == 0
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"complete": False}))
    with AtomicFile(tmp_path / "finishing", "output"):
        ended = encode(capsys, place, tmp_path, "what=text")
        assert ended.code == 0 and "is being completed by another process" in ended.out and "written" not in ended.out
    assert "written" in encode(capsys, place, tmp_path, "what=text").out


def _album(folder: Path) -> list[int]:
    """Writes 9 images, of which a whole part (2, 3), more of it (4) and the last (8) cannot be read; returns the sound ones."""
    folder.mkdir()
    random = np.random.default_rng(1)
    for number in range(9):
        image = Image.fromarray(random.integers(0, 256, (40, 30, 3), np.uint8))
        image.save(folder / f"{number}.{'jpg' if number % 2 else 'png'}")
    (folder / "2.png").write_text("no image")
    (folder / "3.jpg").write_bytes((folder / "3.jpg").read_bytes()[:500])
    (folder / "4.png").unlink()
    (folder / "4.png").symlink_to(folder / "nowhere")
    (folder / "8.png").unlink()
    os.mkfifo(folder / "8.png")
    return [0, 1, 5, 6, 7]


@pytest.mark.parametrize(
    "words", [(), ("batch_size=2", "file_type=npy"), ("num_workers=2", "batch_size=4"), ("num_processes=2",)]
)
def test_images_that_cannot_be_read_are_left_out_and_named(words, place, tmp_path, capsys, monkeypatch):
    if "num_processes=2" not in words:  # they have the size of parts of their own
        monkeypatch.setattr("renaissance.inference.features._ROWS", 2)
    sound = _album(tmp_path / "in")
    (tmp_path / "texts.txt").write_text("".join(f"text {number}\n" for number in range(9)))
    given = (f"images={tmp_path / 'in'}", f"texts={tmp_path / 'texts.txt'}", "what=text,image,fused", *words)
    ended = encode(capsys, place, tmp_path / "out", *given)
    loaded, joined = Loaded(place / "two" / "model.ckpt"), "file_type=npy" in words
    rows = {
        each: pd.read_parquet(tmp_path / "out" / each / ("rows.parquet" if joined else ""))
        for each in ("text", "image", "fused")
    }
    assert rows["image"].id.tolist() == rows["fused"].id.tolist() == sound and len(rows["text"]) == 9
    vectors = np.load(tmp_path / "out" / "fused" / "vector.npy") if joined else np.stack(rows["fused"].vector)
    names = [str(tmp_path / "in" / name) for name in rows["fused"]["name"]]
    expected = loaded.encode(names, [f"text {number}" for number in sound])
    torch.testing.assert_close(torch.tensor(vectors), expected, rtol=0, atol=1e-5)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["rows"] == {"text": 9, "image": 5, "fused": 5} and manifest["shapes"]["fused"]["vector"][0] == 5
    assert manifest["samples"] == {"text": 9, "image": 9, "fused": 9}
    skipped = manifest["skipped"]["image"]
    assert skipped == manifest["skipped"]["fused"] and not manifest["skipped"]["text"]
    assert skipped["missing"] == {"count": 1, "first": ["4.png: no such file"]}
    assert skipped["unreadable"]["count"] == 3
    assert [name.split(":")[0] for name in skipped["unreadable"]["first"]] == ["2.png", "3.jpg", "8.png"]
    last = (
        "left out of {}: 4, whose ids no row has; missing: 1 (first 4.png: no such file); unreadable: 3 (first 2.png: "
    )
    assert ended.code == 0
    for again in (ended, encode(capsys, place, tmp_path / "out", *given)):
        lines = again.out.splitlines()[-2:]
        assert lines[0].startswith(last.format("image")) and lines[1].startswith(last.format("fused"))


@pytest.mark.parametrize("file_type", ["parquet", "npy"])
def test_a_stop_forgets_no_image_that_was_left_out(file_type, place, tmp_path, capsys, monkeypatch):
    from renaissance.inference.features import Encoder

    monkeypatch.setattr("renaissance.inference.features._ROWS", 2)
    _album(tmp_path / "in")
    words, original, calls = (f"images={tmp_path / 'in'}", "what=image", f"file_type={file_type}"), Encoder._write, []

    def stopped(self: Any, *given: Any) -> None:
        calls.append(given[0].number)
        if len(calls) == 3:
            raise KeyboardInterrupt
        original(self, *given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Encoder, "_write", stopped)
        encode(capsys, place, tmp_path / "a", *words)
    assert encode(capsys, place, tmp_path / "a", *words).code == 0
    assert encode(capsys, place, tmp_path / "whole", *words).code == 0
    for path in (tmp_path / "whole").rglob("*.*"):
        assert (tmp_path / "a" / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes(), path


def test_no_readable_image_at_all_is_refused_and_leaves_nothing(place, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for number in range(30):
        (tmp_path / "in" / f"{number:02}.png").write_text("no image")
    for _ in range(2):
        ended = encode(capsys, place, tmp_path / "out", f"images={tmp_path / 'in'}", "what=image")
        assert ended.code == 1 and "no image can be read, so nothing is written (image: unreadable: 30" in ended.err
        assert not (tmp_path / "out").exists() and "written:" not in ended.out
    (tmp_path / "out").mkdir()  # which stays
    assert encode(capsys, place, tmp_path / "out", f"images={tmp_path / 'in'}", "file_type=npy").code == 1
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("file_type", ["parquet", "npy"])
def test_a_side_without_a_readable_image_leaves_the_others(file_type, place, tmp_path, capsys):
    _file(tmp_path / "in", "a\nwritten: b.png", b"no image")
    words = (f"images={tmp_path / 'in'}", f"texts={_file(tmp_path, 'a.txt', b'one' + bytes([10]) + b'two')}")
    given = (*words, "what=text,image,tokens", f"file_type={file_type}")
    for _ in range(2):
        ended = encode(capsys, place, tmp_path / "out", *given)
        assert ended.code == 0 and ended.out.count("\nwritten: ") + ended.out.startswith("written: ") == 1
        last = "left out of image: 1, so nothing is left of it; unreadable: 1 (first a\\nwritten: b.png: "
        assert ended.out.splitlines()[-1].startswith(last)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["complete"] and manifest["rows"] == {"text": 2, "image": 0}
    assert manifest["shapes"]["image"]["vector"][0] == 0


PASSING = {
    "a disk": ("renaissance.inference.inputs.read_bytes", UserError("no"), OSError(errno.EIO, "Input/output error")),
    "files": ("renaissance.inference.inputs.read_bytes", UserError("no"), OSError(errno.EMFILE, "Too many open files")),
    "memory": ("renaissance.inference.inputs.read_bytes", MemoryError(), None),
    "memory of Pillow": ("renaissance.data.images.open_image", MemoryError(), None),
    "memory of torch": ("renaissance.data.images.open_image", RuntimeError("can't allocate memory: no"), None),
}


@pytest.mark.parametrize("case", [*PASSING])
def test_errors_that_may_pass_are_no_faults_of_an_image(case, place, tmp_path, capsys, monkeypatch):
    path, error, error.__cause__ = PASSING[case]
    Image.new("RGB", (9, 9)).save(_file(tmp_path / "in", "a.png", b""))

    def fails(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(path, fails)
        ended = encode(capsys, place, tmp_path / "out", f"images={tmp_path / 'in'}", "what=image")
    assert ended.code == 1 and "error: a.png cannot be read now (" in ended.err and "Traceback" not in ended.err
    ended = encode(capsys, place, tmp_path / "out", f"images={tmp_path / 'in'}", "what=image")
    assert ended.code == 0 and len(read(tmp_path / "out", "image")) == 1


@pytest.mark.parametrize("row", [2, 5])
def test_only_vectors_of_images_that_are_kept_must_be_finite(row, place, tmp_path, capsys, monkeypatch):
    sound = _album(tmp_path / "in")

    def pooled(*given: Any) -> torch.Tensor:
        vectors = pool(*given).clone()
        vectors[row] = torch.inf
        return vectors

    monkeypatch.setattr("renaissance.inference.features.pool", pooled)
    ended = encode(capsys, place, tmp_path / "out", f"images={tmp_path / 'in'}", "what=image")
    assert ended.code == (row in sound) and ("not finite" in ended.err) == (row in sound)


def test_images_of_a_split_that_cannot_be_decoded_are_left_out(place, tmp_path, capsys):
    write_coco_vg(tmp_path / "arrow")
    damage_picture(tmp_path / "arrow" / "coco_caption_karpathy_val.arrow")
    words = ("datasets=['coco']", f"data_root={tmp_path / 'arrow'}", "what=text,image,fused")
    assert encode(capsys, place, tmp_path / "out", *words).code == 0
    texts, images, pairs = (pd.read_parquet(tmp_path / "out" / side) for side in ("text", "image", "fused"))
    [lost] = {*range(9)} - {*images.id}
    assert len(texts) == 18 and {*range(18)} - {*pairs.id} == {2 * lost, 2 * lost + 1}
    skipped = json.loads((tmp_path / "out" / "manifest.json").read_text())["skipped"]
    assert skipped["image"]["unreadable"]["first"][0].startswith(f"coco_caption_karpathy_val.arrow row {lost}: ")
    assert skipped["fused"]["unreadable"]["count"] == 2


def test_one_image_of_a_pair_that_cannot_be_decoded_leaves_the_other(place, tmp_path, capsys):
    TASKS["nlvr2"].write(tmp_path / "raw", tmp_path / "arrow")
    words = ("datasets=['nlvr2']", f"data_root={tmp_path / 'arrow'}", "what=fused")
    assert encode(capsys, place, tmp_path / "whole", *words).code == 0
    path = str(next((tmp_path / "arrow").glob("nlvr2_dev*")))
    table = pa.ipc.open_file(path).read_all()
    second = [name for name in table.column_names if name.startswith("image")][1]
    broken = pa.array([b"no image", *table[second].to_pylist()[1:]], table.schema.field(second).type)
    table = table.set_column(table.column_names.index(second), table.schema.field(second), broken)
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    assert encode(capsys, place, tmp_path / "out", *words).code == 0
    whole, pairs = (pd.read_parquet(tmp_path / each / "fused").set_index(["id", "place"]) for each in ("whole", "out"))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (
        manifest["rows"]["fused"]
        == len(pairs)
        < len(whole)
        == json.loads((tmp_path / "whole" / "manifest.json").read_text())["rows"]["fused"]
    )
    lost = {*whole.index} - {*pairs.index}
    assert lost and {place for _, place in lost} == {1}
    expected = np.stack(whole.vector[pairs.index])
    np.testing.assert_allclose(np.stack(pairs.vector), expected, rtol=0, atol=1e-5)


def test_folders_that_are_linked_are_read_once(place, tmp_path, capsys):
    _album(tmp_path / "far")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").symlink_to(tmp_path / "far")
    (tmp_path / "in" / "b").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "up").symlink_to(tmp_path / "in")
    Image.new("RGB", (9, 9)).save(os.fsencode(tmp_path / "in" / "c") + b"\xff.png", "PNG")
    (tmp_path / "far" / "all").symlink_to(tmp_path)  # which holds the folder itself
    Image.new("RGB", (9, 9)).save(tmp_path / "beside.png")
    ended = encode(capsys, place, tmp_path / "out", f"images={tmp_path / 'in'}", "what=image")
    assert ended.code == 0 and "linked folders are read, too: a\n" in ended.out
    assert "linked folders are not read, as" in ended.out and "holds this folder: b, a/all, a/up\n" in ended.out
    names = pd.read_parquet(tmp_path / "out" / "image")["name"].tolist()
    assert names == [f"a/{name}" for name in ("0.png", "1.jpg", "5.jpg", "6.png", "7.jpg")] + ["c\ufffd.png"]
    assert len(json.loads((tmp_path / "out" / "manifest.json").read_text())["notes"]) == 2
    assert encode(capsys, place, tmp_path / "out", f"images={tmp_path / 'in'}", "what=image").code == 0


def test_another_process_finds_the_same_names_or_says_so(tmp_path):
    _album(tmp_path / "in")
    inputs = FileInputs(str(tmp_path / "in"), None)
    assert pickle.loads(pickle.dumps(inputs)).example("image", 1) == inputs.example("image", 1)
    (tmp_path / "in" / "0.png").unlink()
    assert isinstance(inputs.example("image", 0).images[0], Fault)  # the others keep their numbers
    with pytest.raises(UserError, match="has changed since this command began"):
        pickle.loads(pickle.dumps(inputs)).example("image", 1)
    shutil.rmtree(tmp_path / "in")
    with pytest.raises(UserError, match="is not there any more"):
        inputs.example("image", 1)


@pytest.mark.parametrize(
    ("model", "tasks"), [(TWO, ("itm", "itc")), (ONE, ("itm", "itc")), (TWO, ("itm",)), (ONE, ("itm",))]
)
def test_which_vector_equals_which(model, tasks, place, tmp_path, capsys):
    """The table of README.md."""
    path = write_checkpoint(tmp_path / "own", model, tasks, pooler_type="double")
    assert main(["export", "with", f"load_path={path}", f"output={tmp_path / 'exported'}"]) == 0
    words = ["datasets=['coco']", f"data_root={place / 'arrow'}", "what=text,image,fused,tokens", "num_workers=0"]
    assert main(["encode", "with", f"load_path={path}", f"output={tmp_path / 'out'}", *words]) == 0
    texts, images, pairs = (pd.read_parquet(tmp_path / "out" / side) for side in ("text", "image", "fused"))
    shown = pd.read_feather(place / "arrow" / "coco_caption_karpathy_val.arrow")["image"].tolist()[:4]
    said, loaded, bound = texts.text.tolist()[:4], Loaded(path), {"rtol": 0, "atol": 1e-5}
    theirs = AutoModel.from_pretrained(tmp_path / "exported", trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "exported", trust_remote_code=True)
    given = processor(images=[Image.open(io.BytesIO(each)) for each in shown], text=said, return_tensors="pt")
    pixels = {key: given.pop(key) for key in [*given] if key.startswith("pixel")}
    with torch.no_grad():
        features = theirs.get_text_features(**given), theirs.get_image_features(**pixels)
        alone = theirs(**given).pooler_output, theirs(**pixels).pooler_output
        fused = theirs(**given, **pixels).pooler_output
    width = loaded.model.width
    for side, table, feature in zip(("text", "image"), (texts, images), features, strict=True):
        column = torch.tensor(np.stack(table["contrastive" if "itc" in tasks else "vector"][:4]))
        found = torch.nn.functional.normalize(feature.pooler_output) if "itc" in tasks else feature.pooler_output
        if model is TWO and "itc" not in tasks:  # which is brought to the width of the fusion
            column = getattr(loaded.model, f"{side}_projection")(column)
        torch.testing.assert_close(found, column, **bound)
    torch.testing.assert_close(loaded.encode(shown, said), fused, **bound)
    torch.testing.assert_close(
        torch.tensor(np.stack(pairs.vector[::2][:4])), loaded.encode(shown, texts.text.tolist()[:8:2]), **bound
    )
    torch.testing.assert_close(loaded.encode(text=said), alone[0][:, :width], **bound)
    torch.testing.assert_close(loaded.encode(shown), alone[1][:, width:], **bound)
    assert (np.stack(texts.vector[:4]).shape != loaded.encode(text=said).shape) or not np.allclose(
        np.stack(texts.vector[:4]), loaded.encode(text=said), atol=1e-2
    )


def test_empty_captions_and_images_without_any_are_encoded(place, tmp_path, capsys):
    schema = pa.schema([("image", pa.binary()), ("caption", pa.list_(pa.string()))])
    images = pd.read_feather(place / "arrow" / "coco_caption_karpathy_val.arrow")["image"].tolist()[:4]
    table = pa.table({"image": images, "caption": [["a", ""], [""], [], []]}, schema)
    (tmp_path / "arrow").mkdir()
    for split in ("train", "val"):
        path = str(tmp_path / "arrow" / f"mine_{split}.arrow")
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_table(table)
    words = ("datasets=['mine']", f"data_root={tmp_path / 'arrow'}", "batch_size=1", "what=text,image,fused")
    assert encode(capsys, place, tmp_path / "out", *words).code == 0
    assert [len(pd.read_parquet(tmp_path / "out" / side)) for side in ("text", "image", "fused")] == [3, 4, 3]


def test_lines_of_a_text_file_end_at_line_breaks_alone(place, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("one\u2028line\r\ntwo\x0blines\n", newline="")
    assert encode(capsys, place, tmp_path / "out", f"texts={tmp_path / 'a.txt'}", "what=text").code == 0
    assert pd.read_parquet(tmp_path / "out" / "text").text.tolist() == ["one\u2028line", "two\x0blines"]


def _two_processes(place: Path, folder: Path) -> subprocess.Popen[str]:
    """Starts a long command of two processes; returns when both are writing a part."""
    words = [f"load_path={place / 'two' / 'model.ckpt'}", f"texts={folder / 'a.txt'}", "what=text", "num_workers=0"]
    (folder / "a.txt").write_text("a red circle is left of the blue square\n" * 40_000)
    command = [sys.executable, str(ROOT / "run.py"), "encode", "with", *words, "num_processes=2", "batch_size=16"]
    command.append(f"output={folder / 'out'}")
    run = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, start_new_session=True)
    end = time.monotonic() + 90
    while len([*folder.glob("out/text/.part*")]) < 2 and time.monotonic() < end:
        time.sleep(0.1)
    assert run.poll() is None, run.communicate()
    return run


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_several_processes_end_at_a_signal_and_go_on(number, place, tmp_path):
    run = _two_processes(place, tmp_path)
    for _ in range(2):  # `timeout` sends two, and so do people
        os.killpg(run.pid, number) if number == signal.SIGINT else run.send_signal(number)
        time.sleep(0.3)
    _, printed = run.communicate(timeout=60)
    assert printed.endswith(f"; the same command goes on in output={tmp_path / 'out'}.\n"), printed
    assert run.returncode in (75, 130) and "Traceback" not in printed and "leaked" not in printed, printed
    assert not [*tmp_path.glob("out/text/.*")]
    assert not json.loads((tmp_path / "out" / "manifest.json").read_text())["complete"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "first", "said"), [(signal.SIGKILL, 1, "has run out of memory"), (signal.SIGTERM, 2, "status 143; give")]
)
def test_processes_that_are_ended_from_outside_end_the_command(number, first, said, place, tmp_path):
    run = _two_processes(place, tmp_path)
    numbers = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    children = [each for each in numbers if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()]
    assert len(children) == 2
    for each in children[:first]:
        os.kill(int(each), number)
    _, printed = run.communicate(timeout=60)
    last = printed.splitlines()[-1]
    assert run.returncode == 1 and last.startswith("error: num_processes=2: ") and said in last, printed
    assert "Traceback" not in printed


def test_without_what_there_is_what_the_input_has(place, tmp_path, capsys):
    for name, word in (
        ("image", f"images={_images(tmp_path / 'in', 2)}"),
        ("text", f"texts={_file(tmp_path, 'a', b'a')}"),
    ):
        assert encode(capsys, place, tmp_path / name, word).code == 0
        assert sorted(os.listdir(tmp_path / name)) == sorted([name, "manifest.json"])
    assert encode(capsys, place, tmp_path / "both").code == 0
    assert sorted(os.listdir(tmp_path / "both")) == ["image", "manifest.json", "text"]


def test_a_data_set_of_a_mix_without_the_split_is_noted(place, tmp_path, capsys):
    arrow = tmp_path / "arrow"
    write_coco_vg(arrow)
    for path in arrow.glob("vg*"):
        if "train" not in path.name:
            path.unlink()
    words = ("datasets=['coco','vg']", f"data_root={arrow}", "what=text")
    ended = encode(capsys, place, tmp_path / "out", *words)
    assert ended.code == 0 and "note: vg: It has no split 'val', so none of it is read.\n" in ended.out
    notes = json.loads((tmp_path / "out" / "manifest.json").read_text())["notes"]
    assert notes == ["vg: It has no split 'val', so none of it is read."]


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_without_room_the_same_command_goes_on(processes, place, tmp_path):
    (tmp_path / "a.txt").write_text("a red circle\n" * 3000)
    words = [f"load_path={place / 'two' / 'model.ckpt'}", f"texts={tmp_path / 'a.txt'}", f"output={tmp_path / 'out'}"]
    command = [
        sys.executable,
        str(ROOT / "run.py"),
        "encode",
        "with",
        *words,
        f"num_processes={processes}",
        "num_workers=0",
    ]
    limited = ["bash", "-c", 'ulimit -f 40; trap "" XFSZ; exec "$@"', "bash", *command]
    ended = subprocess.run(limited, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 1 and "There is no room left for '" in ended.stderr, ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.endswith("Free space, or give another output. With space, the same command goes on."), last
    assert "as it was" not in last and subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0


def test_a_model_that_cannot_be_read_leaves_the_folder_free(place, tmp_path, capsys):
    assert main(["export", "with", f"load_path={place / 'two' / 'model.ckpt'}", f"output={tmp_path / 'own'}"]) == 0
    (tmp_path / "own" / "model.safetensors").rename(tmp_path / "kept")
    words = [f"load_path={tmp_path / 'own'}", "datasets=['coco']", f"data_root={place / 'arrow'}", "num_workers=0"]
    capsys.readouterr()
    assert main(["encode", "with", *words, f"output={tmp_path / 'out'}"]) == 1
    assert "model.safetensors cannot be read" in capsys.readouterr().err
    (tmp_path / "own" / "model.safetensors").write_bytes((tmp_path / "kept").read_bytes()[:3000])
    assert main(["encode", "with", *words, f"output={tmp_path / 'out'}", "num_processes=2"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]  # a child's
    assert last.startswith("error: load_path=") and "is not whole" in last
    (tmp_path / "kept").replace(tmp_path / "own" / "model.safetensors")
    assert main(["encode", "with", *words, f"output={tmp_path / 'out'}", "what=text"]) == 0
    assert encode(capsys, place, tmp_path / "two", "what=text").code == 0
    np.testing.assert_array_equal(read(tmp_path / "out", "text"), read(tmp_path / "two", "text"))
    name = json.loads((tmp_path / "own" / "config.json").read_text())["renaissance"]["tokenizer"][0]
    (tmp_path / "own" / name).write_bytes((tmp_path / "own" / name).read_bytes() + b" ")
    capsys.readouterr()
    assert main(["encode", "with", *words, f"output={tmp_path / 'out'}", "what=text"]) == 1
    assert "another command (other model)" in capsys.readouterr().err
