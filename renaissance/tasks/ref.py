"""Referring expressions (RefCOCO, RefCOCO+, RefCOCOg): which box of the image is meant?

The candidates of an expression are all ground-truth boxes of its image, any number of them. Each is cropped and encoded as
an image of its own, without its position. An expression is embedded once and repeated for its candidates by index; all crops
of a micro-batch are encoded in one pass, all pairs are fused in one call, and the softmax is over the candidates of an
expression.

Memory: 32 expressions with 40 candidates each are 1,280 images at once, as many as `per_gpu_batchsize=1280` elsewhere. A
smaller `per_gpu_batchsize` needs less and changes no gradient, because losses are summed over the step. The pass is not
split: without a gradient activations are freed layer by layer, and training would have to compute everything twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from renaissance.core.types import Example, LabelTargets
from renaissance.data.dataset_specs import BOXES
from renaissance.data.samples import Sample, SampleDataset
from renaissance.models.transfer import async_tensor

from .base import Context, Downstream, Encodings

_BOXES_NOTE = "the candidates are the ground-truth boxes of the image; accuracy among detected boxes is another task"


class Ref(Downstream):
    """Cross-entropy over the candidates of each expression, one score a candidate; accuracy selects."""

    sample_kind, label_column, images_per_sample = BOXES, "labels", None

    def __init__(self, model: nn.Module, context: Context):
        super().__init__(model, context)
        self.head = nn.Linear(model.pooled_size, 1)

    @classmethod
    def read(cls, labels: Sequence[str], sample: Sample) -> Example:
        """One expression with its boxes. Expressions of one object are one group: they are not independent examples."""
        boxes, label, reference = (sample.values[name] for name in ("bboxes", "labels", "ref_id"))
        metadata = {
            "id": sample.id if reference is None else f"{reference}#{sample.id}",
            "target": label,
            "candidates": len(boxes),
            "group": sample.row,
        }
        text, where = sample.values["sentences"], sample.where
        return Example(sample.id, sample.images, text, where=where, label=label, metadata=metadata, boxes=boxes)

    def logits(self, encodings: Encodings, targets: LabelTargets) -> Tensor:
        counts, images = encodings.batch.image_counts, encodings.images()
        expression = async_tensor([row for row, count in enumerate(counts) for _ in range(count)], images.hidden.device)
        fused = encodings.fuse(encodings.text().select(expression), images, needs={"pooled"})
        scores = self.head(fused.pooled).squeeze(-1)
        # (B, most candidates); padding has probability 0.
        return pad_sequence(scores.split(counts), batch_first=True, padding_value=-math.inf)

    @classmethod
    def baseline(cls, frame: pd.DataFrame) -> tuple[str, float]:
        return "chance", float((1 / frame["candidates"])[frame["target"].notna()].mean())

    @classmethod
    def notes(cls, frame: pd.DataFrame, dataset: SampleDataset) -> list[str]:
        notes, name = [_BOXES_NOTE], dataset.describe()[0].dataset
        for file in dataset.older_files:
            notes.append(
                f"{file} has a name that older programs gave to every variant: only you know that it is {name}"
            )
            if file.endswith("_unc_test.arrow"):
                notes.append(
                    "it merges testA (people) and testB (objects), which are reported apart; prepare them anew"
                )
        return notes
