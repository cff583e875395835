"""Masked language modelling: predict masked word pieces from the rest of the text and the image."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from renaissance.core.types import IGNORED, MlmTargets, TaskOutput
from renaissance.data.masking import MlmMasker
from renaissance.data.text import vocabulary
from renaissance.models.heads import MlmHead
from renaissance.settings.sections import Settings

from .base import Context, Encodings, Task


class Mlm(Task):
    """Cross-entropy over the vocabulary at masked positions; the head runs on those only."""

    mean_metrics = ("accuracy",)

    def __init__(self, model: nn.Module, context: Context):
        super().__init__(model, context)
        self.head = MlmHead(model.width, context.vocab_size)

    @staticmethod
    def target_builder(settings: Settings, tokenizer: PreTrainedTokenizerBase) -> Callable[[Any], MlmTargets]:
        objectives = settings.objectives
        return MlmMasker(
            vocabulary(tokenizer),
            objectives.mlm_prob,
            objectives.whole_word_masking,
            settings.run.seed,
            objectives.mlm_stop_words or (),
        )

    def forward(self, encodings: Encodings, targets: MlmTargets) -> TaskOutput:
        text = encodings.text(targets.input_ids)
        fused = encodings.fuse(text, encodings.images(), needs={"text"})
        labels = targets.labels.flatten().index_select(0, targets.positions)
        logits = self.head(fused.text.flatten(0, 1).index_select(0, targets.positions))
        loss = F.cross_entropy(logits, labels, reduction="sum")
        return TaskOutput(loss, self.count(targets), logits, labels)

    def measure(self, output: TaskOutput, targets: MlmTargets) -> dict[str, tuple[Tensor, Tensor]]:
        return {"accuracy": ((output.logits.argmax(-1) == output.labels).sum(), output.count)}

    def shown(
        self, output: TaskOutput, targets: MlmTargets, tokenizer: PreTrainedTokenizerBase
    ) -> list[dict[str, str]]:
        """The text as the model reads it, and what it makes of each stretch of masked pieces."""
        guesses = torch.full_like(targets.labels, IGNORED)
        guesses.view(-1)[targets.positions] = output.logits.argmax(-1)
        hidden = {*tokenizer.all_special_ids} - {tokenizer.mask_token_id, tokenizer.unk_token_id}
        columns = []
        for pieces, labels, guessed in zip(
            targets.input_ids.tolist(), targets.labels.tolist(), guesses.tolist(), strict=True
        ):
            stretches = groupby(zip(labels, guessed, strict=True), lambda pair: pair[0] != IGNORED)
            masked = [zip(*pairs, strict=True) for is_masked, pairs in stretches if is_masked]
            words = [" -> ".join(tokenizer.decode(list(each)) for each in both) for both in masked]
            read = tokenizer.decode([piece for piece in pieces if piece not in hidden])
            columns.append({"with masks": read, "masked -> guessed": ", ".join(words)})
        return columns
