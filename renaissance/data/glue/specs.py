"""The tasks of GLUE (Wang et al. 2019): columns, classes and metrics of each. Plain constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class GlueTask(NamedTuple):
    """One task of GLUE (Wang et al. 2019): its files, and what its server wants.

    Attributes:
        folder: of the official .tsv files; the file of a submission goes by this name too.
        texts: columns of the sentence, or of the two of a pair, in the Hub's files.
        labels: names of the classes in the order of their numbers; () where a score in `GLUE_SCORES` is learned.
        test_rows: split -> rows of the official test.
        metrics: of the benchmark; where there are two, their mean selects, as GLUE averages them.
        by_name: whether the server wants the names of classes, not their numbers.
        tsv_texts, tsv_label: columns of the .tsv files; () = the same texts. The Hub's label is "label".
        tsv_bare: columns of those .tsv files that have no header; () = all have one.
        splits: split -> its name in the Hub's files, and in the .tsv files.
    """

    folder: str
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    test_rows: Mapping[str, int]
    metrics: tuple[str, ...] = ("accuracy",)
    by_name: bool = False
    tsv_texts: tuple[str, ...] = ()
    tsv_label: str = "label"
    tsv_bare: tuple[str, ...] = ()
    splits: Mapping[str, tuple[str, str]] = {
        "train": ("train", "train"),
        "val": ("validation", "dev"),
        "test": ("test", "test"),
    }


GLUE_SCORES = (0.0, 5.0)  # of STS-B, from no relation to the same meaning
_ONE, _PAIR, _ENTAILED = ("sentence",), ("sentence1", "sentence2"), ("entailment", "not_entailment")
GLUE: dict[str, GlueTask] = {
    "cola": GlueTask(
        "CoLA", _ONE, ("unacceptable", "acceptable"), {"test": 1_063}, ("matthews",),
        tsv_bare=("source", "label", "mark", "sentence"),
    ),
    "sst2": GlueTask("SST-2", _ONE, ("negative", "positive"), {"test": 1_821}),
    "mrpc": GlueTask(
        "MRPC", _PAIR, ("not_equivalent", "equivalent"), {"test": 1_725}, ("accuracy", "f1"),
        tsv_texts=("#1 String", "#2 String"), tsv_label="Quality",
    ),
    "qqp": GlueTask(
        "QQP", ("question1", "question2"), ("not_duplicate", "duplicate"), {"test": 390_965}, ("accuracy", "f1"),
        tsv_label="is_duplicate",
    ),
    "stsb": GlueTask("STS-B", _PAIR, (), {"test": 1_379}, ("pearson", "spearman"), tsv_label="score"),
    "mnli": GlueTask(
        "MNLI", ("premise", "hypothesis"), ("entailment", "neutral", "contradiction"),
        {"test": 9_796, "test_mismatched": 9_847}, by_name=True, tsv_texts=_PAIR, tsv_label="gold_label",
        splits={
            "train": ("train", "train"),
            "val": ("validation_matched", "dev_matched"),
            "val_mismatched": ("validation_mismatched", "dev_mismatched"),
            "test": ("test_matched", "test_matched"),
            "test_mismatched": ("test_mismatched", "test_mismatched"),
        },
    ),
    "qnli": GlueTask("QNLI", ("question", "sentence"), _ENTAILED, {"test": 5_463}, by_name=True),
    "rte": GlueTask("RTE", _PAIR, _ENTAILED, {"test": 3_000}, by_name=True),
    "wnli": GlueTask("WNLI", _PAIR, ("not_entailment", "entailment"), {"test": 146}),
}  # fmt: skip
