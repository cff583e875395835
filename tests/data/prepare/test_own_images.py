"""Class folders and CIFAR-10: images with the number of their class."""

from __future__ import annotations

import io
import json
import os
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from data.prepare.raw_files import Payload, bad_pictures, odd_pictures, photograph, read_rows, refused, write_pictures
from data.prepare.raw_images import CIFAR_CLASSES, CLASSES, pickled, write_cifar, write_folders
from renaissance.core.errors import UserError
from renaissance.data.dataset_specs import METADATA_KEY
from renaissance.data.prepare.images import make_arrow

refusal = partial(refused, make_arrow)


def said_of(file: Path) -> dict:
    return json.loads(pa.ipc.open_file(str(file)).schema.metadata[METADATA_KEY])


@pytest.mark.parametrize("splits", [("train", "val", "test"), ("train", "validation"), ("train", "valid")], ids=str)
def test_class_folders_of_each_split(tmp_path: Path, splits: tuple[str, ...]):
    written = write_folders(tmp_path / "raw", splits)
    deep = {f"train/cat/images/more/{n}.JPEG": ("cat", photograph(40 + n)) for n in range(2)}
    write_pictures(tmp_path / "raw/train/cat/images/more", {Path(path).name: each for path, (_, each) in deep.items()})
    for hidden in ("train/cat/.DS_Store", "train/cat/.thumbs/1.jpg", "train/.git/config", "read me.txt"):
        write_pictures((tmp_path / "raw" / hidden).parent, {Path(hidden).name: b"hidden"})
    contents = []
    for workers in (1, 2):
        manifests = make_arrow(tmp_path / "raw", tmp_path / "arrow", name="pets", workers=workers)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / "arrow").iterdir()})
    assert contents[0] == contents[1]
    names = [split[:3] if split.startswith("val") else split for split in splits]
    assert [each["file"] for each in manifests] == [f"pets_{name}.arrow" for name in names]
    for split, name, manifest in zip(splits, names, manifests, strict=True):
        file = tmp_path / "arrow" / manifest["file"]
        assert said_of(file) == {"dataset": "pets", "split": name, "labels": sorted(CLASSES)}
        expected = [
            {"image": content, "label": sorted(CLASSES).index(label), "image_id": path, "split": name}
            for path, (label, content) in (written | deep).items()
            if path.startswith(f"{split}/")
        ]
        rows = read_rows(file)
        assert [row["label"] for row in rows] == sorted(row["label"] for row in rows)
        assert rows == sorted(expected, key=lambda row: (row["label"], row["image_id"]))
        assert manifest["skipped"] == {}
        assert manifest["options"]["val_share"] == 0


def test_a_tenth_of_training_is_validation_where_there_is_none(tmp_path: Path):
    written = write_folders(tmp_path / "raw", ("",), each=40)
    manifests = make_arrow(tmp_path / "raw", tmp_path / "arrow", workers=1)
    parts = {
        split: {row["image_id"] for row in read_rows(tmp_path / "arrow" / f"images_{split}.arrow")}
        for split in ("train", "val")
    }
    assert [(each["rows"], each["listed"]) for each in manifests] == [(len(part), len(part)) for part in parts.values()]
    assert parts["train"] | parts["val"] == set(written)
    assert not parts["train"] & parts["val"]
    assert 4 <= len(parts["val"]) <= 24
    write_folders(tmp_path / "raw", ("",), each=50)
    make_arrow(tmp_path / "raw", tmp_path / "more", workers=1)
    more = {row["image_id"] for row in read_rows(tmp_path / "more" / "images_val.arrow")}
    assert more & set(written) == parts["val"]  # an image stays where it is when others are added


def test_validation_is_never_taken_from_test(tmp_path: Path):
    write_folders(tmp_path, ("train", "test"), each=20)
    make_arrow(tmp_path, tmp_path / "arrow", val_share=0.5, workers=1)
    ids = {
        split: [row["image_id"] for row in read_rows(tmp_path / "arrow" / f"images_{split}.arrow")]
        for split in ("train", "val", "test")
    }
    assert (len(ids["train"]) + len(ids["val"]), len(ids["test"])) == (60, 60)
    assert all(name.startswith("train/") for name in ids["train"] + ids["val"])
    assert 10 < len(ids["val"]) < 50


def test_a_split_that_gets_no_picture_gets_no_file(tmp_path: Path):
    write_folders(tmp_path / "few", ("",), each=1)
    (manifest,) = make_arrow(tmp_path / "few", tmp_path / "few arrow", val_share=0.0001, workers=1)
    assert (manifest["file"], manifest["rows"]) == ("images_train.arrow", 3)
    write_folders(tmp_path / "only test", ("test",))
    (manifest,) = make_arrow(tmp_path / "only test", tmp_path / "test arrow", workers=1)
    assert manifest["file"] == "images_test.arrow"
    assert said_of(tmp_path / "test arrow" / "images_test.arrow")["labels"] == sorted(CLASSES)


