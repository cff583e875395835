"""Scores of probes against literal transcriptions of the published rules, on worked examples with ties and gaps."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from renaissance.evaluation.probe_files import table_lines, winoground_file
from renaissance.evaluation.probes import (
    GROUPED,
    IMAGE,
    SIGN,
    TEXT,
    category_metrics,
    scored,
)
from renaissance.evaluation.published import ARO_LEFT_OUT, PUBLISHED

BOTH = [[1, 0], [0, 1]]


def frame(rows: list[dict], **same) -> pd.DataFrame:
    plain = {"category": None, "group": None, "blind_scores": None, "text_scores": None, "score_by": "itm", **same}
    return pd.DataFrame([{"id": str(number), **plain, **row} for number, row in enumerate(rows)])


def pairs(count: int, seed: int = 0, images: int = 2) -> list[dict]:
    """Rows of scores that are often equal."""
    random = np.random.default_rng(seed)
    correct = BOTH if images == 2 else [[1, 0]]
    return [
        {"scores": random.integers(0, 3, (images, 2)).astype(float).tolist(), "correct": correct} for _ in range(count)
    ]


def test_winoground_as_its_authors_score_it():
    rows = pairs(200)
    # s[c][i] in the paper, here scores[i][c].
    text = [s[0][0] > s[0][1] and s[1][1] > s[1][0] for s in (row["scores"] for row in rows)]
    image = [s[0][0] > s[1][0] and s[1][1] > s[0][1] for s in (row["scores"] for row in rows)]
    group = [a and b for a, b in zip(text, image, strict=True)]
    found = scored(frame(rows), "winoground")
    for name, right in (("text", text), ("image", image), ("group", group)):
        assert found[name].value == np.mean(right) and 0 < np.mean(right) < 1
    assert [found[name].baseline[1] for name in ("text", "image", "group")] == pytest.approx([0.25, 0.25, 1 / 6])
    tied = [
        min(s[0][0] - s[0][1], s[1][1] - s[1][0], s[0][0] - s[1][0], s[1][1] - s[0][1]) == 0
        for s in (r["scores"] for r in rows)
    ]
    of_texts = [min(s[0][0] - s[0][1], s[1][1] - s[1][0]) == 0 for s in (row["scores"] for row in rows)]
    assert found["text"].ties == sum(of_texts) > 0 and found["image"].ties != found["group"].ties
    assert found["group"].ties == sum(tied) > 0
    assert winoground_file(frame(rows[:1])) == [
        {"label": "0_c0_i0", "score": rows[0]["scores"][0][0]},
        {"label": "0_c0_i1", "score": rows[0]["scores"][1][0]},
        {"label": "0_c1_i0", "score": rows[0]["scores"][0][1]},
        {"label": "0_c1_i1", "score": rows[0]["scores"][1][1]},
    ]


@pytest.mark.parametrize(
    ("judge", "shape"), [(TEXT, (2, 2)), (IMAGE, (2, 2)), (GROUPED, (2, 2)), (TEXT, (1, 3)), (TEXT, (1, 4))]
)
def test_chance_is_the_share_of_orders_that_are_right(judge, shape):
    correct = np.array(BOTH, bool) if shape == (2, 2) else np.arange(shape[1])[None] < (2 if shape[1] == 3 else 1)
    from renaissance.evaluation.probes import RowScores

    orders = [np.array(order, float).reshape(shape) for order in itertools.permutations(range(math.prod(shape)))]
    right = [judge.margin(RowScores(order, correct)) > 0 for order in orders]
    assert np.mean(right) == pytest.approx(judge.chance(correct))


def test_sugarcrepe_and_its_mean_over_files():
    rows = pairs(60, images=1)
    for number, row in enumerate(rows):
        row["category"] = "swap_obj" if number < 10 else "add_att"
    right = np.array([row["scores"][0][0] > row["scores"][0][1] for row in rows])
    found = scored(frame(rows), "sugarcrepe")
    assert found["accuracy"].value == right.mean()
    assert (
        found["accuracy_swap_obj"].value == right[:10].mean() and found["accuracy_add_att"].value == right[10:].mean()
    )
    assert found["accuracy_by_category"].value == pytest.approx((right[:10].mean() + right[10:].mean()) / 2)
    low, high = found["accuracy_by_category"].record()["interval"]
    assert low < found["accuracy_by_category"].value < high


def test_both_positives_of_sugarcrepe_plus_plus_have_to_beat_the_negative():
    scores = [[3.0, 2.0, 1.0], [3.0, 1.0, 1.0], [1.0, 3.0, 2.0], [2.0, 3.0, 1.0]]
    rows = [{"scores": [each], "correct": [[1, 1, 0]], "category": "swap_obj"} for each in scores]
    found = scored(frame(rows), "sugarcrepe_pp")
    assert found["accuracy"].value == 0.5 and found["accuracy"].ties == 1
    assert found["accuracy"].baseline == ("chance", pytest.approx(1 / 3))


def test_texts_of_sugarcrepe_plus_plus_are_compared_as_its_authors_do():
    """Cosines of caption and caption2, of caption and negative_caption, of caption2 and negative_caption."""
    random = np.random.default_rng(1)
    cosines = random.integers(0, 3, (80, 3)) / 4
    rows = [
        {
            "scores": [[0.0, 0.0, 0.0]],
            "correct": [[1, 1, 0]],
            "category": f"swap_{'att' if n < 30 else 'obj'}",
            "text_cosines": each,
        }
        for n, each in enumerate(cosines.tolist())
    ]
    right = []
    for cos_p1p2, cos_p1_neg, cos_p2_neg in cosines:
        right.append(cos_p1p2 > cos_p1_neg and cos_p1p2 > cos_p2_neg)
    found = scored(frame(rows, score_by="itm"), "sugarcrepe_pp")
    assert found["text_to_text"].value == np.mean(right) and 0 < np.mean(right) < 1
    assert found["text_to_text_swap_att"].value == np.mean(right[:30]) != found["text_to_text_swap_obj"].value
    assert found["text_to_text_by_category"].value == pytest.approx((np.mean(right[:30]) + np.mean(right[30:])) / 2)
    tied = [p1p2 == max(p1_neg, p2_neg) for p1p2, p1_neg, p2_neg in cosines]
    assert found["text_to_text"].ties == sum(tied) > found["text_to_text_swap_att"].ties == sum(tied[:30]) > 0
    assert found["text_to_text"].baseline == ("chance", pytest.approx(1 / 3))
    low, high = found["text_to_text"].record()["interval"]
    assert low < found["text_to_text"].value < high and found["accuracy"].value == 0
    without = scored(frame(rows).assign(text_cosines=None), "sugarcrepe_pp")
    assert "accuracy" in without and not any(name.startswith("text_to_text") for name in without)


def test_valse_as_its_authors_score_it():
    rows = [
        {"scores": [[caption, foil]], "correct": [[1, 0]], "category": "plurals" if caption > 0 else "counting"}
        for caption, foil in ((2.0, 1.0), (1.0, -1.0), (-1.0, -2.0), (0.0, 0.0), (0.5, -0.5))
    ]
    found = scored(frame(rows), "valse")
    assert found["acc_r"].value == 4 / 5
    assert (found["p_c"].value, found["p_f"].value, found["acc"].value) == (3 / 5, 4 / 5, pytest.approx(7 / 10))
    assert found["acc_r_by_category"].value == pytest.approx((1 + 1 / 2) / 2)
    assert "acc" not in scored(frame(rows, score_by="itc"), "valse")  # a cosine has no threshold


def test_attributes_of_aro_count_from_25_rows_on():
    rows = pairs(100, images=1)
    for number, row in enumerate(rows):
        row["category"] = "old,new" if number < 24 else "red,blue" if number < 50 else "big,small"
    right = np.array([row["scores"][0][0] > row["scores"][0][1] for row in rows])
    found = scored(frame(rows), "aro_attribution")
    assert found["accuracy_by_category"].value == pytest.approx((right[24:50].mean() + right[50:].mean()) / 2)
    every = scored(frame(rows), "aro_relation")["accuracy_by_category"].value
    assert every == pytest.approx((right[:24].mean() + right[24:50].mean() + right[50:].mean()) / 3)
    assert not any(name.startswith("accuracy_old") for name in found)
    assert "accuracy_by_category" not in scored(frame(rows[:24]), "aro_attribution")
    for row in rows[24:50]:
        row["category"] = "next to"  # one of those that the published mean leaves out
    without = scored(frame(rows), "aro_relation")["accuracy_by_category"].value
    assert without == pytest.approx((right[:24].mean() + right[50:].mean()) / 2) and "next to" in ARO_LEFT_OUT


def test_every_published_number_stands_beside_one_of_ours():
    for key in PUBLISHED:
        benchmark, metric = key.split("/")
        rows = pairs(60, images=2 if benchmark == "winoground" else 1)
        for row in rows:
            row["category"] = metric.removeprefix("accuracy_")
        assert metric in scored(frame(rows), benchmark), key


def test_single_pair_and_set_of_four_of_whatsup():
    """Of the second set two are wrong, of one pair; the third lacks a row, so it and a pair are wrong, as for the authors."""
    prepositions = ("left_of", "right_of", "on", "under")
    rows = [
        {
            "scores": [np.eye(4)[(place + (group == "cup" and place < 2)) % 4].tolist()],
            "correct": [np.eye(4, dtype=int)[place].tolist()],
            "category": preposition,
            "group": group,
        }
        for group in ("mug", "cup", "hat")
        for place, preposition in enumerate(prepositions)
        if (group, preposition) != ("hat", "under")
    ]
    found = scored(frame(rows), "whatsup_a")
    assert found["accuracy"].value == pytest.approx(9 / 11)
    assert found["accuracy_pair"].value == pytest.approx(4 / 6) and found["accuracy_set"].value == pytest.approx(1 / 3)
    assert found["accuracy"].baseline[1] == 0.25 and found["accuracy_set"].baseline[1] == pytest.approx(
        (2 / 256 + 1 / 64) / 3
    )
    assert found["accuracy_pair"].record()["interval"][0] < 4 / 6 < found["accuracy_pair"].record()["interval"][1]
    assert found["accuracy_left_of"].value == pytest.approx(2 / 3)


def test_mmvp_and_vsr():
    """Of MMVP each statement chooses its picture, as in the authors' program."""
    rows = pairs(90)
    right = [s[0][0] > s[1][0] and s[1][1] > s[0][1] for s in (row["scores"] for row in rows)]
    found = scored(frame(rows), "mmvp")
    assert found["accuracy_pair"].value == np.mean(right) and found["accuracy_pair"].baseline[1] == 0.25
    labels = [1, 0, 1, 0, 0]
    odds = [0.2, -0.3, -0.1, 0.4, 0.0]
    rows = [{"scores": [[odd]], "correct": [[label]]} for odd, label in zip(odds, labels, strict=True)]
    found = scored(frame(rows), "vsr")
    assert found["accuracy"].value == 2 / 5 and found["accuracy"].ties == 1 and found["accuracy"].baseline[1] == 0.5
    assert SIGN.chance(np.array([[True]])) == 0.5
    assert scored(frame(rows, score_by="itc"), "vsr") == {}  # a cosine says of no text whether it is true


