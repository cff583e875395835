"""What tasks without training have in common: pretrained heads of a checkpoint score an image with a text."""

from __future__ import annotations

from collections.abc import Set

from renaissance.core.errors import require
from renaissance.settings.sections import Settings

SCORES = {
    "itm": "the log-odds of image-text matching, each text through the fusion",
    "itc": "the cosine of the contrastive vectors",
}


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
