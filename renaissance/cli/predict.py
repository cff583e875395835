"""`python run.py predict with load_path=... image=... text=...`: what a checkpoint makes of one image and text."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from renaissance.core.atomic import AtomicFile
from renaissance.core.checks import choice, flag, integer, path, plugin_names, require_checkpoint
from renaissance.core.checks import text as a_text
from renaissance.core.console import say
from renaissance.core.errors import printable, require
from renaissance.core.launch import lasting_imports
from renaissance.core.untrusted import refuse_special
from renaissance.inference.heat_map import METHODS


# fmt: off
class Predict:
    """What is asked"""

    load_path: path("the path of a checkpoint") = None  # checkpoint of the model, or a folder that `export` wrote
    plugins: plugin_names = None  # modules and files that the checkpoint was trained with, such as ["my_lab.gqa", "path/to/file.py"]
    image: path("the path of an image") = None  # file of an image; None = fill the masks of the text without one
    text: a_text("a text") = None  # a caption, a question, or a text with [MASK] in the place of words
    trust_remote_code: flag = False  # True: runs the code that an encoder of the checkpoint brought
    top: integer(1) = 5  # how many answers, and how many words for each mask
    heatmap: path("the path of a PNG file") = None  # instead draws which patches of the image the word, the answer or the match rests on
    word: a_text("words of the text") = None  # of heatmap: a word of the text, or some that follow each other; None = the first [MASK], or the whole text
    target: a_text("an output") = None  # of heatmap with method=gradient: match, or an answer; None = the word, the match or the best answer
    method: choice(*METHODS) = METHODS[0]  # of heatmap: gradient, rollout and attention follow attention; transport aligns words with patches
# fmt: on


def main(
    load_path: str | None,
    image: str | None,
    text: str | None,
    trust_remote_code: bool,
    top: int,
    heatmap: str | None,
    word: str | None,
    target: str | None,
    method: str,
) -> None:
    """Prints the predictions of all heads of the checkpoint, or draws a heat map.

    Raises:
        UserError: a setting is missing, or nothing can be said.
    """
    require(load_path is not None, "load_path=None: give the path of a checkpoint with load_path=.")
    require(text is not None, "text=None: give a text with text=.")
    if image is not None:
        refuse_special(image, f"image={printable(image)}")  # at once: torch takes seconds
    require_checkpoint("load_path", load_path)
    if heatmap is not None:
        _refuse_heatmap(image, heatmap)
        with AtomicFile(Path(heatmap), "heatmap") as file:  # which is refused before the model is loaded
            content, title = _drawn(_loaded(load_path, trust_remote_code), image, text, word, method, target)
            file.write(content)
            file.commit()
        say(f"{heatmap}: {title}")
        return
    asked = {"word": word, "target": target, "method": None if method == METHODS[0] else method}
    given = [key for key, value in asked.items() if value is not None]
    require(not given, f"{', '.join(given)}: of a heat map; name its file with heatmap=, or leave it out.")
    _say_all(_loaded(load_path, trust_remote_code), image, text, top)


def _refuse_heatmap(image: str | None, heatmap: str) -> None:
    """Raises a UserError for a file that cannot be drawn."""
    require(heatmap.lower().endswith(".png"), f"heatmap={heatmap} is no PNG file; give a name that ends in .png.")
    require(image is not None, "image=None: heatmap is drawn over an image; give one with image=.")


def _loaded(load_path: str, trust_remote_code: bool) -> Any:
    with lasting_imports():
        from renaissance.inference.loaded import Loaded  # here, because it imports torch

    return Loaded(load_path, trust_remote_code=trust_remote_code)


def _drawn(model: Any, image: str, text: str, word: str | None, method: str, target: str | None) -> tuple[bytes, str]:
    """The PNG file of a heat map, and its title."""
    from renaissance.reports.heat_maps import explained

    (picture, heat), stream = explained(model, image, text, word, method, target), io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue(), heat.title


def _say_all(model: Any, image: str | None, text: str, top: int) -> None:
    from renaissance.inference.predictions import predictions

    found, lines = predictions(model, image, text, top), []
    if found.match is not None:
        note = "" if found.completed is None else f" (masks filled: {found.completed})"
        lines.append(f"the text belongs to the image: {found.match:.3f}{note}")
    for number, words in enumerate(found.masks, 1):
        lines.append(f"mask {number}: {_listed(words)}")
    if found.answers:
        lines.append(f"answers: {_listed(found.answers)}")
    say("\n".join(lines))


def _listed(shares: Iterable[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {share:.3f}" for name, share in shares)
