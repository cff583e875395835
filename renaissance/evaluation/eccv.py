"""Retrieval on COCO with several right answers: whatever people have found to belong together, not only what was written.

    ECCV Caption  mAP@R, R-Precision, recall at 1 of 1,332 texts and 1,261 images    Chun et al., ECCV 2022
    CxC           recalls of 24,972 texts and 5,000 images                           Parekh et al., EACL 2021

The right answers and the metrics are those of the package `eccv_caption`, an optional extra. It knows the images of Karpathy's
test split by COCO's numbers, and five captions of each; the other ten of 25,010 are no candidates.
"""

from __future__ import annotations

import io
import re
from collections import defaultdict
from contextlib import redirect_stderr
from copy import copy
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

from renaissance.core.errors import UserError, require
from renaissance.data.pairs import PairDataset

from .metrics import MetricDetails, mean_score
from .ranks import AT, Ranked, chance_of_any

SOURCES = {"eccv": "ECCV Caption (Chun et al., ECCV 2022)", "cxc": "CxC (Parekh et al., EACL 2021)"}
WAYS = {"text_to_image": "t2i", "image_to_text": "i2t"}  # direction -> what the package calls it
MAP_AT_R = "eccv_map_at_r"
_NUMBER = re.compile(r"([0-9]{1,18})\.[A-Za-z]+$")  # of an image, in its file name


class SeveralAnswers:
    """The right answers about a split, by COCO's numbers of its captions and images.

    Args:
        dataset: the pairs of Karpathy's test split, none left out.

    Attributes:
        depth: how many best ones of each query its metrics ask for.

    Raises:
        UserError: a file lacks the numbers of its captions, or the split is another one.
    """

    def __init__(self, dataset: PairDataset):
        from eccv_caption import Metrics  # optional: `settings.combinations` has asked for it

        self._metrics = Metrics()
        _, first, owner = np.unique(dataset.rows(), return_index=True, return_inverse=True)
        found = [_NUMBER.search(name) for name in dataset.image_names(first)]
        self._images = np.array([int(match[1]) if match else -1 for match in found])
        try:
            self._texts = dataset.caption_ids()
        except UserError as error:
            raise UserError(f"eccv_caption=True: {error}") from None
        image_of = {text: image for text, [image] in self._metrics.coco_gts["t2i"].items()}
        self._known = np.isin(self._texts, [*image_of])
        pairs = zip(self._texts.tolist(), self._images[owner].tolist(), strict=True)
        there = {text for text, image in pairs if image_of.get(text) == image}
        wanted = {*image_of.values()}
        images = len(wanted.intersection(self._images.tolist()))
        files = ", ".join(file.file for file in dataset.describe())
        size = f"{len(self._images):,} and {len(self._texts):,}"
        require(
            len(there) == len(image_of) == self._known.sum() and images == len(wanted) == len(self._images),
            f"eccv_caption=True asks about {len(wanted):,} images and {len(image_of):,} captions, COCO's test split of Karpathy; "
            f"{files}, with {size}, has {images:,} and {len(there):,} of them; prepare the official split, or leave it out.",
        )
        self._rights = {"eccv": self._metrics.eccv_gts, "cxc": self._metrics.cxc_gts}
        most = max(len(right) for gts in self._rights.values() for right in gts["i2t"].values())
        self.depth = most + int((~self._known).sum())

    def score(
        self, ranked: Ranked, frames: dict[str, pd.DataFrame], method: str, **how: Any
    ) -> dict[str, MetricDetails]:
        """All metrics, by "<the package's name>_<direction>".

        Args:
            ranked: with the `depth` best ones of each.
            frames: direction -> the rows of its queries, in the order of the data set.
            method, how: fields of the metrics.
        """
        lists, package, metrics = self._lists(ranked), f"eccv_caption {version('eccv_caption')}", {}
        for way, key in WAYS.items():
            queries = pd.Index(self._texts if key == "t2i" else self._images)
            candidates = len(self._images) if key == "t2i" else int(self._known.sum())
            for name, values in self._of_each(lists, key).items():
                kind = name.partition("_")[0]
                scores = queries.map(values).to_numpy(float)
                sizes = np.array([len(right) for right in self._rights[kind][key].values()])
                details = {"baseline": ("chance", _chance(name, sizes, candidates)), "candidates": candidates, **how}
                details["method"] = f"{method}; right answers: {SOURCES[kind]}, by {package}"
                metrics[f"{name}_{way}"] = mean_score(frames[way], scores, **details)
        return metrics

    def _lists(self, ranked: Ranked) -> dict[str, dict[int, list[int]]]:
        """Of each query the best ones, as the package takes them."""
        t2i = zip(self._texts.tolist(), self._images[ranked.best_images.ids].tolist(), strict=True)
        texts, known = self._texts[ranked.best_texts.ids], self._known[ranked.best_texts.ids]
        i2t = {image: row[of].tolist() for image, row, of in zip(self._images.tolist(), texts, known, strict=True)}
        return {"t2i": dict(t2i), "i2t": i2t}

    def _of_each(self, lists: dict[str, dict[int, list[int]]], key: str) -> dict[str, dict[int, float]]:
        """{metric: {query: value}}. The package gives means alone, so it is asked about one query after the other."""
        values: dict[str, dict[int, float]] = defaultdict(dict)
        alone = copy(self._metrics)
        with redirect_stderr(io.StringIO()):  # where it draws bars
            for query, right in self._rights["eccv"][key].items():
                alone.eccv_gts = {key: {query: right}}
                for name, found in alone.eccv_metrics(lists, key).items():
                    values[name][query] = float(found[key])
            for query, right in self._rights["cxc"][key].items():
                alone.cxc_gts = {key: {query: right}}
                for k in AT:
                    values[f"cxc_r{k}"][query] = float(alone.cxc_recalls(lists, key, k)[key])
        return values


def _chance(name: str, sizes: np.ndarray, candidates: int) -> float:
    """A metric of an order drawn by lot, on average.

    Of R right ones among n, place i has one with probability R/n, and each place before it then with (R-1)/(n-1).
    """
    if name == MAP_AT_R:
        places = [1 + np.arange(size) for size in sizes]
        precisions = [(1 + (at - 1) * (len(at) - 1) / (candidates - 1)) / at for at in places]
        return float(np.mean([each.sum() for each in precisions]) / candidates)
    if name == "eccv_rprecision":
        return float(sizes.mean() / candidates)
    return chance_of_any(sizes, candidates, int(name.rpartition("_r")[2]))
