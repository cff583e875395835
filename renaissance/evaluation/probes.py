"""What scores of pictures with texts say, by the rule of each benchmark that asks without finetuning.

A row has I pictures, T texts and which of them belong together; a model gives a score to each pair. Everything else is a
comparison of such scores. Comparisons are strict: where a right pair does not beat a wrong one, by more than rounding errors, the
row is wrong, and where they are equal it counts as a tie as well. The rules are those of Thrush et al. (Winoground, CVPR 2022),
Hsieh et al. (SugarCrepe, NeurIPS 2023), Dumpala et al. (SugarCrepe++, NeurIPS 2024), Parcalabescu et al. (VALSE, ACL 2022),
Yuksekgonul et al. (ARO, ICLR 2023), Kamath et al. (What'sUp, EMNLP 2023), Tong et al. (MMVP, CVPR 2024) and Liu et al. (VSR,
TACL 2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import chain, combinations, count
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas.api.typing import SeriesGroupBy

from .intervals import GROUP
from .metrics import MetricDetails, mean_score
from .published import ARO_LEFT_OUT

# Scores with a smaller difference are equal: log-odds, cosines, and sums of log-probabilities, which batches round otherwise.
TIED = {"itm": 1e-4, "itc": 1e-6, "text_scores": 1e-3, "text_cosines": 1e-6}
SOURCES = {"": "scores", "_blind": "blind_scores", "_text_only": "text_scores"}  # ending of a metric -> column it is of


class RowScores(NamedTuple):
    """One row. Attributes: scores (I,T), NaN = none; correct (I,T) bool."""

    scores: np.ndarray
    correct: np.ndarray


# Of a row: by how much its right pairs beat its wrong ones, at least; NaN where it has no score.
Margin = Callable[[RowScores], float]


def text_margin(row: RowScores) -> float:
    """Of each picture, of its right texts over its wrong ones."""
    return float(np.min([_margin(scores, right) for scores, right in zip(row.scores, row.correct, strict=True)]))


def image_margin(row: RowScores) -> float:
    """Of each text, of its right pictures over its wrong ones."""
    return text_margin(RowScores(row.scores.T, row.correct.T))


def group_margin(row: RowScores) -> float:
    """Of both."""
    return float(np.min([text_margin(row), image_margin(row)]))  # NaN where one is


def sign_margin(row: RowScores) -> float:
    """Of log-odds over the odds of one to one, on the side where each pair belongs."""
    return float(np.where(row.correct, row.scores, -row.scores).min())


def _margin(scores: np.ndarray, right: np.ndarray) -> float:
    """NaN, too, where nothing is to be told from anything."""
    if np.isnan(scores).any() or right.all() or not right.any():
        return math.nan
    return float(scores[right].min() - scores[~right].max())


def text_chance(correct: np.ndarray) -> float:
    """The share of rows that scores in random order get right: one of the ways to choose the right texts of each picture."""
    return math.prod(1 / math.comb(len(row), int(row.sum())) for row in correct)


def image_chance(correct: np.ndarray) -> float:
    """The same for the pictures of each text."""
    return text_chance(correct.T)


def group_chance(correct: np.ndarray) -> float:
    """Where each picture is compared with each text, all right pairs have to beat all wrong ones."""
    return 1 / math.comb(correct.size, int(correct.sum()))


def sign_chance(correct: np.ndarray) -> float:
    """Of a coin."""
    return 0.5**correct.size


class Judge(NamedTuple):
    """Attributes: margin of a row; chance of being right, by `correct` of a row."""

    margin: Margin
    chance: Callable[[np.ndarray], float]


TEXT, IMAGE = Judge(text_margin, text_chance), Judge(image_margin, image_chance)
GROUPED, SIGN = Judge(group_margin, group_chance), Judge(sign_margin, sign_chance)
_TEXTS = {"accuracy": TEXT}


class ProbeRule(NamedTuple):
    """How a benchmark is scored.

    Attributes:
        judges: metric -> what makes a row right. The first one selects, and is reported by category.
        by_category: whether it is reported by category.
        mean_of: fewest rows of a category that counts in the mean over categories, "<metric>_by_category"; 0 = no such mean.
        left_out: categories that do not count in it.
        sets: metric -> columns by which rows have to be right together, and how many they are; with one missing they are wrong.
        prompt: what the benchmark's program puts before each text.
        text_to_text: whether the right texts have to be closer to each other than to the wrong ones, too, without a picture.
        threshold: whether it counts, too, how often right texts are judged matches and wrong ones not, by the sign of log-odds.
    """

    judges: Mapping[str, Judge] = _TEXTS
    by_category: bool = True
    mean_of: int = 0
    left_out: frozenset[str] = frozenset()
    sets: Mapping[str, tuple[tuple[str, ...], int]] = {}
    prompt: str = ""
    text_to_text: bool = False
    threshold: bool = False

    @property
    def first(self) -> Judge:
        """Of the metric that selects."""
        return next(iter(self.judges.values()))


_SETS = {"accuracy_pair": ((GROUP, "axis"), 2), "accuracy_set": ((GROUP,), 4)}
RULES = {
    "winoground": ProbeRule({"group": GROUPED, "text": TEXT, "image": IMAGE}),
    "sugarcrepe": ProbeRule(mean_of=1),
    "sugarcrepe_pp": ProbeRule(mean_of=1, text_to_text=True),
    "valse": ProbeRule({"acc_r": TEXT}, mean_of=1, threshold=True),
    "aro_relation": ProbeRule(by_category=False, mean_of=1, left_out=ARO_LEFT_OUT),
    "aro_attribution": ProbeRule(by_category=False, mean_of=25),
    "aro_order_coco": ProbeRule(),
    "aro_order_flickr": ProbeRule(),
    "whatsup_a": ProbeRule(sets=_SETS),
    "whatsup_b": ProbeRule(sets=_SETS),
    "whatsup_coco_one": ProbeRule(),
    "whatsup_coco_two": ProbeRule(),
    "whatsup_vg_one": ProbeRule(),
    "whatsup_vg_two": ProbeRule(),
    "mmvp": ProbeRule({"accuracy_pair": IMAGE}, prompt="a photo of "),
    "vsr": ProbeRule({"accuracy": SIGN}),
    "vsr_zeroshot": ProbeRule({"accuracy": SIGN}),
}
"""By the name of the data set."""
SIDEWAYS = ("left_of", "right_of")  # prepositions of What'sUp that make a pair; the other two make the other one


def rule_of(benchmark: str) -> ProbeRule:
    """The rule of a benchmark; of one that a plugin brings, that its right texts beat its wrong ones."""
    return RULES.get(benchmark, ProbeRule())


def matrix(correct: Iterable[Iterable[int]]) -> np.ndarray:
    """(I,T) bool, of lists or of what a file gives for them."""
    return np.array([*map(list, correct)], bool)


def chances(frame: pd.DataFrame, judge: Judge) -> pd.Series:
    """The chance of each row."""
    return frame["correct"].map(lambda correct: judge.chance(matrix(correct)))


def judged(frame: pd.DataFrame, judge: Judge, source: str) -> pd.DataFrame:
    """Which rows are right, and which are tied.

    Args:
        frame: with the columns "correct" and "score_by", and that of the scores.
        judge: of the rows; by the sign of log-odds, which cosines have not, none is judged.
        source: the column of the scores, (I,T) or for all pictures the same (T,); None where a row has none.

    Returns:
        The columns right and tied, float; NaN where there are no scores.
    """
    found = []
    for scores, correct, by in zip(frame[source], frame["correct"], frame["score_by"], strict=True):
        if scores is None or (judge is SIGN and by != "itm"):
            found.append((math.nan, math.nan))
            continue
        right = matrix(correct)
        shape = np.broadcast_to(np.array(scores, float), right.shape)  # None becomes NaN
        tied = TIED.get(source, TIED[by])
        margin = judge.margin(RowScores(shape, right))
        found.append((float(margin > tied), float(abs(margin) <= tied)))
    return pd.DataFrame(found, frame.index, columns=["right", "tied"], dtype=float)


def scored(frame: pd.DataFrame, benchmark: str) -> dict[str, MetricDetails]:
    """All metrics of a benchmark.

    Args:
        frame: a row for each of the benchmark's, with the columns id, category, group, correct (I,T), scores (I,T), blind_scores
            and text_scores (T,) or None, and score_by, "itm" or "itc"; where the rule compares texts, text_cosines (T(T-1)/2,) of
            all pairs of texts in the order of `combinations`, or None.

    Returns:
        Of each metric its value, and beside it those of the same texts without their pictures: "<metric>_blind" by the model that
        sees the mean picture, "<metric>_text_only" by the likelihood of the texts; "text_to_text" by their vectors.
    """
    rule, metrics = rule_of(benchmark), {}
    frame = _with_units(frame)
    for number, (name, judge) in enumerate(rule.judges.items()):
        chance = chances(frame, judge)
        for ending, source in SOURCES.items():
            if ending == "_text_only" and judge is not TEXT:
                continue
            rows = judged(frame, judge, source)
            if rows["right"].isna().all():
                continue
            metrics |= _means(name, ending, frame, rows, chance, rule if number == 0 else None)
    if rule.text_to_text and "text_cosines" in frame and frame["text_cosines"].notna().all():
        compared = _pairs_of_texts(frame)
        rows = judged(compared, TEXT, "text_cosines")
        metrics |= _means("text_to_text", "", compared, rows, chances(compared, TEXT), rule)
    if rule.threshold and (frame["score_by"] == "itm").all():
        metrics |= _by_threshold(frame)
    return metrics


def _pairs_of_texts(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with pairs in the place of texts: of two right ones, which belong together, and of a right and a wrong one."""
    correct, cosines = [], []
    for row in frame.itertuples():
        pairs = [first + second for first, second in combinations(row.correct[0], 2)]
        correct.append([[int(right == 2) for right in pairs if right]])
        cosines.append([cosine for cosine, right in zip(row.text_cosines, pairs, strict=True) if right])
    return frame.assign(correct=correct, text_cosines=cosines)


