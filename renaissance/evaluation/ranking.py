"""Ranks every image with every text.

    images, texts -> each through its encoder once -> pairs, in batches, through the fusion -> scores -> ranks

Process r of n has images r, r + n, ...: it encodes these and all texts, which cost little, scores them with one another, and
ranks the texts of each image. Images of texts are ranked in blocks, whose scores are gathered from all processes. Memory
holds the tokens of a process's images and of all texts, the scores of its images, and a block: on one process, for COCO's
5,000 images and 25,010 texts with a DeiT-tiny and a fusion of 256, 0.9, 0.4 and 0.5 GiB; of two, half of the first and last.
Similarities come from an image's process alone, so processes that round differently choose the same candidates.

A tie counts against the right one, so a model that distinguishes nothing finds nothing. Scores that differ by less than
rounding errors are tied, or the order of equal texts of two images would depend on the batches.
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

AT = (1, 5, 10)
FIRST = 10  # best images of each text, and texts of each image, that are kept
FOLD = 1_000  # images of a fold of COCO's 1K protocol
TIED = 1e-5  # scores with a smaller difference are equal
TIED_COSINES = 1e-6  # the same for products of unit vectors
_BLOCK = 1 << 22  # scores that are gathered and sorted at once
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
    """

    collate: Collate
    num_workers: int
    rank: int
    world_size: int
    gather: Callable[[Any], list[Any]]
    say: Callable[[str], None]


class Columns(NamedTuple):
    """The columns of (T,P) scores that are on this process. Functions that take it are collective: call them on all ranks.

    Attributes:
        image_of_text: (T,) number of the image that a text belongs to, ascending.
        own: (P/world_size,) numbers of this process's images.
        gather: as in `FullSplit`.
    """

    image_of_text: np.ndarray
    own: np.ndarray
    gather: Callable[[Any], list[Any]]


class Best(NamedTuple):
    """The best ones of each of n, best first. Attributes: ids (n, up to 10); scores, NaN where the fusion computed none."""

    ids: np.ndarray
    scores: np.ndarray


class Ranked(NamedTuple):
    """Ranks of the right ones, from 0. T texts, P images.

    Attributes:
        image_of_text: as in `Columns`.
        text_ranks: (T,) number of images that match a text at least as well as its own.
        image_ranks: (P,) number of other texts that match an image at least as well as the best of its own.
        best_images, best_texts: of each text, and of each image.
        folds: the same ranks, (text_ranks, image_ranks), in each fold of 1,000 consecutive images; none if less than two.
        contrastive: the ranks by the contrastive vectors, where they selected the candidates; else None.
    """

    image_of_text: np.ndarray
    text_ranks: np.ndarray
    image_ranks: np.ndarray
    best_images: Best
    best_texts: Best
    folds: list[tuple[np.ndarray, np.ndarray]]
    contrastive: Ranked | None = None


def recalls(ranked: Ranked) -> dict[str, float]:
    """Recall at 1, 5 and 10 in both directions, their mean, and with the suffix "_1k" their means over folds."""
    found = _recalls(ranked.text_ranks, ranked.image_ranks)
    found["recall_mean"] = sum(found.values()) / len(found)
    if folds := [_recalls(*fold) for fold in ranked.folds]:
        found |= {f"{name}_1k": float(np.mean([fold[name] for fold in folds])) for name in folds[0]}
    return found


def _recalls(text_ranks: np.ndarray, image_ranks: np.ndarray) -> dict[str, float]:
    both = {"text_to_image": text_ranks, "image_to_text": image_ranks}
    return {f"{way}_r{k}": float((ranks < k).mean()) for way, ranks in both.items() for k in AT}


