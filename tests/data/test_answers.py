"""Answers of VQAv2: the official spelling rules one by one, and soft scores against the definition of the accuracy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from renaissance.data.answers import normalise_answer, official_accuracy, soft_score, soft_scores


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        # Case and white space.
        ("Yes", "yes"),
        ("  on \n the\ttable  ", "on table"),
        ("New   York", "new york"),
        ("", ""),
        # Articles, as words only.
        ("a dog", "dog"),
        ("An apple and the pear", "apple and pear"),
        ("the", ""),
        ("theater", "theater"),
        # Number words up to ten, and "none".
        ("none", "0"),
        ("Zero", "0"),
        ("two dogs", "2 dogs"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("someone", "someone"),
        # Contractions: with one apostrophe left out.
        ("dont know", "don't know"),
        ("Cant", "can't"),
        ("couldntve", "couldntve"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("yalld've", "yalld've"),
        ("y'alld've", "y'all'd've"),
        ("twas", "'twas"),
        ("5 oclock", "5 o'clock"),
        ("somebody'd", "somebodyd"),
        ("Im", "im"),  # capitals in the official table meet lower case
        ("lets", "lets"),
        ("man's", "man's"),
        # Punctuation becomes a space, or nothing where a space stands beside one of its kind.
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("red, white,blue", "red whiteblue"),
        ("t-shirt", "t shirt"),
        ("t-shirt - red", "tshirt red"),
        ("what?", "what"),
        ("(left)", "left"),
        ("salt & pepper", "salt & pepper"),
        ("10:30", "10:30"),
        # A comma between digits takes all punctuation with it.
        ("2,000", "2000"),
        ("1,000-2,000", "10002000"),
        ("black/white, 2,000", "blackwhite 2000"),
        # Periods go, but before a digit.
        ("yes.", "yes"),
        ("1.5", "1.5"),
        (".5", ".5"),
        ("5.", "5"),
        ("u.s.a.", "usa"),
        ("no.7", "no.7"),
        # Order: punctuation before words, articles and numbers before contractions.
        ("two-a-day", "2 day"),
        ("one.", "1"),
        ("[dont]", "don't"),
    ],
)
def test_answers_are_spelt_by_the_official_rules(answer: str, expected: str):
    assert normalise_answer(answer) == expected


TEXT = st.lists(
    st.sampled_from(["one", "none", "The", "a", "dont", "couldnt've", "1", "2,0", " ", ".", ",", "-", "\n", "ß", "'"])
).map("".join)


@given(TEXT)
def test_a_normal_spelling_stays(answer: str):
    assert normalise_answer(normalise_answer(answer)) == normalise_answer(answer)


def leave_one_out(predicted: str, answers: list[str]) -> float:
    """The accuracy as it is defined: the mean, over all sets of nine annotators, of min(number who agree / 3, 1)."""
    predicted, answers = predicted.strip(), [answer.strip() for answer in answers]
    if any(answer != answers[0] for answer in answers):
        predicted, answers = normalise_answer(predicted), [normalise_answer(answer) for answer in answers]
    parts = []
    for left_out in range(10):
        others = [answer for place, answer in enumerate(answers) if place != left_out]
        parts.append(min(sum(answer == predicted for answer in others) / 3, 1))
    return sum(parts) / 10


ANSWER = st.sampled_from(["yes", "Yes", "yes ", "no", "two", "2", "the 2", "dont"])


@given(ANSWER, st.lists(ANSWER, min_size=10, max_size=10))
def test_the_official_accuracy_is_its_definition(predicted: str, answers: list[str]):
    assert official_accuracy(predicted, answers) == pytest.approx(leave_one_out(predicted, answers), abs=1e-12)


@given(st.lists(ANSWER, min_size=10, max_size=10).filter(lambda ten: len({each.strip() for each in ten}) > 1))
def test_soft_scores_are_official_accuracies_where_the_ten_differ(answers: list[str]):
    scores = soft_scores(answers)
    assert scores == {answer: official_accuracy(answer, answers) for answer in scores}
    assert set(scores) == {normalise_answer(answer) for answer in answers}


def test_scores_are_these():
    assert [soft_score(count) for count in range(11)] == [0, 0.3, 0.6, 0.9] + [1] * 7
    assert soft_scores(["Two"] * 3 + ["3"] + ["two."] + ["four"] * 5) == {"2": 1, "3": 0.3, "4": 1}
    assert list(soft_scores(["red", "blue", "red"])) == ["red", "blue"]


def test_ten_equal_answers_are_taken_literally():
    """The official program changes no side where all ten annotators wrote the same."""
    assert official_accuracy("2", ["two"] * 10) == 0
    assert official_accuracy(" two\n", ["two"] * 9 + ["two\t"]) == 1
    assert official_accuracy("2", ["two"] * 9 + ["Two"]) == 1
