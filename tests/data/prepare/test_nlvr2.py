"""NLVR2: sentences about pairs of images in, the layout of ViLT and METER with every identifier out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from data.prepare import raw_nlvr2
from data.prepare.raw_files import bad_pictures, odd_pictures, read_rows, refused
from renaissance.data.dataset_specs import METADATA_KEY
from renaissance.data.prepare.nlvr2 import make_arrow

refusal = partial(refused, make_arrow)

FILE = "nlvr2_{}.arrow"


def expected_rows(root: Path, split: str) -> list[dict]:
    """What a file has to hold, worked out from the raw files alone."""
    rows: dict[str, dict] = {}
    for example in raw_nlvr2.build()[split]:
        pair = example["identifier"][:-2]
        left, right = ((root / file).read_bytes() for file in raw_nlvr2.pictures(example))
        row = rows.setdefault(pair, {"image_0": left, "image_1": right, "identifier": pair})
        for column, key in (("questions", "sentence"), ("answers", "label"), ("identifiers", "identifier")):
            row.setdefault(column, []).append(example[key])
    return list(rows.values())


def test_every_file_holds_what_the_raw_files_say(tmp_path: Path):
    raw_nlvr2.write(tmp_path / "raw", raw_nlvr2.build())
    contents = []
    for workers in (1, 2):
        manifests = make_arrow(tmp_path / "raw", tmp_path / "arrow", workers=workers)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / "arrow").iterdir()})
    assert contents[0] == contents[1]
    assert [manifest["file"] for manifest in manifests] == [FILE.format(split) for split in raw_nlvr2.FILES]
    for split, manifest in zip(raw_nlvr2.FILES, manifests, strict=True):
        file = tmp_path / "arrow" / FILE.format(split)
        rows = expected_rows(tmp_path / "raw", split)
        assert read_rows(file) == rows
        assert json.loads(pa.ipc.open_file(str(file)).schema.metadata[METADATA_KEY]) == {
            "dataset": "nlvr2",
            "split": split,
        }
        assert (manifest["rows"], manifest["images"]) == (len(rows), 2 * len(rows))
        assert manifest["texts"] == manifest["listed_texts"] == len(raw_nlvr2.build()[split])
    assert len(expected_rows(tmp_path / "raw", "train")[-1]["questions"]) == 3
    assert manifests[1]["note"] == (
        "The annotations for nlvr2_dev.arrow list 18 texts where those of the official download list 6,982."
    )
    assert manifests[3]["note"] is None


def test_pictures_of_dev_may_lie_beside_those_of_train(tmp_path: Path):
    raw_nlvr2.write(tmp_path, raw_nlvr2.build())
    rows = expected_rows(tmp_path, "balanced_dev")
    shutil.move(tmp_path / "dev", tmp_path / "images" / "dev")
    make_arrow(tmp_path, tmp_path / "arrow", workers=1)
    assert read_rows(tmp_path / "arrow" / FILE.format("balanced_dev")) == rows


def test_parts_of_dev_and_test_may_be_absent(tmp_path: Path):
    raw_nlvr2.write(tmp_path, raw_nlvr2.build())
    shutil.rmtree(tmp_path / "nlvr2" / "data" / "unbalanced")
    manifests = make_arrow(tmp_path, tmp_path / "arrow", workers=1)
    assert len(manifests) == 5
    for split in ("unbalanced_dev", "unbalanced_test1"):
        assert f"'{raw_nlvr2.FILES[split]}' is not there: its file was not written." in manifests[0]["note"]


def test_pairs_with_a_picture_that_cannot_be_read_are_counted(tmp_path: Path):
    raw_nlvr2.write(tmp_path, raw_nlvr2.build())
    bad = [content for content, _ in bad_pictures().values()]
    odd = list(odd_pictures().values())
    pairs = list(dict.fromkeys(tuple(raw_nlvr2.pictures(example)) for example in raw_nlvr2.build()["train"]))
    assert len(pairs) == 8
    for place, content in enumerate(bad):  # left and right in turn; one pair stays whole
        path = tmp_path / pairs[place][place % 2]
        path.unlink() if content is None else path.write_bytes(content)
    for side in (0, 1):
        (tmp_path / pairs[7][side]).write_bytes(odd[side])
    manifest = make_arrow(tmp_path, tmp_path / "arrow", workers=2, max_unreadable=0.9)[0]
    (row,) = read_rows(tmp_path / "arrow" / FILE.format("train"))
    assert (row["image_0"], row["image_1"]) == (odd[0], odd[1])
    counted = {kind: skipped["count"] for kind, skipped in manifest["skipped"].items()}
    assert counted == {"missing": 1, "unreadable": 5, "too large": 1}
    assert manifest["skipped"]["missing"]["first"] == [f"{pairs[0][0]}: no such file"]


def test_a_pair_without_a_sentence_is_counted(tmp_path: Path):
    splits = raw_nlvr2.build()
    splits["dev"][0]["sentence"] = " "  # the only one of its pair
    raw_nlvr2.write(tmp_path, splits)
    manifest = make_arrow(tmp_path, tmp_path / "arrow", workers=1)[1]
    assert manifest["skipped"]["image pair without a sentence"] == {"count": 1, "first": ["dev/dev-0-0"]}
    assert manifest["rows"] == 7


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda lines: lines[2].update(label="true"), "line 3 has identifier 'train-1-0-0' and label 'true'; identif"),
        (lambda lines: lines[2].update(label=True), "line 3['label'] is True, but has to be text"),
        (lambda lines: lines[2].pop("sentence"), "line 3 lacks 'sentence'"),
        (lambda lines: lines[2].update(sentence="\ud800"), "line 3['sentence'] is not Unicode text"),
        (lambda lines: lines[2].pop("directory"), "line 3 lacks 'directory'"),
        (lambda lines: lines[2].update(directory="../../secret"), "leads out of root"),
        (lambda lines: lines[2].update(identifier="train-../../x-0"), "leads out of root"),
        (lambda lines: lines[2].update(identifier="dev-1-0-0"), "identifier 'dev-1-0-0'"),
        (lambda lines: lines[2].update(identifier="train"), "identifier 'train'"),
        (
            lambda lines: lines.append(lines[4]),
            "line 19 has identifier 'train-2-0-0' and label 'True'; identifiers are ",
        ),
        (lambda lines: lines.clear(), "train.json' lists no sentence"),
    ],
)
def test_refuses_annotations(tmp_path: Path, spoil: Callable, sentence: str):
    splits = raw_nlvr2.build()
    spoil(splits["train"])
    raw_nlvr2.write(tmp_path, splits)
    assert sentence in refusal(tmp_path)


def test_refuses_files_that_are_cut_short_or_not_there(tmp_path: Path):
    raw_nlvr2.write(tmp_path, raw_nlvr2.build())
    file = tmp_path / raw_nlvr2.FILES["unbalanced_test1"]
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    assert f"unbalanced_test1.json' line {whole.count(b'}')} cannot be read as JSON" in refusal(tmp_path)
    file.write_bytes(whole)
    assert "quality=101 is not allowed" in refusal(tmp_path, quality=101)
    (tmp_path / raw_nlvr2.FILES["test1"]).unlink()
    said = refusal(tmp_path)
    assert said.startswith(f"root='{tmp_path}' lacks nlvr2/data/test1.json; expected there are nlvr2/data/train.json,")
    assert "found nlvr2/data/train.json, nlvr2/data/dev.json, nlvr2/data/balanced/balanced_dev.json," in said


def test_a_user_prepares_it_with_one_command(run_cli, tmp_path: Path):
    raw_nlvr2.write(tmp_path / "raw", raw_nlvr2.build())
    result = run_cli("prepare", "with", "dataset=nlvr2", "root=raw", "data_root=arrow", "workers=1")
    assert result.code == 0, result.stderr
    assert "nlvr2_unbalanced_test1.arrow: 12 images, 13 texts" in result.stdout
    assert read_rows(tmp_path / "arrow" / FILE.format("train")) == expected_rows(tmp_path / "raw", "train")