def _with_units(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame without a group where not all rows have one, and with the axis of the prepositions that make a pair."""
    if GROUP not in frame or frame[GROUP].isna().any():
        return frame.drop(columns=GROUP, errors="ignore")
    return frame.assign(axis=frame["category"].isin(SIDEWAYS))


def _means(
    name: str, ending: str, frame: pd.DataFrame, rows: pd.DataFrame, chance: pd.Series, rule: ProbeRule | None
) -> dict[str, MetricDetails]:
    """The mean over rows as `judged` gives them; and by the rule of the first metric those of categories, and over categories
    and sets."""
    right, tied = rows["right"], rows["tied"]

    def mean_of(here: Any) -> MetricDetails:
        return mean_score(
            frame[here], right[here], baseline=("chance", float(chance[here].mean())), ties=int(tied[here].sum())
        )

    metrics = {f"{name}{ending}": mean_of(slice(None))}
    if rule is None:
        return metrics
    categories = frame["category"]
    table = pd.DataFrame({"score": right, "category": categories})
    enough = table.groupby("category")["score"].transform("size") >= rule.mean_of
    enough &= ~categories.isin(rule.left_out)
    if rule.mean_of and enough.any():
        metrics[f"{name}_by_category{ending}"] = MetricDetails(
            _over_categories(table[enough]),
            (table[enough],),
            _over_categories,
            baseline=("chance", float(chance[enough].mean())),
            ties=int(tied[enough].sum()),
        )
    for metric, (columns, size) in rule.sets.items():
        if set(columns) <= {*frame}:
            keys = [frame[column] for column in columns]
            whole, almost = (_whole(scores.groupby(keys), size) for scores in (right, right + tied))
            likely = chance.groupby(keys).prod()
            groups = whole.index.get_level_values(0) if len(columns) > 1 else whole.index
            units = pd.DataFrame({GROUP: groups})
            metrics[f"{metric}{ending}"] = mean_score(
                units,
                whole.to_numpy(),
                baseline=("chance", float(likely.mean())),
                ties=int((almost - whole).sum()),
            )
    if rule.by_category:
        taken = {*rule.judges, *rule.sets, f"{name}_by_category"}
        for category, metric in category_metrics(name, categories.dropna(), taken).items():
            metrics[f"{metric}{ending}"] = mean_of(categories == category)
    return metrics


def _whole(of_sets: SeriesGroupBy, size: int) -> pd.Series:
    """1 of each set that is complete and right in every row, else 0."""
    return of_sets.min().where(of_sets.size() == size, 0.0)


def _over_categories(table: pd.DataFrame) -> float:
    return float(table.groupby("category")["score"].mean().mean())


def category_metrics(metric: str, categories: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """The name of each category's metric, in their order.

    Args:
        metric: that all rows have.
        categories: of the rows, as often as they like.
        taken: names of other metrics.

    Returns:
        Category -> "<metric>_<its words>", with a number behind where another metric has that name, or would have it with one of
        the endings of `SOURCES`.
    """
    names, used = {}, {f"{name}{ending}" for name in (metric, *taken) for ending in SOURCES}
    for category in sorted({*categories}):
        plain = "_".join([metric, *"".join(each if each.isalnum() else " " for each in category.lower()).split()])
        tried = chain([plain], (f"{plain}_{number}" for number in count(2)))
        names[category] = next(name for name in tried if used.isdisjoint(f"{name}{ending}" for ending in SOURCES))
        used |= {f"{names[category]}{ending}" for ending in SOURCES}
    return names


def _by_threshold(frame: pd.DataFrame) -> dict[str, MetricDetails]:
    """VALSE's shares of captions that are judged matches (p_c), of foils that are not (p_f), and their mean (acc)."""
    scores = [np.array(each, float)[0] for each in frame["scores"]]
    correct = [matrix(each)[0] for each in frame["correct"]]
    matched = pd.Series([float((s[c] > 0).all()) for s, c in zip(scores, correct, strict=True)], frame.index)
    detected = pd.Series([float((s[~c] <= 0).all()) for s, c in zip(scores, correct, strict=True)], frame.index)
    half = ("chance", 0.5)
    return {
        "acc": mean_score(frame, (matched + detected) / 2, baseline=half),
        "p_c": mean_score(frame, matched),
        "p_f": mean_score(frame, detected),
    }
