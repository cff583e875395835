"""VQAv2: the raw download in, the layout of ViLT and METER with the ten raw answers out."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from data.prepare import raw_vqa
from data.prepare.raw_files import bad_pictures, odd_pictures, read_rows, refused
from renaissance.core.errors import UserError
from renaissance.data.dataset_specs import METADATA_KEY
from renaissance.data.prepare import vqa
from renaissance.data.prepare.vqa import make_arrow

refusal = partial(refused, make_arrow)

FILE = "vqav2_{}.arrow"
SCORES = [0, 0.3, 0.6, 0.9, 1, 1, 1, 1, 1, 1, 1]


def expected_rows(root: Path, split: str, *, training: bool = False) -> list[dict]:
    """What a file has to hold, worked out from the raw files alone."""
    questions, annotations = raw_vqa.build()[split]
    asked = {question["question_id"]: question for question in questions}
    rows: dict[int, dict] = {}
    for entry in annotations or questions:
        raw = [answer["answer"] for answer in entry.get("answers", [])]
        given = [raw_vqa.NORMAL.get(answer, answer) for answer in raw]
        answers = [answer for answer in dict.fromkeys(given) if answer in raw_vqa.LABELS]
        image = entry["image_id"]
        row = rows.setdefault(image, {"image_id": image, "split": split})
        if training and not answers:
            continue
        row["image"] = (root / raw_vqa.picture_file(split, image)).read_bytes()
        for column, value in {
            "questions": asked[entry["question_id"]]["question"],
            "answers": answers,
            "answer_labels": [raw_vqa.LABELS.index(answer) for answer in answers],
            "answer_scores": [SCORES[given.count(answer)] for answer in answers],
            "question_id": entry["question_id"],
            "raw_answers": raw,
            "answer_type": entry.get("answer_type", ""),
            "question_type": entry.get("question_type", ""),
        }.items():
            row.setdefault(column, []).append(value)
    return [row for row in rows.values() if "questions" in row]


def test_every_file_holds_what_the_raw_files_say(tmp_path: Path):
    raw_vqa.write(tmp_path / "raw", raw_vqa.build())
    contents = []
    for workers in (1, 2):
        manifests = make_arrow(tmp_path / "raw", tmp_path / "arrow", workers=workers)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / "arrow").iterdir()})
    assert contents[0] == contents[1]
    val = expected_rows(tmp_path / "raw", "val")
    trainable = expected_rows(tmp_path / "raw", "val", training=True)
    last = {row["image_id"] for row in val[18:]}
    expected = {
        "train": expected_rows(tmp_path / "raw", "train", training=True),
        "val": val,
        "trainable_val": [row for row in trainable if row["image_id"] not in last],
        "rest_val": val[18:],
        "test": expected_rows(tmp_path / "raw", "test"),
        "test-dev": expected_rows(tmp_path / "raw", "test-dev"),
    }
    assert [manifest["file"] for manifest in manifests] == [FILE.format(name) for name in expected]
    for name, rows in expected.items():
        file = tmp_path / "arrow" / FILE.format(name)
        assert read_rows(file) == rows
        said = json.loads(pa.ipc.open_file(str(file)).schema.metadata[METADATA_KEY])
        assert said == {"dataset": "vqa", "split": name, "labels": raw_vqa.LABELS}
    left_out = sum(not any(answers) for row in val[:18] for answers in row["answers"])
    counted = manifests[2]["skipped"]["question none of whose answers is a label"]
    assert counted["count"] == left_out > 0
    assert counted["first"][0].startswith("question 50")
    assert manifests[1]["skipped"] == manifests[3]["skipped"] == {}
    assert [row["answers"] for row in expected["test"]] == [[[], [], []]] * 4
    assert manifests[0]["source"]["labels"] == {"expected": 3_129, "found": 5}
    assert manifests[0]["note"] == (
        "5 answers are labels where the official download gives 3,129. The annotations for vqav2_train.arrow list 36 "
        "texts where those of the official download list 443,757."
    )
    assert manifests[0]["options"]["rest_val"] == 2


def test_the_last_pictures_of_val_are_at_most_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vqa, "VQA_REST_VAL", 1)
    raw_vqa.write(tmp_path, raw_vqa.build())
    manifests = make_arrow(tmp_path, tmp_path / "arrow", workers=1)
    assert {manifest["file"]: manifest["rows"] for manifest in manifests}[FILE.format("rest_val")] == 1
    pictures = {
        name: {row["image_id"] for row in rows(tmp_path, name)} for name in ("val", "trainable_val", "rest_val")
    }
    assert pictures["rest_val"] == {rows(tmp_path, "val")[-1]["image_id"]}
    assert pictures["trainable_val"] == pictures["val"] - pictures["rest_val"]


def rows(root: Path, name: str) -> list[dict]:
    return read_rows(root / "arrow" / FILE.format(name))


def test_test_questions_may_be_absent(tmp_path: Path):
    splits = raw_vqa.build()
    del splits["test"], splits["test-dev"]
    raw_vqa.write(tmp_path, splits)
    manifests = make_arrow(tmp_path, tmp_path / "arrow", workers=1)
    assert len(manifests) == 4
    for split in ("test", "test-dev"):
        assert f"'{raw_vqa.question_file(split)}' is not there, so its file was not written." in manifests[0]["note"]


def test_what_has_no_counterpart_is_counted_and_named(tmp_path: Path):
    splits = raw_vqa.build()
    questions, annotations = splits["train"]
    unanswered, unasked, empty = annotations[3]["question_id"], annotations[5]["question_id"], questions[0]
    del annotations[3]
    questions[:] = [question for question in questions if question["question_id"] != unasked]
    empty["question"] = " \n"
    raw_vqa.write(tmp_path, splits)
    manifest = make_arrow(tmp_path, tmp_path / "arrow", workers=1)[0]
    assert manifest["skipped"].pop("question none of whose answers is a label")
    assert manifest["skipped"] == {
        "annotation without a question": {"count": 1, "first": [f"question {unasked}"]},
        "question without an annotation": {"count": 1, "first": [f"question {unanswered}"]},
        "empty question": {"count": 1, "first": [raw_vqa.picture_file("train", empty["image_id"])]},
    }
    written = {each for row in rows(tmp_path, "train") for each in row["question_id"]}
    assert not written & {unanswered, unasked, empty["question_id"]}


def test_pictures_are_kept_as_they_are_or_counted(tmp_path: Path):
    odd, bad = list(odd_pictures().values()), [content for content, _ in bad_pictures().values()]
    raw_vqa.write(tmp_path, raw_vqa.build())
    images = list(dict.fromkeys(entry["image_id"] for entry in raw_vqa.build()["val"][1]))
    for image, content in zip(images, odd + bad, strict=False):
        path = tmp_path / raw_vqa.picture_file("val", image)
        path.unlink() if content is None else path.write_bytes(content)
    manifest = make_arrow(tmp_path, tmp_path / "arrow", workers=2, max_unreadable=0.9)[1]
    kept = [row["image"] for row in rows(tmp_path, "val")]
    assert kept[: len(odd)] == odd
    assert len(kept) == len(images) - len(bad)
    assert {kind: each["count"] for kind, each in manifest["skipped"].items()} == {
        "missing": 1,
        "unreadable": 5,
        "too large": 1,
    }
    with pytest.raises(UserError, match=r"7 of 20 images for vqav2_val.arrow could not be read"):
        make_arrow(tmp_path, tmp_path / "arrow", workers=1)


def of_train(change: Callable[[list[dict], list[dict]], object]) -> Callable[[dict], object]:
    return lambda splits: change(*splits["train"])


def drop_answer(questions: list[dict], annotations: list[dict]) -> None:
    del annotations[2]["answers"][4]


def leave_one_picture(splits: dict) -> None:
    image = splits["val"][0][0]["image_id"]
    for entries in splits["val"]:
        entries[:] = [entry for entry in entries if entry["image_id"] == image]


def answer_all_differently(splits: dict) -> None:
    for split in ("train", "val"):
        for annotation in splits[split][1]:
            annotation["multiple_choice_answer"] = str(annotation["question_id"])


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (of_train(lambda q, a: q.append(q[4])), "train2014_questions.json' lists question 149002 twice"),
        (of_train(lambda q, a: a.append(a[4])), "train2014_annotations.json' lists question 128000 twice, or for"),
        (of_train(lambda q, a: a[4].update(image_id=100)), "lists question 128000 twice, or for another image than"),
        (
            of_train(lambda q, a: q[3].pop("image_id")),
            "question 3 lacks 'image_id'; it needs question_id (a whole number of 64 bits), image_id (a whole number of 64 "
            "bits), question (text).",
        ),
        (of_train(lambda q, a: q[3].update(question=None)), "question 3['question'] is None, but has to be text"),
        (of_train(lambda q, a: q.insert(0, "text")), "question 0 is 'text', but has to be an object"),
        (of_train(lambda q, a: q[3].update(image_id="9/../../x")), "question 3['image_id'] is '9/../../x'"),
        (of_train(lambda q, a: q[3].update(question_id=2**63)), "train2014_questions.json' "),
        (
            of_train(drop_answer),
            "annotation 2 has 9 answers, and not 10",
        ),
        (of_train(lambda q, a: a[1]["answers"][0].update(answer=3)), "annotation 1['answers'][0]['answer'] is 3"),
        (of_train(lambda q, a: a[1].pop("question_type")), "annotation 1 lacks 'question_type'; it needs question_id"),
        (of_train(lambda q, a: a[1].update(question_id=True)), "annotation 1['question_id'] is True"),
        (leave_one_picture, "about fewer than two images"),
        (answer_all_differently, "No answer of train and val occurs 9 times"),
    ],
)
def test_refuses_annotations(tmp_path: Path, spoil: Callable, sentence: str):
    splits = raw_vqa.build()
    spoil(splits)
    raw_vqa.write(tmp_path, splits, pictures=False)
    assert sentence in refusal(tmp_path)


@pytest.mark.parametrize("file", [raw_vqa.question_file("test"), raw_vqa.annotation_file("val")])
def test_refuses_files_that_are_cut_short(tmp_path: Path, file: str):
    raw_vqa.write(tmp_path, raw_vqa.build(), pictures=False)
    whole = (tmp_path / file).read_bytes()
    for end in (len(whole) - 1, len(whole) // 2, 0):
        (tmp_path / file).write_bytes(whole[:end])
        assert f"{file}' is cut short or is not JSON" in refusal(tmp_path)
    (tmp_path / file).write_text('{"images": []}')
    assert f"{file}' holds no entry at" in refusal(tmp_path)


def test_refuses_what_is_not_there(tmp_path: Path):
    raw_vqa.write(tmp_path, raw_vqa.build(), pictures=False)
    assert "workers=0 is not allowed" in refusal(tmp_path, workers=0)
    (tmp_path / raw_vqa.annotation_file("val")).unlink()
    assert refusal(tmp_path) == (
        f"root='{tmp_path}' lacks v2_mscoco_val2014_annotations.json; expected there are "
        "v2_OpenEnded_mscoco_train2014_questions.json, v2_mscoco_train2014_annotations.json, "
        "v2_OpenEnded_mscoco_val2014_questions.json, v2_mscoco_val2014_annotations.json, "
        "v2_OpenEnded_mscoco_test2015_questions.json, v2_OpenEnded_mscoco_test-dev2015_questions.json, found "
        "v2_OpenEnded_mscoco_train2014_questions.json, v2_mscoco_train2014_annotations.json, "
        "v2_OpenEnded_mscoco_val2014_questions.json, v2_OpenEnded_mscoco_test2015_questions.json, "
        "v2_OpenEnded_mscoco_test-dev2015_questions.json."
    )
    assert "none' is not a folder; expected one that contains v2_OpenEnded" in refusal(tmp_path / "none")


def test_a_user_prepares_it_with_one_command(run_cli, tmp_path: Path):
    raw_vqa.write(tmp_path / "raw", raw_vqa.build())
    command = ("prepare", "with", "dataset=vqa", "root=raw", "data_root=arrow", "workers=2")
    result = run_cli(*command)
    assert result.code == 0, result.stderr
    assert "vqav2_rest_val.arrow: 2 images, 6 texts" in result.stdout
    assert "5 answers are labels where the official download gives 3,129." in result.stdout
    assert read_rows(tmp_path / "arrow" / FILE.format("val")) == expected_rows(tmp_path / "raw", "val")
    again = run_cli(*command, "name=mine")
    assert again.code == 1
    assert "dataset=vqa has no option name; its options are workers, max_unreadable, resize, quality." in again.stderr
