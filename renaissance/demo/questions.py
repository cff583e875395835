"""Questions about a scene of the generated world, each with the answers of ten annotators, as VQAv2 has them.

Questions are drawn independently of the scene's other objects, so the text alone tells little: the best guess of the answer
from the question is right half the time for binary answers, and far less for others.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from .draws import below, distinct, pick, stream
from .world import COLOURS, RELATIONS, SHAPES, SIZES, Scene, related_pairs, relation

QUESTIONS = 4
"""Questions of a scene; the last one is about a relation if two objects have one."""

RELATION_TYPE = "relation"
"""Prefix of the question types of relations, which are reported separately."""

_QUESTIONS, _ANNOTATORS = 10, 11  # streams of random numbers, see `draws.stream`
_DISSENT = 0.2  # share of the questions that two annotators answer otherwise
_SPOKEN = {"1": "one", "2": "two", "3": "three", "yes": "Yes.", "no": "No"}


# Questions about one object: start of the question, how it names the object, the attribute that is the answer.
_ABOUT = (
    ("what colour is the", "{shape}", "colour"),
    ("what shape is", "{colour}", "shape"),
    ("what size is the", "{shape}", "size"),
    ("what shape is in the", "{row} {column}", "shape"),
)


class Question(NamedTuple):
    """Attributes: text; answer, as the majority gives it; answer_type and question_type, as VQAv2 annotates them; answers
    of the ten annotators."""

    text: str
    answer: str
    answer_type: str
    question_type: str
    answers: tuple[str, ...] = ()


def questions(scene: Scene) -> list[Question]:
    """The `QUESTIONS` questions of a scene, no two alike; a pure function of the scene's seed and index."""
    draws = stream(scene.seed, scene.index, _QUESTIONS)
    by_text: dict[str, Question] = {}
    related = _about_relation(scene, draws)
    while len(by_text) < QUESTIONS - len(related):
        question = _question(scene, draws)
        by_text.setdefault(question.text, question)
    people = stream(scene.seed, scene.index, _ANNOTATORS)
    return [each._replace(answers=_annotated(each.answer, people)) for each in (*by_text.values(), *related)]


def _question(scene: Scene, draws: random.Random) -> Question:
    """A question that is not about a relation, still without the answers of annotators."""
    which = below(draws, 2 + len(_ABOUT))
    if which == 0:
        return _about_existence(scene, draws)
    if which == 1:
        return Question("how many shapes are there", str(len(scene.objects)), "number", "how many")
    start, name, attribute = _ABOUT[which - 2]
    thing = pick(draws, scene.objects)
    return Question(f"{start} {name.format(**thing._asdict())}", getattr(thing, attribute), "other", start)


def _about_existence(scene: Scene, draws: random.Random) -> Question:
    """Asks whether an object exists. One that does not mostly shares its colour or shape with one that does."""
    exists = draws.random() < 0.5
    shown = pick(draws, scene.objects)
    colour, shape = shown.colour, shown.shape
    present = {(thing.colour, thing.shape) for thing in scene.objects}
    while not exists and (colour, shape) in present:
        which = below(draws, 3)
        colour = shown.colour if which == 0 else pick(draws, COLOURS)
        shape = shown.shape if which == 1 else pick(draws, SHAPES)
    return Question(f"is there a {colour} {shape}", "yes" if exists else "no", "yes/no", "is there a")


def _about_relation(scene: Scene, draws: random.Random) -> list[Question]:
    """One question about the relation of two objects; none if no two have one."""
    pairs = related_pairs(scene)
    if not pairs:
        return []
    subject, other = pick(draws, pairs)
    true = relation(subject, other)
    claimed = true if draws.random() < 0.5 else pick(draws, [each for each in RELATIONS if each != true])
    text = f"is the {subject.shape} {claimed} the {other.shape}"
    return [Question(text, "yes" if claimed == true else "no", "yes/no", f"{RELATION_TYPE} is the")]


def _annotated(answer: str, people: random.Random) -> tuple[str, ...]:
    """The answers of ten annotators: seven equal, three in another spelling; for some questions two disagree."""
    spoken = _SPOKEN.get(answer, f"the {answer}" if answer in SHAPES else answer.capitalize())
    given = [answer] * 7 + [spoken] * 3
    if people.random() < _DISSENT:
        others = sorted({*COLOURS, *SHAPES, *SIZES, "yes", "no", "1", "2", "3"} - {answer})
        given[5:7] = [pick(people, others)] * 2
    return tuple(distinct(people, given, len(given)))


def vocabulary() -> set[str]:
    """Every word of the questions that captions do not have."""
    return {"are", "colour", "how", "many", "shape", "shapes", "size", "what"}


def is_relation(question_type: str) -> bool:
    """Whether a question type is about a relation."""
    return question_type.startswith(RELATION_TYPE)
