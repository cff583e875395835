"""Every picture with every text, and where the right ones stand.

    pictures, texts -> each through its encoder once -> pairs, in batches, through the fusion alone -> scores -> ranks

Processes share the pictures: each encodes its own, and all texts, which cost little, and scores them with one another.
What is brought together are a few numbers a text and a picture, not scores a pair. Kept in memory are the tokens of a
process's pictures and of all texts, and its scores: of COCO's 5,000 pictures and 25,010 texts with a DeiT-tiny and a fusion
of 256, 0.9, 0.4 and 0.5 GiB.

A tie counts against the right one, whatever its place: a model that tells nothing apart finds nothing. Scores that are closer
than rounding makes them are tied, or equal texts of two pictures would stand in an order that depends on the batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from renaissance.core.console import say
from renaissance.core.types import ImageInput, TextInput, Tokens
from renaissance.data.collate import Collate, Source
from renaissance.data.loader import StepLoader
from renaissance.data.sampler import Draw
from renaissance.data.text import encode

AT = (1, 5, 10)
FIRST = 10  # best ones of each text, and of each picture, that are kept
ITC_PREFIX = "itc_"  # what the names of recalls begin with where the contrastive vectors alone rank
FOLD = 1_000  # pictures of a fold of COCO's 1K protocol
TIED = 1e-5  # scores that are no further apart are equal
_TIED_COSINES = 1e-6  # the same of products of vectors of length 1
_BLOCK = 1 << 22  # scores that are sorted at once
TOKENS = {"cpu": 1 << 14}  # text and image tokens that one call of the fusion takes, by kind of device
_MORE_TOKENS = 1 << 18  # the same on any other device
_MEASURED = 3  # batches that are timed before the estimate, after one that warms up


class Best(NamedTuple):
    """The best ones of each of n, best first. Attributes: numbers, (n, up to 10); scores, NaN where the fusion gave none."""

    numbers: np.ndarray
    scores: np.ndarray


class Ranked(NamedTuple):
    """Where the right ones stand, from 0. T texts, P pictures.

    Attributes:
        picture_of_text: (T,) number of the picture that a text belongs to.
        text_ranks: (T,) pictures that match a text at least as well as its own one does.
        picture_ranks: (P,) texts of other pictures that match a picture at least as well as the best of its own does.
        pictures, texts: the best pictures of each text, and the best texts of each picture.
        folds: the same ranks within folds of 1,000 consecutive pictures, (text_ranks, picture_ranks); None where there
            are less than two folds.
        contrastive: the ranks by the contrastive vectors alone, where they chose the candidates of these; else None.
    """

    picture_of_text: np.ndarray
    text_ranks: np.ndarray
    picture_ranks: np.ndarray
    pictures: Best
    texts: Best
    folds: tuple[np.ndarray, np.ndarray] | None
    contrastive: Ranked | None = None


def recalls(ranked: Ranked, start: str = "") -> dict[str, float]:
    """Recall at 1, 5 and 10 both ways, their mean, and the same with "_1k" behind it, over folds of 1,000 pictures.

    Args:
        start: what each name begins with. Each recall before the fusion, "itc_...", stands behind the one after it.
    """
    after = {f"{start}{name}": value for name, value in _all_recalls(ranked).items()}
    if ranked.contrastive is None:
        return after
    before = recalls(ranked.contrastive, ITC_PREFIX)
    return {each: values[each] for name in after for each, values in ((name, after), (ITC_PREFIX + name, before))}


def _all_recalls(ranked: Ranked) -> dict[str, float]:
    found = _recalls(ranked.text_ranks, ranked.picture_ranks, "")
    found["recall_mean"] = sum(found.values()) / len(found)
    if ranked.folds is not None:
        texts, pictures = ranked.folds
        fold_of_text, fold_of_picture = ranked.picture_of_text // FOLD, np.arange(len(pictures)) // FOLD
        whole = [fold for fold in np.unique(fold_of_picture) if (fold_of_picture == fold).sum() == FOLD]
        each = [_recalls(texts[fold_of_text == fold], pictures[fold_of_picture == fold], "_1k") for fold in whole]
        found |= {name: float(np.mean([fold[name] for fold in each])) for name in each[0]}
    return found


def _recalls(text_ranks: np.ndarray, picture_ranks: np.ndarray, ending: str) -> dict[str, float]:
    both = (("text_to_image", text_ranks), ("image_to_text", picture_ranks))
    return {f"{way}_r{k}{ending}": float((ranks < k).mean()) for way, ranks in both for k in AT}


class Ranking:
    """Ranks the pictures and texts of a data set of captions.

    Args:
        model: with the three parts of every model.
        match: pooled vectors (n,Dp) -> (n,) how well each pair matches.
        source: the pairs with the transform of their pictures.
        tokenizer, max_text_len: of the texts.
        batch_size: pictures, and texts, that go through an encoder at once.
        num_workers: processes that decode pictures.
        device: where the model is.
        rank, world: this process and the number of processes.
        gather: brings one object of each process together.
        say: prints a line.
    """

    def __init__(
        self,
        model: nn.Module,
        match: Callable[[Tensor], Tensor],
        source: Source,
        tokenizer: PreTrainedTokenizerBase,
        max_text_len: int,
        batch_size: int,
        num_workers: int,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        gather: Callable[[Any], list[Any]] = lambda value: [value],
        say: Callable[[str], None] = say,
    ):
        self.model, self.match, self.source = model, match, source
        self.tokenizer, self.max_text_len = tokenizer, max_text_len
        self.batch_size, self.num_workers, self.device = batch_size, num_workers, device
        self.rank, self.world, self.gather, self.say = rank, world, gather, say
        rows = source.dataset.rows()
        _, self.first, self.picture_of_text = np.unique(rows, return_index=True, return_inverse=True)
        self.own = np.arange(len(self.first))[rank::world]  # numbers of this process's pictures

    def run(self, top: int | None = None, vectors: Callable[[Tokens, str], Tensor] | None = None) -> Ranked:
        """Ranks everything.

        Args:
            top: candidates a text, and a picture, that go through the fusion; None = all, 0 = none: the vectors rank.
            vectors: unimodal tokens and their side -> vectors of length 1, whose products choose the candidates.
        """
        texts = self._texts()
        pictures = self._pictures()
        if top is None or top >= len(self.first):
            return self._ranked(self._scores(texts, pictures, None))
        close = self._similarities(texts, pictures, vectors)
        contrastive = self._ranked(close[:, self.rank :: self.world].numpy(), _TIED_COSINES)
        if top == 0:
            return contrastive
        candidates = _candidates(close, self.picture_of_text, self.own, top)
        scores = self._scores(texts, pictures, candidates)
        return self._ranked(*self._with_others(scores, candidates, close))._replace(contrastive=contrastive)

    def _texts(self) -> list[tuple[np.ndarray, Tokens]]:
        """All texts, embedded, as groups of one length: their numbers, and their tokens (n,L,D)."""
        dataset, groups = self.source.dataset, {}
        for start in range(0, len(dataset), self.batch_size * 64):
            numbers = np.arange(start, min(len(dataset), start + self.batch_size * 64))
            _, text = encode(self.tokenizer, [dataset.text(int(number)) for number in numbers], self.max_text_len)
            lengths = -(-text.attention_mask.sum(1) // 4) * 4  # few lengths, little padding
            for length in lengths.unique().tolist():
                chosen = (lengths == length).nonzero().flatten()
                part = TextInput(*(field[chosen, :length] for field in text))
                found = groups.setdefault(length, ([], []))
                found[0].append(numbers[chosen.numpy()])
                found[1].append(part)
        made = []
        for length in sorted(groups, reverse=True):  # so neither the estimate nor the memory is exceeded later
            numbers, parts = groups[length]
            whole = TextInput(*(torch.cat(fields) for fields in zip(*parts, strict=True)))
            starts = range(0, len(whole.input_ids), self.batch_size)
            batches = (TextInput(*(f[at : at + self.batch_size].to(self.device) for f in whole)) for at in starts)
            embedded = _collected(map(self.model.embed_text, batches), len(whole.input_ids))
            made.append((np.concatenate(numbers), embedded))
        return made

    def _pictures(self) -> Tokens:
        """This process's pictures, embedded: (P/world,N,D)."""
        draws = [Draw(0, int(index)) for index in self.first[self.own]]
        steps = [draws[at : at + self.batch_size] for at in range(0, len(draws), self.batch_size)]
        collate = Collate(self.tokenizer, self.max_text_len, self.batch_size, {}, self.source)
        loader = StepLoader(steps, collate, self.num_workers, pin_memory=False)
        bar = tqdm(loader, desc="encoding pictures", unit="batch", disable=self.rank > 0, dynamic_ncols=True)
        images = (
            ImageInput(*(None if part is None else part.to(self.device) for part in batch.images)) for [batch] in bar
        )
        if not draws:  # more processes than pictures
            return Tokens(torch.zeros(0, 1, self.model.width, device=self.device), None)
        return _collected(map(self.model.embed_image, images), len(draws))

    def _similarities(
        self, texts: list[tuple[np.ndarray, Tokens]], pictures: Tokens, vectors: Callable[[Tokens, str], Tensor]
    ) -> Tensor:
        """(T,P) products of the contrastive vectors, the same on every process."""
        size = self.batch_size
        of_texts = torch.empty(0)
        for numbers, tokens in texts:
            parts = [vectors(self.model.unimodal(_part(tokens, at, size), "text"), "text").float().cpu()
                     for at in range(0, len(numbers), size)]  # fmt: skip
            found = torch.cat(parts)
            if not len(of_texts):
                of_texts = found.new_empty(len(self.picture_of_text), found.shape[1])
            of_texts[torch.from_numpy(numbers)] = found
        parts = [vectors(self.model.unimodal(_part(pictures, at, size), "image"), "image").float().cpu()
                 for at in range(0, len(self.own), size)]  # fmt: skip
        of_pictures = of_texts.new_empty(len(self.first), of_texts.shape[1])
        for rank, found in enumerate(self.gather(torch.cat(parts) if parts else of_texts[:0])):
            of_pictures[rank :: self.world] = found
        return of_texts @ of_pictures.T

    def _scores(
        self, texts: list[tuple[np.ndarray, Tokens]], pictures: Tokens, candidates: np.ndarray | None
    ) -> np.ndarray:
        """(T, P/world) how well each text matches each of this process's pictures; -inf where that is no number."""
        scores = np.full((len(self.picture_of_text), len(self.own)), -np.inf, np.float32)
        total = scores.size if candidates is None else int(candidates.sum())
        bar = tqdm(total=total, desc="ranking", unit="pair", unit_scale=True, disable=self.rank > 0, dynamic_ncols=True)
        began, measured, batches = 0.0, 0, 0
        for numbers, tokens in texts:
            for rows, columns in self._pairs(numbers, tokens, pictures, candidates):
                text, image = (
                    _select(side, index, self.device) for side, index in ((tokens, rows), (pictures, columns))
                )
                pooled = self.model.fuse(text, image, needs={"pooled"}).pooled
                found = self.match(pooled).float().cpu().numpy()
                scores[numbers[rows], columns] = np.where(np.isnan(found), -np.inf, found)
                bar.update(len(rows))
                batches += 1
                if batches == 1:
                    began = time.perf_counter()
                elif batches <= 1 + _MEASURED:
                    measured += len(rows)
                if batches == 1 + _MEASURED:
                    seconds = total * (time.perf_counter() - began) / measured
                    kept = [pictures.hidden, *(tokens.hidden for _, tokens in texts), scores]
                    self.say(self._cost(total, seconds, sum(each.nbytes for each in kept), candidates is None))
        bar.close()
        return scores

    def _pairs(
        self, numbers: np.ndarray, tokens: Tokens, pictures: Tokens, candidates: np.ndarray | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches of pairs of a group's texts and this process's pictures: places of both."""
        most = TOKENS.get(self.device.type, _MORE_TOKENS)
        size = max(1, most // (tokens.hidden.shape[1] + pictures.hidden.shape[1]))
        if candidates is None:
            for start in range(0, len(numbers) * len(self.own), size):
                pair = np.arange(start, min(start + size, len(numbers) * len(self.own)))
                yield pair % len(numbers), pair // len(numbers)
            return
        rows, columns = np.nonzero(candidates[numbers])
        for start in range(0, len(rows), size):
            yield rows[start : start + size], columns[start : start + size]

    def _cost(self, total: int, seconds: float, kept: int, exact: bool) -> str:
        """What the ranking costs, as its first batches tell."""
        minutes = seconds / 60
        spoken = f"{minutes:,.0f} minutes" if minutes < 120 else f"{minutes / 60:,.0f} hours"
        on = " on this process" if self.world > 1 else ""
        advice = "; rerank_top_k, with loss_names.itc, leaves out most of them" if exact and minutes > 60 else ""
        return (
            f"ranking {len(self.picture_of_text):,} texts and {len(self.first):,} pictures: {total:,} pairs{on}, about "
            f"{spoken}, {kept / 2**30:.2f} GiB of tokens and scores{advice}"
        )

    def _with_others(
        self, scores: np.ndarray, candidates: np.ndarray, close: Tensor
    ) -> tuple[np.ndarray, float, float]:
        """The scores, with the pairs that are no candidates behind all that are, in the order of their similarity.

        Returns:
            They, what they tie by, and the lowest of a candidate.
        """
        lowest = min(self.gather(float(scores[np.isfinite(scores)].min(initial=0.0))))
        behind = close[:, self.rank :: self.world].numpy() - 2 + lowest
        return np.where(candidates, scores, behind), TIED, lowest

    def _ranked(self, scores: np.ndarray, tied: float = TIED, lowest: float = -np.inf) -> Ranked:
        """Ranks by the (T, P/world) scores of each process, brought together.

        Args:
            tied: scores that are no further apart are equal. lowest: what is below has no score of its own.
        """
        column_of = np.full(len(self.first), -1)
        column_of[self.own] = np.arange(len(self.own))
        column = column_of[self.picture_of_text]  # of each text's own picture, -1 where another process has it
        here = np.flatnonzero(column >= 0)
        true = np.full(len(column), -np.inf, np.float32)
        true[here] = scores[here, column[here]]
        true = np.max(self.gather(true), axis=0)
        fold = np.arange(len(self.first)) // FOLD
        within = {"all": None}
        if len(self.first) >= 2 * FOLD:
            within["fold"] = fold[self.picture_of_text][:, None] == fold[self.own]
        better = scores >= true[:, None] - tied
        better[here, column[here]] = False
        texts = {name: (better if mask is None else better & mask).sum(1) for name, mask in within.items()}
        pictures = {name: self._of_pictures(scores, tied, mask) for name, mask in within.items()}
        best = _best(scores, self.own), _best(scores.T, np.arange(len(scores)))
        return _together(self.gather((texts, pictures, best, self.own)), self.picture_of_text, lowest)

    def _of_pictures(self, scores: np.ndarray, tied: float, within: np.ndarray | None) -> np.ndarray:
        """(P/world,) how many texts of other pictures match a picture at least as well as the best of its own."""
        ranks = np.zeros(len(self.own), np.int64)
        for place, number in enumerate(self.own):
            own, column = self.picture_of_text == number, scores[:, place]
            others = ~own if within is None else ~own & within[:, place]
            ranks[place] = (column[others] >= column[own].max() - tied).sum()
        return ranks


def _candidates(close: Tensor, picture_of_text: np.ndarray, own: np.ndarray, top: int) -> np.ndarray:
    """(T, P/world) bool: the `top` pictures closest to each text, and the `top` texts closest to each picture."""
    chosen = torch.zeros(close.shape, dtype=torch.bool)
    chosen.scatter_(1, close.topk(top, dim=1).indices, True)
    chosen.scatter_(0, close.topk(min(top, len(close)), dim=0).indices, True)
    return chosen[:, torch.from_numpy(own)].numpy()


def _best(scores: np.ndarray, numbers: np.ndarray) -> Best:
    """The best of each row of scores (n,m), of equal ones the first; `numbers` (m,) are those of the columns, ascending."""
    count = min(FIRST, scores.shape[1])
    places = np.empty((len(scores), count), np.int64)
    rows = max(1, _BLOCK // max(1, scores.shape[1]))
    for start in range(0, len(scores), rows):
        # Floats as whole numbers of the same order, with the place behind: no two are equal, so there is one answer.
        bits = (np.asarray(scores[start : start + rows], np.float32) + np.float32(0)).view(np.int32).astype(np.int64)
        keys = ((bits ^ ((bits >> 31) & 0x7FFF_FFFF)) << 32) - np.arange(scores.shape[1])
        places[start : start + rows] = torch.from_numpy(keys).topk(count, dim=1).indices.numpy()
    return Best(numbers[places], np.take_along_axis(scores, places, 1))


def _together(parts: Sequence[Any], picture_of_text: np.ndarray, lowest: float) -> Ranked:
    """The ranks of all processes as those of one; a score below `lowest` is none."""
    names, pictures = parts[0][0].keys(), sum(len(own) for *_, own in parts)
    of_texts = {name: sum(texts[name] for texts, *_ in parts) for name in names}
    of_pictures = {name: np.zeros(pictures, np.int64) for name in names}
    for _, found, _, own in parts:
        for name in names:
            of_pictures[name][own] = found[name]
    numbers, scores = (np.concatenate([best[0][field] for _, _, best, _ in parts], axis=1) for field in (0, 1))
    order = np.lexsort((numbers, -scores), axis=1)[:, :FIRST]
    best_pictures = Best(*(np.take_along_axis(field, order, 1) for field in (numbers, scores)))
    best_texts = Best(*(np.empty((pictures, field.shape[1]), field.dtype) for field in parts[0][2][1]))
    for _, _, (_, found), own in parts:
        best_texts.numbers[own], best_texts.scores[own] = found
    best = [
        each._replace(scores=np.where(np.isfinite(each.scores) & (each.scores >= lowest), each.scores, np.nan))
        for each in (best_pictures, best_texts)
    ]
    folds = (of_texts["fold"], of_pictures["fold"]) if "fold" in names else None
    return Ranked(picture_of_text, of_texts["all"], of_pictures["all"], *best, folds)


def _collected(parts: Iterable[Tokens], count: int) -> Tokens:
    """The tokens of several batches in memory that is taken once; those of pictures of different sizes are padded."""
    hidden = mask = None
    at = 0
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


def _part(tokens: Tokens, start: int, size: int) -> Tokens:
    return Tokens(*(None if field is None else field[start : start + size] for field in tokens))


def _select(tokens: Tokens, index: np.ndarray, device: torch.device) -> Tokens:
    return tokens.select(torch.from_numpy(index).to(device))
