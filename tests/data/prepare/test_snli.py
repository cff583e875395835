"""SNLI-VE: JSON lines in, the layout of METER out."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from data.prepare import raw_snli
from data.prepare.raw_files import bad_pictures, odd_pictures, read_rows, refused
from renaissance.data.dataset_specs import METADATA_KEY
from renaissance.data.prepare.snli import make_arrow

refusal = partial(refused, make_arrow)

FILE = "snli_{}.arrow"
NUMBERS = {"contradiction": 0, "neutral": 1, "entailment": 2}


def expected_rows(root: Path, lines: list[dict]) -> list[dict]:
    """What a file has to hold, worked out from the raw lines."""
    rows: dict[str, dict] = {}
    for line in lines:
        file = raw_snli.picture_file(line)
        row = rows.setdefault(file, {"image": (root / file).read_bytes(), "image_id": Path(file).name})
        row.setdefault("sentences", []).append([line["sentence1"], line["sentence2"]])
        row.setdefault("labels", []).append(NUMBERS[line["gold_label"]])
    return list(rows.values())


def test_every_file_holds_what_the_raw_files_say(tmp_path: Path):
    splits = raw_snli.build()
    raw_snli.write(tmp_path / "raw", splits)
    contents = []
    for workers in (1, 2):
        manifests = make_arrow(tmp_path / "raw", tmp_path / "arrow", workers=workers)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / "arrow").iterdir()})
    assert contents[0] == contents[1]
    for (split, lines), manifest in zip(splits.items(), manifests, strict=True):
        file = tmp_path / "arrow" / FILE.format(split)
        assert read_rows(file) == expected_rows(tmp_path / "raw", lines)
        said = json.loads(pa.ipc.open_file(str(file)).schema.metadata[METADATA_KEY])
        assert said == {"dataset": "snli", "split": split, "labels": ["contradiction", "neutral", "entailment"]}
        assert manifest["texts"] == manifest["listed_texts"] == len(lines)
    assert [manifest["expected"]["texts"] for manifest in manifests] == [529_527, 17_858, 17_901]
    assert manifests[2]["note"] == (
        "The annotations for snli_test.arrow list 12 texts where those of the official download list 17,901."
    )


def test_pairs_that_cannot_be_used_are_counted_and_named(tmp_path: Path):
    splits = raw_snli.build()
    lines = splits["train"]
    for number in (0, 1, 7, 13, 19):  # all of the second image
        lines[number]["gold_label"] = "-"
    lines[2]["sentence2"] = "\t"
    raw_snli.write(tmp_path, splits)
    manifest = make_arrow(tmp_path, tmp_path / "arrow", workers=1)[0]
    kept = [line for number, line in enumerate(lines) if number not in (0, 1, 2, 7, 13, 19)]
    rows = read_rows(tmp_path / "arrow" / FILE.format("train"))
    assert sorted(rows, key=str) == sorted(expected_rows(tmp_path, kept), key=str)
    assert [row["image_id"] for row in rows] == ["0.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg"]
    assert manifest["skipped"] == {
        "pair without a gold label": {"count": 5, "first": ["line 1", "line 2", "line 8", "line 14", "line 20"]},
        "image without a pair": {"count": 1, "first": ["Flickr30K/images/1.jpg"]},
        "empty hypothesis": {"count": 1, "first": ["Flickr30K/images/2.jpg"]},
    }
    assert (manifest["texts"], manifest["listed_texts"]) == (18, 24)


def test_pictures_are_kept_as_they_are_or_counted(tmp_path: Path):
    raw_snli.write(tmp_path, raw_snli.build())
    odd, bad = odd_pictures()["cmyk.jpg"], bad_pictures()
    contents = [odd, *(content for content, _ in bad.values())]
    for number, content in zip(range(1, 6), contents, strict=False):
        path = tmp_path / f"Flickr30K/images/{number}.jpg"
        path.unlink() if content is None else path.write_bytes(content)
    manifest = make_arrow(tmp_path, tmp_path / "arrow", workers=2, max_unreadable=0.9)[0]
    rows = read_rows(tmp_path / "arrow" / FILE.format("train"))
    assert [row["image_id"] for row in rows] == ["0.jpg", "1.jpg"]
    assert rows[1]["image"] == odd
    assert manifest["skipped"]["missing"] == {"count": 1, "first": ["Flickr30K/images/2.jpg: no such file"]}
    assert manifest["skipped"]["unreadable"]["count"] == 3


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda lines: lines[3].update(gold_label="maybe"), "line 4 has gold_label 'maybe'; the labels are contradict"),
        (lambda lines: lines[3].update(gold_label=2), "line 4['gold_label'] is 2, but has to be text"),
        (lambda lines: lines[3].pop("sentence1"), "line 4 lacks 'sentence1'"),
        (lambda lines: lines[3].update(sentence1="\ud800"), "line 4['sentence1'] is not Unicode"),
        (lambda lines: lines[3].update(Flickr30K_ID=12), "line 4['Flickr30K_ID'] is 12"),
        (lambda lines: lines[3].update(Flickr30K_ID="../../secret"), "leads out of root"),
        (lambda lines: lines[3].update(Flickr30K_ID="1000"), "is listed in split 'train' and in 'dev'"),
        (lambda lines: lines.clear(), "snli_ve_train.jsonl' lists no pair"),
    ],
)
def test_refuses_annotations(tmp_path: Path, spoil: Callable, sentence: str):
    splits = raw_snli.build()
    spoil(splits["train"])
    raw_snli.write(tmp_path, splits)
    assert sentence in refusal(tmp_path)


def test_refuses_files_that_are_cut_short_or_not_there(tmp_path: Path):
    raw_snli.write(tmp_path, raw_snli.build())
    file = tmp_path / raw_snli.annotation_file("test")
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    assert "snli_ve_test.jsonl' line 12 cannot be read as JSON" in refusal(tmp_path)
    assert "resize=0 is not allowed" in refusal(tmp_path, resize=0)
    file.unlink()
    assert refusal(tmp_path) == (
        f"root='{tmp_path}' lacks snli_ve_test.jsonl; expected there are snli_ve_train.jsonl, snli_ve_dev.jsonl, "
        "snli_ve_test.jsonl, found snli_ve_train.jsonl, snli_ve_dev.jsonl."
    )


def test_a_user_prepares_it_with_one_command(run_cli, tmp_path: Path):
    splits = raw_snli.build()
    raw_snli.write(tmp_path / "raw", splits)
    result = run_cli("prepare", "with", "dataset=snli", "root=raw", "data_root=arrow", "workers=1")
    assert result.code == 0, result.stderr
    assert "snli_test.arrow: 3 images, 12 texts" in result.stdout
    assert read_rows(tmp_path / "arrow" / FILE.format("dev")) == expected_rows(tmp_path / "raw", splits["dev"])
