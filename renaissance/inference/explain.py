"""Heat maps: which patches of an image a word, an answer, or the match of image and text rests on.

    attention   what the word attends to in the last layer, the mean of all heads
    rollout     the same, followed through all layers (attention rollout, Abnar and Zuidema 2020)
    gradient    the same, each probability times the gradient of an output where that is positive, by the rules of Chefer, Gur
                and Wolf 2021 ("Generic Attention-model Explainability", equations 5 to 11)
    transport   what of the word goes to which patch where words and patches are aligned at the least cost (IPOT, Xie et al.
                2019, as in UNITER and ViLT)

Attention is followed from where words and patches meet: in a two-tower model the tokens of the towers stand for the words and
patches that they were made of. So any image encoder whose tokens lie on a grid can be explained.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from renaissance.core.errors import require, shortened
from renaissance.core.types import Fused, TextInput, Tokens
from renaissance.data.text import encode, wordless_ids
from renaissance.models.attention import SeenAttention
from renaissance.models.base import VisionLanguageModel
from renaissance.models.two_tower import TwoTower

from .heat_map import MATCH, METHODS, POOLED, WORD, HeatMap
from .pictures import ImageLike, decoded

if TYPE_CHECKING:
    from .loaded import Loaded

BETA, ROUNDS = 0.5, 50  # of IPOT, as in ViLT
_MOST_BEFORE = 6  # tokens before the patches ([CLS], registers) where an encoder does not tell the size of a patch
Output = Callable[[Fused], tuple[str, Tensor]]  # the name and the number () of what is explained


class _Word(NamedTuple):
    """A text and the word of it that is explained.

    Attributes:
        text: (1,L), on the device. pieces: positions of the word's, none without a word. all: of the pieces of all words.
    """

    text: TextInput
    pieces: list[int]
    all: list[int]


class _Patches(NamedTuple):
    """Attributes: tokens (1,P,D), embedded; first, of them before the patches; rows, columns and box as of `HeatMap`."""

    tokens: Tokens
    first: int
    rows: int
    columns: int
    box: tuple[float, float, float, float]


@torch.inference_mode(False)  # gradients are asked for
@torch.no_grad()
def explain(loaded: Loaded, image: ImageLike, text: str, word: str | None, method: str, target: str | None) -> HeatMap:
    """As `Loaded.explain`."""
    require(method in METHODS, f"method={method!r} is not allowed: give one of {', '.join(METHODS)}.")
    require(image is not None and isinstance(text, str), "explain needs an image and a text.")
    require(word is None or isinstance(word, str), f"word={word!r} is no text: give one or more words of the text.")
    blind = loaded.settings.objectives.blind
    require(not blind, f"{loaded.path} was trained with blind=True: it sees no image that could be explained.")
    if word is None and target is None and loaded.filling and loaded.masks(text):
        word = "[MASK]"
    found = _find(loaded, text, word)
    output = _output(loaded, found, method, target)
    patches = _patches(loaded, image)
    if method == "transport":
        named, weights = WORD, _transport(loaded.model, found, patches)
    else:
        if found.pieces and target is None and loaded.filling:  # asks what belongs there, as the head was trained
            found.text.input_ids[0, found.pieces] = loaded.tokenizer.mask_token_id
        named, weights = _attended(loaded.model, found, patches, method, output)
    values = weights[patches.first :][: patches.rows * patches.columns].clamp_min(0)
    finite = bool(values.isfinite().all())
    require(finite, f"the map of {loaded.path} holds numbers that are not finite, as a run that diverged leaves them.")
    values = values / values.sum() if values.any() else values
    return HeatMap(values.view(patches.rows, patches.columns).numpy(), word, method, named, patches.box)


def _find(loaded: Loaded, text: str, word: str | None) -> _Word:
    """Tokenises a text and finds the first place of a word, or of several that follow each other, in it.

    Raises:
        UserError: the text does not hold it within its length.
    """
    longest = loaded.settings.model.max_text_len
    text, wanted = loaded.with_own_masks(text), loaded.with_own_masks((word or "").strip())
    encoding, tensors = encode(loaded.tokenizer, [text], longest)
    require(
        encoding.is_fast, f"the tokenizer of {loaded.path} does not tell where a word stands; no heat map can be made."
    )
    tensors = TextInput(*(each.to(loaded.device) for each in tensors))
    of_words = [place for place, sequence in enumerate(encoding.sequence_ids(0)) if sequence is not None]
    if word is None:
        return _Word(tensors, [], of_words)
    place = re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", text, re.IGNORECASE) if wanted else None
    require(place, f"word={word!r} is not in the text {text!r}; give one or more words of it.")
    pieces = [encoding.char_to_token(0, each) for each in range(*place.span()) if text[each].strip()]
    require(None not in pieces, f"word={word!r} is not within the first {longest} tokens of the text.")
    special = wordless_ids(loaded.tokenizer) - {loaded.tokenizer.mask_token_id}
    named = {*tensors.input_ids[0, pieces].tolist()}
    require(not special & named, f"word={word!r} is a special token; give a word of the text.")
    return _Word(tensors, sorted({*pieces}), of_words)


def _output(loaded: Loaded, word: _Word, method: str, target: str | None) -> Output | None:
    """What is explained, of the fused tokens; None where a method asks for no output.

    Raises:
        UserError: the checkpoint has no head for it, or no such answer.
    """
    if method == "transport":
        require(word.pieces, "method=transport aligns a word with the patches: give one with word=.")
    if method != "gradient":
        require(target is None, f"target={target!r} is of method=gradient alone; leave it out with method={method}.")
        return None
    there = ", ".join(loaded.heads) or "none"
    answering = loaded.answering
    if word.pieces and target is None:
        say = f"{loaded.path} has no head for masked words (its heads: {there}); give target=, or another method="
        require(loaded.filling is not None, f"{say} than gradient.")
        return _word_logit(loaded, word)
    if loaded.matching and target in (None, MATCH):
        return lambda fused: (MATCH, loaded.matching(fused.pooled)[0] @ fused.pooled.new_tensor([-1.0, 1.0]))
    sought = "answers" if target not in (None, MATCH) else "matching" if target else "matching or answers"
    require(
        answering, f"{loaded.path} has no head for {sought} (its heads: {there}); leave target out, and give a word."
    )
    labels = list(answering.labels)
    known = target is None or target in labels
    require(known, f"target={target!r} is no answer of {loaded.path}; it has {shortened(labels)}.")

    def answer(fused: Fused) -> tuple[str, Tensor]:
        logits = answering.head(fused.pooled)[0]
        label = int(logits.argmax()) if target is None else labels.index(target)
        return labels[label], logits[label]

    return answer


def _word_logit(loaded: Loaded, word: _Word) -> Output:
    """The logits of the word's pieces where they stand, added up; of a [MASK] that of its likeliest piece."""
    ids = word.text.input_ids[0, word.pieces].clone()

    def logit(fused: Fused) -> tuple[str, Tensor]:
        logits = loaded.filling(fused.text[0, word.pieces])
        wanted = torch.where(ids == loaded.tokenizer.mask_token_id, logits.argmax(-1), ids)
        return WORD, logits.gather(1, wanted[:, None]).sum()

    return logit


