"""The generated world as a probe in the layout of VALSE: true sentences about held-out scenes of two objects, each with a foil.

All words of a foil are true of something in the picture, so a model to which texts and pictures are bags of words cannot tell it
from the truth: the colour or the shape is that of the other object, or two objects have exchanged their colours or their places.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from .raw import save_image, save_text
from .raw_tasks import Sizes, split_scenes
from .world import PLACE_TEMPLATES, RELATION_TEMPLATES, Description, Fact, Scene, related_pairs, relation


class Foil(NamedTuple):
    """Attributes: name of the kind; caption, true; text, false; fact, what it claims."""

    name: str
    caption: str
    text: str
    fact: Fact


def sentence(fact: Fact) -> str:
    """A fact in words of the world's captions."""
    words = fact.subject._asdict()
    if fact.other is None:
        return PLACE_TEMPLATES[0].format(**words)
    other = {f"other_{name}": word for name, word in fact.other._asdict().items()}
    return RELATION_TEMPLATES[2].format(**words, **other, relation=fact.relation)


def foils(scene: Scene) -> list[Foil]:
    """A foil of each kind of a scene of two objects; none where these stand in no relation."""
    pairs = related_pairs(scene)
    if not pairs:
        return []
    first, second = pairs[scene.index % len(pairs)]
    stands = relation(first, second)
    placed = Description(first.shape, first.colour, first.size, first.row, first.column)
    one, two = (Description(thing.shape, thing.colour) for thing in (first, second))
    places, related = Fact(placed), Fact(one, stands, two)
    exchanged = Fact(one._replace(colour=two.colour), stands, two._replace(colour=one.colour))
    false = {
        "attribute-swap": (places, Fact(placed._replace(colour=second.colour))),
        "object-swap": (places, Fact(placed._replace(shape=second.shape))),
        "colours-exchanged": (related, exchanged),
        "relation-turned": (related, Fact(two, stands, one)),
    }
    return [Foil(name, sentence(true), sentence(fact), fact) for name, (true, fact) in false.items()]


def write_valse(root: Path, seed: int, sizes: Sizes) -> None:
    """Writes `data/<kind>.json` and `images/`. Arguments as for `raw_tasks.write_vqa`; only test scenes, all of two objects."""
    files: dict[str, dict[str, object]] = {}
    for scene in split_scenes(seed, Sizes(0, 0, sizes.test), lambda index: 2)["test"]:
        image, found = f"{scene.index:012d}.png", foils(scene)
        if found:
            save_image(root / "images" / image, scene)
        for name, caption, text, _ in found:
            entry = {"dataset": "demo", "original_split": "test", "image_file": image, "caption": caption, "foil": text}
            entry |= {"mturk": {"caption": 3, "foil": 0, "other": 0}, "linguistic_phenomena": name}
            files.setdefault(name, {})[f"{name}_{scene.index}"] = entry
    for name, entries in files.items():
        save_text(root / "data" / f"{name}.json", json.dumps(entries))
