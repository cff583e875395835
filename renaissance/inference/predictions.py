"""What all heads of a checkpoint say of one image and text: what `predict` prints, and what the page of `serve` shows."""

from __future__ import annotations

from typing import NamedTuple

from renaissance.core.errors import require

from .loaded import Loaded
from .pictures import ImageLike


class Predictions(NamedTuple):
    """What was said; what no head said anything of is None or empty.

    Attributes:
        match: the probability that the text belongs to the image.
        completed: the text that `match` is of where its masks were filled for that; else None.
        masks: for each [MASK], in order, its (word piece, probability), the most probable first.
        answers: (answer, score), the best first.
    """

    match: float | None
    completed: str | None
    masks: list[list[tuple[str, float]]]
    answers: list[tuple[str, float]]


def predictions(model: Loaded, image: ImageLike | None, text: str, top: int) -> Predictions:
    """Asks every head that can say something.

    Args:
        image: as for `Loaded.score`, or None to fill masks without. top: how many words for each mask, and answers.

    Raises:
        UserError: no head says anything of it, or as the methods of `Loaded`.
    """
    match, completed, masks, answers = None, None, [], []
    masked = model.masks(text) > 0 and model.filling is not None
    if image is not None and model.matching:
        completed = model.complete(image, text) if masked else None
        match = model.score(image, completed or text)
    if masked:
        masks = model.fill(image, text, top)
    if image is not None and model.answering:
        answers = model.answer(image, text, top)
    query = "one image and text" if image is not None else "a text without [MASK] and without image="
    heads = ", ".join(model.heads) or "nothing"
    said = match is not None or masks or answers
    require(said, f"{model.path} has heads for {heads}, which say nothing of {query}.")
    return Predictions(match, completed, masks, answers)
