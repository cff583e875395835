"""From scores of images with texts to ranks: arithmetic, on all processes together.

    scores, a process's images its columns -> ranks of the right ones, best ones, folds -> recalls

Images of texts are ranked in blocks, whose scores are gathered from all processes.

A tie counts against the right one, so a model that distinguishes nothing finds nothing. Scores that differ by less than
rounding errors are tied, or the order of equal texts of two images would depend on the batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

AT = (1, 5, 10)
FIRST = 10  # best images of each text, and texts of each image, that are kept and shown
FOLD = 1_000  # images of a fold of COCO's 1K protocol
TIED = 1e-5  # scores with a smaller difference are equal
TIED_COSINES = 1e-6  # the same for products of unit vectors
_BLOCK = 1 << 22  # scores that are gathered and sorted at once


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
    """The best ones of each of n, best first. Attributes: ids (n, k); scores, NaN where the fusion computed none."""

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


def chance_of_any(sizes: np.ndarray, candidates: int, k: int) -> float:
    """Recall at k of a random order: probability that one of a query's right ones is in the first k; mean over queries.

    Args:
        sizes: (n,) how many right ones each query has.
        candidates: how many there are of both kinds.
    """
    k = min(k, candidates)
    return float(np.mean([1 - math.comb(candidates - size, k) / math.comb(candidates, k) for size in sizes.tolist()]))


def rank(
    scores: np.ndarray, columns: Columns, tied: float = TIED, lowest: float = -np.inf, keep: int = FIRST
) -> Ranked:
    """Ranks by the scores of all processes; the result is the same on each.

    Args:
        scores: (T,P/world_size), not NaN.
        tied: scores with a smaller difference are equal.
        lowest: lower scores are not of the fusion.
        keep: how many best ones of each are kept; of equal scores the first in the data set stands first.
    """
    image_of_text, own, gather = columns
    images = np.arange(image_of_text[-1] + 1)
    of_texts = [
        _rank_rows(block, image_of_text[rows], images, tied, lowest, keep)
        for rows, block in _all_images(scores, columns)
    ]
    of_images = [
        _rank_rows(scores[:, rows].T, own[rows], image_of_text, tied, lowest, keep)
        for rows in _blocks(len(own), len(scores))
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


def _rank_rows(
    scores: np.ndarray, rows: np.ndarray, columns: np.ndarray, tied: float, lowest: float, keep: int
) -> tuple:
    """(n,) ranks of the best right column of each row of (n,m) scores; the same within its fold; both fields of `Best`.

    rows, columns: (n,) and (m,) images of the rows and columns; a column is right for the rows of its image.
    """
    right = rows[:, None] == columns
    before = (scores >= scores.max(1, keepdims=True, where=right, initial=-np.inf) - tied) & ~right
    within = before & (rows[:, None] // FOLD == columns // FOLD)
    # Floats as integers of the same order, followed by the position: no two are equal, so the result is unique.
    bits = (np.asarray(scores, np.float32) + np.float32(0)).view(np.int32).astype(np.int64)
    keys = ((bits ^ ((bits >> 31) & 0x7FFF_FFFF)) << 32) - np.arange(scores.shape[1])
    ids = torch.from_numpy(keys).topk(min(keep, scores.shape[1]), dim=1).indices.numpy()
    best = np.take_along_axis(scores, ids, 1)
    return before.sum(1), within.sum(1), ids, np.where(np.isfinite(best) & (best >= lowest), best, np.nan)


def choose_candidates(similarities: np.ndarray, top: int, columns: Columns) -> np.ndarray:
    """(T,P/world_size) bool: the `top` images closest to each text, and the `top` texts closest to each image."""
    closest = torch.from_numpy(similarities).topk(min(top, len(similarities)), dim=0).indices
    chosen = torch.zeros(similarities.shape, dtype=torch.bool).scatter_(0, closest, True)
    for rows, block in _all_images(similarities, columns):
        closest = torch.from_numpy(block).topk(top, dim=1).indices
        chosen[rows] |= torch.zeros(block.shape, dtype=torch.bool).scatter_(1, closest, True)[:, columns.own]
    return chosen.numpy()


def rank_candidates(
    scores: np.ndarray, candidates: np.ndarray, similarities: np.ndarray, columns: Columns, keep: int = FIRST
) -> Ranked:
    """Ranks by the scores of candidates, then all other pairs by their similarity; the arrays are (T,P/world_size)."""
    lowest = min(columns.gather(float(scores[np.isfinite(scores)].min(initial=0.0))))
    return rank(np.where(candidates, scores, similarities - 2 + lowest), columns, TIED, lowest, keep)
