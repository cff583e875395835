"""The generated world of the demo: small scenes of shapes, and captions that are true of them.

A scene is a pure function of (seed, index), whatever other scenes are made, with equal pixels on every platform.
Colours, shapes and cells are distinct within a scene, so any one content word of a caption follows from the image and
the rest of the caption. Every caption names a place or a relation, so it is hardly ever true of another scene; one of a scene
says how many objects there are.

`raw.py` writes the world as official raw downloads; `probes.py` asks what a model has learned of it.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from .draws import below, distinct, pick, stream

IMAGE_SIZE = 48
"""Pixels a side of an image: three cells, each a patch of 16 pixels."""

CELL = IMAGE_SIZE // 3

COLOURS = {
    "red": (222, 38, 44),
    "green": (46, 164, 62),
    "blue": (40, 92, 220),
    "yellow": (250, 198, 12),
    "purple": (146, 52, 180),
    "black": (36, 36, 42),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring")
SIZES = {"small": 8, "large": 14}
"""Pixels a side of an object's box; the largest, moved by `JITTER`, still lies in its cell."""

ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "center", "right")
RELATIONS = ("left of", "right of", "above", "below")
COUNTS = ("one", "two", "three")
"""How many objects a scene has, in words."""

JITTER = 1
"""Pixels by which an object may lie off the centre of its cell, each way."""

OBJECTS_SHARE = (0.35, 0.45, 0.20)
"""How many scenes have 1, 2 and 3 objects."""

CAPTIONS = 5
"""Captions of a scene, as in COCO. Up to `RELATION_CAPTIONS` relate two objects, the others place one; one of those counts."""

RELATION_CAPTIONS = 2

PLACE_TEMPLATES = (
    "a {size} {colour} {shape} in the {row} {column}",
    "there is a {size} {colour} {shape} in the {row} {column}",
    "in the {row} {column} is a {size} {colour} {shape}",
    "the {row} {column} shows a {size} {colour} {shape}",
    "the {shape} in the {row} {column} is {size} and {colour}",
    "the {size} {shape} in the {row} {column} is {colour}",
)
"""The same meaning in other words. All of size, colour, shape and cell are named, or a caption would often be true of
another scene: it is true of 1 in 300, without the size of 1 in 150."""

RELATION_TEMPLATES = (
    "a {size} {colour} {shape} {relation} a {other_size} {other_colour} {other_shape}",
    "there is a {size} {colour} {shape} {relation} a {other_colour} {other_shape}",
    "the {colour} {shape} is {relation} the {other_colour} {other_shape}",
    "{relation} the {other_colour} {other_shape} is a {size} {colour} {shape}",
)

COUNT_TEMPLATES = (
    "a scene of {count} with a {size} {colour} {shape} in the {row} {column}",
    "in a scene of {count} the {row} {column} shows a {size} {colour} {shape}",
)

PATTERNS = ("noise", "gradient", "stripes")
PALE = 200
"""The darkest channel of a background; the colours of objects are far darker."""

# Independent streams of random numbers of a scene.
_SCENE, _GRAIN, _CAPTIONS = range(3)