def test_what_the_texts_alone_say_stands_beside():
    rows = [{**row, "blind_scores": [1.0, 0.0], "text_scores": [0.0, 1.0] if number % 2 else [1.0, 1.0]} for number, row in
            enumerate(pairs(10, images=1))]  # fmt: skip
    found = scored(frame(rows), "sugarcrepe")
    assert found["accuracy_blind"].value == 1 and found["accuracy_text_only"].value == 0
    # One order of two texts cannot be right of both pictures.
    both = [{**row, "blind_scores": [1.0, 0.0], "text_scores": [2.0, 1.0]} for row in pairs(10)]
    found = scored(frame(both), "winoground")
    assert found["text_blind"].value == found["group_blind"].value == found["text_text_only"].value == 0
    assert "image_text_only" not in found


def test_scores_that_are_no_numbers_are_wrong_and_rounding_makes_no_order():
    rows = [{"scores": [[math.nan, 0.0]], "correct": [[1, 0]]}, {"scores": [[1.0 + 1e-6, 1.0]], "correct": [[1, 0]]}]
    found = scored(frame(rows), "sugarcrepe")
    assert found["accuracy"].value == 0 and found["accuracy"].ties == 1
    assert scored(frame(rows, score_by="itc"), "sugarcrepe")["accuracy"].value == 0  # 1e-6 of a cosine is rounding, too
    rows = [{"scores": [[None, 0.0]], "correct": [[1, 0]]}]
    assert scored(frame(rows), "sugarcrepe")["accuracy"].value == 0
    for part in ([[2.0, 1.0], [math.nan, math.nan]], [[math.nan, 1.0], [1.0, 2.0]], [[2.0, math.nan], [math.nan, 2.0]]):
        found = scored(frame([{"scores": part, "correct": BOTH}]), "winoground")
        assert [found[name].value for name in ("text", "image", "group")] == [0, 0, 0]
    rows = [{"scores": [[1.0, 0.0]], "correct": [[0, 0]]}, {"scores": [[1.0, 0.0]], "correct": [[1, 1]]}]
    assert scored(frame(rows), "sugarcrepe")["accuracy"].value == 0  # nothing is told from anything


