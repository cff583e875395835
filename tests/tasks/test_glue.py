"""GLUE: metrics against scikit-learn and SciPy, the text encoder against transformers, submissions byte by byte."""

from __future__ import annotations

import math
import pickle
import warnings
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn import metrics as sk
from torch.nn import functional as F
from transformers import AutoModel, BertTokenizer

from data.raw_glue import LAYOUTS, Row, write_split
from renaissance.core.errors import UserError
from renaissance.core.types import Batch, LabelTargets, TaskOutput
from renaissance.data.collate import Collate, Source
from renaissance.data.glue.specs import GLUE
from renaissance.data.sampler import Draw
from renaissance.tasks import Context, Encodings
from renaissance.tasks.glue import Glue
from small_tasks import values
from tiny_models import MAX_TEXT_LEN, VOCAB, WORDS, one_tower, same, stirred, texts, two_tower

# Word pieces and special tokens of BERT, with its pairs: [CLS] first [SEP] second [SEP], types 0 and 1.
TOKENIZER = BertTokenizer(vocab={word: place for place, word in enumerate(WORDS)})
SUBMITTED = {
    "cola": ("CoLA.tsv", "0 1"),
    "sst2": ("SST-2.tsv", "0 1"),
    "mrpc": ("MRPC.tsv", "0 1"),
    "qqp": ("QQP.tsv", "0 1"),
    "mnli": ("MNLI-m.tsv", "entailment neutral contradiction"),
    "qnli": ("QNLI.tsv", "entailment not_entailment"),
    "rte": ("RTE.tsv", "entailment not_entailment"),
    "wnli": ("WNLI.tsv", "0 1"),
}
"""The server's file of each task with classes, and its words for them in the order of their numbers."""


def settings_of(name: str, root: Path | str = ".", text_only: bool = True) -> SimpleNamespace:
    part = SimpleNamespace(dimensions={"drop_rate": None}, drop_rate=None)
    return SimpleNamespace(
        data=SimpleNamespace(datasets=(name,), data_root=str(root)),
        objectives=SimpleNamespace(text_only=text_only, loss_names={"glue": 1.0}),
        model=SimpleNamespace(encoder=None, text_encoder=part, fusion=part),
    )


def head_of(name: str, model: torch.nn.Module, text_only: bool = True) -> Glue:
    settings = settings_of(name, text_only=text_only)
    return stirred(Glue(model, Context(settings, VOCAB, Glue.label_names(settings))))


@cache
def head_of_rows(name: str) -> Glue:
    """A head whose rows are asked for, not its weights."""
    return head_of(name, two_tower())


def frame_of(name: str, guesses: list, answers: list) -> pd.DataFrame:
    """The rows that the task makes of these numbers of classes, or scores."""
    labels, head = GLUE[name].labels, head_of_rows(name)
    metadata = [{"id": n, "task": name, "target": labels[a] if labels else a} for n, a in enumerate(answers)]
    logits = F.one_hot(torch.tensor(guesses), len(labels)) if labels else torch.tensor(guesses, dtype=torch.double)
    targets = LabelTargets(torch.tensor(answers), tuple(metadata))
    rows = head.rows(TaskOutput(torch.tensor(0.0), torch.tensor(1.0), logits, targets.labels), targets)
    return pd.DataFrame(rows).assign(position=range(len(rows)))


def reference(name: str, guesses: list, answers: list) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy and scikit-learn say that a correlation is undefined
        if name == "cola":
            return {"matthews": sk.matthews_corrcoef(answers, guesses)}
        if name in ("mrpc", "qqp"):
            values = {"accuracy": sk.accuracy_score(answers, guesses), "f1": sk.f1_score(answers, guesses)}
            return {"accuracy_and_f1": (values["accuracy"] + values["f1"]) / 2, **values}
        if name == "stsb":
            pearson, spearman = stats.pearsonr(guesses, answers)[0], stats.spearmanr(guesses, answers)[0]
            return {"pearson_and_spearman": (pearson + spearman) / 2, "pearson": pearson, "spearman": spearman}
        return {"accuracy": sk.accuracy_score(answers, guesses)}


