"""The generated world as a probe in the layout of VALSE: true sentences about held-out scenes, each with a foil.

In foils of attributes, objects and relations all words are true of something in the picture, so a model to which texts and
pictures are bags of words cannot tell them from the truth: the colour or the shape is that of another object, or two objects
have exchanged their colours or their places. A foil of counts has another number; each is as often true as false.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from .raw import save_image, save_text
from .raw_tasks import Sizes, split_scenes
from .world import (
    COUNT_TEMPLATES,
    COUNTS,
    PLACE_TEMPLATES,
    RELATION_TEMPLATES,
    Description,
    Fact,
    Scene,
    count,
    related_pairs,
    relation,
)


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
        return (COUNT_TEMPLATES if fact.count else PLACE_TEMPLATES)[0].format(**words, count=fact.count)
    other = {f"other_{name}": word for name, word in fact.other._asdict().items()}
    return RELATION_TEMPLATES[2].format(**words, **other, relation=fact.relation)


def foils(scene: Scene) -> list[Foil]:
    """A foil of each kind; of counts alone where no two objects stand in a relation."""
    pairs = related_pairs(scene)
    first, second = pairs[scene.index % len(pairs)] if pairs else (scene.objects[0], None)
    placed = Description(first.shape, first.colour, first.size, first.row, first.column)
    places, counted = Fact(placed), Fact(placed, count=count(scene))
    # The scene's number of objects follows its index by threes, so the next number of the index decides which is claimed.
    others = [each for each in COUNTS if each != counted.count]
    false = {"count": (counted, counted._replace(count=others[scene.index // len(COUNTS) % len(others)]))}
    if second is not None:
        stands = relation(first, second)
        one, two = (Description(thing.shape, thing.colour) for thing in (first, second))
        exchanged = Fact(one._replace(colour=two.colour), stands, two._replace(colour=one.colour))
        false |= {
            "attribute-swap": (places, Fact(placed._replace(colour=second.colour))),
            "object-swap": (places, Fact(placed._replace(shape=second.shape))),
            "colours-exchanged": (Fact(one, stands, two), exchanged),
            "relation-turned": (Fact(one, stands, two), Fact(two, stands, one)),
        }
    return [Foil(name, sentence(true), sentence(fact), fact) for name, (true, fact) in false.items()]


def objects(index: int) -> int:
    """How many objects the scene of an index has in the probe."""
    return 1 + index % len(COUNTS)


def write_valse(root: Path, seed: int, sizes: Sizes) -> None:
    """Writes `data/<kind>.json` and `images/`: test scenes of one, two and three objects in turn. As `raw_tasks.write_vqa`."""
    files: dict[str, dict[str, object]] = {}
    for scene in split_scenes(seed, Sizes(0, 0, sizes.test), objects)["test"]:
        image = f"{scene.index:012d}.png"
        save_image(root / "images" / image, scene)
        for name, caption, text, _ in foils(scene):
            entry = {"dataset": "demo", "original_split": "test", "image_file": image, "caption": caption, "foil": text}
            entry |= {"mturk": {"caption": 3, "foil": 0, "other": 0}, "linguistic_phenomena": name}
            files.setdefault(name, {})[f"{name}_{scene.index}"] = entry
    for name, entries in files.items():
        save_text(root / "data" / f"{name}.json", json.dumps(entries))