def test_a_set_that_lacks_only_what_equal_scores_decide_is_a_tie():
    """Of the first set one row is tied, of the second one is tied and one wrong, the third lacks a row."""
    scores = {"mug": [2, 2, 1, 2], "cup": [1, 0, 2, 2], "hat": [2, 1, 2]}
    rows = [
        {"scores": [[float(right), 1.0]], "correct": [[1, 0]], "group": group, "category": preposition}
        for group, of in scores.items()
        for right, preposition in zip(of, ("left_of", "right_of", "on", "under"), strict=False)
    ]
    found = scored(frame(rows), "whatsup_b")
    assert [found[name].ties for name in ("accuracy", "accuracy_pair", "accuracy_set")] == [3, 2, 1]
    assert [found[f"accuracy_{name}"].ties for name in ("left_of", "right_of", "on", "under")] == [1, 1, 1, 0]


def test_the_table_has_our_number_beside_theirs():
    found = scored(frame(pairs(50)), "winoground")
    told = {name: {**each.record(), "value": each.value} for name, each in found.items()}
    lines = table_lines({"winoground": told}, {"winoground/group": "somebody 9.25 (a paper)"})
    group = found["group"]
    low, high = (f"{100 * bound:.2f}" for bound in group.record()["interval"])
    begin = f"| winoground | group | {100 * group.value:.2f} | {low} to {high} | {group.ties} |  |  | 16.67 |"
    assert lines[2] == f"{begin} somebody 9.25 (a paper) |" and group.ties > 0
    assert [line.split(" | ")[1] for line in lines[2:]] == ["group", "text", "image"]


