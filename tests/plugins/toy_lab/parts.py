"""What the names of the plugin stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from renaissance.core.types import Example, LabelTargets, TaskOutput, Tokens
from renaissance.data.samples import Sample
from renaissance.data.transforms import CenterCrop
from renaissance.models.backbones.family import TEXT, Family
from renaissance.tasks import Context, Downstream, Encodings, Task

from . import SAMPLE_KIND


class ToyLength(Task):
    """Mean squared error of the length of the text, by a head on the pooled vector."""

    mean_metrics = ("accuracy",)

    def __init__(self, model: nn.Module, context: Context):
        super().__init__(model, context)
        self.head = nn.Linear(model.pooled_size, 1)

    @staticmethod
    def target_builder(settings: Any, tokenizer: Any) -> Any:
        return lengths

    def count(self, targets: Tensor) -> Tensor:
        return targets.new_tensor(len(targets))

    def forward(self, encodings: Encodings, targets: Tensor) -> TaskOutput:
        found = self.head(encodings.fuse(encodings.text(), encodings.images(), needs={"pooled"}).pooled)[:, 0]
        return TaskOutput(F.mse_loss(found, targets, reduction="sum"), self.count(targets), found, targets)

    def measure(self, output: TaskOutput, targets: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        return {"accuracy": ((output.logits.round() == targets).sum(), output.count)}


def lengths(micro: Any) -> Tensor:
    return torch.tensor([float(len(example.text)) for example in micro.examples])


class ToyTask(Downstream):
    """Is the toy red or blue?"""

    sample_kind, label_column, classes = SAMPLE_KIND, "colour", ("red", "blue")

    def __init__(self, model: nn.Module, context: Context):
        super().__init__(model, context)
        self.head, self.weight = nn.Linear(model.pooled_size, 2), context.settings.objectives.toy_weight

    @classmethod
    def read(cls, labels: Sequence[str], sample: Sample) -> Example:
        colour = sample.values["colour"]
        metadata = {"id": sample.id, "target": colour}
        return Example(
            sample.id, sample.images, "a toy", where=sample.where, label=labels.index(colour), metadata=metadata
        )

    def logits(self, encodings: Encodings, targets: LabelTargets) -> Tensor:
        pooled = encodings.fuse(encodings.text(), encodings.images(), needs={"pooled"}).pooled
        return self.weight * self.head(pooled)


class Mirror(CenterCrop):
    """Left is right."""

    def crop(self, pixels: Tensor) -> Tensor:
        return super().crop(pixels).flip(-1)


class SumLayer(nn.Module):
    """Each side's tokens and the mean of the other's, projected."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, drop_rate: float):
        super().__init__()
        self.text, self.image = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, text: Tokens | None, image: Tokens | None, needed: Any) -> tuple[Tensor | None, Tensor | None]:
        return self._side(self.text, text, image), self._side(self.image, image, text)

    def _side(self, project: nn.Module, own: Tokens | None, other: Tokens | None) -> Tensor | None:
        if own is None:
            return None
        return project(own.hidden if other is None else own.hidden + other.hidden.mean(1, keepdim=True))


class ToyBertConfig(BertConfig):
    model_type = "toy-bert"


class ToyBertModel(BertModel):
    config_class = ToyBertConfig


TOY_BERT = Family(TEXT, ToyBertModel, one_tower="it is a toy")
