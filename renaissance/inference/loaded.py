"""A trained model with its tokenizer, the transform of its images and its heads.

    checkpoint -> settings, tokenizer, transform, model, heads -> score, fill, answer, encode

Everything comes from the checkpoint; nothing is asked of the Hub.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

import torch
from lightning_fabric.utilities import move_data_to_device
from torch import Tensor, nn

from renaissance.core.checks import expanded, integer
from renaissance.core.errors import UserError, first_line, require
from renaissance.core.registry import TASKS
from renaissance.core.types import Example, ImageInput, TextInput, Tokens
from renaissance.data.collate import Source, stack_images
from renaissance.data.text import encode
from renaissance.models.heads import ItmHead, MlmHead
from renaissance.runs import checkpoint
from renaissance.training.assembly import restore
from renaissance.training.image_inputs import transform_of

from .explain import explain
from .heat_map import METHODS, HeatMap
from .pictures import ImageLike, bytes_or_pixels

_BATCH = 32  # pairs that are computed at once


class Loaded:
    """A model with its tokenizer, the transform of its images and its heads.

    Args:
        path: of a checkpoint that this program wrote, or of a folder that `export` wrote.
        device: where it computes.
        trust_remote_code: runs the code that an encoder of the checkpoint brought; the checkpoint itself cannot allow it.

    Attributes:
        model: in eval mode. heads: by task. tokenizer.
        matching, filling, answering: the heads of `score` and `fill` and the task of `answer`; None where the checkpoint has
            none.
        settings: of the run that trained it. image_source: decodes and transforms images.

    Raises:
        UserError: no such file, or not a checkpoint.
    """

    def __init__(self, path: str | os.PathLike, device: str | torch.device = "cpu", *, trust_remote_code: bool = False):
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, TypeError) as error:
            raise UserError(
                f"device={device!r} cannot be used ({first_line(error)}); give cpu, or another device of this machine."
            ) from error
        path = expanded("load_path", os.fspath(path) if isinstance(path, os.PathLike) else path)
        resolved, built = restore(checkpoint.read(path), str(path), trust_remote_code=trust_remote_code)
        self.path, self.device, self.settings, self.tokenizer = str(path), device, resolved.settings, resolved.tokenizer
        self.model, self.heads = built.model.to(device).eval(), built.heads.to(device).eval()
        tasks = [self.heads[name] for name in TASKS if name in self.heads]  # in whatever order it was trained
        heads = [getattr(task, "head", None) for task in tasks]
        self.matching = next((head for head in heads if isinstance(head, ItmHead)), None)
        self.filling = next((head for head in heads if isinstance(head, MlmHead)), None)
        self.answering = next((task for task in tasks if task.answer_scores), None)
        transform = transform_of(self.settings, "val")
        self.image_source = Source([], transform, resolved.image["mean"] if self.settings.objectives.blind else None)

    @torch.inference_mode()
    def score(self, image: ImageLike | Iterable[ImageLike], text: str | Iterable[str]) -> float | list[float]:
        """The probability that a text belongs to an image, by the head of image-text matching.

        One image with one text gives a number. A list (or another iterable) on either side gives a list: images and
        texts are taken pair by pair, and a single one goes with each of the other side.

        Args:
            image: a file's path or bytes, a Pillow image, (H, W, 3) uint8 or a (3, H, W) uint8 tensor; or n of these.
            text: a caption, without [MASK]; or n captions.

        Returns:
            0..1; n of them where one of the two is a list of n, a list of one too.

        Raises:
            UserError: the checkpoint has no such head, an image cannot be read, a text holds [MASK], or two lists are of
                different lengths.
        """
        head = self._needed(self.matching, "matching images and texts")
        require(image is not None and text is not None, "score needs image and text.")
        images, texts = _pairs(image, text)
        for each in texts:
            sentence = f"text={each!r} holds [MASK], which no text of image-text matching does: score complete()."
            require(not self.masks(each), sentence)
        scores = torch.cat([head(pooled).softmax(-1)[:, 1] for pooled in self._pooled(images, texts)]).tolist()
        return scores[0] if _are_single(image, text) else scores

    @torch.inference_mode()
    def fill(
        self, image: ImageLike | Iterable[ImageLike] | None, text: str | Iterable[str], top: int = 5
    ) -> list[list[tuple[str, float]]] | list[list[list[tuple[str, float]]]]:
        """The most probable word pieces for each [MASK] of a text, by the head of masked language modelling.

        Args:
            image: as for `score`, or None to ask without. text: with one or more [MASK], or n of them; both are brought
                together as `score` does. top: how many.

        Returns:
            For each mask, in order, its (piece, probability), the most probable first; a list of n of these where one of the
            two is a list.

        Raises:
            UserError: the checkpoint has no such head, a text has no mask or is cut before one, or an image cannot be read.
        """
        head = self._needed(self.filling, "masked words")
        require(text is not None, "fill needs text.")
        images, texts = _pairs(image, text)
        texts = texts * (len(images or ()) if len(texts) == 1 and images else 1)
        shown = self._image(images) if images and len(images) == 1 else None  # which goes with every text
        filled = []
        for start in range(0, len(texts), _BATCH):
            asked = texts[start : start + _BATCH]
            tokens = self._texts([self.with_own_masks(each) for each in asked])
            masked = tokens.input_ids == self.tokenizer.mask_token_id
            for each, found in zip(asked, masked.sum(1).tolist(), strict=True):
                self._refuse_cut(each, found)
            one = torch.zeros(len(asked), dtype=torch.int64, device=self.device)
            several = images and shown is None
            image_tokens = self._image(images[start : start + _BATCH]) if several else shown and shown.select(one)
            fused = self.model.fuse(self.model.embed_text(tokens), image_tokens, needs={"text"})
            for hidden, here in zip(fused.text, masked, strict=True):
                filled.append(self._pieces(head(hidden[here]).softmax(-1), top))
        return filled[0] if _are_single(image, text) else filled

    def _pieces(self, every: Tensor, top: int) -> list[list[tuple[str, float]]]:
        """The best pieces of each mask, of their probabilities (masks, V)."""
        probabilities, pieces = every.topk(_count(top, every.shape[-1]))
        named = [[self.tokenizer.decode([piece]).strip() for piece in row] for row in pieces.tolist()]
        return [list(zip(*row, strict=True)) for row in zip(named, probabilities.tolist(), strict=True)]

    def _refuse_cut(self, text: str, found: int) -> None:
        """Refuses a text without a mask, or of whose masks only `found` are within its length."""
        masks, longest = self.masks(text), self.settings.model.max_text_len
        which = f"{found} of its {masks}" if masks else "no"
        require(0 < masks <= found, f"text={text!r} holds {which} [MASK] within its first {longest} tokens.")

    def complete(self, image: ImageLike | None, text: str) -> str:
        """The text with each [MASK] filled by its most probable word piece that is no special token; arguments as `fill`."""
        special = {each.strip() for each in self.tokenizer.all_special_tokens}
        image, text = image if image is None else _one(image, ImageLike, "image"), _one(text, str, "text")
        filled, *rest = self._parts(text)
        for row, part in zip(self.fill(image, text, len(special) + 1), rest, strict=True):
            piece = next((piece for piece, _ in row if piece not in special), "")
            # "##s" belongs to the word before it
            filled = filled.rstrip() + piece[2:] + part if piece.startswith("##") else filled + piece + part
        return filled

    @torch.inference_mode()
    def answer(
        self, image: ImageLike | Iterable[ImageLike], question: str | Iterable[str], top: int = 5
    ) -> list[tuple[str, float]] | list[list[tuple[str, float]]]:
        """The best answers to a question about an image, by the head of VQA, SNLI-VE or a plugin's task with `answer_scores`.

        Args:
            image: as for `score`. question: in words, or n of them; both are brought together as `score` does. top: how many.

        Returns:
            (answer, score in 0..1), the best first; VQA's are of each answer by itself and need not add up to 1. A list of n
            of these where one of the two is a list.

        Raises:
            UserError: the checkpoint has no such head, or an image cannot be read.
        """
        task = self._needed(self.answering, "questions about images")
        require(image is not None, "answer needs an image.")
        images, questions = _pairs(image, question, "question")
        answers = []
        for pooled in self._pooled(images, questions):
            for logits in task.head(pooled):
                scores, labels = task.answer_scores(logits).topk(_count(top, len(task.labels)))
                pairs = zip(labels.tolist(), scores.tolist(), strict=True)
                answers.append([(task.labels[label], score) for label, score in pairs])
        return answers[0] if _are_single(image, question) else answers

    @torch.no_grad()  # vectors out of inference_mode could not be learned from
    def encode(
        self,
        image: ImageLike | Iterable[ImageLike] | None = None,
        text: str | Iterable[str] | None = None,
        batch_size: int = _BATCH,
    ) -> Tensor:
        """The pooled vectors of images with texts, or of one of the two alone.

        Args:
            image: as for `score`, or None. text: one text or n, or None. Both are brought together as `score` does.
            batch_size: pairs that are computed at once; changes no number.

        Returns:
            (n, pooled_size) float, on the CPU. Of images or texts alone (n, D): the vector of that side, D the width; a
            model that pools both sides has their two vectors side by side, the text's first.

        Raises:
            UserError: neither is given, lists of different lengths, an image that cannot be read, or images alone where
                the model pools the text only.
        """
        require(image is not None or text is not None, "encode needs image, text or both.")
        images, texts = _pairs(image, text)
        kind, width = self.settings.model.model_type, self.model.width
        if texts is None and self.model.image_pooler is None and kind == "two-tower":
            raise UserError("encode needs text beside image: this model pools the text alone (pooler_type=single).")
        problem = integer(1).problem("batch_size", batch_size)
        require(not problem, problem)
        pooled = torch.cat(list(self._pooled(images, texts, batch_size))).cpu()
        if pooled.shape[1] == width or None not in (images, texts):
            return pooled
        return pooled[:, width:] if texts is None else pooled[:, :width]

    def explain(
        self, image: ImageLike, text: str, word: str | None = None, method: str = METHODS[0], target: str | None = None
    ) -> HeatMap:
        """Which patches of an image a word, an answer, or the match of image and text rests on; `explain.py` has the methods.

        Args:
            image: as for `score`. text: a caption or a question.
            word: of the text, or some that follow each other, where they stand first; None: what the pooled vector rests on,
                or the first [MASK] of the text.
            method: one of METHODS. target: of method=gradient: "match", or an answer of the checkpoint's head; None: the word,
                found where it is masked; without one the match, or the best answer.

        Raises:
            UserError: something is missing, the text does not hold the word, no heat map can be made of this model, or it
                computes numbers that are not finite.
        """
        return explain(self, image, text, word, method, target)

    def _pooled(self, images: list[ImageLike] | None, texts: list[str] | None, size: int = _BATCH) -> Iterator[Tensor]:
        """Pooled vectors of pairs, a batch at a time: (b, pooled_size); a list of one goes with each of the other side."""
        sides = {"text": (texts, self._text), "image": (images, self._image)}
        longest = max(len(items) for items, _ in sides.values() if items is not None)
        single = {side: encode_side(items) for side, (items, encode_side) in sides.items() if len(items or ()) == 1}
        for start in range(0, longest, size):
            first = torch.zeros(min(size, longest - start), dtype=torch.int64, device=self.device)
            tokens = {}
            for side, (items, encode_side) in sides.items():
                if side in single:
                    tokens[side] = single[side].select(first)
                else:
                    tokens[side] = None if items is None else encode_side(items[start : start + size])
            yield self.model.fuse(**tokens, needs={"pooled"}).pooled

    def masks(self, text: str) -> int:
        """How many masks a text holds."""
        return len(self._parts(text)) - 1

    def with_own_masks(self, text: str) -> str:
        """The text with the tokenizer's own mask in the place of each [MASK]."""
        return text.replace("[MASK]", self.tokenizer.mask_token or "[MASK]")

    def _parts(self, text: str) -> list[str]:
        """The text between its masks."""
        return self.with_own_masks(text).split(self.tokenizer.mask_token or "[MASK]")

    def _needed(self, head: nn.Module | None, purpose: str) -> nn.Module:
        there = ", ".join(self.heads) or "none"
        require(head is not None, f"{self.path} has no head for {purpose} (its heads: {there}); load one that has.")
        return head

    def _texts(self, texts: list[str]) -> TextInput:
        _, encoded = encode(self.tokenizer, texts, self.settings.model.max_text_len)
        return move_data_to_device(encoded, self.device)

    def _text(self, texts: list[str]) -> Tokens:
        return self.model.embed_text(self._texts(texts))

    def _shown(self, images: list[ImageLike]) -> ImageInput:
        """Images as the model sees them, on the device."""
        pixels = []
        for image in images:
            where = f"image={image}" if isinstance(image, str | os.PathLike) else "image"
            pixels += self.image_source.images(Example(0, (bytes_or_pixels(image),), "", where=where), 0)
        return move_data_to_device(stack_images(pixels, self.image_source.transform.keeps_aspect), self.device)

    def _image(self, images: list[ImageLike]) -> Tokens:
        return self.model.embed_image(self._shown(images))


