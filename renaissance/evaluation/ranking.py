"""Ranks every image with every text.

    images, texts -> each through its encoder once -> pairs, in batches, through the fusion -> scores -> ranks

Process r of n has images r, r + n, ...: it encodes these and all texts, which cost little, scores them with one another, and
ranks the texts of each image (`ranks.py`). Memory
holds the tokens of a process's images and of all texts, the scores of its images, and a block: on one process, for COCO's
5,000 images and 25,010 texts with a DeiT-tiny and a fusion of 256, 0.9, 0.4 and 0.5 GiB; of two, half of the first and last.
Similarities come from an image's process alone, so processes that round differently choose the same candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning_fabric.utilities import move_data_to_device
from torch import Tensor, nn
from torch.nn import functional as F

from renaissance.core.progress import Bar
from renaissance.core.types import TextInput, Tokens
from renaissance.data.collate import Collate
from renaissance.data.loader import StepLoader
from renaissance.data.sampler import Draw
from renaissance.data.text import encode

from .pair_pace import LONG, PairPace, pass_cost
from .ranks import FIRST, TIED_COSINES, Columns, Ranked, choose_candidates, rank, rank_candidates

TOKENS = {"cpu": 1 << 14}  # text and image tokens of one call of the fusion, by device type
_MORE_TOKENS = 1 << 18  # on any other device


class FullSplit(NamedTuple):
    """A split that a task evaluates as a whole.

    Attributes:
        collate: makes batches of its samples, `collate.source`, of the size of one call of an encoder.
        num_workers: loader processes.
        rank, world_size: this process and the number of processes.
        gather: returns one object of each process, in the order of ranks; every process must call it.
        say: prints a line, on the first process only.
        name: of the split.
    """

    collate: Collate
    num_workers: int
    rank: int
    world_size: int
    gather: Callable[[Any], list[Any]]
    say: Callable[[str], None]
    name: str = ""


class Ranking:
    """Ranks the images and texts of a data set of captions.

    Args:
        model: a `TwoTower` or `OneTower`.
        match: pooled vectors (n,Dp) -> matching scores (n,).
        split: the pairs.
        keep: how many best images of each text, and texts of each image, are kept.
    """

    def __init__(self, model: nn.Module, match: Callable[[Tensor], Tensor], split: FullSplit, keep: int = FIRST):
        self.model, self.match, self.split, self.keep = model, match, split, keep
        self.device = next(model.parameters()).device
        self.dataset, self.batch_size = split.collate.source.dataset, split.collate.per_gpu_batchsize
        _, self.first, self.image_of_text = np.unique(self.dataset.rows(), return_index=True, return_inverse=True)
        self.own = np.arange(len(self.first))[split.rank :: split.world_size]  # numbers of this process's images
        self.columns = Columns(self.image_of_text, self.own, split.gather)

    def run(self, top: int | None = None, vectors: Callable[[Tokens, str], Tensor] | None = None) -> Ranked:
        """Ranks everything; the result is the same on every process.

        Args:
            top: candidates of each text, and of each image, for the fusion; None = all, 0 = none: the vectors rank.
            vectors: unimodal tokens and their side -> unit vectors, whose products select the candidates.
        """
        texts, images = self._embed_texts(), self._embed_images()
        if top is None or top >= len(self.first):
            return rank(self._scores(texts, images), self.columns, keep=self.keep)
        similarities = self._similarities(texts, images, vectors)
        contrastive = rank(similarities, self.columns, TIED_COSINES, keep=self.keep)
        if top == 0:
            return contrastive
        candidates = choose_candidates(similarities, top, self.columns)
        scores = self._scores(texts, images, candidates)
        ranked = rank_candidates(scores, candidates, similarities, self.columns, self.keep)
        return ranked._replace(contrastive=contrastive)

    def _embed_texts(self) -> list[tuple[np.ndarray, Tokens]]:
        """All texts, embedded in groups of one length: their numbers and tokens (n,L,D)."""
        collate, parts = self.split.collate, []
        for start in range(0, len(self.dataset), self.batch_size * 64):
            numbers = range(start, min(len(self.dataset), start + self.batch_size * 64))
            words = [self.dataset.text(number) for number in numbers]
            parts.append(encode(collate.tokenizer, words, collate.max_text_len, multiple=collate.max_text_len)[1])
        text = TextInput(*map(torch.cat, zip(*parts, strict=True)))
        lengths = -(-text.attention_mask.sum(1) // 4) * 4  # few lengths, little padding
        groups = []
        for length in lengths.unique().flip(0).tolist():  # the longest first, so time and memory are not underestimated
            numbers = (lengths == length).nonzero().flatten()
            batches = (
                TextInput(*(field[batch, :length].to(self.device) for field in text))
                for batch in numbers.split(self.batch_size)
            )
            groups.append((numbers.numpy(), _concatenated(map(self.model.embed_text, batches), len(numbers))))
        return groups

    def _embed_images(self) -> Tokens:
        """This process's images, embedded: (P/world_size,N,D)."""
        draws = [Draw(0, int(index)) for index in self.first[self.own]]
        if not draws:  # more processes than images
            return Tokens(torch.zeros(0, 1, self.model.width, device=self.device), None)
        steps = [draws[at : at + self.batch_size] for at in range(0, len(draws), self.batch_size)]
        loader = StepLoader(steps, self.split.collate, self.split.num_workers, pin_memory=False)
        bar = Bar(loader, desc="encoding images", unit="batch", disable=self.split.rank > 0)
        images = (move_data_to_device(batch.images, self.device) for [batch] in bar)
        return _concatenated(map(self.model.embed_image, images), len(draws))

    def _similarities(
        self, texts: list[tuple[np.ndarray, Tokens]], images: Tokens, vectors: Callable[[Tokens, str], Tensor]
    ) -> np.ndarray:
        """(T,P/world_size) products of the contrastive vectors; -inf where they are NaN."""

        def vectors_of(tokens: Tokens, side: str) -> Tensor:
            parts = (
                Tokens(*(None if field is None else field[at : at + self.batch_size] for field in tokens))
                for at in range(0, max(1, len(tokens.hidden)), self.batch_size)
            )
            return torch.cat([vectors(self.model.unimodal(part, side), side).float().cpu() for part in parts])

        of_texts = torch.cat([vectors_of(tokens, "text") for _, tokens in texts])
        of_texts = of_texts[np.argsort(np.concatenate([numbers for numbers, _ in texts]))]
        return (of_texts @ vectors_of(images, "image").T).nan_to_num_(nan=-torch.inf).numpy()

    def _scores(
        self, texts: list[tuple[np.ndarray, Tokens]], images: Tokens, candidates: np.ndarray | None = None
    ) -> np.ndarray:
        """(T,P/world_size) matching scores; -inf where they are NaN or not computed.

        Args:
            candidates: (T,P/world_size) bool, the pairs to compute; None = all.
        """
        scores = np.full((len(self.image_of_text), len(self.own)), -np.inf, np.float32)
        total, done = scores.size if candidates is None else int(candidates.sum()), 0
        pace = PairPace(total)
        with Bar(total=total, desc="ranking", unit="pair", unit_scale=True, disable=self.split.rank > 0) as bar:
            for numbers, tokens, rows, columns in self._pairs(texts, images, candidates):
                if (estimated := pace.before(done)) is not None:
                    kept = images.hidden.nbytes + sum(tokens.hidden.nbytes for _, tokens in texts) + scores.nbytes
                    self.split.say(self._cost(total, estimated, kept, candidates is None))
                text, image = (
                    side.select(torch.from_numpy(index).to(self.device))
                    for side, index in ((tokens, rows), (images, columns))
                )
                found = self.match(self.model.fuse(text, image, needs={"pooled"}).pooled).float().cpu().numpy()
                scores[numbers[rows], columns] = np.where(np.isnan(found), -np.inf, found)
                bar.update(len(rows))
                done += len(rows)
        return scores

    def _pairs(
        self, texts: list[tuple[np.ndarray, Tokens]], images: Tokens, candidates: np.ndarray | None
    ) -> Iterator[tuple[np.ndarray, Tokens, np.ndarray, np.ndarray]]:
        """Batches of pairs: a group of texts, and the indices into it and into this process's images."""
        for numbers, tokens in texts:
            size, every = pairs_at_once(tokens, images), range(len(numbers) * len(self.own))
            pairs = every if candidates is None else np.flatnonzero(candidates[numbers].T)
            for start in range(0, len(pairs), size):
                columns, rows = np.divmod(pairs[start : start + size], len(numbers))
                yield numbers, tokens, rows, columns

    def _cost(self, total: int, seconds: float, kept: int, exact: bool) -> str:
        """A sentence about time and memory, estimated from the first batches."""
        what = f"ranking {len(self.image_of_text):,} texts and {len(self.first):,} images"
        advice = "; rerank_top_k, with loss_names.itc, leaves out most of them" if exact and seconds > LONG else ""
        return f"{what}: {pass_cost(total, seconds, self.split.world_size)}, {kept / 2**30:.2f} GiB of tokens and scores{advice}"


def pairs_at_once(*sides: Tokens) -> int:
    """How many pairs of them, or how many of one side alone, one call of the fusion takes."""
    tokens = sum(side.hidden.shape[1] for side in sides)
    return max(1, TOKENS.get(sides[0].hidden.device.type, _MORE_TOKENS) // tokens)


def _concatenated(parts: Iterable[Tokens], count: int) -> Tokens:
    """Concatenates the tokens of batches in memory that is allocated once; different lengths are padded."""
    hidden, mask, at = None, None, 0
    for part in parts:
        size, length = part.hidden.shape[:2]
        if hidden is None:
            hidden = part.hidden.new_zeros(count, *part.hidden.shape[1:])
            mask = torch.zeros(count, length, dtype=torch.bool, device=hidden.device)
        if (more := length - hidden.shape[1]) > 0:
            hidden, mask = F.pad(hidden, (0, 0, 0, more)), F.pad(mask, (0, more))
        hidden[at : at + size, :length] = part.hidden
        mask[at : at + size, :length] = True if part.mask is None else part.mask
        at += size
    return Tokens(hidden, None if mask.all() else mask)
