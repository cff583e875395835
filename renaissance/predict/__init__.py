"""A trained model for one's own pictures and texts: `model = renaissance.load("best.ckpt")`.

    checkpoint -> settings, tokenizer, transform, model, heads -> score, fill, answer, encode

Everything comes from the checkpoint; nothing is asked of the Hub.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from renaissance import checkpoint, config
from renaissance.assembly import build, build_shape, resolve
from renaissance.data.collate import Source, stack_pictures
from renaissance.data.samples import RawSample
from renaissance.data.text import encode
from renaissance.data.transforms import make_transform
from renaissance.draft import Draft
from renaissance.errors import UserError
from renaissance.presets import defaults_of
from renaissance.starting import named
from renaissance.types import ImageInput, TextInput, Tokens

Picture = str | os.PathLike | bytes | Image.Image | np.ndarray
_MATCHING = ("itm", "irtr")  # heads of two classes, matched or not, the first that a checkpoint has is asked


class Loaded:
    """A model with its tokenizer, the transform of its pictures and its heads.

    Args:
        path: of a checkpoint that this program wrote.
        device: where it computes.
        trust_remote_code: runs the code that an encoder of the checkpoint brought, which nobody else can say.

    Attributes:
        model: in eval mode. heads: by task. tokenizer. settings: of the run that trained it.

    Raises:
        UserError: no such file, or not a checkpoint.
    """

    def __init__(self, path: str | os.PathLike, device: str | torch.device = "cpu", *, trust_remote_code: bool = False):
        stored = checkpoint.read(path)
        values = {**defaults_of(config.ex), **stored.settings, "load_path": str(path), "resume_from": None}
        values |= {"trust_remote_code": trust_remote_code, "allow_download": False}  # whatever the checkpoint says
        with named(str(path)):
            draft = Draft({key: values[key] for key in defaults_of(config.ex)}, {})
            resolved = resolve(draft, stored, reads_data=False)
        build_shape(resolved)
        built = build(resolved, pretrained=False)
        checkpoint.load_weights(built.model, built.heads, stored, str(path)).refuse_missing("load_path")
        self.path, self.device, self.settings, self.tokenizer = str(path), device, resolved.settings, resolved.tokenizer
        self.model, self.heads = built.model.to(device).eval(), built.heads.to(device).eval()
        model, data = self.settings.model, self.settings.data
        transform = make_transform(
            data.val_transform, model.image_size, patch_size=model.patch_size or 1, seed=0, train=False
        )
        self._source = Source([], transform, resolved.image["mean"] if self.settings.objectives.blind else None)

    @torch.inference_mode()
    def score(self, image: Picture, text: str) -> float:
        """The probability that the text belongs to the picture, by the head of image-text matching.

        Args:
            image: a file's path or bytes, a Pillow picture, or (H, W, 3) uint8. text: a caption.

        Raises:
            UserError: the checkpoint has no such head, or the picture cannot be read.
        """
        head = self._head(*_MATCHING)
        fused = self.model.fuse(self._text([text]), self._image([image]), needs={"pooled"})
        return float(head(fused.pooled).softmax(-1)[0, 1])

    @torch.inference_mode()
    def fill(self, image: Picture | None, text: str, top: int = 5) -> list[list[tuple[str, float]]]:
        """The most probable word pieces for each [MASK] of a text, by the head of masked language modelling.

        Args:
            image: as for `score`, or None to ask without a picture. text: with one or more [MASK]. top: how many.

        Returns:
            For each mask, in order, its (piece, probability), the most probable first.

        Raises:
            UserError: the checkpoint has no such head, the text has no mask, or the picture cannot be read.
        """
        head = self._head("mlm")
        texts = self._texts([text.replace("[MASK]", self.tokenizer.mask_token)])
        masked = texts.input_ids == self.tokenizer.mask_token_id
        if not masked.any():
            raise UserError(
                f"text={text!r} holds no [MASK] within its first {self.settings.model.max_text_len} tokens."
            )
        images = None if image is None else self._image([image])
        fused = self.model.fuse(self.model.embed_text(texts), images, needs={"text"})
        every = head(fused.text[masked]).softmax(-1)
        probabilities, pieces = every.topk(min(top, every.shape[-1]))
        named = [[self.tokenizer.decode([piece]).strip() for piece in row] for row in pieces.tolist()]
        return [list(zip(*row, strict=True)) for row in zip(named, probabilities.tolist(), strict=True)]

    @torch.inference_mode()
    def answer(self, image: Picture, question: str, top: int = 5) -> list[tuple[str, float]]:
        """The best answers to a question about a picture, by the head of VQA.

        Args:
            image: as for `score`. question: in words. top: how many.

        Returns:
            (answer, score in 0..1), the best first; scores are of each answer by itself and need not add up to 1.

        Raises:
            UserError: the checkpoint has no such head, or the picture cannot be read.
        """
        head, names = self._head("vqa"), self.heads["vqa"].labels
        fused = self.model.fuse(self._text([question]), self._image([image]), needs={"pooled"})
        scores, labels = head(fused.pooled)[0].sigmoid().topk(min(top, len(names)))
        return [(names[label], score) for label, score in zip(labels.tolist(), scores.tolist(), strict=True)]

    @torch.inference_mode()
    def encode(
        self, image: Picture | Sequence[Picture] | None = None, text: str | Sequence[str] | None = None
    ) -> Tensor:
        """The pooled vectors of pictures with texts, or of one of the two alone.

        Args:
            image: one picture, a list of n, or None. text: one text, a list of n, or None.

        Returns:
            (n, pooled_size) float, on the CPU.

        Raises:
            UserError: neither is given, lists of different lengths, or a picture that cannot be read.
        """
        images = None if image is None else list(image) if isinstance(image, (list, tuple)) else [image]
        texts = None if text is None else [text] if isinstance(text, str) else list(text)
        if images is None and texts is None:
            raise UserError("encode needs image, text or both.")
        if images is not None and texts is not None and len(images) != len(texts):
            raise UserError(f"encode got {len(images)} pictures and {len(texts)} texts; give as many of both.")
        text_tokens = None if texts is None else self._text(texts)
        image_tokens = None if images is None else self._image(images)
        return self.model.fuse(text_tokens, image_tokens, needs={"pooled"}).pooled.cpu()

    def _head(self, *names: str) -> torch.nn.Module:
        """The first of these tasks' heads that there is."""
        for name in names:
            if name in self.heads:
                return self.heads[name].head
        there = ", ".join(self.heads) or "none"
        raise UserError(f"{self.path} has no head for {' or '.join(names)} (its heads: {there}); load one that has.")

    def _texts(self, texts: list[str]) -> TextInput:
        _, encoded = encode(self.tokenizer, texts, self.settings.model.max_text_len)
        return TextInput(*(tensor.to(self.device) for tensor in encoded))

    def _text(self, texts: list[str]) -> Tokens:
        return self.model.embed_text(self._texts(texts))

    def _image(self, images: list[Picture]) -> Tokens:
        raws = [RawSample(0, (_encoded(image),), "", where=_name(image)) for image in images]
        pictures = [self._source.pictures(raw, 0)[0] for raw in raws]
        stacked = stack_pictures(pictures, self._source.transform.keeps_aspect)
        return self.model.embed_image(ImageInput(*(None if part is None else part.to(self.device) for part in stacked)))


def load(path: str | os.PathLike, device: str | torch.device = "cpu", *, trust_remote_code: bool = False) -> Loaded:
    """A trained model out of its checkpoint; see `Loaded`."""
    return Loaded(path, device, trust_remote_code=trust_remote_code)


def _name(image: Picture) -> str:
    return str(image) if isinstance(image, (str, os.PathLike)) else "image"


def _encoded(image: Picture) -> bytes:
    """The picture as the bytes of a file.

    Raises:
        UserError: no such file, or no picture.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, (str, os.PathLike)):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise UserError(f"image={image} cannot be read ({error.strerror}); give the path of a picture.") from error
    try:
        picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
        stream = io.BytesIO()
        picture.save(stream, "PNG")
    except (TypeError, ValueError, AttributeError, OSError) as error:
        raise UserError(
            f"image={type(image).__name__} is no picture ({error}); give a path, bytes, a Pillow picture or (H, W, 3) uint8."
        ) from error
    return stream.getvalue()
