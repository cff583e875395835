"""Retrieval: which image belongs to a text, and which text to an image? (ViLT, Kim et al., ICML 2021)

The head of image-text matching is trained to distinguish an image's own text from false ones, so a pretrained checkpoint can
rank without finetuning. Every image is scored with every text (`evaluation/ranking.py`), or, with `rerank_top_k`, only the
pairs with the closest contrastive vectors of `itc`; then the recalls of these vectors alone are reported as "itc_<name>". With
`rerank_top_k=0` only they rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from renaissance.core.errors import require
from renaissance.core.types import FalseTextTargets, TaskOutput
from renaissance.data.dataset_specs import CAPTIONS
from renaissance.data.datasets import open_pairs
from renaissance.data.false_texts import FalseTexts
from renaissance.data.pairs import PairDataset
from renaissance.evaluation.eccv import MAP_AT_R, SeveralAnswers
from renaissance.evaluation.metrics import MetricDetails, mean_score
from renaissance.evaluation.ranking import FullSplit, Ranking
from renaissance.evaluation.ranks import AT, FIRST, Best, Ranked, chance_of_any, recalls
from renaissance.models.heads import ItmHead
from renaissance.settings.sections import Settings

from .base import Context, Downstream, Encodings, Task

ITC_PREFIX = "itc_"  # of the names of recalls if ITC ranks alone


class Irtr(Downstream):
    """Cross-entropy of an image's own text among N false ones; the accuracy of that selects during training.

    With `get_recall_metric` each validation ranks the whole split instead, and the mean of the six recalls selects. With
    `eccv_caption` the test split is also scored by several right answers of each query.
    """

    sample_kind = CAPTIONS
    starts_from = {"head": "itm.head"}
    limited_by_image = True

    def __init__(self, model: nn.Module, context: Context):
        super().__init__(model, context)
        objectives = context.settings.objectives
        require(
            objectives.draw_false_text,
            "draw_false_text=0: retrieval needs false texts; give draw_false_text=1 or more (ViLT: 15).",
        )
        require(
            objectives.rerank_top_k is None or objectives.loss_names.get("itc"),
            f"rerank_top_k={objectives.rerank_top_k} takes its candidates from the contrastive head: give loss_names.itc=1, "
            "and a load_path that was trained with it (task_mlm_itm_itc); or leave rerank_top_k out to rank every pair.",
        )
        self.head = ItmHead(model.pooled_size)
        self.false_texts, self.top = objectives.draw_false_text, objectives.rerank_top_k
        self.ranks_always, self.several = objectives.get_recall_metric, objectives.eccv_caption
        recall = f"{ITC_PREFIX}recall_mean" if self.top == 0 else "recall_mean"
        self.selecting = recall if self.ranks_always else "accuracy"
        self.partial_validation = not self.ranks_always

    @classmethod
    def open(cls, settings: Settings, split: str, labels: Sequence[str] | None) -> PairDataset:
        data = settings.data
        columns = {"image_column": data.image_column, "caption_column": data.caption_column}
        pairs = open_pairs([cls.data_name(settings)], split, data.data_root, **columns)
        require(
            pairs is not None,
            f"Data set '{cls.data_name(settings)}' has no split '{split}' in {settings.data.data_root}.",
        )
        if settings.objectives.eccv_caption and split == "test":
            SeveralAnswers(pairs)  # refuses other files before anything is computed
        return pairs

    @classmethod
    def splits(cls, settings: Settings) -> tuple[str, ...]:
        found, root = super().splits(settings), settings.data.data_root
        require(
            "test" in found or not settings.objectives.eccv_caption,
            f"eccv_caption=True asks about the test split of coco, which data_root={root} lacks; `python run.py prepare with "
            f"dataset=coco root=<its download> data_root={root}` writes it.",
        )
        return found

    @staticmethod
    def target_builder(settings: Settings, tokenizer: PreTrainedTokenizerBase) -> Callable[[Any], FalseTextTargets]:
        return FalseTexts(settings.run.seed, settings.objectives.draw_false_text)

    def logits(self, encodings: Encodings, targets: FalseTextTargets) -> Tensor:
        """Matching scores of the image's own text and of each false one: (B,1+N)."""
        images, size = encodings.images(), len(targets.labels)
        owner = torch.arange(size, device=images.hidden.device).repeat_interleave(self.false_texts)
        true = encodings.fuse(encodings.text(), images, needs={"pooled"}).pooled
        false = encodings.fuse(encodings.text(targets.text), images.select(owner), needs={"pooled"}).pooled
        return torch.cat([self.match(true).unsqueeze(1), self.match(false).view(size, -1)], dim=1)

    def match(self, pooled: Tensor) -> Tensor:
        """Matching scores of pairs (n,Dp): (n,), the log-odds of the matching head."""
        return self.head.log_odds(pooled)

    def rows(self, output: TaskOutput, targets: FalseTextTargets) -> list[dict[str, Any]]:
        """The predicted text of each image; its own text is number 0."""
        guesses = output.logits.argmax(-1).tolist()
        # A tie or NaN counts as wrong, or a model that cannot distinguish texts would look as if it could.
        right = (output.logits[:, :1] > output.logits[:, 1:]).all(-1).tolist()
        return [
            {**metadata, "prediction": guess, "target": 0, "score": float(best), "candidates": 1 + self.false_texts}
            for metadata, guess, best in zip(targets.metadata, guesses, right, strict=True)
        ]

    @classmethod
    def baseline(cls, frame: pd.DataFrame) -> tuple[str, float]:
        choices = frame["target"].nunique() if "rank" in frame else frame["candidates"].iloc[0]
        return "chance", 1 / float(choices)

    @classmethod
    def notes(cls, frame: pd.DataFrame, dataset: Any) -> list[str]:
        if "rank" not in frame:
            return []
        images, top = frame["target"].nunique(), frame.get("rerank_top_k", default=[None])[0]
        notes = [f"each text ranks {images:,} images, each image {len(frame):,} texts; a tie counts as wrong"]
        if top == 0:
            notes.append("itc_...: ITC alone ranks; no pair went through the fusion")
        elif top is not None:
            how = f"{_method(top)}, of each text and of each image"
            notes.append(f"not exact: {how}; itc_...: the same before the fusion")
        if MAP_AT_R in frame:
            notes.append(
                "eccv_..., cxc_...: several right answers of a query; of equal scores the first in the file counts"
            )
        return notes

    def check(self, heads: Mapping[str, Task]) -> None:
        """Refuses an untrained contrastive head, whose candidates would be random."""
        require(
            self.top is None or heads["itc"].trained,
            f"rerank_top_k={self.top} takes its candidates from the contrastive head, which is untrained here: give a "
            "load_path that was trained with it (task_mlm_itm_itc); or leave rerank_top_k out to rank every pair.",
        )

    def needs_batches(self, selecting: bool) -> bool:
        return selecting and not self.ranks_always

    @torch.no_grad()
    def evaluate_full_split(
        self, model: nn.Module, heads: nn.ModuleDict, split: FullSplit
    ) -> tuple[dict[str, pd.DataFrame], dict[str, MetricDetails]]:
        """Ranks the split. The tables have a row for each text with its best images, and for each image with its best texts."""
        dataset = split.collate.source.dataset
        answers = SeveralAnswers(dataset) if self.several and split.name == "test" else None
        ranking = Ranking(model, self.match, split, max(FIRST, answers.depth if answers else 0))
        ranked = ranking.run(self.top, None if self.top is None else heads["itc"].vectors)
        top = self.top if self.top is not None and self.top < len(ranked.image_ranks) else None
        texts, images = _tables(ranked, dataset)
        metrics = _metrics(ranked, texts, images, top, answers)
        if ranked.contrastive is not None:
            texts["itc_rank"], images["itc_rank"] = ranked.contrastive.text_ranks, ranked.contrastive.image_ranks
            before = _metrics(ranked.contrastive, texts, images, 0, answers)
            metrics = {name: each for both in zip(metrics.items(), before.items(), strict=True) for name, each in both}
        if top is not None:
            texts["rerank_top_k"] = top
        if answers is not None:
            for way, frame in (("text_to_image", texts), ("image_to_text", images)):
                of_each = metrics[f"{ITC_PREFIX if top == 0 else ''}{MAP_AT_R}_{way}"]
                frame[MAP_AT_R] = of_each.frames[0]["score"]
        return {"": texts, "_image_to_text": images}, metrics


