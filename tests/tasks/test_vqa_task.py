"""VQAv2: the loss against two plain loops, the score against the published rule, files new and old, and the submission."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from data.foreign_files import FOREIGN, TEST_QUESTIONS, by_pandas, write
from data.prepare import raw_vqa
from renaissance.core.errors import UserError
from renaissance.core.types import Batch, Example, TaskOutput
from renaissance.data.answers import normalise_answer
from renaissance.data.prepare.vqa import make_arrow
from renaissance.data.samples import Sample
from renaissance.tasks.base import Context, Encodings
from renaissance.tasks.vqa import Vqa, VqaTargets, vqa_targets
from small_tasks import values
from tiny_models import VOCAB, one_tower, pictures, stirred, texts, two_tower

LABELS = ("no", "yes", "2", "blue", "red")
LENGTHS = (7, 4, 6)


def example(label: object, **metadata: object) -> Example:
    return Example(0, (), "what is it", label=label, metadata={"id": 1, **metadata})


def targets_of(*examples: Example) -> VqaTargets:
    return vqa_targets(SimpleNamespace(examples=examples, metadata=tuple(each.metadata for each in examples)))


def targets(*labels: object) -> VqaTargets:
    return targets_of(*map(example, labels))


@pytest.mark.parametrize("make", [two_tower, lambda: one_tower("image")], ids=["two-tower", "one-tower"])
def test_the_loss_is_the_binary_cross_entropy_of_every_answer(make):
    model = make()
    task = stirred(Vqa(model, Context(None, VOCAB, LABELS)))
    made = targets(((0, 3), (1.0, 0.3)), ((), ()), ((4,), (0.6,)))
    batch = Batch(torch.arange(3), texts(LENGTHS), pictures(3), {"vqa": made}, (1, 1, 1))
    with torch.no_grad():
        out = task(Encodings(model, batch), made)
    expected = 0.0
    for question, answers in ((0, {0: 1.0, 3: 0.3}), (2, {4: 0.6})):  # the second has no answer to learn
        for label in range(len(LABELS)):
            share, score = 1 / (1 + math.exp(-float(out.logits[question, label]))), answers.get(label, 0.0)
            expected -= score * math.log(share) + (1 - score) * math.log(1 - share)
    assert float(out.loss) == pytest.approx(expected, rel=1e-4) and float(out.count) == 2
    nobody = targets(None, ((), ()))
    both = Batch(torch.arange(2), texts(LENGTHS[:2]), pictures(2), {}, (1, 1))
    with torch.no_grad():
        assert float(task(Encodings(model, both), nobody).loss) == 0 == float(task.count(nobody))


def published(predicted: str, answers: list[str]) -> float:
    """The rule of visualqa.org/evaluation, word for word: the mean over the ten sets of nine of min(agreeing / 3, 1)."""
    answers = [answer.replace("\n", " ").replace("\t", " ").strip() for answer in answers]
    predicted = predicted.replace("\n", " ").replace("\t", " ").strip()
    if len(set(answers)) > 1:
        answers, predicted = [normalise_answer(answer) for answer in answers], normalise_answer(predicted)
    scores = []
    for left_out in range(len(answers)):
        others = answers[:left_out] + answers[left_out + 1 :]
        scores.append(min(1, sum(answer == predicted for answer in others) / 3))
    return sum(scores) / len(scores)


CASES = [
    (["yes"] * 10, "yes", 1.0),
    (["two"] * 10, "2", 0.0),  # all ten agree: compared as they are
    (["two"] * 9 + ["Two"], "2", 1.0),
    (["the dog"] * 3 + ["A dog"] * 1 + ["cat"] * 6, "dog", 1.0),
    (["dont know"] * 2 + ["no"] * 8, "don't know", 0.6),
    (["0.5"] * 1 + ["half"] * 9, "0.5", 0.3),
    (["man's"] * 3 + ["mans"] * 7, "man's", 0.9),
    (["red", "blue", "green", "pink", "grey", "black", "white", "brown", "teal", "gold"], "red", 0.3),
    (["cat"] * 10, "dog", 0.0),
]


@pytest.mark.parametrize(("answers", "predicted", "worth"), CASES)
def test_a_score_is_the_published_one(answers: list[str], predicted: str, worth: float):
    raw = read(raw_answers=answers, answer_type="other", question_type="what")
    task = Vqa(two_tower(), Context(None, VOCAB, (predicted, "something else")))
    out = TaskOutput(torch.zeros(()), torch.ones(()), torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2))
    [row] = task.rows(out, targets_of(example(raw.label, **raw.metadata)))
    assert row["prediction"] == predicted and row["target"] == Counter(answers).most_common(1)[0][0]
    assert row["score"] == pytest.approx(published(predicted, answers)) == pytest.approx(worth)


def read(size: int = 5, **values: object) -> object:
    absent = dict.fromkeys(("answers", "answer_labels", "answer_scores", "raw_answers", "answer_type", "question_type"))
    stored = {"question_id": 7, "questions": "what is it", **absent, **values}
    return Vqa.read(LABELS[:size], Sample(3, 1, (b"",), stored, "vqav2_train.arrow row 1"))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"answer_labels": [5], "answer_scores": [1.0], "answers": ["x"]},
            "row 1 has the label 5, and the vocabulary 5",
        ),
        ({"answer_labels": [-1], "answer_scores": [1.0], "answers": ["x"]}, "has the label -1"),
        (
            {"raw_answers": ["a"] * 10, "answer_type": "colour"},
            "the answer type 'colour'; VQAv2 knows yes/no, number, other",
        ),
    ],
)
def test_what_no_vqa_file_holds_is_refused(values: dict, sentence: str):
    with pytest.raises(UserError, match=sentence):
        read(**values)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vqa")
    raw_vqa.write(folder / "raw", raw_vqa.build())
    make_arrow(folder / "raw", folder / "arrow", workers=1)
    return folder / "arrow"


def settings(data_root: Path, size: int | None = None) -> SimpleNamespace:
    return SimpleNamespace(
        data=SimpleNamespace(data_root=str(data_root), datasets=("vqa",)),
        objectives=SimpleNamespace(vqav2_label_size=size),
    )


def test_our_files_are_read_as_they_were_annotated(data_root: Path):
    told = settings(data_root)
    labels = Vqa.label_names(told)
    assert labels == LABELS and Vqa.splits(told) == ("val", "test-dev", "test")
    annotated = {entry["question_id"]: entry for questions, entries in raw_vqa.build().values() for entry in entries}
    train, val = (Vqa.open(told, split, labels) for split in ("train", "val"))
    assert all(train[index].label[0] for index in range(len(train)))
    of_val = {val[index].metadata["id"] for index in range(len(val))}
    pictures_of_val = {annotated[question]["image_id"] for question in of_val}
    assert of_val == {question for question, entry in annotated.items() if entry["image_id"] in pictures_of_val}
    for samples in (train, val):
        assert samples.labelled
        for sample in (samples[index] for index in range(len(samples))):
            entry = annotated[sample.metadata["id"]]
            assert sample.metadata["raw_answers"] == tuple(answer["answer"] for answer in entry["answers"])
            assert (sample.metadata["answer_type"], sample.metadata["question_type"]) == (
                entry["answer_type"],
                entry["question_type"],
            )
            assert sample.metadata["in_vocabulary"] == bool(sample.label[0])
    assert Vqa.label_names(settings(data_root, 5)) == labels
    with pytest.raises(UserError, match=r"vqav2_label_size=3129, but the files in .* have 5 answers"):
        Vqa.label_names(settings(data_root, 3129))


def test_a_hidden_split_has_no_answers_and_alone_tells_no_vocabulary(data_root: Path, tmp_path: Path):
    hidden = Vqa.open(settings(data_root), "test", LABELS)
    assert not hidden.labelled and hidden[0].label is None and hidden[0].metadata.keys() == {"id"}
    write(tmp_path / "vqav2_test.arrow", by_pandas(TEST_QUESTIONS))
    old = Vqa.open(settings(tmp_path), "test", LABELS)
    assert not old.labelled and old[0].label is None and old[0].metadata.keys() == {"id"}
    assert Vqa.label_names(settings(tmp_path)) is None


def test_old_files_are_scored_by_their_labels_and_it_is_said(data_root: Path, tmp_path: Path):
    for name in ("train", "rest_val"):
        write(tmp_path / f"vqav2_{name}.arrow", by_pandas(FOREIGN["vqa"].rows))
    val = Vqa.open(settings(tmp_path), "val", [""] * 100)
    task = Vqa(two_tower(), Context(None, VOCAB, tuple(f"answer {label}" for label in range(100))))
    for sample in (val[index] for index in range(len(val))):
        assert "raw_answers" not in sample.metadata and "answer_type" not in sample.metadata
        for label, score in zip(*sample.label, strict=True):
            logits = torch.zeros(1, 100)
            logits[0, label] = 1
            made = targets_of(example(sample.label, **sample.metadata))
            [row] = task.rows(TaskOutput(torch.zeros(()), torch.ones(()), logits, logits), made)
            assert row["score"] == pytest.approx(score)
        assert sample.metadata["target"] in sample.metadata["answers"]
    assert "not the official score" in Vqa.notes(pd.DataFrame(), val.dataset)[0]
    assert Vqa.notes(pd.DataFrame(), Vqa.open(settings(data_root), "val", LABELS).dataset) == []
    assert Vqa.notes(pd.DataFrame(), Vqa.open(settings(data_root), "test", LABELS).dataset) == []


def frame() -> pd.DataFrame:
    rows = [
        ("yes/no", ["yes"] * 10, "yes", True),
        ("yes/no", ["no"] * 6 + ["yes"] * 4, "yes", True),
        ("number", ["two"] * 5 + ["2"] * 5, "3", True),
        ("other", ["blue"] * 2 + ["a rare thing"] * 8, "blue", True),
        ("other", ["a rare thing"] * 10, "blue", False),
    ]
    return pd.DataFrame(
        {
            "id": range(len(rows)),
            "answer_type": [kind for kind, *_ in rows],
            "raw_answers": [tuple(answers) for _, answers, *_ in rows],
            "prediction": [predicted for _, _, predicted, _ in rows],
            "score": [published(predicted, answers) for _, answers, predicted, _ in rows],
            "in_vocabulary": [known for *_, known in rows],
        }
    )


def test_scores_of_all_questions_and_of_each_type():
    assert values(Vqa.score(None, frame())) == pytest.approx(
        {
            "vqa_score": (1 + 1 + 0 + 0.6 + 0) / 5,
            "in_vocabulary": (1 + 1 + 0 + 0.6) / 4,
            "vqa_score_yes_no": 1.0,
            "vqa_score_number": 0.0,
            "vqa_score_other": 0.3,
        }
    )


def test_a_metric_is_the_mean_of_its_rows():
    """Also where some questions have no answer."""
    hidden = {"id": 5, "prediction": "blue", "answer_type": None, "in_vocabulary": None}
    rows = pd.concat([frame().astype(object), pd.DataFrame([hidden], dtype=object)], ignore_index=True)
    rows["score"] = rows["score"].astype(float)
    metrics = Vqa.score(None, rows)
    assert values(metrics) == pytest.approx(values(Vqa.score(None, frame())))
    assert {name: each.frames[0]["score"].mean() for name, each in metrics.items()} == values(metrics)
    assert [each.record()["examples"] for each in metrics.values()] == [5, 4, 2, 1, 2] and metrics["vqa_score"].exact
    assert not Vqa.score(None, rows.drop(columns="raw_answers"))["vqa_score"].exact


def test_the_baseline_is_the_best_constant_answer():
    """Against trying every answer that anybody gave, by the published rule."""
    rows = frame()
    answers = {normalise_answer(answer) for own in rows["raw_answers"] for answer in own} | {
        answer for own in rows["raw_answers"] for answer in own
    }
    best = max(
        sum(published(answer, list(own)) for own in rows["raw_answers"]) / len(rows) for answer in sorted(answers)
    )
    assert Vqa.baseline(rows) == ("majority", pytest.approx(best))


def test_the_submission_is_what_the_server_reads():
    rows = pd.DataFrame({"id": [30, 10], "prediction": ["yes", "2"]})
    files = Vqa.submission(rows, "test-dev")
    assert json.loads(files["vqa_test-dev.json"]) == [
        {"question_id": 30, "answer": "yes"},
        {"question_id": 10, "answer": "2"},
    ]
    assert Vqa.submission(rows, "val") == {} and list(Vqa.submission(rows, "test")) == ["vqa_test.json"]
    with pytest.raises(UserError, match="30: the files of test ask a question twice"):
        Vqa.submission(pd.DataFrame({"id": [30, 10, 30], "prediction": "yes"}), "test")