def _patches(loaded: Loaded, image: ImageLike) -> _Patches:
    """Embeds an image, and finds its patches among its tokens: they come last, row by row.

    Raises:
        UserError: the tokens of the encoder lie on no grid.
    """
    pixels, tower = decoded(image), getattr(loaded.model, "image_tower", None)
    shown = loaded._shown([pixels])
    tokens = loaded.model.embed_image(shown)
    behind = getattr(tower and tower.config, "num_detection_tokens", 0)  # YOLOS'
    count, size, patch = tokens.hidden.shape[1] - behind, shown.pixels.shape[-2:], loaded.settings.model.patch_size
    if patch:
        rows, columns = (max(side // patch, 1) for side in size)
        seen = columns * patch / size[1], rows * patch / size[0]  # patches leave out what is less than one
    else:
        rows = columns = math.isqrt(count)  # a feature map of a square image
        seen = 1.0, 1.0
    first = count - rows * columns
    on_grid = 0 <= first <= (first if patch else _MOST_BEFORE)
    require(
        on_grid, f"the {count} tokens of the image encoder of {loaded.path} lie on no grid; no heat map can be made."
    )
    left, top, right, bottom = loaded.image_source.transform.shown(*pixels.shape[-2:])
    box = left, top, left + (right - left) * seen[0], top + (bottom - top) * seen[1]
    return _Patches(tokens, first, rows, columns, box)


def _attended(
    model: VisionLanguageModel, word: _Word, patches: _Patches, method: str, output: Output | None
) -> tuple[str, Tensor]:
    """The name of what is explained, and what each image token (P,) weighs for it, by one of the methods that follow attention.

    Raises:
        UserError: the encoder of a one-tower model shows no attention.
    """
    text, image = model.embed_text(word.text), patches.tokens
    if text.hidden.shape[1] == image.hidden.shape[1]:  # attention is told apart by its shape: one more, that is masked
        hidden = F.pad(image.hidden, (0, 0, 0, 1))
        mask = image.mask if image.mask is not None else hidden.new_ones(1, hidden.shape[1] - 1, dtype=torch.bool)
        image = Tokens(hidden, F.pad(mask, (0, 1)))
    with torch.set_grad_enabled(output is not None), SeenAttention() as attention:
        # The probabilities get a gradient, whatever of the model is frozen.
        text = text._replace(hidden=text.hidden.detach().requires_grad_(output is not None))
        fused = model.fuse(text, image)
        named, number = (POOLED, None) if output is None else output(fused)
    seen = attention.probabilities
    require(seen, f"method={method} sees no attention in this model, which computes it by code of its own.")
    gradients = [1.0] * len(seen)
    if output is not None:
        gradients = torch.autograd.grad(number, seen, materialize_grads=True)
    heads = [(each.detach() * slope).clamp_min(0)[0].mean(0) for each, slope in zip(seen, gradients, strict=True)]
    heads = [each.cpu().double() for each in heads]  # R - I of equation 8 is small; and mps has no float64
    texts, images = text.hidden.shape[1], image.hidden.shape[1]
    if method == "attention":
        heads = [next(each for each in reversed(heads) if len(each) != images and each.shape[1] != texts)]
    of_layer = len(heads) // len(model.fusion.layers) if isinstance(model, TwoTower) and len(heads) > 1 else 1
    layers = [heads[start : start + of_layer] for start in range(0, len(heads), of_layer)]
    relevance = follow(layers, texts, images, keeps=0.5 if method == "rollout" else float(method == "gradient"))
    rows = relevance.new_zeros(texts + images)
    if word.pieces:
        rows[word.pieces] = 1.0
    else:
        rows[:texts] = _pooled_from(model.text_pooler.pooling, word.text.attention_mask[0])
        if model.image_pooler is not None:
            real = image.mask[0] if image.mask is not None else rows.new_ones(images, dtype=torch.bool)
            rows[texts:] = _pooled_from(model.image_pooler.pooling, real)
    named = WORD if output is None and word.pieces else named
    return named, (rows @ relevance)[texts:]


def follow(layers: Sequence[Sequence[Tensor]], texts: int, images: int, keeps: float) -> Tensor:
    """Attention through layers that read texts and images: what each token at the end draws from each at the beginning.

    A token is what it was and what it attends to. Cross-attention reads the other side as it entered the layer.

    Args:
        layers: of each layer its attentions in turn: (N,K) means over the heads, N and K being `texts`, `images` (the two
            differ) or their sum.
        keeps: the weight of what a token was: 0.5 is attention rollout, where both halves make one; 1 are the rules of
            Chefer et al.: equations 6 and 7 of their paper within a side or all tokens, 10 and 11 across sides; 0 is
            attention alone.

    Returns:
        (texts + images, texts + images), without what each token keeps of itself where that is 1.
    """
    sides = {texts: slice(0, texts), images: slice(texts, None), texts + images: slice(None)}
    identity = torch.eye(texts + images, dtype=layers[0][0].dtype)
    flow = identity.clone()
    for attentions in layers:
        entered = flow.clone()
        for each in attentions:
            queries, keys = (sides[side] for side in each.shape)
            if keeps == 1 and queries != keys:
                own, other = _normalised(flow[queries, queries]), _normalised(entered[keys, keys])
                flow[queries, keys] += own.T @ each @ other
                flow[queries, queries] += each @ entered[keys, queries]
            else:
                source = flow if queries == keys else entered
                flow[queries] = keeps * flow[queries] + (1 - keeps if keeps < 1 else 1.0) * (each @ source[keys])
    return flow - identity if keeps == 1 else flow


def _normalised(relevance: Tensor) -> Tensor:
    """Equations 8 and 9: what each token (N,N) draws from its side adds up to 1, or stays 0, beside the token itself."""
    identity = torch.eye(len(relevance), dtype=relevance.dtype)
    return F.normalize(relevance - identity, p=1, eps=torch.finfo(relevance.dtype).tiny) + identity


def _pooled_from(pooling: str, real: Tensor) -> Tensor:
    """The share of each token (N,) in what a pooler reads."""
    rows = real.new_zeros(real.shape, dtype=torch.float32)
    if pooling == "mean":
        return real.float() / real.sum()
    rows[0 if pooling == "first" else int(real.sum()) - 1] = 1.0
    return rows


def _transport(model: VisionLanguageModel, word: _Word, patches: _Patches) -> Tensor:
    """What of the word goes to each image token (P,) in the transport plan of all words to all patches."""
    fused = model.fuse(model.embed_text(word.text), patches.tokens, needs={"text", "image"})
    texts, images = fused.text[0, word.all], fused.image[0, patches.first :][: patches.rows * patches.columns]
    cost = 1 - F.normalize(texts, dim=-1) @ F.normalize(images, dim=-1).T
    plan = transport_plan(cost)[[word.all.index(piece) for piece in word.pieces if piece in word.all]]
    return F.pad(plan.sum(0), (patches.first, 0))


def transport_plan(cost: Tensor, beta: float = BETA, rounds: int = ROUNDS) -> Tensor:
    """The plan (n,m) that moves n equal masses to m equal ones at about the least cost (n,m): rows sum to 1/n, columns to 1/m.

    By IPOT, the proximal point method of Xie et al. (2019): `rounds` steps, each one scaling of rows and columns; smaller `beta`
    is nearer to the least cost in fewer rounds.
    """
    cost = cost.cpu().double()
    count, across = cost.shape
    kernel, plan, right = (-cost / beta).exp(), torch.ones_like(cost), cost.new_full((across,), 1 / across)
    for _ in range(rounds):
        scaled = kernel * plan
        left = 1 / (count * (scaled @ right))
        right = 1 / (across * (left @ scaled))
        plan = left[:, None] * scaled * right
    return plan
