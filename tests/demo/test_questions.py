"""Questions of the generated world: true, of every kind, and not to be answered from their words."""

from __future__ import annotations

from collections import Counter, defaultdict

from renaissance.data.answers import normalise_answer, official_accuracy
from renaissance.demo.questions import QUESTIONS, is_relation, questions, vocabulary
from renaissance.demo.raw import split_of
from renaissance.demo.world import Scene, make_scene, relation
from renaissance.demo.world import vocabulary as of_captions

SCENES = [make_scene(0, index) for index in range(3000)]


def true_answer(scene: Scene, text: str) -> str:
    """The answer, found from the words of a question."""
    words = text.split()

    def named(shape: str):
        [thing] = [thing for thing in scene.objects if thing.shape == shape]
        return thing

    if text.startswith("how many"):
        return str(len(scene.objects))
    if text.startswith("is there a"):
        return "yes" if any((thing.colour, thing.shape) == tuple(words[3:5]) for thing in scene.objects) else "no"
    if text.startswith("is the"):
        return "yes" if relation(named(words[2]), named(words[-1])) == " ".join(words[3:-2]) else "no"
    if text.startswith("what shape is in the"):
        return next(thing.shape for thing in scene.objects if [thing.row, thing.column] == words[5:7])
    if text.startswith("what shape is"):
        return next(thing.shape for thing in scene.objects if thing.colour == words[3])
    return getattr(named(words[-1]), words[1])


def test_every_answer_is_true_and_no_question_comes_twice():
    for made in SCENES[:500]:
        asked = questions(made)
        assert len({each.text for each in asked}) == len(asked) == QUESTIONS
        for each in asked:
            assert each.answer == true_answer(made, each.text), each
            # The majority decides, though people write it in several ways.
            assert len(each.answers) == 10 and official_accuracy(each.answer, each.answers) == 1
            assert Counter(map(normalise_answer, each.answers)).most_common(1)[0][0] == each.answer
            assert is_relation(each.question_type) == (
                " of the " in each.text or "above" in each.text or "below" in each.text
            )
    assert questions(SCENES[7]) == questions(make_scene(0, 7))
    written = {answer for made in SCENES[:500] for each in questions(made) for answer in each.answers}
    assert {"Yes.", "yes", "two", "2", "the ring", "ring", "Red", "red"} <= written


def test_words_are_in_the_vocabulary():
    known = set(of_captions()) | vocabulary()
    assert {word for made in SCENES[:500] for each in questions(made) for word in each.text.split()} <= known


def test_a_question_does_not_tell_its_answer():
    """The most frequent answer to the same words among the trained scenes, on those that are held out."""
    train, held_out = defaultdict(Counter), []
    for made in SCENES:
        split = split_of(made)
        for each in questions(made):
            if split in ("train", "restval"):
                train[each.text][each.answer] += 1
            elif split == "test":
                held_out.append(each)
    for relations in (False, True):
        asked = [each for each in held_out if is_relation(each.question_type) == relations]
        guesses = [train[each.text].most_common(1)[0][0] if train[each.text] else "no" for each in asked]
        score = sum(official_accuracy(guess, each.answers) for guess, each in zip(guesses, asked, strict=True))
        assert len(asked) > 100 and 0.2 < score / len(asked) < 0.56, relations
    kinds = Counter(each.answer_type for each in held_out)
    assert min(kinds[kind] for kind in ("yes/no", "number", "other")) > 50