def test_odd_pictures_are_kept_and_bad_ones_named(tmp_path: Path):
    write_folders(tmp_path, ("train", "val"))
    write_pictures(tmp_path / "train" / "cat", odd_pictures())
    bad = {name: (content, kind) for name, (content, kind) in bad_pictures().items() if content is not None}
    write_pictures(tmp_path / "train" / "cat", {name: content for name, (content, _) in bad.items()})
    (tmp_path / "train" / "cat" / "gone.jpg").symlink_to("nowhere")
    bad["gone.jpg"] = (None, "missing")
    manifest = make_arrow(tmp_path, tmp_path / "arrow", workers=2, max_unreadable=0.5)[0]
    assert manifest["rows"] == 3 * 4 + len(odd_pictures())
    assert {kind: each["count"] for kind, each in manifest["skipped"].items()} == {
        kind: sum(kind == other for _, other in bad.values()) for _, kind in bad.values()
    }
    assert "train/cat/empty.jpg: the file is empty (0 bytes)" in manifest["skipped"]["unreadable"]["first"]
    rows = {row["image_id"]: row["image"] for row in read_rows(tmp_path / "arrow" / "images_train.arrow")}
    assert {name: rows[f"train/cat/{name}"] for name in odd_pictures()} == odd_pictures()


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("columnwise", [True, False])
def test_cifar_10(tmp_path: Path, inside: bool, columnwise: bool):
    folder = tmp_path / "cifar-10-batches-py"
    written = write_cifar(folder, columnwise)
    contents = []
    for workers in (1, 2):
        manifests = make_arrow(tmp_path if inside else folder, tmp_path / "arrow", workers=workers)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / "arrow").iterdir()})
    assert contents[0] == contents[1]
    assert [each["file"] for each in manifests] == ["cifar10_train.arrow", "cifar10_val.arrow", "cifar10_test.arrow"]
    assert manifests[0]["options"]["val_share"] == 0.1
    rows = {split: read_rows(tmp_path / "arrow" / f"cifar10_{split}.arrow") for split in ("train", "val", "test")}
    assert 0 < len(rows["val"]) < len(rows["train"])
    for split, of in rows.items():
        assert said_of(tmp_path / "arrow" / f"cifar10_{split}.arrow")["labels"] == CIFAR_CLASSES
        assert all(row["image_id"].startswith("test_batch/") == (split == "test") for row in of)
    every = {row["image_id"]: row for of in rows.values() for row in of}
    assert len(every) == 72
    for batch, pictures in written.items():
        for number, (pixels, label) in enumerate(pictures):
            row = every[f"{batch}/thing_s_{number:06d}.png"]
            with Image.open(io.BytesIO(row["image"])) as picture:
                assert picture.format == "PNG"
                assert np.array_equal(np.asarray(picture), pixels)
            assert row["label"] == label


def test_arrays_of_todays_numpy_are_read_too(tmp_path: Path):
    write_cifar(tmp_path)
    batch = {"data": np.full((1, 3072), 7, np.uint8), "labels": [2], "filenames": ["a.png"]}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch, 4))
    make_arrow(tmp_path, tmp_path / "arrow", workers=1)
    (row,) = read_rows(tmp_path / "arrow" / "cifar10_test.arrow")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(row["image"]))), np.full((32, 32, 3), 7))


NOT_PICTURES = "test_batch' does not hold images of 32 x 32 with their labels and names."


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data": np.zeros((12, 5), np.uint8)}, NOT_PICTURES),
        ({"data": np.zeros((11, 3072), np.uint8)}, NOT_PICTURES),
        ({"data": [1, 2]}, "['data'] is list, but has to be a bytearray"),
        ({"data": np.zeros((12, 3072), np.int16)}, "is not a pickle of plain values, is cut short or damaged"),
        ({"labels": [3] * 12}, NOT_PICTURES),
        ({"labels": 5}, "['labels'] is 5, but has to be a list"),
        ({"filenames": [1] * 12}, "['filenames'][0] is 1, but has to be text"),
    ],
)
def test_refuses_a_batch_of_another_form(tmp_path: Path, changes: dict, sentence: str):
    write_cifar(tmp_path)
    batch = {"data": np.zeros((12, 3072), np.uint8), "labels": [0] * 12, "filenames": ["a.png"] * 12}
    (tmp_path / "test_batch").write_bytes(b"\x80\x02" + pickled(batch | changes) + b".")
    assert sentence in refusal(tmp_path)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_batch_with_a_payload_is_refused(tmp_path: Path, protocol: int):
    write_cifar(tmp_path)
    content = pickle.dumps({"data": Payload(tmp_path / "made"), "labels": [], "filenames": []}, protocol)
    (tmp_path / "test_batch").write_bytes(content)
    assert (
        f"test_batch' is not a pickle of plain values, is cut short or damaged (it holds the name '{os.name}."
        in refusal(tmp_path)
    )
    assert not (tmp_path / "made").exists()