class Object(NamedTuple):
    """An object of a scene.

    Attributes:
        shape, colour, size, row, column: words of the vocabulary.
        shift: pixels (right, down) off the centre of the cell, each within `JITTER`.
    """

    shape: str
    colour: str
    size: str
    row: str
    column: str
    shift: tuple[int, int]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The tight box (x, y, width, height) in pixels, as COCO writes boxes."""
        side = SIZES[self.size]
        margin = (CELL - side) // 2
        x = COLUMNS.index(self.column) * CELL + margin + self.shift[0]
        y = ROWS.index(self.row) * CELL + margin + self.shift[1]
        return x, y, side, side


class Background(NamedTuple):
    """Attributes: pattern, of `PATTERNS`; colours, two pale RGB; direction (across, down); width of stripes, pixels."""

    pattern: str
    colours: tuple[tuple[int, int, int], tuple[int, int, int]]
    direction: tuple[int, int]
    width: int


class Scene(NamedTuple):
    """Attributes: seed and index it was made from; objects, 1 to 3; background."""

    seed: int
    index: int
    objects: tuple[Object, ...]
    background: Background

    @property
    def content(self) -> tuple[Object, ...]:
        """The scene without what captions cannot describe: equal if two scenes differ in pixels only."""
        return tuple(sorted(thing._replace(shift=(0, 0)) for thing in self.objects))


class Description(NamedTuple):
    """What a caption says of one object; None for attributes that it does not mention."""

    shape: str
    colour: str
    size: str | None = None
    row: str | None = None
    column: str | None = None

    def fits(self, thing: Object) -> bool:
        """Whether an object matches."""
        return all(value is None or value == getattr(thing, name) for name, value in self._asdict().items())


class Fact(NamedTuple):
    """What a caption claims: one of `count` objects matches `subject`, and stands in `relation` to one that matches `other`."""

    subject: Description
    relation: str | None = None
    other: Description | None = None
    count: str | None = None


class Caption(NamedTuple):
    """Attributes: text, lower case and without punctuation, words separated by one blank; fact, what it claims."""

    text: str
    fact: Fact


def make_scene(seed: int, index: int, *, objects: int | None = None) -> Scene:
    """Scene number `index` of the world `seed`.

    Args:
        seed: which world, >= 0.
        index: which scene of it, >= 0.
        objects: how many objects, 1 to 3; None draws by `OBJECTS_SHARE`.
    """
    draws = stream(seed, index, _SCENE)
    unit = draws.random()
    count = 1 + (unit >= OBJECTS_SHARE[0]) + (unit >= OBJECTS_SHARE[0] + OBJECTS_SHARE[1])
    if objects is not None:
        count = objects
    shapes, colours = distinct(draws, SHAPES, count), distinct(draws, tuple(COLOURS), count)
    cells = distinct(draws, tuple((row, column) for row in ROWS for column in COLUMNS), count)
    things = []
    for shape, colour, (row, column) in zip(shapes, colours, cells, strict=True):
        size = pick(draws, SIZES)
        shift = (below(draws, 2 * JITTER + 1) - JITTER, below(draws, 2 * JITTER + 1) - JITTER)
        things.append(Object(shape, colour, size, row, column, shift))
    return Scene(seed, index, tuple(things), _background(draws))


def _background(draws: random.Random) -> Background:
    first, second = (tuple(PALE + 4 + below(draws, 49) for _ in range(3)) for _ in range(2))
    direction = pick(draws, ((1, 0), (0, 1), (1, 1), (1, -1)))
    return Background(pick(draws, PATTERNS), (first, second), direction, 3 + below(draws, 4))


def render(scene: Scene) -> np.ndarray:
    """The image of a scene.

    Returns:
        (48, 48, 3) uint8 RGB. Integer arithmetic only, so every platform gives the same bytes.
    """
    image = _paint(scene)
    for thing in scene.objects:
        x, y, width, height = thing.box
        spot = image[:, y : y + height, x : x + width]
        seen, drawn = _sprite(thing.shape, thing.colour, width)
        spot[:] = (spot * seen + drawn) // 255
    return np.ascontiguousarray(image.transpose(1, 2, 0), dtype=np.uint8)


def _paint(scene: Scene) -> np.ndarray:
    """The background: (3, 48, 48) uint16 from `PALE` to 255, with a grain that no two scenes share."""
    pattern, colours, direction, width = scene.background
    first, second = np.array(colours, dtype=np.int16)[..., None, None]
    grain = np.frombuffer(stream(scene.seed, scene.index, _GRAIN).randbytes(IMAGE_SIZE * IMAGE_SIZE), dtype=np.uint8)
    grain = grain.reshape(IMAGE_SIZE, IMAGE_SIZE).astype(np.int16)
    if pattern == "noise":
        # One tone, pulled to the middle of the pale ones: room for noise of -16 to 15.
        image = (first - PALE - 4) // 2 + PALE + (grain >> 3)
    else:
        image = first + ((second - first) * _weights(pattern, direction, width) >> 8) + ((grain >> 5) - 4)
    return image.astype(np.uint16)


@functools.cache
def _weights(pattern: str, direction: tuple[int, int], width: int) -> np.ndarray:
    """Share of the second colour in each pixel, (48, 48) int16 in units of 1/256."""
    across, down = direction
    rows, columns = np.ogrid[:IMAGE_SIZE, :IMAGE_SIZE]
    last = IMAGE_SIZE - 1
    along = across * columns + down * rows + last * (down < 0)
    share = along // width % 2 * 256 if pattern == "stripes" else along * 256 // (last * (across + abs(down)))
    return np.broadcast_to(share, (IMAGE_SIZE, IMAGE_SIZE)).astype(np.int16)


@functools.cache
def _sprite(shape: str, colour: str, side: int) -> tuple[np.ndarray, np.ndarray]:
    """An object as two layers for alpha blending: weight of the background, and colour to add, in units of 1/255.

    Returns:
        (side, side) and (3, side, side) uint16; the alpha of a pixel is the share of its 8 x 8 samples inside the shape.
    """
    samples = 8
    n = side * samples
    # Sample positions in units in which the box reaches from -n to n each way; odd, so none lies on an edge of the box.
    y, x = np.ogrid[1 - n : n : 2, 1 - n : n : 2]
    inside = {
        "circle": x * x + y * y <= n * n,
        "square": (abs(x) <= n) & (abs(y) <= n),
        "triangle": 2 * abs(x) <= y + n,
        "cross": (3 * abs(x) <= n) | (3 * abs(y) <= n),
        "ring": (x * x + y * y <= n * n) & (3 * (x * x + y * y) >= n * n),
    }[shape]
    share = inside.reshape(side, samples, side, samples).sum(axis=(1, 3))
    cover = (share * 255 // samples**2).astype(np.uint16)
    rounding = 127
    return 255 - cover, cover * np.array(COLOURS[colour], dtype=np.uint16)[:, None, None] + rounding


def relation(first: Object, second: Object) -> str | None:
    """The relation of the first object to the second, along the longer of the two distances; None on an exact diagonal.

    So at most one of the four relations holds, and a masked relation has one right answer.
    """
    right = COLUMNS.index(first.column) - COLUMNS.index(second.column)
    down = ROWS.index(first.row) - ROWS.index(second.row)
    if abs(right) == abs(down):
        return None
    if abs(right) > abs(down):
        return "right of" if right > 0 else "left of"
    return "below" if down > 0 else "above"


def related_pairs(scene: Scene) -> list[tuple[Object, Object]]:
    """The pairs of its objects that stand in a relation."""
    return [(a, b) for a in scene.objects for b in scene.objects if a is not b and relation(a, b)]


def count(scene: Scene) -> str:
    """How many objects it has, in words."""
    return COUNTS[len(scene.objects) - 1]


def is_true(fact: Fact, scene: Scene) -> bool:
    """Whether a fact holds in a scene."""
    subjects = [thing for thing in scene.objects if fact.subject.fits(thing)]
    if fact.count not in (None, count(scene)):
        return False
    if fact.other is None:
        return bool(subjects)
    others = [thing for thing in scene.objects if fact.other.fits(thing)]
    return any(relation(subject, other) == fact.relation for subject in subjects for other in others)


def captions(scene: Scene) -> list[Caption]:
    """The `CAPTIONS` captions of a scene, no two in the same words; a pure function of the scene's seed and index."""
    draws = stream(scene.seed, scene.index, _CAPTIONS)
    pairs = related_pairs(scene)
    related = RELATION_CAPTIONS if pairs else 0
    result = []
    for template in distinct(draws, RELATION_TEMPLATES, related):
        subject, other = pick(draws, pairs)
        result.append(_fill(template, scene, subject, other))
    # Objects take turns, so that every one is described.
    things = distinct(draws, scene.objects, len(scene.objects))
    placing = pick(draws, COUNT_TEMPLATES), *distinct(draws, PLACE_TEMPLATES, CAPTIONS - related - 1)
    for turn, template in enumerate(placing):
        result.append(_fill(template, scene, things[turn % len(things)]))
    return distinct(draws, tuple(result), CAPTIONS)


