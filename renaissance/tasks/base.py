"""What a task is, and the encodings that all tasks of a step share.

A task turns the encodings of a micro-batch and its own targets into a loss. It names the parts of `Fused` that it
reads, so that nothing else is computed, and asks `Encodings`, never a tower. One file a task; `tasks.task_class` finds
it by its file name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any, ClassVar

from torch import Tensor, nn
from torchmetrics import Metric
from transformers import PreTrainedTokenizerBase

from renaissance.settings import Settings
from renaissance.types import Batch, Fused, TaskOutput, Tokens


class Encodings:
    """The encodings of one micro-batch, each computed on first use and kept for the step.

    Args:
        model: a `TwoTower` or `OneTower`.
        batch: the micro-batch, on the model's device.
    """

    def __init__(self, model: nn.Module, batch: Batch):
        self.model, self.batch = model, batch
        self._texts: list[tuple[Tensor, Tokens]] = []
        self._images: Tokens | None = None

    def text(self, input_ids: Tensor | None = None) -> Tokens:
        """The texts, embedded: as they are, or with other `input_ids` (B,L), such as masked ones."""
        chosen = self.batch.text.input_ids if input_ids is None else input_ids
        # Found by identity, which a tensor that is kept alive shares with no other.
        for input_ids, tokens in self._texts:
            if input_ids is chosen:
                return tokens
        tokens = self.model.embed_text(self.batch.text._replace(input_ids=chosen))
        self._texts.append((chosen, tokens))
        return tokens

    def images(self, index: Tensor | None = None) -> Tokens:
        """The pictures, embedded, in one pass: the B own ones, or those that `index` (n,) names among the M."""
        if self._images is None:
            self._images = self.model.embed_image(self.batch.images)
        hidden, mask = self._images
        if index is None:
            own = len(self.batch.ids)
            return Tokens(hidden[:own], None if mask is None else mask[:own])
        return Tokens(hidden.index_select(0, index), None if mask is None else mask.index_select(0, index))

    def fuse(self, text: Tokens | None, image: Tokens | None, needs: Set[str], slot: int = 0) -> Fused:
        """Text and image tokens through the fusion; `needs` names the parts of the result that will be read."""
        return self.model.fuse(text, image, slot, needs)


class Task(nn.Module):
    """One objective with its head.

    Attributes:
        selecting: the metric whose sum over tasks selects the best checkpoint.
    """

    selecting: ClassVar[str] = "accuracy"

    def __init__(self, model: nn.Module, vocab_size: int):
        """Builds the head for `model`, which has `width` and `pooled_size`; weights are drawn by the caller."""
        super().__init__()

    @staticmethod
    def maker(settings: Settings, tokenizer: PreTrainedTokenizerBase) -> Callable[[Any], Any]:
        """What builds this task's targets out of a `data.collate.MicroBatch`, in a loader process."""
        raise NotImplementedError

    def count(self, targets: Any) -> Tensor:
        """() float, how many items the loss of these targets sums over; known before anything is computed."""
        raise NotImplementedError

    def forward(self, encodings: Encodings, targets: Any) -> TaskOutput:
        raise NotImplementedError

    def metrics(self) -> dict[str, Metric]:
        """New metrics by name; each is updated with (output, targets) through `update_metrics`."""
        raise NotImplementedError

    def update_metrics(self, metrics: dict[str, Metric], output: TaskOutput, targets: Any) -> None:
        raise NotImplementedError

    def tally(self, targets: Any) -> dict[str, Tensor]:
        """Shares in 0..1 that tell something of the targets themselves, by name; logged while training."""
        return {}

    def remarks(self, shares: Mapping[str, float]) -> list[str]:
        """Sentences that a user should read about tallied or evaluated shares."""
        return []
