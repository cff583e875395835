"""Captions in the forms that people have: COCO, ALBEF, open_clip, parquet with images, tars of webdataset."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from renaissance.core.errors import UserError
from renaissance.data.datasets import open_pairs
from renaissance.data.prepare import prepare


def picture(number: int) -> bytes:
    stream, random = io.BytesIO(), np.random.default_rng(number)
    Image.fromarray(random.integers(0, 256, (20, 24, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def write_pictures(folder: Path, count: int = 4) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(picture(number))


def pairs(root: Path, out: Path, split: str = "train", **options: Any) -> list[tuple[bytes, str]]:
    """What a run reads of what `prepare` wrote."""
    prepare("captions", root, out, name="mine", workers=1, **options)
    found = open_pairs(["mine"], split, out)
    return [(found[index].images[0], found[index].text) for index in range(len(found))]


EXPECTED = [(picture(0), "a cat"), (picture(0), "a cat asleep"), (picture(1), "two dogs"), (picture(2), "a bird")]


def coco(root: Path, caption: str = "caption") -> None:
    write_pictures(root / "train2017")
    images = [{"id": 10 + number, "file_name": f"{number}.png"} for number in range(4)]
    texts = [(10, "a cat"), (11, "two dogs"), (10, "a cat asleep"), (12, "a bird")]
    annotations = [{"id": place, "image_id": image, caption: text} for place, (image, text) in enumerate(texts)]
    content = {"info": {"year": 2017}, "licenses": [], "images": images, "annotations": annotations}
    (root / "captions_train2017.json").write_text(json.dumps(content))


def albef(root: Path) -> None:
    write_pictures(root / "photos")
    entries = [
        {"image": "photos/0.png", "caption": ["a cat", "a cat asleep"], "image_id": "x"},
        {"image": "photos/1.png", "caption": "two dogs"},
        {"image": "photos/2.png", "caption": "a bird"},
    ]
    (root / "pretrain.json").write_text(json.dumps(entries))


def _table(root: Path, name: str, header: tuple[str, str], separator: str) -> None:
    write_pictures(root / "photos")
    rows = [
        ("photos/0.png", "a cat"),
        ("photos/0.png", "a cat asleep"),
        ("photos/1.png", "two dogs"),
        ("photos/2.png", "a bird"),
    ]
    with open(root / name, "w", newline="") as file:
        csv.writer(file, delimiter=separator).writerows([header, *rows])


def _parquet(root: Path, images: pa.Array, name: str = "image") -> None:
    texts = pa.array([["a cat", "a cat asleep"], ["two dogs"], ["a bird"]])
    root.mkdir(exist_ok=True)
    pq.write_table(pa.table({name: images, "caption": texts}), root / "train-00000-of-00001.parquet")


def _structs(*broken: Any) -> pa.Array:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([*broken, *({"bytes": picture(number), "path": None} for number in range(len(broken), 3))], kind)


def library(root: Path) -> None:
    """What the library `datasets` itself writes."""
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.List(datasets.Value("string"))})
    images = [{"bytes": picture(number), "path": None} for number in range(3)]
    rows = {"image": images, "caption": [["a cat", "a cat asleep"], ["two dogs"], ["a bird"]]}
    root.mkdir(exist_ok=True)
    datasets.Dataset.from_dict(rows, features).to_parquet(root / "train.parquet")


def saved(root: Path) -> None:
    library(root)
    loaded = datasets.Dataset.from_parquet(str(root / "train.parquet"), cache_dir=str(root.parent / "cache"))
    (root / "train.parquet").unlink()
    datasets.DatasetDict(train=loaded).save_to_disk(root)


def tars(root: Path) -> None:
    root.mkdir(exist_ok=True)
    for shard, numbers in enumerate(((0,), (1, 2))):
        with webdataset.TarWriter(str(root / f"{shard:05d}.tar")) as writer:
            for number in numbers:
                text = ["a cat", "two dogs", "a bird"][number]
                writer.write({"__key__": f"{number:03d}", "png": picture(number), "txt": text})


def tars_of(root: Path, *about: dict[str, Any], **members: Any) -> None:
    root.mkdir(exist_ok=True)
    with webdataset.TarWriter(str(root / "00000.tar")) as writer:
        for number, each in enumerate(about):
            writer.write({"__key__": f"{number:03d}", "png": picture(number), "json": each, **members})


FORMS = {
    "COCO": (coco, {}),
    "COCO, own name": (lambda root: coco(root, "text"), {"caption_column": "text"}),
    "ALBEF": (albef, {}),
    "open_clip": (lambda root: _table(root, "a.csv", ("filepath", "title"), "\t"), {"separator": r"\t"}),
    "CSV": (lambda root: _table(root, "a.csv", ("image", "caption"), ","), {}),
    "TSV": (lambda root: _table(root, "a.tsv", ("filepath", "title"), "\t"), {}),
    "own names": (
        lambda root: _table(root, "a.csv", ("where", "what"), ";"),
        {"separator": ";", "image_column": "where", "caption_column": "what"},
    ),
    "parquet of structs": (lambda root: _parquet(root, _structs()), {}),
    "parquet of bytes": (lambda root: _parquet(root, pa.array([picture(number) for number in range(3)])), {}),
    "parquet, own names": (lambda root: _parquet(root, _structs(), "pixels"), {"image_column": "pixels"}),
    "parquet of the library": (library, {}),
    "saved by the library": (saved, {}),
    "webdataset": (tars, {}),
}


@pytest.mark.parametrize("form", [*FORMS])
def test_every_form_gives_the_same_pairs(form, tmp_path):
    write, options = FORMS[form]
    write(tmp_path / "raw")
    expected = EXPECTED if form != "webdataset" else [EXPECTED[0], *EXPECTED[2:]]
    assert pairs(tmp_path / "raw", tmp_path / "out", **options) == expected


def test_captions_of_tars_lie_in_text_or_under_a_key(tmp_path):
    def texts(root: str, **options: Any) -> list[str]:
        return [text for _, text in pairs(tmp_path / root, tmp_path / f"out {root} {len(options)}", **options)]

    tars_of(
        tmp_path / "a",
        {"caption": "c", "text_en": "a cat"},
        {"text_en": ["a dog", "", "dogs"]},
        {"text_en": 3},
        txt="t",
    )
    assert texts("a") == ["t"] * 3
    assert texts("a", caption_column="text_en") == ["a cat", "a dog", "dogs"]
    tars_of(tmp_path / "b", {"caption": ["c", "d"]})
    assert texts("b") == ["c", "d"]


def test_splits_are_in_the_names_of_files(tmp_path):
    coco(tmp_path / "raw")
    (tmp_path / "raw" / "train2017").rename(tmp_path / "raw" / "val2017")
    (tmp_path / "raw" / "captions_train2017.json").rename(tmp_path / "raw" / "captions_val2017.json")
    write_pictures(tmp_path / "raw" / "train2017", 2)
    content = {"images": [{"id": 1, "file_name": "1.png"}], "annotations": [{"image_id": 1, "caption": "dogs"}]}
    (tmp_path / "raw" / "captions_train2017.json").write_text(json.dumps(content))
    assert pairs(tmp_path / "raw", tmp_path / "out", "val") == EXPECTED
    assert open_pairs(["mine"], "train", tmp_path / "out")[0].text == "dogs"


def _divided(root: Path) -> None:
    root.mkdir()
    table = pa.table(
        {"image": _structs(), "path": ["x.png"] * 3, "caption": ["a", "b", "c"], "split": ["train", "test", None]}
    )
    pq.write_table(table, root / "a.parquet")


def test_a_column_of_splits_divides_a_parquet_of_images(tmp_path):
    _divided(tmp_path / "raw")
    assert [text for _, text in pairs(tmp_path / "raw", tmp_path / "out")] == ["a", "c"]
    assert [pair.text for pair in map(open_pairs(["mine"], "test", tmp_path / "out").__getitem__, range(1))] == ["b"]


def test_captions_that_cannot_be_used_are_counted(tmp_path):
    root = tmp_path / "raw"
    root.mkdir()
    texts = pa.array([["", "a", None], [None], ["x" * 2_000_000]])
    pq.write_table(pa.table({"image": _structs(), "caption": texts}), root / "a.parquet")
    assert [text for _, text in pairs(root, tmp_path / "out")] == ["a"]
    assert _skipped(tmp_path / "out") == {"empty caption": 3, "caption of more than 1,048,576 characters": 1}
    tars_of(tmp_path / "tars", {"caption": ["", "a", "\ud800"]}, {"caption": "b"}, {"caption": [" "]})
    assert [text for _, text in pairs(tmp_path / "tars", tmp_path / "out2")] == ["a", "b"]
    assert _skipped(tmp_path / "out2") == {"empty caption": 2, "caption that is not Unicode text": 1}


def _skipped(out: Path) -> dict[str, int]:
    skipped = json.loads((out / "mine_train.json").read_text())["skipped"]
    return {kind: each["count"] for kind, each in skipped.items()}


def test_absolute_paths_lie_below_root_as_others_do(tmp_path):
    """Through a folder that is a link, and where root itself is one."""
    write_pictures(tmp_path / "nas")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "pics").symlink_to(tmp_path / "nas")
    (tmp_path / "link").symlink_to(tmp_path / "raw")
    folders = (tmp_path / "raw", tmp_path / "link", Path())
    _parquet(tmp_path / "raw", _structs(*({"bytes": None, "path": str(each / "pics" / "0.png")} for each in folders)))
    expected = [(picture(0), text) for text in ("a cat", "a cat asleep", "two dogs", "a bird")]
    assert pairs(tmp_path / "link", tmp_path / "out") == expected


def test_other_folders_and_files_may_lie_beside(tmp_path):
    coco(tmp_path / "raw")
    (tmp_path / "raw" / "annotations_trainval2017").mkdir()
    assert pairs(tmp_path / "raw", tmp_path / "out") == EXPECTED
    _table(tmp_path / "two", "a.csv", ("path", "caption"), ",")
    (tmp_path / "two" / "meta.json").write_text("{}")
    assert pairs(tmp_path / "two", tmp_path / "out2") == EXPECTED


def _json(root: Path, content: Any) -> None:
    write_pictures(root)
    (root / "a.json").write_text(content if isinstance(content, str) else json.dumps(content))


def _twice(root: Path, *names: str) -> None:
    root.mkdir()
    columns = {"image": _structs(), "caption": pa.array(["a", "b", "c"])}
    pq.write_table(pa.table([columns[name] for name in names], names=[*names]), root / "a.parquet")


REFUSED = {
    "no such column": (lambda root: _table(root, "a.csv", ("where", "what"), ","), {}, "in its first line are where, what; name"),
    "no such own column": (
        lambda root: _table(root, "a.csv", ("path", "caption"), ","),
        {"caption_column": "x"},
        r"no column 'x' \(caption_column=\); its columns in its first line are path, caption\.$",
    ),
    "the wrong separator": (lambda root: _table(root, "a.csv", ("filepath", "title"), "\t"), {}, "give separator=tab"),
    "no column of images": (
        lambda root: _parquet(root, _structs(), "pixels"),
        {},
        r"has none of the columns path, .*; its columns are pixels, caption; name another with image_column=\.$",
    ),
    "no column of captions": (lambda root: _parquet(root, _structs()), {"caption_column": "x"}, r"no column 'x' .caption_column"),
    "captions of numbers": (
        lambda root: (root.mkdir(), pq.write_table(pa.table({"image": _structs(), "caption": [1, 2, 3]}), root / "a.parquet")),
        {},
        r"column 'caption' is int64; expected texts or lists of texts; give another of image, caption with caption_column=",
    ),
    "half of a parquet": (
        lambda root: (_parquet(root, _structs()), (f := next(root.glob("*.parquet"))).write_bytes(f.read_bytes()[:300])),
        {},
        "cannot be read, or is cut short",
    ),
    "broken pictures": (
        lambda root: _parquet(root, _structs({"bytes": b"no image", "path": None})),
        {},
        "1 of 3 images for mine_train.arrow could not be read",
    ),
    "not JSON": (lambda root: _json(root, "{"), {}, "is not JSON"),
    "no list": (lambda root: _json(root, {"images": []}), {}, "holds no entry at"),
    "an image that is not listed": (
        lambda root: _json(
            root, {"images": [{"id": 1, "file_name": "0.png"}], "annotations": [{"image_id": 2, "caption": "a"}]}
        ),
        {},
        "is of image 2, which images does not list",
    ),
    "an entry without an image": (
        lambda root: _json(root, [{"caption": "a"}]),
        {},
        r"entry 0 lacks 'path' \(image, .*; it has caption, of which image_column=",
    ),
    "a path that is a number": (lambda root: _json(root, [{"image": 3, "caption": "a"}]), {}, "entry 0: image is"),
    "COCO without captions": (coco, {"caption_column": "x"}, "annotation 0 lacks 'x'; it has id, image_id, caption, of which"),
    "COCO without paths": (coco, {"image_column": "x"}, "an entry of images lacks 'x'; it has id, file_name, of which"),
    "gzip": (lambda root: (_json(root, []), (root / "a.json").write_bytes(gzip.compress(b"[]"))), {}, "is compressed by gzip"),
    "a caption that is a number": (lambda root: _json(root, [{"image": "0.png", "caption": 3}]), {}, "entry 0: caption is"),
    "a path that climbs": (lambda root: _json(root, [{"image": "../0.png", "caption": "a"}]), {}, r"\.\."),
    "tars and a list": (lambda root: (coco(root), tars(root)), {}, "choose with annotations="),
    "a picture elsewhere": (
        lambda root: _parquet(root, _structs({"bytes": None, "path": "../secret.png"})),
        {},
        "leads out of root",
    ),
    "a split that is none": (
        lambda root: (
            root.mkdir(),
            pq.write_table(pa.table({"image": _structs(), "caption": ["a"] * 3, "split": ["x"] * 3}), root / "a.parquet"),
        ),
        {},
        "has split 'x'",
    ),
    "two characters": (lambda root: _table(root, "a.csv", ("path", "caption"), ","), {"separator": ";;"}, "is not one character"),
    "an id that is a list": (
        lambda root: _json(
            root, {"images": [{"id": [1], "file_name": "0.png"}], "annotations": [{"image_id": 1, "caption": "a"}]}
        ),
        {},
        "id is",
    ),
    "separator of a parquet": (lambda root: _parquet(root, _structs()), {"separator": ";"}, "separator=';' is of .csv"),
    "separator of a list": (albef, {"separator": ";"}, "separator=';' is of .csv and .tsv files, and 'pretrain.json' is none"),
    "separator of tars": (tars, {"separator": ";"}, "separator=';' is of .csv"),
    "two columns of captions": (
        lambda root: _twice(root, "image", "caption", "caption"),
        {},
        r"a.parquet' has caption more than once among its columns; give each another name",
    ),
    "two columns of images": (lambda root: _twice(root, "image", "caption", "image"), {}, "has image more than once"),
    "an empty path": (
        lambda root: (
            root.mkdir(),
            pq.write_table(pa.table({"path": ["a", None], "caption": ["b", "c"]}), root / "a.parquet"),
        ),
        {},
        r"a.parquet' line 2 has no value in 'path'\.$",
    ),
    "columns of tars": (tars, {"image_column": "png"}, "these are tars"),
    "tars without such a key": (
        lambda root: tars_of(root, {"text_en": "a"}, {"text_en": "b"}),
        {"caption_column": "text"},
        "none of its first 2 entries has a text under 'text'; their .json has the keys text_en, of which caption_column=",
    ),
    "tars with another key": (
        lambda root: tars_of(root, {"text_en": "a", "caption": 3}),
        {},
        "none of its first 1 entries has a caption in .txt or under 'caption' of .json; .* keys text_en, caption, of which",
    ),
    "captions of structs": (
        lambda root: (
            root.mkdir(),
            pq.write_table(pa.table({"image": _structs(), "caption": [{"raw": "a"}] * 3}), root / "a.parquet"),
        ),
        {},
        "column 'caption' is struct<raw: string>; .* caption_column=, or one that `flatten`",
    ),
    "wrong in a second split": (
        lambda root: (
            _parquet(root, _structs()),
            pq.write_table(pa.table({"image": _structs(), "words": ["a"] * 3}), root / "val-00000-of-00001.parquet"),
        ),
        {},
        r"val-00000-of-00001.parquet' has none of the columns caption, .*; its columns are image, words; name another",
    ),
    "a column that is not there": (
        lambda root: _parquet(root, _structs()),
        {"image_column": "foo"},
        r".parquet' has no column 'foo' \(image_column=\); its columns are image, caption\.$",
    ),
    "tars without .json": (
        tars,
        {"caption_column": "foo"},
        "has a text under 'foo'; they have no .json; leave caption_column out, and their .txt counts",
    ),
    "val_share of tars": (tars, {"val_share": 0.5}, "is for lists of paths"),
}  # fmt: skip


@pytest.mark.parametrize("case", [*REFUSED])
def test_what_is_wrong_is_one_sentence_and_nothing_is_written(case, tmp_path):
    write, options, sentence = REFUSED[case]
    write(tmp_path / "raw")
    with pytest.raises(UserError, match=sentence) as refusal:
        pairs(tmp_path / "raw", tmp_path / "out", **options)
    assert "\n" not in str(refusal.value)
    assert not [*tmp_path.glob("out/*.arrow")]


def test_tars_may_have_other_files_beside_them(tmp_path):
    tars(tmp_path / "raw")
    with tarfile.open(tmp_path / "raw" / "00000.tar") as tar:
        assert tar.getnames()
    (tmp_path / "raw" / "00000_stats.json").write_text("{}")
    assert len(pairs(tmp_path / "raw", tmp_path / "out")) == 3