def _fill(template: str, scene: Scene, subject: Object, other: Object | None = None) -> Caption:
    """A caption from a template, with the fact that it states."""

    def described(thing: Object, prefix: str) -> Description:
        words = {name: getattr(thing, name) for name in Description._fields if f"{{{prefix}{name}}}" in template}
        return Description(**words)

    values = subject._asdict() | {"count": count(scene)}
    fact = Fact(described(subject, ""), count=values["count"] if "{count}" in template else None)
    if other is not None:
        fact = fact._replace(relation=relation(subject, other), other=described(other, "other_"))
        values |= {f"other_{name}": word for name, word in other._asdict().items()} | {"relation": fact.relation}
    return Caption(template.format(**values), fact)


def words(templates: Iterable[str]) -> set[str]:
    """The fixed words of templates."""
    return set(" ".join(re.sub(r"{\w+}", "", template) for template in templates).split())


def vocabulary() -> list[str]:
    """Every word that captions use, sorted. Each is one WordPiece of google-bert/bert-base-uncased."""
    filled_in = " ".join((*COLOURS, *SHAPES, *SIZES, *ROWS, *COLUMNS, *RELATIONS, *COUNTS)).split()
    return sorted(words(PLACE_TEMPLATES + RELATION_TEMPLATES + COUNT_TEMPLATES) | {*filled_in})
