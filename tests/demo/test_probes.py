"""Probes of masked words: what is asked, of which image, and what can be guessed without one."""

from collections import Counter

import pytest

from renaissance.config import PARTS
from renaissance.demo.probes import (
    KINDS,
    ContentWord,
    MaskedWord,
    accuracy_by_kind,
    content_words,
    make_probes,
    text_only_accuracy,
)
from renaissance.demo.raw import split_of
from renaissance.demo.world import captions, is_true, make_scene

HELD_OUT = [made for made in (make_scene(0, index) for index in range(4000)) if split_of(made) == "test"]


def kinds(text):
    return [(position, word, kind) for position, word, kind in content_words(text)]


def test_the_demo_masks_content_words_and_no_others():
    stop_words = PARTS["demo_run"]["mlm_stop_words"]
    for caption in (caption for index in range(300) for caption in captions(make_scene(0, index))):
        content = {word.word for word in content_words(caption.text)}
        assert content == {*caption.text.split()}.difference(stop_words)


def test_content_words_have_a_kind_by_their_place_in_the_caption():
    assert kinds("the ring in the middle left is small and red") == [
        (1, "ring", "shape"),
        (4, "middle", "place"),
        (5, "left", "place"),
        (7, "small", "size"),
        (9, "red", "colour"),
    ]
    assert kinds("left of the blue square is a large black cross") == [
        (0, "left", "relation"),
        (3, "blue", "colour"),
        (4, "square", "shape"),
        (7, "large", "size"),
        (8, "black", "colour"),
        (9, "cross", "shape"),
    ]
    assert kinds("the red ring is above the green circle")[2] == (4, "above", "relation")
    assert kinds("the top right shows a small red triangle")[:2] == [(1, "top", "place"), (2, "right", "place")]
    assert kinds("a scene of two with a small red triangle in the middle right")[0] == (3, "two", "count")
    assert kinds("there is a") == []


def test_every_caption_names_content_of_the_right_kinds():
    """A caption of n facts about objects has n content words: counted on the fact, which does not know the words."""
    for index in range(300):
        for caption in captions(make_scene(0, index)):
            said = [*caption.fact.subject, *(caption.fact.other or ()), caption.fact.relation, caption.fact.count]
            expected = Counter(word.split()[0] for word in said if word is not None)
            assert Counter(word.word for word in content_words(caption.text)) == expected
            assert (caption.fact.relation is not None) == any(w.kind == "relation" for w in content_words(caption.text))


def test_probes_ask_one_word_of_each_kind_of_each_scene():
    asked = make_probes(HELD_OUT)
    for picture, made in enumerate(HELD_OUT):
        mine = [probe for probe in asked if probe.image == picture]
        texts = [caption.text for caption in captions(made)]
        related = any(word.kind == "relation" for text in texts for word in content_words(text))
        assert [probe.target.kind for probe in mine] == list(KINDS if related else KINDS[:-1])
        assert all(probe.text in texts for probe in mine)
    for probe in asked:
        assert probe.text.split()[probe.target.position] == probe.target.word
        fact = next(c.fact for c in captions(HELD_OUT[probe.image]) if c.text == probe.text)
        assert is_true(fact, HELD_OUT[probe.image])
        assert not is_true(fact, HELD_OUT[probe.wrong_image])
    assert len({probe.target.position for probe in asked if probe.target.kind == "colour"}) > 5


def test_probes_are_balanced_in_their_answers():
    words = Counter((probe.target.kind, probe.target.word) for probe in make_probes(HELD_OUT))
    for kind, count in (("colour", 6), ("shape", 5), ("size", 2), ("place", 6), ("count", 3), ("relation", 4)):
        frequency = [words[pair] for pair in words if pair[0] == kind]
        assert len(frequency) == count
        assert max(frequency) < 1.6 * sum(frequency) / count


def test_wrong_pictures_go_round_to_the_first():
    last = [probe for probe in make_probes(HELD_OUT[:3]) if probe.image == 2]
    assert {probe.wrong_image for probe in last} == {0}


def probe(text, position):
    return MaskedWord(text, next(word for word in content_words(text) if word.position == position), 0, 1)


def test_accuracy_is_counted_by_kind():
    asked = [probe("a small red ring", 1), probe("a small red ring", 2), probe("a large blue ring", 2)]
    assert asked[0].target == ContentWord(1, "small", "size")
    assert accuracy_by_kind(asked, ["small", "blue", "blue"]) == {"size": 1.0, "colour": 0.5}
    with pytest.raises(ValueError, match="zip"):
        accuracy_by_kind(asked, ["small"])


TRAINED = [
    "a small red ring in the top left",
    "a small red ring in the top left",
    "a small blue ring in the top right",
    "a large green ring in the top left",
    "the red cross is above the blue ring",
]


@pytest.mark.parametrize(
    ("text", "position", "accuracy"),
    [
        ("a small red ring in the top left", 2, 1.0),  # all other words: red twice
        ("a small blue ring in the top right", 2, 1.0),  # all other words: seen once, blue; the template says red
        ("a large red cross in the top right", 2, 1.0),  # other words never seen; the template says red
        ("a large blue cross in the top right", 2, 0.0),  # no context says blue
        ("the green cross is above the blue ring", 1, 0.0),  # its template says red
        ("the small ring is red", 2, 1.0),  # template never seen, rings are the commonest shape
    ],
)
def test_the_guess_is_the_most_frequent_word_of_a_context(text, position, accuracy):
    asked = [probe(text, position)]
    assert list(text_only_accuracy(TRAINED, asked).values()) == [accuracy]


def test_the_best_guesser_is_chosen_for_each_kind_over_all_its_probes():
    """The narrowest context is right of the first and wrong of the second, each wider one wrong of both."""
    asked = [probe("a small blue ring in the top right", 2), probe("a small green ring in the top right", 2)]
    assert text_only_accuracy(TRAINED, asked) == {"colour": 0.5}


def test_text_alone_tells_little():
    train = (made for made in (make_scene(0, index) for index in range(4000)) if split_of(made) == "train")
    accuracy = text_only_accuracy((caption.text for made in train for caption in captions(made)), make_probes(HELD_OUT))
    assert accuracy == pytest.approx(
        {"colour": 0.17, "shape": 0.2, "size": 0.5, "place": 0.33, "count": 0.45, "relation": 0.5}, abs=0.06
    )
    assert sum(accuracy[kind] for kind in KINDS[:4]) / 4 < 0.34