def _are_single(image: Any, text: Any) -> bool:
    """Whether the answer is one, and no list: one text, with one image or none."""
    return (image is None or isinstance(image, ImageLike)) and isinstance(text, str)


def _pairs(image: Any, text: Any, name: str = "text") -> tuple[list[ImageLike] | None, list[str] | None]:
    """Images and texts as lists; a single one becomes a list of one, None stays None.

    Raises:
        UserError: something is no image or text, a list is empty, or two lists are of different lengths.
    """
    images = None if image is None else _listed(image, ImageLike, "image")
    texts = None if text is None else _listed(text, str, name)
    single = None in (images, texts) or isinstance(image, ImageLike) or isinstance(text, str)
    counts = f"image has {len(images or ())} images and {name} {len(texts or ())} texts"
    require(single or len(images) == len(texts), f"{counts}; give as many, or a single one of either.")
    return images, texts


def _listed(value: Any, kind: Any, name: str) -> list[Any]:
    """One image or text, or an iterable of them, as a list.

    Raises:
        UserError: it is neither, or holds nothing.
    """
    if isinstance(value, kind):
        return [value]
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes, Mapping, Set)):
        return [_one(value, kind, name)]
    items = [_one(each, kind, f"{name}[{place}]") for place, each in enumerate(value)]
    require(items, f"{name} is an empty list; give one or more.")
    return items


def _one(value: Any, kind: Any, name: str) -> Any:
    """Returns an image or text. Raises UserError where it is none."""
    forms = "a path, bytes, a Pillow image, (H, W, 3) uint8 or a (3, H, W) tensor"
    what = "text" if kind is str else f"image: give {forms}"
    require(isinstance(value, kind), f"{name}={type(value).__name__} is no {what}.")
    return value


def _count(top: Any, most: int) -> int:
    problem = integer(1).problem("top", top)
    require(not problem, problem)
    return min(int(top), most)
