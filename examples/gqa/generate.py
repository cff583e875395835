"""A small GQA in the official layout: `python examples/gqa/generate.py <folder>`. Coloured shapes, and questions about them."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue", "yellow", "white", "black")
SHAPES = ("circle", "square")
IMAGES = {"train": 48, "val": 12, "testdev": 12}


def write(root: Path, images: dict[str, int] = IMAGES, seed: int = 0) -> None:
    """Writes the questions and images of every split.

    Args:
        root: the folder. images: how many of each split.
    """
    (root / "images").mkdir(parents=True, exist_ok=True)
    for split, count in images.items():
        questions = {}
        for number in range(count):
            image_id, draw = f"{split}{number}", random.Random(f"{seed} {split} {number}")
            colour, shape = draw.choice(COLOURS), draw.choice(SHAPES)
            _image(colour, shape, draw).save(root / "images" / f"{image_id}.jpg", quality=95)
            for place, entry in enumerate(_questions(image_id, colour, shape, draw)):
                questions[f"{image_id}0{place}"] = entry
        text = json.dumps(questions)
        (root / f"{split}_balanced_questions.json").write_text(text, encoding="utf-8")


def _image(colour: str, shape: str, draw: random.Random) -> Image.Image:
    image = Image.new("RGB", (64, 48), (120, 110, 100))
    left, top = draw.randrange(4, 36), draw.randrange(4, 20)
    box = (left, top, left + 24, top + 24)
    canvas = ImageDraw.Draw(image)
    (canvas.ellipse if shape == "circle" else canvas.rectangle)(box, fill=colour)
    return image


def _questions(image_id: str, colour: str, shape: str, draw: random.Random) -> list[dict[str, Any]]:
    """A question of each answer type, with the fields of the official files."""
    other = draw.choice(COLOURS)
    verified = "yes" if other == colour else "no"
    asked = [
        (f"What color is the {shape}?", colour, f"The {shape} is {colour}.", "query", "attr"),
        (f"Is the {shape} {other}?", verified, f"{verified.title()}, the {shape} is {colour}.", "verify", "attr"),
        ("Which shape is it, circle or square?", shape, f"It is a {shape}.", "choose", "obj"),
    ]
    return [
        {
            "semantic": [{"operation": "select", "dependencies": [], "argument": f"{shape} (0)"}],
            "entailed": [],
            "equivalent": [],
            "question": question,
            "imageId": image_id,
            "isBalanced": True,
            "groups": {"global": semantic, "local": f"{place}-{shape}"},
            "answer": answer,
            "semanticStr": f"select: {shape} (0)",
            "annotations": {"answer": {}, "question": {}, "fullAnswer": {}},
            "types": {"detailed": f"{structural}{semantic.title()}", "semantic": semantic, "structural": structural},
            "fullAnswer": full,
        }
        for place, (question, answer, full, structural, semantic) in enumerate(asked)
    ]


if __name__ == "__main__":
    write(Path(sys.argv[1]))
