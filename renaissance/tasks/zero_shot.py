"""Tasks without training: pretrained heads of a checkpoint score an image with a text."""

from __future__ import annotations

from collections.abc import Set

import torch
from torch import Tensor, nn

from renaissance.core.errors import require
from renaissance.core.types import Tokens
from renaissance.evaluation.ranking import pairs_at_once
from renaissance.settings.sections import Settings

from .base import Context, Downstream
from .itc import Itc
from .itm import Itm

SCORES = {
    "itm": "log-odds of image-text matching, each text with the image through the fusion",
    "itc": "cosines of the contrastive vectors",
}


class Untrained(Downstream):
    """A downstream task that asks a checkpoint as it is: no step trains it."""

    learns = False

    def __init__(self, model: nn.Module, context: Context):
        super().__init__(model, context)
        names = [*context.settings.objectives.loss_names]
        require(len(names) == 1, f"loss_names: {', '.join(names)} cannot run together: one of them is not trained.")


class ZeroShot(Untrained):
    """A downstream task that learns nothing: the heads of matching that a checkpoint has score images with texts.

    Attributes:
        itm, itc: these heads; one that the checkpoint lacks is not used.
        scored_by: "itm" or "itc", once the weights are in.
    """

    starts_from = {"itm": "itm", "itc": "itc"}

    def __init__(self, model: nn.Module, context: Context):
        super().__init__(model, context)
        self.itm, self.itc = Itm(model, context), Itc(model, context)
        self.settings, self.scored_by = context.settings, None

    def log_odds(self, model: nn.Module, texts: Tokens, images: Tokens, pairs: Tensor) -> Tensor:
        """(n,) of pairs (n,2), numbers of an image and a text, through the fusion in parts of bounded size."""
        fused = (
            model.fuse(texts.select(part[:, 1]), images.select(part[:, 0]), 0, {"pooled"}).pooled
            for part in pairs.split(pairs_at_once(texts, images))
        )
        return torch.cat([self.itm.head.log_odds(pooled) for pooled in fused])

    def use_loaded(self, parts: Set[str], where: str) -> list[str]:
        self.scored_by = score_head(self.settings, parts, where)
        return [f"probe_score={self.scored_by}: {SCORES[self.scored_by]}"]


def cut_note(cut: int, texts: int, max_text_len: int) -> list[str]:
    """What to say of texts of which some are cut."""
    return [f"{cut:,} of {texts:,} texts are longer than max_text_len={max_text_len} tokens, and cut"] * (cut > 0)


def score_head(settings: Settings, parts: Set[str], where: str) -> str:
    """The head that scores an image with a text: "itm" or "itc".

    Args:
        settings: `probe_score` says it; else it is ITM where that is loaded.
        parts, where: of `Task.use_loaded`.

    Raises:
        UserError: the checkpoint lacks it.
    """
    asked = settings.objectives.probe_score
    there = [name for name in SCORES if name in parts]
    require(
        there,
        f"{where} has no trained head of itm or itc, which this task scores images and texts with; give one that was trained "
        "with task_itm, task_mlm_itm or task_mlm_itm_itc.",
    )
    require(
        asked is None or asked in there,
        f"probe_score={asked}: {where} has no trained head of {asked}; give probe_score={there[0]}, or leave it out.",
    )
    return asked or there[0]