def cases(name: str) -> list[tuple[list, list]]:
    """Random answers of several sizes with ties, and what is degenerate."""
    random, classes = np.random.default_rng(len(name)), len(GLUE[name].labels)
    if not classes:
        draw = lambda size: random.uniform(0, 5, size).round(1).tolist()  # noqa: E731
        constant, flawless = ([2.5] * 7, draw(7)), ([1.0, 2.0, 4.0], [1.0, 2.0, 4.0])
        odd = [constant, constant[::-1], flawless, ([-3.0, 9.0, 1.0], [0.0, 5.0, 5.0])]
    else:
        draw = lambda size: random.integers(0, classes, size).tolist()  # noqa: E731
        alike = ([1] * 6, [1] * 6)
        odd = [alike, ([0] * 6, [0] * 6), ([0] * 6, [1] * 6), ([1] * 6, [0, 1] * 3), ([0, 1] * 3, [0] * 6), ([0], [1])]
    return [*((draw(size), draw(size)) for size in (2, 5, 37, 400)), *odd]


@pytest.mark.parametrize("name", GLUE)
def test_metrics_are_those_of_scikit_learn_and_scipy(name: str) -> None:
    for guesses, answers in cases(name):
        found, expected = values(Glue.score(None, frame_of(name, guesses, answers))), reference(name, guesses, answers)
        assert found == pytest.approx(expected, nan_ok=True, abs=1e-12), (guesses, answers)
        assert next(iter(found)) == head_of_rows(name).selecting


def test_predictions_that_are_no_numbers_correlate_with_nothing() -> None:
    found = Glue.score(None, frame_of("stsb", [1.0, math.nan, 3.0], [1.0, 2.0, 3.0]))
    assert all(math.isnan(value) for value in values(found).values())


@pytest.mark.parametrize("name", GLUE)
def test_the_baseline_is_the_most_frequent_answer(name: str) -> None:
    if name == "stsb":
        assert Glue.baseline(frame_of(name, [1.0, 2.0], [2.0, 3.0])) == ("random", 0.0)
        return
    answers = [1, 0, 1, 1, 0]
    expected = next(iter(reference(name, [1] * 5, answers).values()))
    assert Glue.baseline(frame_of(name, [0] * 5, answers)) == ("majority", pytest.approx(expected))


@pytest.mark.parametrize("name", GLUE)
def test_an_interval_is_drawn_by_the_metric_itself(name: str) -> None:
    rows = frame_of(name, [1, 0, 1], [1, 1, 0]).assign(score=[1.0, 0.0, 0.0])
    metrics = Glue.score(None, rows)
    found = {key: each.statistic(rows) if each.statistic else rows["score"].mean() for key, each in metrics.items()}
    assert found == pytest.approx(values(metrics), nan_ok=True)


def test_rows_tell_prediction_and_score() -> None:
    head = head_of_rows("mnli")
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    metadata = ({"id": 4, "task": "mnli", "target": "neutral"}, {"id": 9, "task": "mnli"})
    targets = LabelTargets(torch.tensor([1, -100]), metadata)
    rows = head.rows(TaskOutput(torch.tensor(0.0), head.count(targets), logits, targets.labels), targets)
    sure = [row.pop("confidence") for row in rows]  # e^2 / (1 + e + e^2), e^3 / (e^3 + 2)
    assert sure == pytest.approx([0.665241, 0.909443], abs=1e-6)
    assert [row.pop("brier") for row in rows] == [
        pytest.approx(0.090031**2 + 0.334759**2 + 0.244728**2, abs=1e-5),
        None,
    ]
    assert rows == [
        {"id": 4, "task": "mnli", "target": "neutral", "prediction": "neutral", "score": 1.0},
        {"id": 9, "task": "mnli", "prediction": "entailment", "score": None},
    ]
    scores = LabelTargets(torch.tensor([3.0, -100.0]), ({"id": 0, "target": 3.0}, {"id": 1}))
    head = head_of_rows("stsb")
    rows = head.rows(TaskOutput(torch.tensor(0.0), head.count(scores), torch.tensor([2.5, 1.0]), scores.labels), scores)
    assert [(row["prediction"], row["score"]) for row in rows] == [(2.5, -0.25), (1.0, None)]
    assert head.count(scores) == 1


