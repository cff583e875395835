"""`python run.py predict with load_path=... image=... text=...`: what a checkpoint makes of one picture and text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sacred import Experiment

from renaissance.errors import UserError

ex = Experiment("predict", save_git_info=False)


@ex.config
def defaults():
    load_path = None  # checkpoint of the model
    image = None  # file of a picture; None = fill the masks of the text without one
    text = None  # a caption, a question, or a text with [MASK] in the place of words
    trust_remote_code = False  # True: runs the code that an encoder of the checkpoint brought
    top = 5  # how many answers, and how many words for each mask


def main(values: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    """Prints all that the heads of the checkpoint can say.

    Raises:
        UserError: a setting is missing, or nothing can be said.
    """
    for key, what in (("load_path", "the path of a checkpoint"), ("text", "a text")):
        if not isinstance(values[key], str) or not values[key].strip():
            raise UserError(f"{key}={values[key]!r}: give {what} with {key}=.")
    top, image, text = values["top"], values["image"], values["text"]
    if not isinstance(top, int) or isinstance(top, bool) or top < 1:
        raise UserError(f"top={top!r} is not allowed: give a whole number of at least 1.")
    trusted = values["trust_remote_code"]
    if not isinstance(trusted, bool):
        raise UserError(f"trust_remote_code={trusted!r} is not allowed: give True or False.")
    from renaissance.predict import load

    model = load(values["load_path"], trust_remote_code=trusted)
    lines = []
    if image is not None and {"itm", "irtr"} & set(model.heads):
        lines.append(f"the text belongs to the picture: {model.score(image, text):.3f}")
    if "mlm" in model.heads and "[MASK]" in text:
        for number, words in enumerate(model.fill(image, text, top), 1):
            lines.append(f"mask {number}: " + ", ".join(f"{word} {share:.3f}" for word, share in words))
    if image is not None and "vqa" in model.heads:
        lines.append(
            "answers: " + ", ".join(f"{answer} {score:.3f}" for answer, score in model.answer(image, text, top))
        )
    if not lines:
        raise UserError(
            f"{values['load_path']} has heads for {', '.join(model.heads) or 'nothing'}, which say nothing of "
            f"{'a text without [MASK] and without image=' if image is None else 'one picture and text'}."
        )
    print("\n".join(lines))