def _method(top: int | None) -> str:
    if top == 0:
        return "ITC alone"
    return "every pair through the fusion" if top is None else f"best {top} of ITC through the fusion"


def _tables(ranked: Ranked, dataset: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row a text and one row an image; ids are their indices."""
    image_of_text, images = ranked.image_of_text, np.arange(len(ranked.image_ranks))
    names = np.array(dataset.image_names(np.searchsorted(image_of_text, images)), dtype=object)
    texts = np.array([dataset.text(index) for index in range(len(image_of_text))], dtype=object)
    own = np.split(np.arange(len(texts)), np.searchsorted(image_of_text, images[1:]))  # indices of each image's texts
    # Texts of one image are not independent examples.
    text_columns = {"group": image_of_text, "text": texts, "image": names[image_of_text]}
    image_columns = {"group": images, "image": names, "texts": [texts[part].tolist() for part in own]}
    targets = [part.tolist() for part in own]
    by_text = _table(ranked.text_ranks, image_of_text, text_columns, ranked.best_images, "images", names)
    return by_text, _table(ranked.image_ranks, targets, image_columns, ranked.best_texts, "texts", texts)


def _table(
    ranks: np.ndarray, target: Any, columns: dict[str, Any], best: Best, what: str, names: np.ndarray
) -> pd.DataFrame:
    """One row a query, with ids, contents and scores of its ten best matches."""
    best = Best(*(field[:, :FIRST] for field in best))
    first = {"first_ids": best.ids.tolist(), f"first_{what}": [names[row].tolist() for row in best.ids]}
    numbers, score = np.arange(len(ranks)), (ranks == 0).astype(float)
    known = {"position": numbers, "id": numbers, "prediction": best.ids[:, 0], "target": target, "score": score}
    return pd.DataFrame({**known, "rank": ranks, **columns, **first, "first_scores": best.scores.tolist()})


def _metrics(
    ranked: Ranked, texts: pd.DataFrame, images: pd.DataFrame, top: int | None, answers: SeveralAnswers | None
) -> dict[str, MetricDetails]:
    """Recalls in both directions, their mean, those of folds and of several answers; prefixed "itc_" if ITC ranks alone."""
    metrics = {name: MetricDetails(value) for name, value in recalls(ranked).items()}
    how = {"method": _method(top), "exact": top is None}
    details, sizes = [], np.bincount(ranked.image_of_text)
    for direction, frame, ranks, candidates in (
        ("text_to_image", texts, ranked.text_ranks, len(images)),
        ("image_to_text", images, ranked.image_ranks, len(texts)),
    ):
        for k in AT:
            chance = min(1.0, k / candidates) if frame is texts else chance_of_any(sizes, candidates, k)
            details.append(mean_score(frame, ranks < k, baseline=("chance", chance), candidates=candidates, **how))
            metrics[f"{direction}_r{k}"] = details[-1]
    chance = sum(each.baseline[1] for each in details) / len(details)
    frames = tuple(frame for each in details for frame in each.frames)
    metrics["recall_mean"] = MetricDetails(metrics["recall_mean"].value, frames, baseline=("chance", chance), **how)
    if answers is not None:
        metrics |= answers.score(ranked, {"text_to_image": texts, "image_to_text": images}, **how)
    return {f"{ITC_PREFIX if top == 0 else ''}{name}": each for name, each in metrics.items()}
