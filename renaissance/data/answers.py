"""Answers of VQAv2: one spelling for equal answers, soft scores for training, and the official accuracy.

The rules are those of the VQA evaluation (Antol et al., "VQA", ICCV 2015; Goyal et al., CVPR 2017; visualqa.org/evaluation):
punctuation, lower case, number words, articles, contractions, in this order. Where the published rules and the published
program differ, this is what the program does, since its numbers are the ones that papers report.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

ANNOTATORS = 10
"""Answers to each question."""

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")  # one before a digit stays: 1.5, .5
_NUMBERS = "zero one two three four five six seven eight nine ten"
_DIGITS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBERS.split())}
_ARTICLES = {"a", "an", "the"}
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
# Each is also written with one of its apostrophes left out. The last entry stands in the official table the wrong way
# round; its capitalised ones (Im, Ive, Id've) match no word, because all are in lower case by then.
_CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTED.split()
    for place, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}


@lru_cache(maxsize=1 << 16)  # VQAv2's 6.6 million answers are mostly "yes", "no" and few others
def normalise_answer(answer: str) -> str:
    """Returns the spelling under which equal answers are compared: "Two dogs." -> "2 dogs".

    A punctuation mark is deleted if a space stands beside it anywhere in the answer, or if the answer holds a comma
    between digits; otherwise each of its occurrences becomes a space. Periods are deleted unless a digit follows.
    """
    text = _on_one_line(answer)
    number = _COMMA_IN_NUMBER.search(text)
    marks = {mark: "" if number or f"{mark} " in text or f" {mark}" in text else " " for mark in _MARKS}
    words = _PERIOD.sub("", text.translate(str.maketrans(marks))).lower().split()
    words = [_DIGITS.get(word, word) for word in words if word not in _ARTICLES]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words)


def soft_score(count: int) -> float:
    """Returns the soft score of an answer given by `count` of ten annotators: 0, 0.3, 0.6, 0.9, and 1 from four on.

    It equals the official accuracy, the mean of min(others who agree / 3, 1) over the ten sets of nine annotators.
    """
    return min(3 * count, ANNOTATORS) / ANNOTATORS


def soft_scores(answers: Sequence[str]) -> dict[str, float]:
    """Returns {normalised answer: soft score} of one question, in order of first appearance.

    Args:
        answers: of the ten annotators, as given.
    """
    return {answer: soft_score(count) for answer, count in Counter(map(normalise_answer, answers)).items()}


def official_accuracy(predicted: str, answers: Sequence[str]) -> float:
    """Returns the official accuracy of one predicted answer, 0 to 1.

    Both sides are normalised only where the ten answers differ as given. Ten people who all wrote "two" therefore
    give nothing for "2", while `soft_scores` gives 1; the answers of VQAv2 hardly ever are of that kind.

    Args:
        predicted: the answer of the model.
        answers: of the ten annotators, as given.
    """
    given = [_on_one_line(answer) for answer in answers]
    if len(set(given)) > 1:
        return soft_score([normalise_answer(answer) for answer in given].count(normalise_answer(predicted)))
    return soft_score(given.count(_on_one_line(predicted)))


def _on_one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()
