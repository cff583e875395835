"""The drawn heat map: the colours of the map where its patches lie in the picture, and none elsewhere."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from PIL import Image

from renaissance.inference.heat_map import HeatMap
from renaissance.reports.heat_maps import overlay


def drawn(size: tuple[int, int], heat: HeatMap) -> np.ndarray:
    """The map alone, (H, W, 3) in 0..1, cut out between the frames; of a grey picture, which has no colour itself."""
    pixels = np.asarray(overlay(Image.new("RGB", size, (200, 200, 200)), heat)).astype(float) / 255
    frame = (pixels.max(-1) < 0.2).mean(
        0
    ) > 0.5  # the columns of the four vertical lines around both pictures, and of the scale
    columns = np.flatnonzero(frame)
    left, right = (group for group in _groups(columns)[2:4])
    inner = pixels[:, left[-1] + 2 : right[0] - 1]
    rows = np.flatnonzero((inner.max(-1) < 0.2).mean(1) > 0.9)
    return inner[rows[0] + 2 : rows[-1] - 1]


def _groups(places: np.ndarray) -> list[np.ndarray]:
    return np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)


@pytest.mark.parametrize("size", [(48, 48), (400, 300), (90, 240)])
def test_patches_have_their_colour_where_they_lie(size: tuple[int, int]):
    values = np.array([[0.0, 0.1], [0.2, 0.7]])
    box = (0.25, 0.0, 0.75, 0.5)
    shown = drawn(size, HeatMap(values, "dog", "gradient", "word", box))
    height, width = shown.shape[:2]
    assert width / height == pytest.approx(size[0] / size[1], rel=0.05)

    def at(x: float, y: float) -> np.ndarray:
        return shown[int(y * height), int(x * width)]

    for outside in (at(0.1, 0.25), at(0.9, 0.25), at(0.5, 0.8)):
        np.testing.assert_allclose(outside, 200 / 255, atol=0.02)
    inside = [at(x, y) for y in (0.125, 0.375) for x in (0.375, 0.625)]
    light = [float(pixel @ (0.299, 0.587, 0.114)) for pixel in inside]
    assert light == sorted(light) and min(np.diff(light)) > 0.02  # so grey prints say the same
    assert colorsys.rgb_to_hsv(*inside[-1])[1] > 0.3


def test_an_empty_map_has_the_colour_of_nothing():
    nothing = HeatMap(np.zeros((2, 2)), None, "gradient", "match")
    shown = drawn((48, 48), nothing)
    assert np.ptp(shown.reshape(-1, 3), axis=0).max() < 0.02
    np.testing.assert_allclose(shown[5, 5], drawn((48, 48), nothing._replace(values=np.eye(2) / 2))[5, -5], atol=0.02)


def test_title_and_picture_are_part_of_it():
    plain, other = (
        np.asarray(
            overlay(Image.new("RGB", (60, 40), colour), HeatMap(np.full((2, 3), 1 / 6), word, "rollout", "word"))
        )
        for colour, word in (("red", "dog"), ("red", "a long word of the text"))
    )
    assert plain.shape == other.shape and np.any(plain[:30] != other[:30])
    assert (plain == (255, 0, 0)).all(-1).mean() > 0.2  # the picture as it is, beside the map


def test_words_are_texts_whatever_they_hold(capsys):
    """A dollar sign begins no formula; signs that the font lacks are said in a sentence, and no source line is printed."""
    even = HeatMap(np.full((2, 2), 0.25), "", "gradient", "word", (0.0, 0.0, 1.0, 1.0))
    sizes = {
        overlay(Image.new("RGB", (48, 48)), even._replace(word=word)).size for word in (r"$\frac$", "$x_{$", "\u72d7")
    }
    assert len(sizes) == 1
    assert capsys.readouterr().err.splitlines() == [
        "note: the font of the figure lacks signs of its words, and shows boxes in their place."
    ]
