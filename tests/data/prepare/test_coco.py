"""COCO with Karpathy's splits: the raw download in, the layout of ViLT and METER out."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from data.prepare.raw_files import read_rows, write_karpathy
from renaissance.core.errors import UserError
from renaissance.data.datasets import open_pairs
from renaissance.data.prepare.karpathy import make_arrow

FILE = "coco_caption_karpathy_{}.arrow"


def test_every_split_has_its_file_in_the_order_of_the_annotations(tmp_path: Path):
    entries = write_karpathy(tmp_path / "raw")
    manifests = make_arrow(tmp_path / "raw", tmp_path / "arrow", workers=2)
    for split, manifest in zip(("train", "restval", "val", "test"), manifests, strict=True):
        rows = read_rows(tmp_path / "arrow" / FILE.format(split))
        own = [entry for entry in entries if entry["split"] == split]
        assert rows == [
            {
                "image": (tmp_path / "raw" / entry["filepath"] / entry["filename"]).read_bytes(),
                "caption": [sentence["raw"] for sentence in entry["sentences"]],
                "image_id": entry["filename"],
                "split": split,
                "caption_ids": [sentence["sentid"] for sentence in entry["sentences"]],
            }
            for entry in own
        ]
        assert manifest["rows"] == len(own)
    assert [manifest["expected"]["rows"] for manifest in manifests] == [82_783, 30_504, 5_000, 5_000]
    assert "holds 5 rows where the official download has 82,783" in manifests[0]["note"]
    schema = pa.ipc.open_file(str(tmp_path / "arrow" / FILE.format("train"))).schema
    assert [str(kind) for kind in schema.types] == [
        "binary",
        "list<item: string>",
        "string",
        "string",
        "list<item: int64>",
    ]


def test_the_reader_reads_what_the_writer_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    entries = write_karpathy(tmp_path / "raw")
    make_arrow(tmp_path / "raw", tmp_path / "arrow", workers=1)
    for split, parts in (("train", ("train", "restval")), ("val", ("val",)), ("test", ("test",))):
        data = open_pairs(["coco"], split, tmp_path / "arrow")
        expected = [
            sentence["raw"] for part in parts for e in entries if e["split"] == part for sentence in e["sentences"]
        ]
        assert [data[number].text for number in range(len(data))] == expected


def test_captions_that_cannot_be_used_are_counted(tmp_path: Path):
    sentences = [{"raw": "  ", "sentid": 4}, {"raw": " kept as it is\n", "sentid": 9}]
    write_karpathy(tmp_path, sentences=sentences)
    manifest = make_arrow(tmp_path, tmp_path / "arrow", workers=1)[0]
    first = read_rows(tmp_path / "arrow" / FILE.format("train"))[0]
    assert (first["caption"], first["caption_ids"]) == ([" kept as it is\n"], [9])
    assert {kind: skipped["count"] for kind, skipped in manifest["skipped"].items()} == {"empty caption": 1}
    write_karpathy(tmp_path, sentences=[])
    manifest = make_arrow(tmp_path, tmp_path / "arrow", workers=1)[0]
    assert manifest["rows"] == 4
    assert manifest["skipped"]["image without a caption"]["count"] == 1


def test_captions_without_numbers_are_written_and_it_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A number for some captions alone would be read as if it were of others, so the whole file has none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_karpathy(tmp_path, sentences=[{"raw": "a", "sentid": 1}, {"raw": "b"}, {"raw": "c", "sentid": None}])
    manifests = make_arrow(tmp_path, tmp_path / "arrow", workers=1)
    rows = read_rows(tmp_path / "arrow" / FILE.format("train"))
    assert [len(row["caption"]) for row in rows] == [3, 5, 6, 5, 6][: len(rows)] or rows[0]["caption"] == [
        "a",
        "b",
        "c",
    ]
    assert not any(row["caption_ids"] for row in rows)
    lacks = "coco_caption_karpathy_train.arrow has no caption_ids: 2 captions of the annotations have no sentid."
    assert manifests[0]["note"].startswith(lacks) and "sentid" not in manifests[1]["note"]
    assert all(row["caption_ids"] for row in read_rows(tmp_path / "arrow" / FILE.format("restval")))
    assert len(open_pairs(["coco"], "val", tmp_path / "arrow").caption_ids()) == 10
    with pytest.raises(UserError) as refusal:
        open_pairs(["coco"], "train", tmp_path / "arrow").caption_ids()
    file = tmp_path / "arrow" / FILE.format("train")
    assert str(refusal.value) == (
        f"'{file}' has no caption_ids, as older programs wrote none; `python run.py prepare with dataset=coco "
        f"root=<its download> data_root={tmp_path / 'arrow'}` does."
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"sentences": [{"raw": "a", "sentid": "1"}]},
            "['sentid'] is '1', but has to be a whole number of 64 bits or null",
        ),
        ({"filename": "../../secret.jpg"}, "leads out of root"),
        ({"filename": "/etc/image.jpg", "filepath": ""}, "leads out of root"),
        ({"filepath": "C:\\train2014"}, "leads out of root"),
        ({"split": "trian"}, "is in split 'trian'; the splits are train, restval, val, test"),
        ({"sentences": [{"tokens": ["a"]}]}, "image 0['sentences'][0]['raw'] is None"),
        ({"sentences": [{"raw": 3}]}, "image 0['sentences'][0]['raw'] is 3, but has to be text"),
        ({"sentences": None}, "image 0['sentences'] is None, but has to be a list"),
        ({"filepath": "val2014", "filename": "COCO_val2014_000000000001.jpg", "split": "restval"}, "twice"),
        ({"filepath": "val2014", "filename": "COCO_val2014_000000000001.jpg"}, "in split 'train' and in 'restval'"),
    ],
)
def test_refuses_annotations(tmp_path: Path, changes: dict, sentence: str):
    write_karpathy(tmp_path, **changes)
    with pytest.raises(UserError) as refusal:
        make_arrow(tmp_path, tmp_path / "arrow")
    assert sentence in str(refusal.value)
    assert not (tmp_path / "arrow").exists()


def test_refuses_annotations_that_are_damaged_missing_or_partial(tmp_path: Path):
    def refusal() -> str:
        with pytest.raises(UserError) as error:
            make_arrow(tmp_path, tmp_path / "arrow")
        assert not (tmp_path / "arrow").exists()
        return str(error.value)

    assert "cannot be read (No such file or directory)" in refusal()
    write_karpathy(tmp_path)
    file = tmp_path / "karpathy" / "dataset_coco.json"
    whole = file.read_bytes()
    for end in (len(whole) - 1, len(whole) // 2, 3):
        file.write_bytes(whole[:end])
        assert "is cut short or is not JSON" in refusal()
    file.write_text("{}")
    assert "holds no entry at 'images.item'" in refusal()
    for change in ({"filename": None}, {"filepath": 3}, {"split": ["train"]}, {"sentences": {"raw": "a"}}):
        write_karpathy(tmp_path, **change)
        (key,) = change
        assert f"dataset_coco.json' image 0['{key}'] is " in refusal()
    write_karpathy(tmp_path, {"train": 3, "val": 1, "test": 1})
    assert "lists no image of split restval; images listed: train 3, val 1, test 1" in refusal()
    with pytest.raises(UserError, match="is not a folder; expected one that contains train2014/"):
        make_arrow(tmp_path / "none", tmp_path / "arrow")


def test_annotations_are_read_as_a_stream(tmp_path: Path):
    """An annotation file of 12 MB costs a fraction of it."""
    import tracemalloc

    from renaissance.data.prepare.annotations import json_items

    entry = {
        "filepath": "train2014",
        "split": "train",
        "sentences": [{"raw": "a caption", "tokens": ["t" * 20] * 12}] * 5,
    }
    with open(tmp_path / "large.json", "w") as file:
        file.write('{"images": [')
        for number in range(7_000):
            file.write("," * bool(number) + json.dumps({**entry, "filename": f"{number}.jpg"}))
        file.write("]}")
    assert (tmp_path / "large.json").stat().st_size > 10e6
    tracemalloc.start()
    assert sum(1 for _ in json_items(tmp_path / "large.json", "images.item")) == 7_000
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()
