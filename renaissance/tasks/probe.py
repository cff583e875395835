"""Probes: which of some texts belongs to which of some pictures, by a model as pretraining left it (`evaluation/probes.py`).

A pair's score is the log-odds of the matching head (`itm`), or the cosine of the contrastive vectors (`itc`), where the
checkpoint has them. Each benchmark is a split of this task. Beside its scores a text has two that see no picture: with the mean
colour in its place, and the pseudo-log-likelihood by the head of masked language modelling (Salazar et al., ACL 2020).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from renaissance.core.errors import UserError, require
from renaissance.core.types import Example, ImageInput, ProbeTargets, TaskOutput, Tokens
from renaissance.data.collate import MicroBatch
from renaissance.data.dataset_specs import DATASETS, PROBES
from renaissance.data.datasets import open_samples, splits_of
from renaissance.data.samples import Sample, TaskDataset
from renaissance.evaluation import probes
from renaissance.evaluation.metrics import MetricDetails
from renaissance.evaluation.published import PUBLISHED
from renaissance.evaluation.ranking import pairs_at_once
from renaissance.models.transfer import async_tensor
from renaissance.settings.sections import Settings

from .base import Context, Encodings
from .mlm import Mlm
from .zero_shot import ZeroShot


class Texts:
    """Builds `ProbeTargets`: all texts of all rows, tokenised once; picklable."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.mask_id, self.special = tokenizer.mask_token_id, torch.tensor(sorted(tokenizer.all_special_ids))

    def __call__(self, micro: MicroBatch) -> ProbeTargets:
        counts = [len(example.label) for example in micro.examples]
        _, text = micro.encode([each for example in micro.examples for each in example.label])
        asked = text.attention_mask & ~torch.isin(text.input_ids, self.special)
        return ProbeTargets(text, tuple(counts), asked, self.mask_id, micro.metadata)