def bert_head(head: Glue, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """The logits by transformers' own BERT with the weights of the text tower, and BERT's pooler written out."""
    bert = AutoModel.from_config(model.text_tower.config, add_pooling_layer=False).eval()
    bert.load_state_dict(model.text_tower.model.state_dict())
    text = batch.text._replace(attention_mask=batch.text.attention_mask.long())
    first = bert(**text._asdict()).last_hidden_state[:, 0]
    pooled = torch.tanh(first @ head.pooler.dense.weight.T + head.pooler.dense.bias)
    return pooled @ head.classifier.weight.T + head.classifier.bias


class NoPicture(torch.nn.Module):
    """Stands for an image tower that nobody may ask."""

    def forward(self, *_: object) -> None:
        raise AssertionError("an image was asked for")


def batch_of(name: str, model: torch.nn.Module, seed: int = 3) -> Batch:
    text = texts((9, 5, 7))
    types = (torch.arange(9) > 3).long().expand(3, 9) * text.attention_mask
    labels = torch.tensor([1, 0, -100]) if GLUE[name].labels else torch.tensor([4.5, 1.0, -100.0])
    targets = LabelTargets(labels, ({"id": 0}, {"id": 1}, {"id": 2}))
    return Batch(torch.arange(3), text._replace(token_type_ids=types), None, {"glue": targets}, (0, 0, 0))


@pytest.mark.parametrize("name", ["mnli", "stsb"])
def test_text_only_is_the_encoder_of_transformers_with_berts_head(name: str) -> None:
    model = two_tower()
    model.image_tower, model.fusion = NoPicture(), NoPicture()
    head, batch = head_of(name, model), batch_of(name, model)
    out = head(Encodings(model, batch), batch.targets["glue"])
    expected = bert_head(head, model, batch)
    if name == "mnli":
        loss = -sum(expected.log_softmax(-1)[row, label] for row, label in ((0, 1), (1, 0)))
    else:
        expected = expected[:, 0]
        loss = (expected[0] - 4.5) ** 2 + (expected[1] - 1.0) ** 2
    same(out.logits, expected, 1e-5)
    same(out.loss, loss, 1e-5)
    assert out.count == 2
    out.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_text_tower_is_pooled_as_its_family_is(pooling: str) -> None:
    model = two_tower(pooling=pooling)
    head, batch = head_of("rte", model), batch_of("rte", model)
    hidden = model.text_tower(batch.text).hidden
    for row, length in enumerate((9, 5, 7)):
        vector = hidden[row, length - 1] if pooling == "last" else hidden[row, :length].mean(0)
        expected = head.classifier(torch.tanh(head.pooler.dense(vector)))
        same(head(Encodings(model, batch), batch.targets["glue"]).logits[row], expected, 1e-5)


@pytest.mark.parametrize("make", [two_tower, lambda: two_tower(pooler_type="single"), lambda: one_tower("image")])
@pytest.mark.parametrize("text_only", [True, False])
def test_no_picture_takes_part(make: object, text_only: bool) -> None:
    model = make()
    setattr(model, "image_tower" if hasattr(model, "text_tower") else "image_embeddings", NoPicture())
    head, batch = head_of("rte", model, text_only), batch_of("rte", model)
    out = head(Encodings(model, batch), batch.targets["glue"])
    text = model.embed_text(batch.text)
    if not text_only:
        same(out.logits, head.classifier(model.fuse(text, None).pooled), 1e-6)
    elif not hasattr(model, "text_tower"):
        hidden = model.fuse(text, None).text[:, 0]
        same(out.logits, head.classifier(torch.tanh(head.pooler.dense(hidden))), 1e-6)


@pytest.mark.parametrize("name", ["rte", "sst2", "stsb"])
def test_files_become_batches_with_the_tokenizers_own_types(name: str, tmp_path: Path) -> None:
    first, second = "two  small images of a red square ", "a blue circle is left of the above square"
    long = " ".join(["red"] * 30)
    pairs = [(first, second), (long, "a blue circle"), (first, long), ("a", "")]
    labels = [0.5, 4.0, 5.0, 0.0] if name == "stsb" else [0, 1, 1, 0]
    single = len(LAYOUTS[name].hub) == 1
    rows = [Row(pair[:1] if single else pair, label) for pair, label in zip(pairs, labels, strict=True)]
    write_split(tmp_path, name, "train", rows)
    settings = settings_of(name, tmp_path)
    read = Glue.open(settings, "train", Glue.label_names(settings))
    read = pickle.loads(pickle.dumps(read))
    source = Source(read, NoPicture())
    target_builder = pickle.loads(pickle.dumps(Glue.target_builder(settings, TOKENIZER)))
    collate = Collate(TOKENIZER, MAX_TEXT_LEN, 4, {"glue": target_builder}, source)
    (batch,) = collate([source.example(Draw(0, n)) for n in range(4)])
    assert batch.images is None and read.labelled
    given = [[row.texts[side] for row in rows] for side in range(1 if single else 2)]
    expected = TOKENIZER(
        *given, truncation="longest_first", max_length=MAX_TEXT_LEN, padding="max_length", return_tensors="pt"
    )
    for part in batch.text._fields:
        assert torch.equal(getattr(batch.text, part).long(), expected[part]), part
    assert batch.text.token_type_ids.any() == (not single)
    assert batch.targets["glue"].labels.tolist() == labels
    names = {"rte": ["entailment", "not_entailment"], "sst2": ["negative", "positive"]}.get(name)
    assert batch.targets["glue"].metadata == tuple(
        {"id": n, "task": name, "target": names[label] if names else label} for n, label in enumerate(labels)
    )


def test_mnli_has_two_of_each_evaluation_split_and_a_hidden_test(tmp_path: Path) -> None:
    settings = settings_of("mnli", tmp_path)
    for split in ("train", "val", "val_mismatched", "test", "test_mismatched"):
        write_split(tmp_path, "mnli", split, [Row((split, "b"), None if split.startswith("test") else 2)])
    assert Glue.splits(settings) == ("val", "val_mismatched", "test", "test_mismatched")
    for split in Glue.splits(settings):
        read = Glue.open(settings, split, None)
        raw = read[0]
        assert (raw.text, raw.text_pair, raw.images) == (split, "b", ())
        hidden = split.startswith("test")
        assert (
            read.labelled == (not hidden)
            and raw.label == (None if hidden else 2)
            and ("target" in raw.metadata) != hidden
        )
    notes = Glue.notes(pd.DataFrame(), Glue.open(settings, "test_mismatched", None).dataset)
    assert notes == ["the official test_mismatched has 9,847 rows; GLUE's server will refuse the submission"]
    assert Glue.notes(pd.DataFrame(), Glue.open(settings, "val", None).dataset) == []


class Broken(NamedTuple):
    """Samples of a file with broken lines; as many fields as it has rows."""

    broken: int = 21
    name: str = "qqp"
    split: str = "val"


def test_lines_that_were_left_out_are_noted() -> None:
    assert Glue.notes(pd.DataFrame(), Broken()) == ["21 lines of the file lack columns and are left out"]


def test_dropout_is_that_of_the_part_that_is_read() -> None:
    settings = settings_of("rte")
    settings.model.text_encoder = SimpleNamespace(dimensions={"drop_rate": 0.0})
    settings.model.fusion = SimpleNamespace(drop_rate=0.2)
    for text_only, expected in ((True, 0.0), (False, 0.2)):
        settings.objectives.text_only = text_only
        assert Glue(two_tower(), Context(settings, VOCAB, None)).dropout.p == expected
    settings.model.encoder = SimpleNamespace(dimensions={"drop_rate": None})
    assert Glue(one_tower("text"), Context(settings, VOCAB, None)).dropout.p == 0.1


@pytest.mark.parametrize("name", SUBMITTED)
def test_submissions_are_in_the_words_of_the_server(name: str) -> None:
    file, served = SUBMITTED[name]
    served, labels = served.split(), GLUE[name].labels
    rows = [{"id": n, "task": name, "prediction": labels[n % len(labels)]} for n in (11, 2, 0, 1)]  # not in order
    lines = [f"{n}\t{served[n % len(labels)]}\n" for n in (0, 1, 2, 11)]
    expected = "index\tprediction\n" + "".join(lines)
    assert Glue.submission(pd.DataFrame(rows), "test") == {file: expected.encode()}
    assert Glue.submission(pd.DataFrame(rows), "val") == {}
    if name == "mnli":
        assert Glue.submission(pd.DataFrame(rows), "test_mismatched") == {"MNLI-mm.tsv": expected.encode()}


def test_scores_are_cut_off_in_a_submission() -> None:
    rows = [{"id": n, "task": "stsb", "prediction": score} for n, score in enumerate((-0.2, 5.71, 3.14159, 2.0))]
    expected = b"index\tprediction\n0\t0.000\n1\t5.000\n2\t3.142\n3\t2.000\n"
    assert Glue.submission(pd.DataFrame(rows), "test") == {"STS-B.tsv": expected}


def test_what_is_no_task_of_glue_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"names 'sst' \(nearest: sst2.*\), which is no task of GLUE; give one of cola,"
    ):
        Glue.label_names(settings_of("sst"))
    settings = settings_of("cola")
    settings.data.datasets = ("cola", "rte")
    with pytest.raises(UserError, match="this task reads one data set at a time"):
        Glue.data_name(settings)
