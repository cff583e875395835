"""What the writers make of a raw download, read back: every sample of the annotations, with its image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data.prepare import raw_nlvr2, raw_refcoco, raw_snli, raw_vqa
from renaissance.data.dataset_specs import BOXES, ENTAILMENT, IMAGE_PAIRS, QUESTIONS
from renaissance.data.datasets import SampleDataset, open_samples, splits_of
from renaissance.data.prepare import nlvr2, refcoco, snli, vqa
from renaissance.data.vocabulary import vqa_labels


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def tidy(text: str) -> str:
    return " ".join(text.split())


def values_of(data: SampleDataset, *columns: str) -> list[tuple[Any, ...]]:
    return sorted(tuple(data[number].values[name] for name in columns) for number in range(len(data)))


def test_vqa(tmp_path: Path):
    raw = raw_vqa.build()
    raw_vqa.write(tmp_path / "raw", raw)
    vqa.make_arrow(tmp_path / "raw", tmp_path, workers=1)
    assert vqa_labels(tmp_path) == raw_vqa.LABELS
    assert splits_of("vqa", tmp_path, sample_kind=QUESTIONS) == ("train", "val", "test-dev", "test")
    train, val = (open_samples("vqa", split, tmp_path, sample_kind=QUESTIONS) for split in ("train", "val"))
    listed = {entry["question_id"]: entry for split in ("train", "val") for entry in raw[split][1]}
    seen = [data[number] for data in (train, val) for number in range(len(data))]
    for sample in seen:
        ten = [each["answer"] for each in listed[sample.values["question_id"]]["answers"]]
        assert sample.values["raw_answers"] == ten
        assert [raw_vqa.LABELS[label] for label in sample.values["answer_labels"]] == sample.values["answers"]
        (picture,) = sample.images
        part = "train" if sample.where.startswith("vqav2_train.") else "val"
        assert picture == (tmp_path / "raw" / raw_vqa.picture_file(part, sample.values["image_id"])).read_bytes()
    assert all(train[number].values["answers"] for number in range(len(train)))
    test = open_samples("vqa", "test", tmp_path, sample_kind=QUESTIONS)
    asked = sorted((entry["question_id"], tidy(entry["question"]), [], []) for entry in raw["test"][0])
    assert values_of(test, "question_id", "questions", "answers", "raw_answers") == asked


def test_nlvr2(tmp_path: Path):
    raw = raw_nlvr2.build()
    raw_nlvr2.write(tmp_path / "raw", raw)
    nlvr2.make_arrow(tmp_path / "raw", tmp_path, workers=1)
    files = {"train": "train", "val": "dev", "test": "test1", "unbalanced_dev": "unbalanced_dev"}
    assert set(files) < set(splits_of("nlvr2", tmp_path, sample_kind=IMAGE_PAIRS))
    for split, name in files.items():
        data = open_samples("nlvr2", split, tmp_path, sample_kind=IMAGE_PAIRS)
        listed = sorted((each["identifier"], tidy(each["sentence"]), each["label"]) for each in raw[name])
        assert values_of(data, "identifiers", "questions", "answers") == listed
        examples = {each["identifier"]: each for each in raw[name]}
        for sample in map(data.__getitem__, range(len(data))):
            pictures = raw_nlvr2.pictures(examples[sample.values["identifiers"]])
            assert sample.images == tuple((tmp_path / "raw" / picture).read_bytes() for picture in pictures)


def test_snli(tmp_path: Path):
    raw = raw_snli.build()
    raw_snli.write(tmp_path / "raw", raw)
    snli.make_arrow(tmp_path / "raw", tmp_path, workers=1)
    for split, name in {"train": "train", "val": "dev", "test": "test"}.items():
        data = open_samples("snli", split, tmp_path, sample_kind=ENTAILMENT)
        said = data.schema_metadata()[0]["labels"]
        listed = sorted(
            ([tidy(line["sentence1"]), tidy(line["sentence2"])], said.index(line["gold_label"]))
            for line in raw[name]
            if line["gold_label"] != "-"
        )
        assert values_of(data, "sentences", "labels") == listed
        for sample in map(data.__getitem__, range(len(data))):
            assert sample.images == ((tmp_path / "raw/Flickr30K/images" / sample.values["image_id"]).read_bytes(),)


def test_refcoco(tmp_path: Path):
    references, instances = raw_refcoco.build()
    raw_refcoco.write(tmp_path / "raw", references, instances, "refcoco+")
    refcoco.make_arrow(tmp_path / "raw", tmp_path, dataset="refcoco+", workers=1)
    assert splits_of("refcoco+", tmp_path, sample_kind=BOXES) == ("train", "val", "testA", "testB")
    boxes = {each["id"]: each["bbox"] for each in instances["annotations"]}
    for split in ("train", "val", "testA", "testB"):
        data = open_samples("refcoco+", split, tmp_path, sample_kind=BOXES)
        listed = {each["ref_id"]: each for each in references if each["split"] == split}
        samples = [data[number] for number in range(len(data))]
        assert samples
        for sample in samples:
            reference = listed[sample.values["ref_id"]]
            assert sample.values["bboxes"][sample.values["labels"]] == boxes[reference["ann_id"]]
            assert sample.values["sentences"] in [tidy(each["sent"]) for each in reference["sentences"]]