def test_refuses_cifar_10_that_is_incomplete_or_damaged(tmp_path: Path):
    write_cifar(tmp_path)
    meta, batch = tmp_path / "batches.meta", tmp_path / "data_batch_5"
    for file, content, sentence in (
        (
            batch,
            b"\x80\x02" + pickled({"data": "", "labels": []}) + b".",
            "['data'] is '', but has to be a bytearray",
        ),
        (batch, batch.read_bytes()[:-9000], "data_batch_5' is not a pickle of plain values, is cut short or damaged"),
        (batch, None, "data_batch_5' cannot be read (No such file or directory)"),
        (meta, b"\x80\x02" + pickled({"label_names": "cat"}) + b".", "['label_names'] is 'cat', but has to be a list"),
        (meta, b"\x80\x02" + pickled({"label_names": [1]}) + b".", "['label_names'][0] is 1, but has to be text"),
    ):
        whole = file.read_bytes()
        file.unlink() if content is None else file.write_bytes(content)
        assert sentence in refusal(tmp_path)
        file.write_bytes(whole)


def test_refuses_folders_and_options_that_do_not_fit(tmp_path: Path):
    (tmp_path / "one" / "cat").mkdir(parents=True)
    for name in ("emu", "yak"):
        write_folders(tmp_path / name, ("train", "val"))
        write_pictures(tmp_path / name / "val" / name, {"1.jpg": photograph()})
    (tmp_path / "yak" / "train" / "yak").mkdir()  # a folder alone makes no training images
    write_folders(tmp_path / "twice", ("train", "val", "valid"))
    write_folders(tmp_path / "only test", ("test",))
    write_folders(tmp_path / "fine", ("train", "val"))
    write_folders(tmp_path / "bytes", ("",))
    (tmp_path / "bytes" / "cat" / os.fsdecode(b"\xff.jpg")).write_bytes(photograph())
    for name in ("cat", "a dog"):
        (tmp_path / "empty" / "test" / name).mkdir(parents=True)
    for root, options, sentence in (
        ("none", {}, "is not a folder; expected one that contains class folders"),
        ("one", {}, "needs at least two folders, one a class, with images in them; found none."),
        ("emu", {}, "has no training images of emu; every class needs some."),
        ("yak", {}, "has no training images of yak; every class needs some."),
        ("twice", {}, "has two folders for val, val and valid."),
        (
            "empty",
            {},
            "one a class, with images in them; found none. Left alone, as no class has images there: test/",
        ),
        ("bytes", {}, r"Image name 'cat/\udcff.jpg' is not a path below root"),
        ("only test", {"val_share": 0.2}, "val_share=0.2 needs root='"),
        ("fine", {"val_share": 0.2}, "to have images for train and none for val, found train, val; leave val_share"),
        ("fine", {"val_share": 1}, "val_share=1 must be a share"),
        ("fine", {"name": "captions"}, "name='captions' must be a plain name such as 'images'"),
        ("fine", {"name": "coco"}, "name='coco' must be a plain name such as 'images'"),
        ("fine", {"resize": 0}, "resize=0 is not allowed"),
    ):
        assert sentence in refusal(tmp_path / root, **options)


@pytest.mark.parametrize(
    "names",
    [
        ("Train", "Val", "TEST"),
        ("training", "validation", "testing"),
        ("train2017", "dev", "test_set"),
        ("trn", "val", ""),
    ],
)
def test_a_split_is_read_whatever_word_its_folder_has(tmp_path: Path, names: tuple[str, ...]):
    """Folders that say a split are none of the classes, and none of them vanishes."""
    written = write_folders(tmp_path / "raw", tuple(filter(None, names)))
    write_pictures(tmp_path / "raw", {"stray.jpg": photograph(), "read me.txt": b"hello"})
    (tmp_path / "raw" / names[0] / "notes").mkdir()
    (tmp_path / "raw" / names[0] / "cat" / "Thumbs.db").write_bytes(b"...")
    if not names[2]:
        write_pictures(tmp_path / "raw" / "test", {"without a class.jpg": photograph()})
    manifests = make_arrow(tmp_path / "raw", tmp_path / "arrow", workers=1)
    assert {each["file"] for each in manifests} == {
        f"images_{split}.arrow" for split, name in zip(("train", "val", "test"), names, strict=True) if name
    }
    assert sum(each["rows"] for each in manifests) == len(written)
    assert all(said_of(tmp_path / "arrow" / each["file"])["labels"] == sorted(CLASSES) for each in manifests)
    left = ["test/"] * (not names[2]) + [f"{names[0]}/notes/"]
    said = f"Read from {names[0]}/. 3 classes: {', '.join(sorted(CLASSES))}. Left alone, as no class has images there: "
    assert manifests[0]["note"] == f"{said}{', '.join(left)}."


