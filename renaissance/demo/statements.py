"""Statements about scenes of the generated world: entailment, sentences about two images, expressions, pairs of sentences.

All are pure functions of (seed, index), and balanced: each answer to a text is equally likely, so a model without images is no
better than chance. Pairs of sentences are about texts alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

from .draws import distinct, pick, stream
from .world import COLOURS, PLACE_TEMPLATES, ROWS, SHAPES, SIZES, Object, Scene, captions, words

# Streams of random numbers, see `draws.stream`.
_ENTAILMENT, _SENTENCE, _PAIRS, _EXPRESSION, _SENTENCE_PAIR = range(20, 25)

LABELS = ("entailment", "neutral", "contradiction")
_VALUES = {"colour": tuple(COLOURS), "size": tuple(SIZES), "row": ROWS}
_HYPOTHESES = {
    "colour": "the {shape} is {value}",
    "size": "the {shape} is {value}",
    "row": "the {shape} is in the {value} row",
}


class Entailment(NamedTuple):
    """Attributes: premise, a caption of the image; hypothesis; label, one of `LABELS`."""

    premise: str
    hypothesis: str
    label: str


def entailments(scene: Scene) -> list[Entailment]:
    """Three hypotheses about a scene, one of each label.

    A hypothesis is about the one object of a shape: entailed if it is true of the object, a contradiction if it is false,
    neutral if the image has no such object.
    """
    draws = stream(scene.seed, scene.index, _ENTAILMENT)
    premises = distinct(draws, captions(scene), len(LABELS))
    by_shape = {thing.shape: thing for thing in scene.objects}
    absent = [shape for shape in SHAPES if shape not in by_shape]
    result = []
    for premise, label in zip(premises, LABELS, strict=True):
        attribute = pick(draws, _VALUES)
        shape = pick(draws, absent if label == "neutral" else by_shape)
        value = pick(draws, _VALUES[attribute])
        if label != "neutral":
            true = getattr(by_shape[shape], attribute)
            others = [each for each in _VALUES[attribute] if each != true]
            value = true if label == "entailment" else pick(draws, others)
        result.append(Entailment(premise.text, _HYPOTHESES[attribute].format(shape=shape, value=value), label))
    return distinct(draws, result, len(result))


class Sentence(NamedTuple):
    """A sentence about two images, and what makes it true.

    Attributes:
        text: the sentence. colour, shape: of the object that it is about.
        wanted: whether the object has to be in the left and in the right image; None = either way.
    """

    text: str
    colour: str
    shape: str
    wanted: tuple[bool | None, bool | None]

    def fits(self, present: tuple[bool, ...]) -> bool:
        """Whether it is true if the object is `present` in the left and in the right image."""
        return all(want is None or want == shown for want, shown in zip(self.wanted, present, strict=True))


_TWO_IMAGES = {
    "the left picture shows a {colour} {shape}": (True, None),
    "the right picture shows a {colour} {shape}": (None, True),
    "both pictures show a {colour} {shape}": (True, True),
    "no picture shows a {colour} {shape}": (False, False),
}


def sentence(seed: int, index: int) -> Sentence:
    """Sentence number `index` of the world about two images."""
    draws = stream(seed, index, _SENTENCE)
    template = pick(draws, _TWO_IMAGES)
    colour, shape = pick(draws, COLOURS), pick(draws, SHAPES)
    return Sentence(template.format(colour=colour, shape=shape), colour, shape, _TWO_IMAGES[template])


def shows(scene: Scene, colour: str, shape: str) -> bool:
    """Whether a scene has such an object."""
    return any((thing.colour, thing.shape) == (colour, shape) for thing in scene.objects)


def image_pairs(seed: int, index: int, scenes: Sequence[Scene]) -> list[tuple[int, int, bool]]:
    """Four pairs of images for sentence number `index`, two that make it true and two that do not.

    Whether the object is in the image that does not matter is random, so one image alone does not tell the answer.

    Args:
        seed, index: of the sentence. scenes: of one split; the object is in several of them and not in several others.

    Returns:
        (left, right, whether it is true): places in `scenes`.
    """
    statement, draws = sentence(seed, index), stream(seed, index, _PAIRS)
    with_it, without = [], []
    for place, scene in enumerate(scenes):
        (with_it if shows(scene, statement.colour, statement.shape) else without).append(place)
    result = []
    for true in (True, False, True, False):
        options = [option for option in product((True, False), repeat=2) if statement.fits(option) == true]
        left, right = (with_it if present else without for present in pick(draws, options))
        first = pick(draws, left)
        result.append((first, pick(draws, [place for place in right if place != first]), true))
    return result


_EXPRESSIONS = ("the {colour} {shape}", "the {shape}", "the {colour} shape")


def expressions(scene: Scene) -> list[tuple[Object, tuple[str, str]]]:
    """For each object two expressions that mean it alone, by colour and shape: all that a crop of it shows."""
    draws = stream(scene.seed, scene.index, _EXPRESSION)
    return [
        (thing, tuple(form.format(**thing._asdict()) for form in distinct(draws, _EXPRESSIONS, 2)))
        for thing in scene.objects
    ]


class SentencePair(NamedTuple):
    """Attributes: first, second; same, whether they mean the same in other words."""

    first: str
    second: str
    same: bool


def sentence_pair(scene: Scene) -> SentencePair:
    """Two captions of one object in different words; in half of the pairs the second is wrong in its colour or shape."""
    draws = stream(scene.seed, scene.index, _SENTENCE_PAIR)
    thing, same = pick(draws, scene.objects), draws.random() < 0.5
    first, second = distinct(draws, PLACE_TEMPLATES, 2)
    other = thing
    while not same and other == thing:
        other = thing._replace(colour=pick(draws, COLOURS))
        if draws.random() < 0.5:
            other = thing._replace(shape=pick(draws, SHAPES))
    return SentencePair(first.format(**thing._asdict()), second.format(**other._asdict()), same)


def vocabulary() -> set[str]:
    """The fixed words of the statements."""
    return words((*_HYPOTHESES.values(), *_TWO_IMAGES, *_EXPRESSIONS))
