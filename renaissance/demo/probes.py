"""Probes of masked words: accuracy with the right image, with a wrong one, and without any.

A probe is a caption of a held-out scene with one content word masked. With the right image exactly one word fits. With the
image of another scene, of which the caption is false, the caption's word can only be guessed; so a model that reads images
falls to about `text_only_accuracy`, the accuracy of the best guess from the caption's other words.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from .world import COLOURS, COLUMNS, COUNTS, RELATIONS, ROWS, SHAPES, SIZES, Scene, captions, is_true

KINDS = ("colour", "shape", "size", "place", "count", "relation")

_KIND_OF_WORD = {
    **dict.fromkeys(COLOURS, "colour"),
    **dict.fromkeys(SHAPES, "shape"),
    **dict.fromkeys(SIZES, "size"),
    **dict.fromkeys(ROWS + COLUMNS, "place"),
    **dict.fromkeys(COUNTS, "count"),
}
_RELATIONS = {tuple(relation.split()) for relation in RELATIONS}


class ContentWord(NamedTuple):
    """Attributes: position among the caption's words, from 0; word; kind, one of `KINDS`."""

    position: int
    word: str
    kind: str


class MaskedWord(NamedTuple):
    """One masked word of a caption.

    Attributes:
        text: the caption, nothing masked.
        target: the word to mask and to find.
        image: the caption's scene, as a position in the scenes that the probe was made of.
        wrong_image: likewise, a scene of which the caption is false.
    """

    text: str
    target: ContentWord
    image: int
    wrong_image: int


def content_words(text: str) -> list[ContentWord]:
    """The words of a caption that follow from its image, in order; for "left of" only "left".

    "left" and "right" are places or relations, depending on the next word.
    """
    words = text.split()
    result = []
    for position, word in enumerate(words):
        if (word,) in _RELATIONS or tuple(words[position : position + 2]) in _RELATIONS:
            result.append(ContentWord(position, word, "relation"))
        elif word in _KIND_OF_WORD:
            result.append(ContentWord(position, word, _KIND_OF_WORD[word]))
    return result


def make_probes(scenes: Sequence[Scene]) -> list[MaskedWord]:
    """One probe of each kind of word for each scene that has such words.

    Args:
        scenes: held-out scenes in any order, enough that each caption is false of one of them.
    """
    result = []
    for index, scene in enumerate(scenes):
        words = [(caption, word) for caption in captions(scene) for word in content_words(caption.text)]
        for kind in KINDS:
            # The order of captions is random already; going round by `index` takes words from everywhere in them.
            candidates = [(caption, word) for caption, word in words if word.kind == kind]
            if not candidates:
                continue
            caption, target = candidates[index % len(candidates)]
            others = (number % len(scenes) for number in range(index + 1, index + len(scenes)))
            wrong = next(other for other in others if not is_true(caption.fact, scenes[other]))
            result.append(MaskedWord(caption.text, target, index, wrong))
    return result


def accuracy_by_kind(probes: Sequence[MaskedWord], guesses: Sequence[str]) -> dict[str, float]:
    """Share of probes whose guess is the caption's word, by kind of word."""
    right = defaultdict(list)
    for probe, guess in zip(probes, guesses, strict=True):
        right[probe.target.kind].append(guess == probe.target.word)
    return {kind: sum(right[kind]) / len(right[kind]) for kind in KINDS if right[kind]}


def text_only_accuracy(texts: Iterable[str], probes: Sequence[MaskedWord]) -> dict[str, float]:
    """The accuracy by kind of the best guess from a caption's other words: what a model can reach without any image.

    Four guessers answer with the most frequent word of the training captions in the same context: (1) all other words,
    (2) the template and the other words of the same kind, (3) the template, (4) the kind of word alone. A context that was
    never seen falls back to the next wider one. Each kind gets the guesser that is best on the probes themselves, which
    favours the baseline. (Guesser 1 alone is no bound: contents are either trained on or held out, so what is frequent in
    its narrow contexts is rare among the held-out scenes.)

    Args:
        texts: the training captions; they have words of each kind of the probes.
    """
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for text, times in Counter(texts).items():  # many scenes have captions in common; each is taken apart once
        content = content_words(text)
        for target in content:
            for context in _contexts(text, content, target):
                counts[context][target.word] += times
    best: dict[str, float] = {}
    for level in range(_LEVELS):
        guesses = [_guess(counts, probe, level) for probe in probes]
        for kind, accuracy in accuracy_by_kind(probes, guesses).items():
            best[kind] = max(accuracy, best.get(kind, 0.0))
    return best


_LEVELS = 4


def _guess(counts: Mapping[str, Counter[str]], probe: MaskedWord, level: int) -> str:
    """The most frequent word in the context of the given level, 0 the narrowest, or in the next wider one that was seen."""
    contexts = _contexts(probe.text, content_words(probe.text), probe.target)[level:]
    seen = next(counts[context] for context in contexts if context in counts)
    return max(sorted(seen), key=seen.__getitem__)


def _contexts(text: str, content: Sequence[ContentWord], target: ContentWord) -> list[str]:
    """Contexts of a masked word, from the narrowest to the widest: `_LEVELS` of them."""
    words = text.split()
    words[target.position] = "_"
    contexts = [" ".join(words)]
    for keep in (target.kind, None):
        for position, _, kind in content:
            if position != target.position and kind != keep:
                words[position] = f"<{kind}>"
        contexts.append(" ".join(words))
    return [*contexts, f"<{target.kind}>"]