def test_a_word_of_a_split_may_be_a_class_and_other_folders_are_no_splits(tmp_path: Path):
    write_folders(tmp_path / "a", ("",))
    write_pictures(tmp_path / "a" / "train", {"1.jpg": photograph()})  # a class of trains, as in CIFAR-100
    write_pictures(tmp_path / "a" / "annotations", {"list.txt": b"1.jpg cat", "empty": b""})
    write_pictures(tmp_path / "a", {"loose.jpg": photograph()})
    (manifest,) = make_arrow(tmp_path / "a", tmp_path / "arrow", workers=1, val_share=0)
    assert said_of(tmp_path / "arrow" / "images_train.arrow")["labels"] == sorted([*CLASSES, "train"])
    assert manifest["note"].endswith("there: annotations/, 1 images in ./ that lie in no class folder.")
    write_folders(tmp_path / "inside", ("cat", "dog"))
    (tmp_path / "inside" / "dog" / "cat").rename(tmp_path / "inside" / "dog" / "Validation")
    assert "Validation' is a folder of a split in one of a class" in refusal(tmp_path / "inside")
    for folder in ("holdout/cat", "val"):
        write_folders(tmp_path / folder, ("train",))
        write_pictures(tmp_path / folder / folder, {"1.jpg": photograph()})
        assert f"and beside them {folder.partition('/')[0]}: which split is that?" in refusal(tmp_path / folder)


def test_linked_folders_are_followed_once_and_a_pipe_is_no_picture(tmp_path: Path):
    write_folders(tmp_path / "raw", ("train",))
    write_pictures(tmp_path / "more", {"z.jpg": photograph(30)})
    (tmp_path / "raw" / "train" / "cat" / "more").symlink_to(tmp_path / "more")
    (tmp_path / "more" / "loop").symlink_to(tmp_path / "raw" / "train" / "cat")
    (tmp_path / "raw" / "train" / "linked").symlink_to(tmp_path / "more")
    (tmp_path / "raw" / "train" / "cat" / "up").symlink_to("..")  # would make every image a cat
    os.mkfifo(tmp_path / "raw" / "train" / "cat" / "pipe.jpg")
    (tmp_path / "raw" / "train" / "cat" / "zero.jpg").symlink_to("/dev/zero")
    (manifest,) = make_arrow(tmp_path / "raw", tmp_path / "arrow", workers=1, val_share=0, max_unreadable=0.5)
    ids = [row["image_id"] for row in read_rows(tmp_path / "arrow" / "images_train.arrow")]
    assert not [name for name in ids if name.startswith("train/cat/up")]
    assert ids.count("train/cat/more/z.jpg") == ids.count("train/linked/z.jpg") == 1
    assert manifest["skipped"]["unreadable"]["count"] >= 2
    assert "train/cat/pipe.jpg: a pipe, a socket or a device, and no file" in manifest["skipped"]["unreadable"]["first"]


def test_files_of_an_earlier_run_are_not_left_beside_new_ones(tmp_path: Path):
    write_folders(tmp_path, ("train", "test"), each=10)
    make_arrow(tmp_path, tmp_path / "arrow", workers=1)
    with pytest.raises(UserError, match=r"images_val\.arrow, which this run would not replace"):
        make_arrow(tmp_path, tmp_path / "arrow", workers=1, val_share=0)


def test_a_user_prepares_them_with_one_command(run_cli, tmp_path: Path):
    write_folders(tmp_path / "raw", ("",), each=20)
    command = ("prepare", "with", "dataset=images", "root=raw", "data_root=arrow", "name=pets", "workers=2")
    done = run_cli(*command, "val_share=0.5")
    assert done.code == 0, done.stderr
    rows = {split: read_rows(tmp_path / "arrow" / f"pets_{split}.arrow") for split in ("train", "val")}
    assert f"pets_val.arrow: {len(rows['val'])} images, 0 texts, 0." in done.stdout
    assert len(rows["train"]) + len(rows["val"]) == 60
    write_cifar(tmp_path / "raw" / "cifar-10-batches-py")
    (tmp_path / "raw" / "cifar-10-batches-py" / "test_batch").write_bytes(b"cos\nsystem\n(S'x'\ntR.")
    done = run_cli("prepare", "with", "dataset=images", "root=raw", "data_root=arrow")
    assert (done.code, done.stderr.count("\n"), "Traceback" in done.stderr) == (1, 1, False)
    assert (
        "test_batch' is not a pickle of plain values, is cut short or damaged (it holds the name 'os.system')"
        in done.stderr
    )
