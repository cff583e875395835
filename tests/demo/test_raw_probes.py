"""The demo's probe: captions are true, foils are not, and a bag of words cannot tell one from the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from renaissance.data.dataset_specs import PROBES
from renaissance.data.datasets import open_samples
from renaissance.data.prepare.foil_probes import make_arrow
from renaissance.demo.raw import split_of
from renaissance.demo.raw_probes import foils, objects, write_valse
from renaissance.demo.raw_tasks import Sizes
from renaissance.demo.world import COUNTS, Description, Fact, Scene, count, is_true, make_scene
from renaissance.evaluation.probes import scored

SWAPS = {"attribute-swap", "object-swap"}
SAME_WORDS = {"colours-exchanged", "relation-turned"}
KINDS = {*SWAPS, *SAME_WORDS, "count"}


def claims(text: str) -> Fact:
    """What a sentence of the probe says, read by its words."""
    words = text.split()
    if words[0] == "a":
        size, colour, shape, *_, row, column = words[-7:]
        return Fact(Description(shape, colour, size, row, column), count=words[3] if words[1] == "scene" else None)
    return Fact(Description(words[2], words[1]), " ".join(words[4:-3]), Description(words[-1], words[-2]))


def in_picture(text: str, scene: Scene) -> int:
    """How many words of a text are true of anything in the picture, or of no picture: all that a bag of words can say."""
    seen = {
        word for thing in scene.objects for word in (thing.shape, thing.colour, thing.size, thing.row, thing.column)
    }
    said = {"a", "in", "the", "is", "left", "right", "of", "above", "below", "scene", "with", *COUNTS}
    return sum(word in seen | said for word in text.split())


def test_captions_are_true_and_foils_are_false_of_a_scene_that_has_all_their_words():
    kinds = set()
    for scene in (make_scene(3, index, objects=objects(index)) for index in range(600)):
        found = foils(scene)
        assert {foil.name for foil in found} in ({"count"}, KINDS)
        for foil in found:
            assert is_true(claims(foil.caption), scene) and not is_true(claims(foil.text), scene)
            assert claims(foil.text) == foil.fact
            assert in_picture(foil.text, scene) == len(foil.text.split()) == in_picture(foil.caption, scene)
            same_words = sorted(foil.caption.split()) == sorted(foil.text.split())
            assert same_words == (foil.name in SAME_WORDS)
            kinds.add(foil.name)
    assert kinds == KINDS


def test_a_number_is_as_often_true_as_false():
    scenes = [make_scene(3, index, objects=objects(index)) for index in range(600)]
    told = [next(foil for foil in foils(scene) if foil.name == "count") for scene in scenes]
    pairs = Counter((count(scene), claims(foil.text).count) for scene, foil in zip(scenes, told, strict=True))
    assert set(pairs) == set(permutations(COUNTS, 2)) and set(pairs.values()) == {100}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The probe as a command reads it, each row with its scene."""
    folder: Path = tmp_path_factory.mktemp("probe")
    write_valse(folder / "raw", 3, Sizes(0, 0, 60))
    make_arrow(folder / "raw", folder / "arrow", dataset="valse", workers=1)
    samples = open_samples("valse", "valse", folder / "arrow", sample_kind=PROBES)
    read = [samples[index].values for index in range(len(samples))]
    frame = pd.DataFrame(read)[["id", "category", "texts", "correct"]]
    indices = [int(name.rpartition("_")[2]) for name in frame["id"]]
    scenes = [make_scene(3, index, objects=objects(index)) for index in indices]
    assert {split_of(scene) for scene in scenes} == {"test"}
    return frame.assign(scene=scenes, blind_scores=None, text_scores=None, score_by="itm")


def test_a_model_of_bags_of_words_is_at_chance(rows):
    """Texts and pictures are sums of vectors of their words, drawn anew by 40 seeds, and a score is their product."""
    means = {kind: [] for kind in KINDS}
    for seed in range(40):
        random = np.random.default_rng(seed)
        words = sorted({word for texts in rows["texts"] for text in texts for word in text.split()})
        vectors = dict(zip(words, random.normal(size=(len(words), 16)), strict=True))

        def bag(words: Iterable[str], of: dict[str, np.ndarray] = vectors) -> np.ndarray:
            return sum(of[word] for word in words)

        pictures = [
            bag(word for thing in scene.objects for word in thing[:5] if word in vectors) for scene in rows["scene"]
        ]
        scores = [
            [[float(bag(text.split()) @ picture) for text in texts]]
            for texts, picture in zip(rows["texts"], pictures, strict=True)
        ]
        found = scored(rows.assign(scores=scores), "valse")
        for kind in KINDS:
            means[kind].append(found[f"acc_r_{kind.replace('-', '_')}"].value)
    for kind in (*SWAPS, "count"):
        assert np.mean(means[kind]) == pytest.approx(0.5, abs=0.1), kind
    for kind in SAME_WORDS:  # the same words: never more than a tie
        assert np.max(means[kind]) == 0, kind


def test_a_bag_of_words_decides_nothing_and_a_model_that_binds_words_all(rows):
    for score, share in ((in_picture, 0.0), (lambda text, scene: float(is_true(claims(text), scene)), 1.0)):
        scores = [[[score(text, row.scene) for text in row.texts]] for row in rows.itertuples()]
        found = scored(rows.assign(scores=scores), "valse")
        assert {found[f"acc_r_{kind.replace('-', '_')}"].value for kind in KINDS} == {share}
        assert found["acc_r"].ties == (len(rows) if share == 0 else 0)
