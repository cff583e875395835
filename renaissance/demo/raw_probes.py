"""The generated world as a probe in the layout of VALSE: true sentences about held-out scenes of two objects, each with a foil.

All words of a foil are true of something in the picture, so a model to which texts and pictures are bags of words cannot tell it
from the truth: the colour or the shape is that of the other object, or two objects have exchanged their colours or their places.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .raw import save_image, save_text
from .raw_tasks import Sizes, split_scenes
from .world import Description, Fact, Scene, related_pairs, relation

PLACE, RELATION = (
    "a {0.size} {0.colour} {0.shape} in the {0.row} {0.column}",
    "the {0.colour} {0.shape} is {1} the {2.colour} {2.shape}",
)
"""As captions of the world have it."""


class Foil(NamedTuple):
    """Attributes: name of the kind; caption, true; text, false; fact, what it claims."""

    name: str
    caption: str
    text: str
    fact: Fact


def foils(scene: Scene) -> Iterator[Foil]:
    """A foil of each kind of a scene of two objects; none where these stand in no relation."""
    pairs = related_pairs(scene)
    if not pairs:
        return
    first, second = pairs[scene.index % len(pairs)]
    stands = relation(first, second)
    placed = Description(first.shape, first.colour, first.size, first.row, first.column)
    true = PLACE.format(placed)
    for name, other in (("attribute-swap", {"colour": second.colour}), ("object-swap", {"shape": second.shape})):
        false = placed._replace(**other)
        yield Foil(name, true, PLACE.format(false), Fact(false))
    one, two = (Description(thing.shape, thing.colour) for thing in (first, second))
    true = RELATION.format(one, stands, two)
    changed = {
        "colours-exchanged": (one._replace(colour=two.colour), two._replace(colour=one.colour)),
        "relation-turned": (two, one),
    }
    for name, (subject, other) in changed.items():
        yield Foil(name, true, RELATION.format(subject, stands, other), Fact(subject, stands, other))


def write_valse(root: Path, seed: int, sizes: Sizes) -> None:
    """Writes `data/<kind>.json` and `images/`. Arguments as for `raw_tasks.write_vqa`; only test scenes, all of two objects."""
    files: dict[str, dict[str, object]] = {}
    for scene in split_scenes(seed, Sizes(0, 0, sizes.test), lambda index: 2)["test"]:
        image = f"{scene.index:012d}.png"
        for name, caption, text, _ in foils(scene):
            save_image(root / "images" / image, scene)
            entry = {"dataset": "demo", "original_split": "test", "image_file": image, "caption": caption, "foil": text}
            votes = {"caption": 3, "foil": 0, "other": 0}
            files.setdefault(name, {})[f"{name}_{scene.index}"] = {
                **entry,
                "mturk": votes,
                "linguistic_phenomena": name,
            }
    for name, entries in files.items():
        save_text(root / "data" / f"{name}.json", json.dumps(entries))
