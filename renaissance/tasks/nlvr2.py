"""NLVR2: is a sentence true of two images? (Suhr et al., ACL 2019)

The sentence is embedded once, and all images of a micro-batch in one pass. Each sentence is then fused with its left and with its
right image, all pairs in one call; the third token type marks the second image. The pooled vectors of both pairs are
concatenated for the classifier, as in ViLT (Kim et al., ICML 2021).
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from renaissance.core.errors import require
from renaissance.core.types import Example, LabelTargets
from renaissance.data.dataset_specs import IMAGE_PAIRS
from renaissance.data.samples import Sample
from renaissance.evaluation.metrics import MetricDetails, mean_score
from renaissance.models.heads import ClassifierHead

from .base import Context, Downstream, Encodings

ANSWERS = ("False", "True")  # as the annotations write them, in the order of their labels
_SUBMITTED_AS = {"val": "dev", "test": "test1"}  # our name of a split -> that of the benchmark's file


def pooled_pairs(encodings: Encodings) -> Tensor:
    """(B,2Dp): of each sentence the pooled vectors with its left and with its right image."""
    images = encodings.images()  # of the first example the left and the right one, then of the second ...
    pair = torch.arange(len(images.hidden), device=images.hidden.device)
    text = encodings.text().select(pair // 2)
    fused = encodings.fuse(text, images, needs={"pooled"}, slot=pair % 2)
    return fused.pooled.reshape(len(pair) // 2, -1)


class Nlvr2(Downstream):
    """Two-class cross-entropy on the pooled vectors of both pairs; accuracy selects, consistency is reported too."""

    sample_kind, label_column, images_per_sample, classes = IMAGE_PAIRS, "answers", 2, ANSWERS

    def __init__(self, model: nn.Module, context: Context):
        super().__init__(model, context)
        self.head = ClassifierHead(2 * model.pooled_size, 2 * model.width, len(ANSWERS))

    @classmethod
    def read(cls, labels: Sequence[str], sample: Sample) -> Example:
        """One sentence with its two images; `metadata` holds the group that consistency is computed over.

        An identifier is <split>-<set>-<pair>-<sentence>. A group is a sentence of a set with all its pairs: the identifier
        without its third part. Files of older programs lack the number of the sentence; its words stand in for it, which
        gives the same groups.
        """
        answer, text, of_sentence, of_pair = (
            sample.values[name] for name in ("answers", "questions", "identifiers", "identifier")
        )
        identifier = of_sentence or of_pair
        parts = (identifier or "").split("-")
        require(
            len(parts) == (4 if of_sentence else 3),
            f"{sample.where} has the identifier {identifier!r}; those of NLVR2 are <split>-<set>-<pair>-<sentence> in "
            "identifiers, and the same without the last part in identifier.",
        )
        split, number, _, sentence = parts if of_sentence else (*parts, text)
        metadata = {"id": of_sentence or f"{of_pair}#{sample.id}", "group": f"{split}-{number}-{sentence}"}
        if answer is not None:
            metadata["target"] = answer
        label = None if answer is None else ANSWERS.index(answer)
        return Example(sample.id, sample.images, text, where=sample.where, label=label, metadata=metadata)

    def logits(self, encodings: Encodings, targets: LabelTargets) -> Tensor:
        return self.head(pooled_pairs(encodings))

    def score(self, frame: pd.DataFrame) -> dict[str, MetricDetails]:
        """Accuracy, and consistency: the share of groups whose examples are all right; hidden answers do not count.

        Source: `nlvr2/eval/metrics.py` of lil-lab/nlvr.
        """
        groups = frame[frame["score"].notna()].groupby("group")["score"].min().reset_index()
        return super().score(frame) | {"consistency": mean_score(groups, method="each sentence with all its pairs")}

    @classmethod
    def submission(cls, frame: pd.DataFrame, split: str) -> dict[str, bytes]:
        """What the authors' `nlvr2/eval/metrics.py` reads; files of older programs lack the identifiers that it needs."""
        if not frame["id"].str.count("-").eq(3).all():
            return {}
        lines = "".join(f"{id},{answer}\n" for id, answer in zip(frame["id"], frame["prediction"], strict=True))
        return {f"nlvr2_{_SUBMITTED_AS.get(split, split)}.csv": lines.encode()}
