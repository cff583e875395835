"""`python run.py predict with load_path=... image=... text=...`: what a checkpoint makes of one image and text."""

from renaissance.core.checks import flag, integer, path, plugin_names, require_checkpoint
from renaissance.core.checks import text as a_text
from renaissance.core.console import say
from renaissance.core.errors import printable, require
from renaissance.core.launch import lasting_imports
from renaissance.core.untrusted import refuse_special


# fmt: off
class Predict:
    """What is asked"""

    load_path: path("the path of a checkpoint") = None  # checkpoint of the model, or a folder that `export` wrote
    plugins: plugin_names = None  # modules and files that the checkpoint was trained with, such as ["my_lab.gqa", "path/to/file.py"]
    image: path("the path of an image") = None  # file of an image; None = fill the masks of the text without one
    text: a_text("a text") = None  # a caption, a question, or a text with [MASK] in the place of words
    trust_remote_code: flag = False  # True: runs the code that an encoder of the checkpoint brought
    top: integer(1) = 5  # how many answers, and how many words for each mask
# fmt: on


def main(load_path: str | None, image: str | None, text: str | None, trust_remote_code: bool, top: int) -> None:
    """Prints the predictions of all heads of the checkpoint.

    Raises:
        UserError: a setting is missing, or nothing can be said.
    """
    require(load_path is not None, "load_path=None: give the path of a checkpoint with load_path=.")
    require(text is not None, "text=None: give a text with text=.")
    if image is not None:
        refuse_special(image, f"image={printable(image)}")  # at once: torch takes seconds
    require_checkpoint("load_path", load_path)
    with lasting_imports():
        from renaissance.inference.loaded import Loaded  # here, because it imports torch

    model = Loaded(load_path, trust_remote_code=trust_remote_code)
    lines, masks = [], model.masks(text)
    if image is not None and model.matching:
        scored, note = text, ""
        if masks and model.filling:
            scored = model.complete(image, text)
            note = f" (masks filled: {scored})"
        lines.append(f"the text belongs to the image: {model.score(image, scored):.3f}{note}")
    if masks and model.filling:
        for number, words in enumerate(model.fill(image, text, top), 1):
            lines.append(f"mask {number}: " + ", ".join(f"{word} {share:.3f}" for word, share in words))
    if image is not None and model.answering:
        answers = (f"{answer} {score:.3f}" for answer, score in model.answer(image, text, top))
        lines.append(f"answers: {', '.join(answers)}")
    query = "one image and text" if image is not None else "a text without [MASK] and without image="
    heads = ", ".join(model.heads) or "nothing"
    require(lines, f"{load_path} has heads for {heads}, which say nothing of {query}.")
    say("\n".join(lines))
