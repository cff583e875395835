"""VQAv2: open questions about an image, answered with one of the vocabulary's answers. (Goyal et al., CVPR 2017)

The targets are the soft scores of all answers, as in ViLT (Kim et al., ICML 2021). The metric is the official score of all
questions, including those whose answers are not in the vocabulary: answers are compared as strings with those of the ten
annotators. Files of older programs lack the ten answers; their score is not the official one, and a note says so.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from renaissance.core.errors import require, shortened
from renaissance.core.types import Example, TaskOutput
from renaissance.data.answers import official_accuracy, soft_scores
from renaissance.data.collate import MicroBatch, TargetBuilder
from renaissance.data.dataset_specs import DATASETS, QUESTIONS, VQA_LABELS
from renaissance.data.samples import Sample, SampleDataset
from renaissance.data.vocabulary import vqa_labels
from renaissance.evaluation.metrics import MetricDetails, mean_score
from renaissance.models.heads import predicted_classes
from renaissance.settings.sections import Settings

from .base import Classification, Encodings

ANSWER_TYPES = {"yes/no": "yes_no", "number": "number", "other": "other"}  # as annotated -> in the names of metrics
_SUBMITTED = ("test-dev", "test")  # the splits that the server scores


class VqaTargets(NamedTuple):
    """The answers of B questions that are labels, n in all.

    Attributes:
        question, label: (n,) int64, which question has which answer.
        score: (n,) float, its soft score.
        answered: (B,) bool, whether the question has any such answer; others have no loss.
        metadata: of each question.
    """

    question: Tensor
    label: Tensor
    score: Tensor
    answered: Tensor
    metadata: tuple[Mapping[str, Any], ...]


def vqa_targets(micro: MicroBatch) -> VqaTargets:
    """Builds the targets of a micro-batch."""
    answers = [example.label or ((), ()) for example in micro.examples]
    entries = [
        (question, label, score)
        for question, (labels, scores) in enumerate(answers)
        for label, score in zip(labels, scores, strict=True)
    ]
    question, label, score = torch.tensor(entries, dtype=torch.float64).reshape(-1, 3).T
    answered = torch.tensor([bool(labels) for labels, _ in answers])
    return VqaTargets(question.long(), label.long(), score.float(), answered, micro.metadata)


class Vqa(Classification):
    """Binary cross-entropy of every answer of the vocabulary with its soft score, summed over the answers."""

    dummy_label = ((0,), (1.0,))
    sample_kind, label_column, selecting, labels_in_data = QUESTIONS, "answers", "vqa_score", VQA_LABELS
    answer_scores = staticmethod(torch.sigmoid)

    @classmethod
    def label_names(cls, settings: Settings, known: Sequence[str] = ()) -> tuple[str, ...] | None:
        """The vocabulary in the files; None if there are only test files.

        Raises:
            UserError: they contradict each other, or `vqav2_label_size`.
        """
        if (found := vqa_labels(settings.data.data_root, known)) is None:
            return None
        labels, wanted = tuple(found), settings.objectives.vqav2_label_size
        require(
            wanted in (None, len(labels)),
            f"vqav2_label_size={wanted}, but the files in data_root={settings.data.data_root} have {len(labels):,} answers; "
            "leave vqav2_label_size out.",
        )
        return labels

    @classmethod
    def read(cls, labels: Sequence[str], sample: Sample) -> Example:
        """One question; `metadata` has the answers for its score."""
        values, metadata, label = sample.values, {"id": sample.values["question_id"]}, None
        own, scores, answers, raw = (
            tuple(values[name] or ()) for name in ("answer_labels", "answer_scores", "answers", "raw_answers")
        )
        if raw or own:
            if (kind := values["answer_type"]) is not None:
                require(
                    kind in ANSWER_TYPES,
                    f"{sample.where} has the answer type {kind!r}; VQAv2 knows {', '.join(ANSWER_TYPES)}: write the file again.",
                )
                metadata |= {"answer_type": kind, "question_type": values["question_type"]}
            outside = next((label for label in own if not 0 <= label < len(labels)), None)
            require(
                outside is None,
                f"{sample.where} has the label {outside}, and the vocabulary {len(labels):,} answers, numbered from 0; "
                "prepare all files of VQAv2 in one go.",
            )
            label, metadata["in_vocabulary"] = (own, scores), bool(own)
            metadata |= {"raw_answers": raw} if raw else {"answers": answers, "answer_scores": scores}
            by_answer = Counter(raw) if raw else dict(zip(answers, scores, strict=True))
            metadata["target"] = max(by_answer, key=by_answer.get, default=None)
        text = values["questions"]
        return Example(sample.id, sample.images, text, where=sample.where, label=label, metadata=metadata)

    @staticmethod
    def target_builder(settings: Settings, tokenizer: PreTrainedTokenizerBase) -> TargetBuilder:
        return vqa_targets

    def count(self, targets: VqaTargets) -> Tensor:
        return targets.answered.sum().float()

    def forward(self, encodings: Encodings, targets: VqaTargets) -> TaskOutput:
        logits = self.logits(encodings, targets)
        scores = torch.zeros_like(logits)
        scores[targets.question, targets.label] = targets.score.to(scores.dtype)
        losses = F.binary_cross_entropy_with_logits(logits, scores, reduction="none").sum(-1)
        return TaskOutput((losses * targets.answered).sum(), self.count(targets), logits, scores)

    def rows(self, output: TaskOutput, targets: VqaTargets) -> list[dict[str, Any]]:
        """The answer with the highest logit and its score, the official one if the ten answers are known."""
        rows, sure = [], output.logits.float().amax(-1).sigmoid().tolist()  # each answer has a probability of its own
        for metadata, (label, number), confidence in zip(
            targets.metadata, predicted_classes(output.logits), sure, strict=True
        ):
            score, answer = _answer_score(self.labels[label], metadata), self.labels[label]
            rows.append({**metadata, "prediction": answer, "score": score and score * number, "confidence": confidence})
        return rows

    def score(self, frame: pd.DataFrame) -> dict[str, MetricDetails]:
        """The mean score of all questions, of those with an answer in the vocabulary, and of each type of answer."""
        official = "raw_answers" in frame
        method = "the official score" if official else "by the labels of the vocabulary, not the official score"
        known = frame["in_vocabulary"].eq(True)
        chosen = {"vqa_score": known | True, "in_vocabulary": known}
        if "answer_type" in frame:
            by_type = {name: frame["answer_type"] == annotated for annotated, name in ANSWER_TYPES.items()}
            chosen |= {f"vqa_score_{name}": rows for name, rows in by_type.items() if rows.any()}
        return {name: mean_score(frame[rows], method=method, exact=official) for name, rows in chosen.items()}

    @classmethod
    def baseline(cls, frame: pd.DataFrame) -> tuple[str, float]:
        """The best constant answer."""
        totals, answered = Counter(), frame[frame["score"].notna()]
        for metadata in answered.to_dict("records"):
            totals.update(_answer_scores(metadata))
        return "majority", max(totals.values(), default=0.0) / max(1, len(answered))

    @classmethod
    def notes(cls, frame: pd.DataFrame, dataset: SampleDataset) -> list[str]:
        if "answers" not in dataset.columns:  # only the server has them
            official = DATASETS["vqa"].expected
            return [
                f"the official {each.file} has {official[each.file].texts:,} questions, this one {each.samples:,}: the server "
                "refuses a submission that lacks some"
                for each in dataset.describe()
                if each.file in official and official[each.file].texts != each.samples
            ]
        if "raw_answers" in dataset.columns:
            return []
        return [
            "this is not the official score: the files lack the ten answers to each question, and questions that no answer "
            "of the vocabulary is right for; prepare them anew with `python run.py prepare with dataset=vqa`"
        ]

    @classmethod
    def submission(cls, frame: pd.DataFrame, split: str) -> dict[str, bytes]:
        """The JSON of the VQA challenge's server: every question of the split once."""
        if split not in _SUBMITTED:
            return {}
        require(
            frame["id"].is_unique,
            f"{shortened(frame['id'][frame['id'].duplicated()])}: the files of {split} ask a question twice, which the server "
            "refuses; prepare them anew.",
        )
        pairs = zip(frame["id"], frame["prediction"], strict=True)
        entries = [{"question_id": int(question), "answer": answer} for question, answer in pairs]
        return {f"vqa_{split}.json": json.dumps(entries, ensure_ascii=False).encode()}


def _answer_score(answer: str, metadata: Mapping[str, Any]) -> float | None:
    """The score of an answer; None if the right answers are hidden."""
    if "raw_answers" in metadata:
        return official_accuracy(answer, metadata["raw_answers"])
    return _answer_scores(metadata).get(answer, 0.0) if "answers" in metadata else None


def _answer_scores(metadata: Mapping[str, Any]) -> dict[str, float]:
    """The scores of a question's answers that are not 0."""
    raw = metadata.get("raw_answers")
    if raw is None:
        return dict(zip(metadata["answers"], metadata["answer_scores"], strict=True))
    # If all ten agree, the official rule compares answers without normalisation (`answers.official_accuracy`).
    return {raw[0]: 1.0} if len(set(raw)) == 1 else soft_scores(raw)