def test_no_metric_takes_the_place_of_another():
    names = category_metrics("accuracy", ["next to", "Next-To!", "next_to", "next to", "by category", "blind", "???"],
                             ["accuracy_by_category"])  # fmt: skip
    assert names == {
        "???": "accuracy_2",
        "Next-To!": "accuracy_next_to",
        "blind": "accuracy_blind_2",
        "by category": "accuracy_by_category_2",
        "next to": "accuracy_next_to_2",
        "next_to": "accuracy_next_to_3",
    }
    assert category_metrics("a", ["Color & Appearance (2)"]) == {"Color & Appearance (2)": "a_color_appearance_2"}
    categories = ["red", "Red", "red blind", "pair", "set", "by category", "left_of"]
    rows = [
        {
            "scores": [[float(right), 1.0]],
            "blind_scores": [2.0, 1.0],
            "correct": [[1, 0]],
            "category": category,
            "group": "g",
        }
        for number, category in enumerate(categories)
        for right in [2] * number + [0] * 2
    ]
    found = scored(frame(rows), "whatsup_a")
    shares = {
        round(found[name].value, 9)
        for name in category_metrics(
            "accuracy", categories, ["accuracy_pair", "accuracy_set", "accuracy_by_category"]
        ).values()
    }
    assert shares == {round(number / (number + 2), 9) for number in range(7)}
    assert found["accuracy_blind"].value == 1 and found["accuracy_pair"].value == found["accuracy_set"].value == 0
