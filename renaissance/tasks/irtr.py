"""Retrieval: which picture belongs to a text, and which text to a picture? (ViLT, Kim et al., ICML 2021)

Learned is to tell a picture's own text from false ones, by the head of image-text matching; so a checkpoint that was only
pretrained can rank as it is. Ranked is every picture with every text (`ranking.py`), or, with `rerank_top_k`, only the
pairs that the contrastive vectors of `itc` find closest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from renaissance.data.datasets import open_pairs
from renaissance.data.false_texts import FalseTexts
from renaissance.data.pairs import PairDataset
from renaissance.data.samples import RawSample
from renaissance.errors import UserError
from renaissance.formats import CAPTIONS, OWN_SPLITS
from renaissance.models.heads import ItmHead
from renaissance.ranking import Ranking, recalls
from renaissance.settings import Settings
from renaissance.types import FalseTextTargets, TaskOutput

from .base import Context, Downstream, Encodings, Task, WholeSplit

_EVALUATED = tuple(split for split in OWN_SPLITS if split != "train")


class Irtr(Downstream):
    """Cross-entropy of a picture's own text among N false ones; while training, the share that is told apart selects.

    With `get_recall_metric` each validation ranks the whole split instead, and the mean of the six recalls selects.
    """

    offers = CAPTIONS
    starts_from = {"head": "itm.head"}

    def __init__(self, model: nn.Module, context: Context):
        super().__init__(model, context)
        objectives = context.settings.objectives
        if not objectives.draw_false_text:
            raise UserError(
                "draw_false_text=0 leaves retrieval nothing to tell a text from; give 1 or more (ViLT: 15)."
            )
        if objectives.rerank_top_k and not objectives.loss_names.get("itc"):
            raise UserError(
                f"rerank_top_k={objectives.rerank_top_k} takes its candidates from the contrastive head: give loss_names.itc=1, "
                "and a load_path that was trained with it (task_mlm_itm_itc); or leave rerank_top_k out to rank every pair."
            )
        self.head = ItmHead(model.pooled_size)
        self.false_texts, self.top = objectives.draw_false_text, objectives.rerank_top_k
        self.ranks_always = objectives.get_recall_metric
        self.selecting = "recall_mean" if self.ranks_always else "accuracy"
        self.selects_by_less = not self.ranks_always

    @classmethod
    def splits(cls, settings: Settings) -> tuple[str, ...]:
        return tuple(split for split in _EVALUATED if cls._pairs(settings, split) is not None)

    @classmethod
    def open(cls, settings: Settings, split: str, labels: Sequence[str] | None) -> PairDataset:
        pairs = cls._pairs(settings, split)
        if pairs is None:
            raise UserError(
                f"Data set '{cls.data_name(settings)}' has no split '{split}' in {settings.data.data_root}."
            )
        return pairs

    @classmethod
    def _pairs(cls, settings: Settings, split: str) -> PairDataset | None:
        return open_pairs([cls.data_name(settings)], split, settings.data.data_root)

    @classmethod
    def made_up(cls, picture: bytes) -> RawSample:
        return super().made_up(picture)._replace(label=None)

    @staticmethod
    def maker(settings: Settings, tokenizer: PreTrainedTokenizerBase) -> Callable[[Any], FalseTextTargets]:
        return FalseTexts(settings.run.seed, settings.objectives.draw_false_text)

    def count(self, targets: FalseTextTargets) -> Tensor:
        return targets.text.attention_mask.new_tensor(len(targets.facts), dtype=torch.float)

    def forward(self, encodings: Encodings, targets: FalseTextTargets) -> TaskOutput:
        images, size = encodings.images(), len(targets.facts)
        owner = torch.arange(size, device=images.hidden.device).repeat_interleave(self.false_texts)
        true = encodings.fuse(encodings.text(), images, needs={"pooled"}).pooled
        false = encodings.fuse(encodings.text(targets.text), images.select(owner), needs={"pooled"}).pooled
        logits = torch.cat([self.match(true).unsqueeze(1), self.match(false).view(size, -1)], dim=1)
        labels = torch.zeros(size, dtype=torch.int64, device=logits.device)
        return TaskOutput(F.cross_entropy(logits, labels, reduction="sum"), self.count(targets), logits, labels)

    def match(self, pooled: Tensor) -> Tensor:
        """How well each pair (n,Dp) matches, (n,): the log-odds of the matching head."""
        logits = self.head(pooled).float()
        return logits[:, 1] - logits[:, 0]

    def rows(self, output: TaskOutput, targets: FalseTextTargets) -> list[dict[str, Any]]:
        """Which of the texts, the own one being number 0."""
        guesses = output.logits.argmax(-1).tolist()
        # A tie, and what is no number, counts as wrong: a model that cannot tell texts apart must not look as if it could.
        right = (output.logits[:, :1] > output.logits[:, 1:]).all(-1).tolist()
        return [
            {**facts, "prediction": guess, "target": 0, "score": float(best), "candidates": 1 + self.false_texts}
            for facts, guess, best in zip(targets.facts, guesses, right, strict=True)
        ]

    @classmethod
    def score(cls, frame: pd.DataFrame) -> dict[str, float]:
        name = "text_to_image_r1" if "rank" in frame else "accuracy"
        return {name: float(frame["score"].mean())}

    @classmethod
    def baseline(cls, frame: pd.DataFrame) -> tuple[str, float]:
        choices = frame["target"].nunique() if "rank" in frame else frame["candidates"].iloc[0]
        return "chance", 1 / float(choices)

    @classmethod
    def notes(cls, frame: pd.DataFrame, dataset: Any) -> list[str]:
        if "rank" not in frame:
            return []
        pictures = frame["target"].nunique()
        notes = [
            f"each text ranks the split's {pictures:,} pictures, each picture its {len(frame):,} texts; a tie counts as wrong"
        ]
        if "rerank_top_k" in frame:
            notes.append(
                f"not exact: only the {frame['rerank_top_k'].iloc[0]} closest by the contrastive head, of each text and of each "
                "picture, went through the fusion"
            )
        return notes

    def check(self, heads: Mapping[str, Task]) -> None:
        """The candidates must not be those of a contrastive head that nothing has trained."""
        if self.top and not heads["itc"].trained:
            raise UserError(
                f"rerank_top_k={self.top} takes its candidates from the contrastive head, which is untrained here: give a "
                "load_path that was trained with it (task_mlm_itm_itc); or leave rerank_top_k out to rank every pair."
            )

    def needs_batches(self, selecting: bool) -> bool:
        return selecting and not self.ranks_always

    @torch.no_grad()
    def whole(self, split: WholeSplit) -> tuple[dict[str, float], pd.DataFrame | None]:
        """Ranks the split; the rows are the texts, each with its best picture."""
        if self.needs_batches(split.selecting):
            return {}, None
        ranking = Ranking(
            *(split.model, self.match, split.source, split.tokenizer, split.max_text_len, split.batch_size),
            *(split.num_workers, split.device, split.rank, split.world, split.gather, split.say),
        )
        ranked = ranking.run(self.top, split.heads["itc"].vectors if self.top else None)
        frame = pd.DataFrame(
            {
                "position": range(len(ranked.text_ranks)),
                "id": range(len(ranked.text_ranks)),
                "prediction": ranked.best_picture,
                "target": ranked.picture_of_text,
                "score": (ranked.text_ranks == 0).astype(float),
                "rank": ranked.text_ranks,
                "group": ranked.picture_of_text,  # the texts of a picture are no independent examples
            }
        )
        if self.top and self.top < len(ranked.picture_ranks):
            frame["rerank_top_k"] = self.top
        return recalls(ranked), frame
