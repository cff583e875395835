"""Probes: which of some texts belongs to which of some pictures, by a model as pretraining left it (`evaluation/probes.py`).

A pair's score is the log-odds of the matching head (`itm`), or the cosine of the contrastive vectors (`itc`), where the
checkpoint has them. Each benchmark is a split of this task. Beside its scores a text has two that see no picture: with the mean
colour in its place, and the pseudo-log-likelihood by the head of masked language modelling (Salazar et al., ACL 2020).
SugarCrepe++ compares the contrastive vectors of its texts with each other, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from functools import partial
from itertools import combinations, islice
from math import comb
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from renaissance.core.errors import require, shortened
from renaissance.core.types import Example, ImageInput, ProbeTargets, TaskOutput, Tokens
from renaissance.data.collate import MicroBatch
from renaissance.data.dataset_specs import DATASETS, PROBES
from renaissance.data.datasets import open_samples, splits_of
from renaissance.data.samples import Sample, TaskDataset
from renaissance.data.text import cut_texts, wordless_ids
from renaissance.evaluation import probes
from renaissance.evaluation.metrics import MetricDetails
from renaissance.evaluation.probe_files import table_lines, winoground_file
from renaissance.evaluation.published import PUBLISHED
from renaissance.evaluation.ranking import pairs_at_once
from renaissance.models.transfer import async_tensor
from renaissance.settings.sections import Settings

from .base import Context, Encodings
from .mlm import Mlm
from .zero_shot import ZeroShot, cut_note

_MOST_LOGITS = 1 << 27  # of the head of masked words at once


class Texts:
    """Builds `ProbeTargets`: all texts of all rows, tokenised once; picklable."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_text_len: int):
        self.tokenizer, self.max_text_len = tokenizer, max_text_len
        self.mask_id, self.special = tokenizer.mask_token_id, torch.tensor(sorted(wordless_ids(tokenizer)))

    def __call__(self, micro: MicroBatch) -> ProbeTargets:
        counts = [len(example.label) for example in micro.examples]
        texts = [each for example in micro.examples for each in example.label]
        _, text = micro.encode(texts)
        cut = iter(cut_texts(self.tokenizer, texts, self.max_text_len))
        metadata = (
            {**example.metadata, "texts_cut": sum(islice(cut, len(example.label)))} for example in micro.examples
        )
        asked = text.attention_mask & ~torch.isin(text.input_ids, self.special)
        return ProbeTargets(text, tuple(counts), asked, self.mask_id, tuple(metadata))


