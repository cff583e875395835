"""Flickr30k with Karpathy's splits; what it shares with COCO is tested there."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from data.prepare import raw_f30k
from data.prepare.raw_files import bad_pictures, odd_pictures, read_rows
from renaissance.core.errors import UserError
from renaissance.data.dataset_specs import METADATA_KEY
from renaissance.data.datasets import open_pairs
from renaissance.data.prepare import karpathy

make_arrow = partial(karpathy.make_arrow, dataset="f30k")
FILE = "f30k_caption_karpathy_{}.arrow"


def test_every_split_has_its_readable_pictures_with_captions_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    odd, bad = odd_pictures(), {name: content for name, (content, _) in bad_pictures().items()}
    entries = raw_f30k.write(tmp_path / "raw", odd | bad)
    for workers in (1, 2):
        manifests = make_arrow(tmp_path / "raw", tmp_path / str(workers), workers=workers, max_unreadable=None)
    assert sum(kind["count"] for each in manifests for kind in each["skipped"].values()) == len(bad)
    assert [each["expected"]["rows"] for each in manifests] == [29_000, 1_014, 1_000]
    for split in raw_f30k.SPLITS:
        file = tmp_path / "1" / FILE.format(split)
        own = [entry for entry in entries if entry["split"] == split and entry["filename"] in odd]
        assert read_rows(file) == [
            {
                "image": odd[entry["filename"]],
                "caption": [sentence["raw"] for sentence in entry["sentences"]],
                "image_id": entry["filename"],
                "split": split,
                "caption_ids": entry["sentids"],
            }
            for entry in own
        ]
        assert file.read_bytes() == (tmp_path / "2" / file.name).read_bytes()
        metadata = pa.ipc.open_file(str(file)).schema.metadata
        assert json.loads(metadata[METADATA_KEY]) == {"dataset": "f30k", "split": split}
        data = open_pairs(["f30k"], split, tmp_path / "1")
        distinct = 4 if split == "train" else 5  # a caption that comes twice counts once in training
        assert len(data) == distinct * len(own)
        assert data[3].text == "zwei Hündchen auf Gras"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"filename": "../secret.jpg"}, "leads out of root"),
        ({"split": "restval"}, "is in split 'restval'; the splits are train, val, test"),
        ({"filename": 3, "sentences": None}, "image 0['filename'] is 3, but has to be text"),
        ({"filename": "cmyk.jpg"}, "in split 'train' and in 'val'"),
        ({"filename": "deep.png"}, "lists 'flickr30k-images/deep.png' twice"),
        (None, "is cut short or is not JSON"),
    ],
)
def test_refuses_annotations(tmp_path: Path, changes: dict | None, sentence: str):
    raw_f30k.write(tmp_path, odd_pictures(), **changes or {})
    if changes is None:
        file = tmp_path / "karpathy" / "dataset_flickr30k.json"
        file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError) as refusal:
        make_arrow(tmp_path, tmp_path / "arrow")
    assert sentence in str(refusal.value)
    assert not (tmp_path / "arrow").exists()
