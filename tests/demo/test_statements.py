"""Statements of the generated world: their truth found again from their words, and their balance."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from renaissance.demo import statements
from renaissance.demo.raw import split_of
from renaissance.demo.statements import LABELS, Sentence, entailments, expressions, image_pairs, sentence, sentence_pair
from renaissance.demo.world import PLACE_TEMPLATES, Scene, captions, make_scene
from renaissance.demo.world import vocabulary as of_captions

SCENES = [make_scene(0, index) for index in range(3000)]


def label_of(made: Scene, hypothesis: str) -> str:
    words = hypothesis.split()
    things = [thing for thing in made.objects if thing.shape == words[1]]
    if not things:
        return "neutral"
    said = words[5] if words[-1] == "row" else words[3]
    return "entailment" if said in things[0] else "contradiction"


def test_hypotheses_are_what_they_are_labelled():
    for made in SCENES[:500]:
        found = entailments(made)
        assert sorted(each.label for each in found) == sorted(LABELS)
        for each in found:
            assert each.label == label_of(made, each.hypothesis), each
            assert each.premise in {caption.text for caption in captions(made)}
    assert entailments(SCENES[3]) == entailments(make_scene(0, 3))


def lookup_accuracy(train: list[tuple[str, object]], test: list[tuple[str, object]]) -> float:
    """Of the most frequent answer to the same text: what can be had without an image."""
    known: defaultdict[str, Counter] = defaultdict(Counter)
    for text, label in train:
        known[text][label] += 1
    guesses = [known[text].most_common(1)[0][0] if known[text] else None for text, _ in test]
    return sum(guess == label for guess, (_, label) in zip(guesses, test, strict=True)) / len(test)


def test_a_hypothesis_alone_tells_nothing():
    parts = [[made for made in SCENES if (split_of(made) == "test") == held_out] for held_out in (False, True)]
    told = [[(each.hypothesis, each.label) for made in part for each in entailments(made)] for part in parts]
    assert lookup_accuracy(*told) == pytest.approx(1 / 3, abs=0.05)


def holds(said: Sentence, left: Scene, right: Scene) -> bool:
    """Whether a sentence is true of two scenes."""
    return said.fits(tuple(statements.shows(scene, said.colour, said.shape) for scene in (left, right)))


def test_sentences_about_two_pictures_are_exactly_balanced():
    for index in range(60):
        said, found = sentence(0, index), image_pairs(0, index, SCENES[:400])
        assert [true for *_, true in found] == [True, False, True, False]
        for left, right, true in found:
            assert left != right and holds(said, SCENES[left], SCENES[right]) == true
            words = said.text.split()
            seen = [
                any((t.colour, t.shape) == tuple(words[-2:]) for t in SCENES[place].objects) for place in (left, right)
            ]
            meant = {"left": seen[0], "right": seen[1], "both": all(seen), "no": not any(seen)}
            assert meant[words[1] if words[0] == "the" else words[0]] == true, said


def test_one_picture_of_a_pair_does_not_tell_the_answer():
    """Whether the object is in the right image, where the sentence is about the left one, is a coin."""
    beside = Counter()
    for index in range(400):
        said = sentence(0, index)
        if said.wanted == (True, None):
            for _, right, true in image_pairs(0, index, SCENES[:400]):
                beside[true, statements.shows(SCENES[right], said.colour, said.shape)] += 1
    for true in (True, False):
        assert 0.35 < beside[true, True] / (beside[true, True] + beside[true, False]) < 0.65


def test_an_expression_means_one_object():
    for made in SCENES[:300]:
        for thing, texts in expressions(made):
            assert len(set(texts)) == 2
            for text in texts:
                words = set(text.split()) - {"the", "shape"}
                assert [other for other in made.objects if words <= set(other[:2])] == [thing], text


def test_pairs_of_sentences_are_the_same_or_differ_in_one_word():
    pairs = [sentence_pair(made) for made in SCENES[:1000]]
    assert 0.45 < sum(pair.same for pair in pairs) / len(pairs) < 0.55
    fillers = {word for template in PLACE_TEMPLATES for word in template.split() if "{" not in word}
    for pair in pairs:
        first, second = (Counter(word for word in text.split() if word not in fillers) for text in pair[:2])
        assert (first - second).total() == (second - first).total() == (0 if pair.same else 1), pair
        assert pair.first != pair.second


def test_words_are_in_the_vocabulary():
    known = set(of_captions()) | statements.vocabulary()
    texts = [each.hypothesis for made in SCENES[:300] for each in entailments(made)]
    texts += [sentence(0, index).text for index in range(300)]
    texts += [text for made in SCENES[:300] for _, both in expressions(made) for text in both]
    assert {word for text in texts for word in text.split()} <= known