class Probe(ZeroShot):
    """Scores each row's pictures with its texts; nothing is trained."""

    sample_kind, images_per_sample, has_loss = PROBES, None, False
    starts_from = {**ZeroShot.starts_from, "mlm": "mlm"}

    def __init__(self, model: nn.Module, context: Context):
        super().__init__(model, context)
        self.mlm, self.text_only = Mlm(model, context), True

    def use_loaded(self, parts: Set[str], where: str) -> list[str]:
        notes, self.text_only = super().use_loaded(parts, where), "mlm" in parts
        return notes + (
            [] if self.text_only else ["the checkpoint has no head of mlm, so the texts alone have no score"]
        )

    @classmethod
    def splits(cls, settings: Settings) -> tuple[str, ...]:
        """The benchmarks whose files are there.

        Raises:
            UserError: none is.
        """
        root, names = settings.data.data_root, settings.data.datasets
        there = tuple(name for name in names if splits_of(name, root, sample_kind=PROBES))
        example = f"`python run.py prepare with dataset={names[0]} root=<its download> data_root={root}` writes one"
        require(there, f"data_root='{root}' has no file of {', '.join(names)}; {example} (DATA.md, Probes).")
        return there

    @classmethod
    def open(cls, settings: Settings, split: str, labels: Sequence[str] | None) -> TaskDataset:
        stored = "test" if "test" in DATASETS[split].splits else split
        samples = open_samples(split, stored, settings.data.data_root, sample_kind=PROBES)
        return TaskDataset(samples, cls.read_of(split))

    @classmethod
    def read_of(cls, benchmark: str) -> Callable[[Sample], Example]:
        """Reads rows of a benchmark; picklable."""
        return _RowReader(benchmark)

    @staticmethod
    def target_builder(settings: Settings, tokenizer: PreTrainedTokenizerBase) -> Texts:
        return Texts(tokenizer)

    @classmethod
    def dummy_sample(cls, image: bytes) -> Example:
        return Example(0, (image,), "a", label=["a picture", "another"], metadata={"id": 0})

    def forward(self, encodings: Encodings, targets: ProbeTargets) -> TaskOutput:
        """The scores of all rows, one after the other: those of its pairs, picture by picture, of its texts blind, and alone."""
        counts = [*zip(encodings.batch.image_counts, targets.counts, strict=True)]
        texts, images = encodings.text(targets.text), encodings.images()
        rows = [*_pairs(counts)]
        pairs = self._scores(encodings, texts, images, [pair for row in rows for pair in row])
        every = range(sum(targets.counts))
        blind = self._scores(encodings, texts, self._mean_picture(encodings), [(0, text) for text in every])
        alone = self._likelihoods(encodings, targets) if self.text_only else torch.full_like(blind, torch.nan)
        split = zip(
            pairs.split([len(row) for row in rows]),
            blind.split(targets.counts),
            alone.split(targets.counts),
            strict=True,
        )
        logits = torch.cat([part for row in split for part in row])
        return TaskOutput(logits.new_zeros(()), logits.new_ones(()), logits, logits)

    def _scores(self, encodings: Encodings, texts: Tokens, images: Tokens, pairs: Sequence[tuple[int, int]]) -> Tensor:
        """(n,) of pairs (picture, text), through the fusion in parts of bounded size."""
        device = texts.hidden.device
        which = async_tensor([*pairs], device)
        if self.scored_by == "itc":
            sides = ((images, "image", 0), (texts, "text", 1))
            vectors = [
                self.itc.vectors(encodings.model.unimodal(tokens, side), side).float()[which[:, column]]
                for tokens, side, column in sides
            ]
            return (vectors[0] * vectors[1]).sum(-1)
        size = pairs_at_once(texts, images)
        fused = (
            encodings.fuse(texts.select(part[:, 1]), images.select(part[:, 0]), needs={"pooled"}).pooled
            for part in which.split(size)
        )
        return torch.cat([self.itm.head.log_odds(pooled) for pooled in fused])

    def _mean_picture(self, encodings: Encodings) -> Tokens:
        """The picture of which every pixel is the mean colour, embedded: (1,P,D)."""
        normalize, pixels = encodings.model.normalize, encodings.batch.images.pixels
        mean = (-normalize.shift / normalize.scale).clamp(0, 255).round().to(torch.uint8)
        return encodings.model.embed_image(ImageInput(mean.expand(1, *pixels.shape[1:]).contiguous()))

    def _likelihoods(self, encodings: Encodings, targets: ProbeTargets) -> Tensor:
        """(T,) of each text: the sum over its pieces of the log-probability of the piece where it alone is masked."""
        text, model = targets.text, encodings.model
        rows, places = targets.asked.nonzero(as_tuple=True)
        total = torch.zeros(len(text.input_ids), device=text.input_ids.device)
        for row, place in zip(
            *(each.split(pairs_at_once(encodings.text(text))) for each in (rows, places)), strict=True
        ):
            ids = text.input_ids[row]
            right = ids.gather(1, place[:, None])
            masked = text._replace(
                input_ids=ids.scatter(1, place[:, None], targets.mask_id),
                attention_mask=text.attention_mask[row],
                token_type_ids=text.token_type_ids[row],
            )
            hidden = model.fuse(model.embed_text(masked), None, needs={"text"}).text
            logits = self.mlm.head(hidden[torch.arange(len(row), device=row.device), place]).float()
            total.index_add_(0, row, logits.log_softmax(-1).gather(1, right).squeeze(1))
        return total

    def rows(self, output: TaskOutput, targets: ProbeTargets) -> list[dict[str, Any]]:
        """A row a row: its scores, and what is right by the benchmark's first metric."""
        scores, rows, at = output.logits.tolist(), [], 0
        for metadata, texts in zip(targets.metadata, targets.counts, strict=True):
            images = len(metadata["correct"])
            parts = [scores[at + texts * number : at + texts * (number + 1)] for number in range(images + 2)]
            at += texts * (images + 2)
            rows.append({**metadata, **self._judged(metadata, parts)})
        return rows

    def _judged(self, metadata: Mapping[str, Any], parts: Sequence[list[float]]) -> dict[str, Any]:
        *shown, blind, alone = parts
        judge = next(iter(probes.rule_of(metadata["benchmark"]).judges.values()))
        correct = np.array(metadata["correct"], bool)
        tied = probes.TIED[self.scored_by]
        texts = metadata["texts"]
        return {
            "prediction": " | ".join(texts[int(np.argmax(row))] for row in shown),
            "target": " | ".join(texts[int(np.argmax(row))] for row in correct),
            "score": float(judge.margin(probes.RowScores(np.array(shown), correct, tied)) > tied),
            "scores": shown,
            "blind_scores": blind,
            "text_scores": alone if self.text_only else None,
            "score_by": self.scored_by,
        }

    def score(self, frame: pd.DataFrame) -> dict[str, MetricDetails]:
        return probes.scored(frame, frame["benchmark"].iloc[0])

    @classmethod
    def baseline(cls, frame: pd.DataFrame) -> tuple[str, float]:
        judge = next(iter(probes.rule_of(frame["benchmark"].iloc[0]).judges.values()))
        chances = [judge.chance(np.array([*map(list, correct)], bool)) for correct in frame["correct"]]
        return "chance", float(np.mean(chances))

    @classmethod
    def submission(cls, frame: pd.DataFrame, split: str) -> dict[str, bytes]:
        """Winoground's score file, as its authors publish those of models."""
        if split != "winoground":
            return {}
        lines = "".join(f"{json.dumps(entry)}\n" for entry in probes.winoground_file(frame))
        return {"winoground_scores.jsonl": lines.encode()}

    @classmethod
    def summary(cls, metrics: Mapping[str, Mapping[str, MetricDetails]]) -> dict[str, str]:
        """results.md: the table of all benchmarks beside what others have published."""
        return {"results.md": "\n".join([*probes.table_lines(metrics, PUBLISHED), ""])}


class _RowReader:
    """Reads a row of a benchmark. Args: benchmark, its name."""

    def __init__(self, benchmark: str):
        self.benchmark = benchmark

    def __call__(self, sample: Sample) -> Example:
        texts, correct = sample.values["texts"], sample.values["correct"]
        shape = {len(row) for row in correct}
        boxes = sample.values.get("bboxes")
        images = len(sample.images) if boxes is None else len(boxes)
        if len(correct) != images or shape != {len(texts)}:
            raise UserError(
                f"{sample.where}: correct, which says what of {images} pictures and {len(texts)} texts belongs together, is of "
                "another shape; prepare the benchmark anew."
            )
        group = {"group": sample.values["group"]} if sample.values["group"] else {}
        row = {"benchmark": self.benchmark, "category": sample.values["category"] or None, **group}
        metadata = {"id": sample.values["id"], **row, "texts": list(texts), "correct": correct}
        return Example(
            sample.id, sample.images, texts[0], where=sample.where, label=list(texts), metadata=metadata, boxes=boxes
        )


def _pairs(counts: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Of each row its pairs of a picture and a text, both counted through the batch."""
    image = text = 0
    for images, texts in counts:
        yield [(image + i, text + t) for i in range(images) for t in range(texts)]
        image, text = image + images, text + texts