def rank(scores: np.ndarray, columns: Columns, tied: float = TIED, lowest: float = -np.inf) -> Ranked:
    """Ranks by the scores of all processes; the result is the same on each.

    Args:
        scores: (T,P/world_size), not NaN.
        tied: scores with a smaller difference are equal.
        lowest: lower scores are not of the fusion.
    """
    image_of_text, own, gather = columns
    images = np.arange(image_of_text[-1] + 1)
    of_texts = [
        _rank_rows(block, image_of_text[rows], images, tied, lowest) for rows, block in _all_images(scores, columns)
    ]
    of_images = [
        _rank_rows(scores[:, rows].T, own[rows], image_of_text, tied, lowest) for rows in _blocks(len(own), len(scores))
    ]
    text_ranks, text_folds, *best_images = map(np.concatenate, zip(*of_texts, strict=True))
    image_ranks, image_folds, *best_texts = (
        _interleave(gather(np.concatenate(parts))) for parts in zip(*of_images, strict=True)
    )
    whole = range(len(images) // FOLD)
    folds = [(text_folds[image_of_text // FOLD == fold], image_folds[images // FOLD == fold]) for fold in whole]
    folds = folds if len(folds) > 1 else []
    return Ranked(image_of_text, text_ranks, image_ranks, Best(*best_images), Best(*best_texts), folds)


def _blocks(rows: int, columns: int) -> list[slice]:
    """Slices of rows of about _BLOCK scores; at least one, if only an empty one."""
    size = max(1, _BLOCK // columns)
    return [slice(start, start + size) for start in range(0, max(1, rows), size)]


def _all_images(scores: np.ndarray, columns: Columns) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of n texts, and their (n,P) scores, gathered from (T,P/world_size) on each process."""
    for rows in _blocks(len(scores), columns.image_of_text[-1] + 1):
        yield rows, np.ascontiguousarray(_interleave(columns.gather(scores[rows].T)).T)


def _interleave(parts: list[np.ndarray]) -> np.ndarray:
    """What each process has of its images, (P/world_size,...), in the order of the images, (P,...)."""
    whole = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype)
    for number, part in enumerate(parts):
        whole[number :: len(parts)] = part
    return whole


def _rank_rows(scores: np.ndarray, rows: np.ndarray, columns: np.ndarray, tied: float, lowest: float) -> tuple:
    """(n,) ranks of the best right column of each row of (n,m) scores; the same within its fold; both fields of `Best`.

    rows, columns: (n,) and (m,) images of the rows and columns; a column is right for the rows of its image.
    """
    right = rows[:, None] == columns
    before = (scores >= scores.max(1, keepdims=True, where=right, initial=-np.inf) - tied) & ~right
    within = before & (rows[:, None] // FOLD == columns // FOLD)
    # Floats as integers of the same order, followed by the position: no two are equal, so the result is unique.
    bits = (np.asarray(scores, np.float32) + np.float32(0)).view(np.int32).astype(np.int64)
    keys = ((bits ^ ((bits >> 31) & 0x7FFF_FFFF)) << 32) - np.arange(scores.shape[1])
    ids = torch.from_numpy(keys).topk(min(FIRST, scores.shape[1]), dim=1).indices.numpy()
    best = np.take_along_axis(scores, ids, 1)
    return before.sum(1), within.sum(1), ids, np.where(np.isfinite(best) & (best >= lowest), best, np.nan)


class Ranking:
    """Ranks the images and texts of a data set of captions.

    Args:
        model: a `TwoTower` or `OneTower`.
        match: pooled vectors (n,Dp) -> matching scores (n,).
        split: the pairs.
    """

    def __init__(self, model: nn.Module, match: Callable[[Tensor], Tensor], split: FullSplit):
        self.model, self.match, self.split = model, match, split
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
            return rank(self._scores(texts, images), self.columns)
        similarities = self._similarities(texts, images, vectors)
        contrastive = rank(similarities, self.columns, TIED_COSINES)
        if top == 0:
            return contrastive
        candidates = choose_candidates(similarities, top, self.columns)
        scores = self._scores(texts, images, candidates)
        ranked = rank_candidates(scores, candidates, similarities, self.columns)
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


def choose_candidates(similarities: np.ndarray, top: int, columns: Columns) -> np.ndarray:
    """(T,P/world_size) bool: the `top` images closest to each text, and the `top` texts closest to each image."""
    closest = torch.from_numpy(similarities).topk(min(top, len(similarities)), dim=0).indices
    chosen = torch.zeros(similarities.shape, dtype=torch.bool).scatter_(0, closest, True)
    for rows, block in _all_images(similarities, columns):
        closest = torch.from_numpy(block).topk(top, dim=1).indices
        chosen[rows] |= torch.zeros(block.shape, dtype=torch.bool).scatter_(1, closest, True)[:, columns.own]
    return chosen.numpy()


def rank_candidates(scores: np.ndarray, candidates: np.ndarray, similarities: np.ndarray, columns: Columns) -> Ranked:
    """Ranks by the scores of candidates, then all other pairs by their similarity; the arrays are (T,P/world_size)."""
    lowest = min(columns.gather(float(scores[np.isfinite(scores)].min(initial=0.0))))
    return rank(np.where(candidates, scores, similarities - 2 + lowest), columns, TIED, lowest)


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