class Probe(ZeroShot):
    """Scores each row's pictures with its texts; nothing is trained."""

    sample_kind, images_per_sample, has_loss = PROBES, None, False
    starts_from = {**ZeroShot.starts_from, "mlm": "mlm"}

    def __init__(self, model: nn.Module, context: Context):
        super().__init__(model, context)
        self.mlm, self.text_only, self.text_vectors = Mlm(model, context), True, True
        self.side, self.pieces = context.settings.model.image_size, context.vocab_size
        self._known: dict[tuple[int, ...], Tensor] = {}  # scores of texts alone, which come again in other rows
        self._blind: Tokens | None = None

    def use_loaded(self, parts: Set[str], where: str) -> list[str]:
        notes, self.text_only, self.text_vectors = super().use_loaded(parts, where), "mlm" in parts, "itc" in parts
        names = self.settings.data.datasets
        signed = [name for name in names if probes.SIGN in probes.rule_of(name).judges.values()]
        if signed and self.scored_by == "itc":
            said = f"{', '.join(signed)} asks whether a text is true, which cosines of itc do not say"
            way = "leave probe_score=itc out" if "itm" in parts else "give a load_path that was trained with itm"
            require(len(signed) < len(names), f"{said}; {way}.")
            notes.append(f"{said}: no number")
        if not self.text_only:
            notes.append("the checkpoint has no head of mlm, so the texts alone have no score")
        if not self.text_vectors and (compared := [name for name in names if probes.rule_of(name).text_to_text]):
            notes.append(f"the checkpoint has no head of itc, so {', '.join(compared)} has no text_to_text")
        return notes

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
        """As `Downstream.open`; an id that occurs twice, and a row from which nothing can be told, are refused, too."""
        stored = "test" if "test" in DATASETS[split].splits else split
        samples, seen = open_samples(split, stored, settings.data.data_root, sample_kind=PROBES), set()
        for number, (id, correct) in enumerate(zip(samples.values("id"), samples.values("correct"), strict=True)):
            where = f"{samples.describe()[0].file} row {number}"
            require(id not in seen, f"{where} has the id '{id}' of an earlier row; prepare the benchmark anew.")
            require(
                all(len(row) == 1 or 0 < sum(row) < len(row) for row in correct),
                f"{where}: a picture has no right text, or no wrong one: nothing can be told; prepare the benchmark anew.",
            )
            seen.add(id)
        return TaskDataset(samples, partial(_read_row, split))

    @staticmethod
    def target_builder(settings: Settings, tokenizer: PreTrainedTokenizerBase) -> Texts:
        return Texts(tokenizer, settings.model.max_text_len)

    @classmethod
    def dummy_sample(cls, image: bytes) -> Example:
        return Example(0, (image,), "a", label=["a picture", "another"], metadata={"id": 0})

    def forward(self, encodings: Encodings, targets: ProbeTargets) -> TaskOutput:
        """The scores of all rows, one after the other: those of its pairs, picture by picture, of its texts blind, and alone;
        then the cosines of its pairs of texts, where the benchmark asks for them."""
        with torch.autocast(targets.text.input_ids.device.type, enabled=False):  # in 16 bits many scores would be equal
            return self._forward(encodings, targets)

    def _forward(self, encodings: Encodings, targets: ProbeTargets) -> TaskOutput:
        counts = [*zip(encodings.batch.image_counts, targets.counts, strict=True)]
        texts, images = encodings.text(targets.text), encodings.images()
        rows = [*_pairs(counts)]
        pairs = self._scores(encodings, texts, images, [pair for row in rows for pair in row])
        every = range(sum(targets.counts))
        blind = self._scores(encodings, texts, self._mean_picture(encodings), [(0, text) for text in every])
        alone = self._likelihoods(encodings, targets) if self.text_only else torch.full_like(blind, torch.nan)
        cosines, compared = pairs[:0], [0] * len(rows)
        if self._compares_texts(targets):
            compared = [comb(count, 2) for count in targets.counts]
            vectors, which = self._unit_vectors(encodings, texts, "text"), [*_pairs_of_texts(targets.counts)]
            cosines = vectors[async_tensor(which, vectors.device)].prod(1).sum(-1)
        split = zip(
            pairs.split([len(row) for row in rows]),
            blind.split(targets.counts),
            alone.split(targets.counts),
            cosines.split(compared),
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
            vectors = [self._unit_vectors(encodings, tokens, side)[which[:, column]] for tokens, side, column in sides]
            return (vectors[0] * vectors[1]).sum(-1)
        return self.log_odds(encodings.model, texts, images, which)

    def _unit_vectors(self, encodings: Encodings, tokens: Tokens, side: str) -> Tensor:
        return self.itc.vectors(encodings.model.unimodal(tokens, side), side).float()

    def _compares_texts(self, targets: ProbeTargets) -> bool:
        return self.text_vectors and probes.rule_of(targets.metadata[0].get("benchmark", "")).text_to_text

    def _mean_picture(self, encodings: Encodings) -> Tokens:
        """The picture of which every pixel is the mean colour, embedded: (1,P,D)."""
        if self._blind is None:
            normalize = encodings.model.normalize
            mean = (-normalize.shift / normalize.scale).clamp(0, 255).round().to(torch.uint8)
            self._blind = encodings.model.embed_image(ImageInput(mean.expand(1, 3, self.side, self.side).contiguous()))
        return self._blind

    def _likelihoods(self, encodings: Encodings, targets: ProbeTargets) -> Tensor:
        """(T,) of each text: the sum over its pieces of the log-probability of the piece where it alone is masked."""
        text = targets.text
        keys = [tuple(ids[mask].tolist()) for ids, mask in zip(text.input_ids, text.attention_mask, strict=True)]
        new = {key: number for number, key in enumerate(keys) if key not in self._known}
        if new:
            rows = torch.tensor([*new.values()], device=text.input_ids.device)
            part = targets._replace(text=type(text)(*(field[rows] for field in text)), asked=targets.asked[rows])
            self._known |= zip(new, self._of_new_texts(encodings, part), strict=True)
        return torch.stack([self._known[key] for key in keys])

    def _of_new_texts(self, encodings: Encodings, targets: ProbeTargets) -> Tensor:
        text, model = targets.text, encodings.model
        rows, places = targets.asked.nonzero(as_tuple=True)
        size = max(1, min(pairs_at_once(encodings.text(text)), _MOST_LOGITS // self.pieces))
        found = torch.zeros(text.input_ids.shape, device=rows.device)
        for row, place in zip(rows.split(size), places.split(size), strict=True):
            ids = text.input_ids[row]
            right = ids.gather(1, place[:, None])
            masked = text._replace(
                input_ids=ids.scatter(1, place[:, None], targets.mask_id),
                attention_mask=text.attention_mask[row],
                token_type_ids=text.token_type_ids[row],
            )
            hidden = model.fuse(model.embed_text(masked), None, needs={"text"}).text
            logits = self.mlm.head(hidden[torch.arange(len(row), device=row.device), place]).float()
            found[row, place] = logits.log_softmax(-1).gather(1, right).squeeze(1)
        return found.sum(1)

    def rows(self, output: TaskOutput, targets: ProbeTargets) -> list[dict[str, Any]]:
        """A row a row: its scores, and what is right by the benchmark's first metric."""
        scores, rows, at = output.logits.tolist(), [], 0
        for metadata, texts in zip(targets.metadata, targets.counts, strict=True):
            images = len(metadata["correct"])
            parts = [scores[at + texts * number : at + texts * (number + 1)] for number in range(images + 2)]
            at += texts * (images + 2)
            row = {**metadata, **self._judged(metadata, parts)}
            if probes.rule_of(metadata["benchmark"]).text_to_text:
                row["text_cosines"] = scores[at : at + comb(texts, 2)] if self.text_vectors else None
                at += comb(texts, 2) * self.text_vectors
            rows.append(row)
        return rows

    def _judged(self, metadata: Mapping[str, Any], parts: Sequence[list[float]]) -> dict[str, Any]:
        *shown, blind, alone = parts
        judge = probes.rule_of(metadata["benchmark"]).first
        tied, texts = probes.TIED[self.scored_by], metadata["texts"]
        row = probes.RowScores(np.array(shown), probes.matrix(metadata["correct"]))
        if len(texts) == 1:  # whether it is true
            chosen = [
                " | ".join("true" if each > 0 else "false" for each in of[:, 0]) for of in (row.scores, row.correct)
            ]
        else:
            chosen = [" | ".join(texts[int(np.argmax(each))] for each in of) for of in (row.scores, row.correct)]
        judged = judge is not probes.SIGN or self.scored_by == "itm"
        return {
            "prediction": chosen[0],
            "target": chosen[1],
            "score": float(judge.margin(row) > tied) if judged else None,
            "scores": shown,
            "blind_scores": blind,
            "text_scores": alone if self.text_only else None,
            "score_by": self.scored_by,
        }

    def score(self, frame: pd.DataFrame) -> dict[str, MetricDetails]:
        return probes.scored(frame, frame["benchmark"].iloc[0])

    @classmethod
    def baseline(cls, frame: pd.DataFrame) -> tuple[str, float]:
        judge = probes.rule_of(frame["benchmark"].iloc[0]).first
        return "chance", float(probes.chances(frame, judge).mean())

    def notes(self, frame: pd.DataFrame, dataset: Any) -> list[str]:
        texts, categories = int(frame["texts"].map(len).sum()), sorted({*frame["category"].dropna()})
        notes = cut_note(int(frame["texts_cut"].sum()), texts, self.settings.model.max_text_len)
        if len(frame) < len(dataset) and categories:  # files are sorted by category
            notes.append(f"the rows that are evaluated are of these categories alone: {shortened(categories, 8)}")
        return notes

    @classmethod
    def submission(cls, frame: pd.DataFrame, split: str) -> dict[str, bytes]:
        """Winoground's score file, as its authors publish those of models."""
        if split != "winoground":
            return {}
        lines = "".join(f"{json.dumps(entry)}\n" for entry in winoground_file(frame))
        return {"winoground_scores.jsonl": lines.encode()}

    @classmethod
    def summary(cls, metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, str]:
        """results.md: the table of all benchmarks beside what others have published."""
        return {"results.md": "\n".join([*table_lines(metrics, PUBLISHED), ""])}


def _read_row(benchmark: str, sample: Sample) -> Example:
    prompt, correct = probes.rule_of(benchmark).prompt, sample.values["correct"]
    texts = [f"{prompt}{text}" for text in sample.values["texts"]]
    boxes = sample.values.get("bboxes")
    images = len(sample.images) if boxes is None else len(boxes)
    require(
        len(correct) == images and {len(row) for row in correct} == {len(texts)},
        f"{sample.where}: correct, which says what of {images} pictures and {len(texts)} texts belongs together, is of "
        "another shape; prepare the benchmark anew.",
    )
    group = {"group": sample.values["group"]} if sample.values["group"] else {}
    row = {"benchmark": benchmark, "category": sample.values["category"] or None, **group}
    metadata = {"id": sample.values["id"], **row, "texts": texts, "correct": correct}
    return Example(sample.id, sample.images, texts[0], where=sample.where, label=texts, metadata=metadata, boxes=boxes)


def _pairs(counts: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Of each row its pairs of a picture and a text, both counted through the batch."""
    image = text = 0
    for images, texts in counts:
        yield [(image + i, text + t) for i in range(images) for t in range(texts)]
        image, text = image + images, text + texts


def _pairs_of_texts(counts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Of each row its pairs of two texts, both counted through the batch."""
    at = 0
    for texts in counts:
        yield from combinations(range(at, at + texts), 2)
        at += texts
