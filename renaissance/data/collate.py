"""From the samples of one optimizer step to its micro-batches.

For each micro-batch: the texts are tokenised once, the images are stacked, and then the *target builder* of each chosen task
builds its targets. A target builder is any picklable callable `(micro: MicroBatch) -> targets`, such as `masking.MlmMasker`
and `negatives.FalseImages`; a task brings its own without a change here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerBase

from renaissance.core.errors import require
from renaissance.core.types import IGNORED, Batch, Example, ImageInput, LabelTargets, StoredTokens, TextInput, Tokens

from .encoded import JpegFile, stack_encoded
from .images import decode, is_ordinary_jpeg
from .patch_drop import PatchDrop
from .randomness import uniform
from .sampler import Draw, Pool, ids_at
from .samples import FileSummary
from .text import PAD_MULTIPLE, encode
from .token_cache import stack_tokens
from .transforms import Transform


class Samples(Protocol):
    """A map-style data set of samples, such as `pairs.PairDataset` or `samples.TaskDataset`."""

    @property
    def labelled(self) -> bool: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Example: ...
    def describe(self) -> list[FileSummary]: ...
    def fingerprint(self) -> dict[str, dict[str, Any]]: ...


class Source:
    """A data set together with the transform of its images; picklable where both are.

    Args:
        dataset: the samples.
        transform: what happens to a decoded image.
        blind: show this colour, RGB in 0..1, in the place of every image, of which none is decoded: a model trained
            so can use nothing but the text. None shows the images.
        on_device: leave ordinary JPEG files to the device (`data/encoded.py`); boxes are cut out here all the same.
        pool: the samples that training shows, step by step; None = all of the data set.
    """

    def __init__(
        self,
        dataset: Samples,
        transform: Transform,
        blind: Sequence[float] | None = None,
        *,
        on_device: bool = False,
        pool: Pool | None = None,
    ) -> None:
        self.dataset = dataset
        self.transform = transform
        self.on_device = on_device
        self.pool = pool or Pool(len(dataset))
        self.blind = None if blind is None else (255 * torch.tensor(blind).clamp(0, 1)).round().to(torch.uint8)

    def images(self, raw: Example, epoch: int) -> tuple[Tensor | JpegFile, ...] | tuple[StoredTokens, ...]:
        """Decodes a sample's images, cuts out its boxes, and transforms what is left: each (3, H, W) uint8, or a file still.

        Where the tokens of a frozen tower are kept, nothing of it happens: they are read when the batch is made.

        Raises:
            UserError: an image cannot be decoded.
        """
        if raw.images and isinstance(raw.images[0], StoredTokens):
            boxes = len(raw.images if raw.boxes is None else raw.boxes)
            whose = f"cache_frozen=True: {raw.where} has {boxes} boxes, but {len(raw.images)} images are stored"
            require(
                len(raw.images) == boxes, f"{whose}; leave cache_frozen out, as this task cuts out boxes of its own."
            )
            return raw.images
        if self.blind is not None:
            side = self.transform.image_size
            count = len(raw.images) if raw.boxes is None else len(raw.boxes)
            return (self.blind.view(3, 1, 1).expand(3, side, side),) * count
        if self.on_device and raw.boxes is None and all(map(is_ordinary_jpeg, raw.images)):
            return tuple(JpegFile(image, raw.where) for image in raw.images)
        images = [image if isinstance(image, Tensor) else decode(image, raw.where) for image in raw.images]
        if raw.boxes is not None:
            images = [crop(images[0], box) for box in raw.boxes]
        return tuple(self.transform(image, epoch, raw.id, place) for place, image in enumerate(images))

    def others(self, step: int, draws: NDArray[np.float64]) -> list[int]:
        """Samples that the step may show, drawn by numbers of [0, 1)."""
        ranges = self.pool.at(step)
        return ids_at(ranges, (draws * sum(map(len, ranges))).astype(np.int64)).tolist()

    def example(self, draw: Draw) -> Example:
        """Loads one sample of the stream."""
        stored = self.dataset[draw.id]
        return stored._replace(images=self.images(stored, draw.epoch), epoch=draw.epoch, step=draw.step)


def crop(image: Tensor, box: Sequence[float]) -> Tensor:
    """Cuts a box out of an image, as a view: what of it lies in the image, one pixel at least.

    Args:
        image: (3, H, W).
        box: [x, y, width, height] in pixels, as COCO writes them; edges are rounded outwards.
    """
    x, y, width, height = box
    sides = []
    for start, length, whole in ((y, height, image.shape[1]), (x, width, image.shape[2])):
        first = min(max(math.floor(start), 0), whole - 1)
        sides.append(slice(first, max(first + 1, min(math.ceil(start + length), whole))))
    return image[:, sides[0], sides[1]]


@dataclass
class MicroBatch:
    """What a target builder reads of a micro-batch of B samples.

    Attributes:
        examples: the B samples, in the order of the stream.
        encoding: what the tokenizer gave for their texts, not padded; `encoding[i]` knows words and offsets of text i
            where the tokenizer is a fast one.
        text: the same as padded tensors; target builders do not change them.
        source: the data set, for target builders that draw from it.
        images: those so far: the own ones of each example in turn, then those that target builders added.
        encode: tokenises more texts in the same way, for target builders that add some.
        added: of each added image the epoch, and the id of its sample, of which it is the first image.
    """

    examples: Sequence[Example]
    encoding: BatchEncoding
    text: TextInput
    source: Source
    images: list[Tensor | JpegFile] | list[StoredTokens]
    encode: Callable[[Sequence[str]], tuple[BatchEncoding, TextInput]] | None = None
    added: list[tuple[int, int]] = field(default_factory=list)

    @property
    def metadata(self) -> tuple[Mapping[str, Any], ...]:
        """Of each example."""
        return tuple(example.metadata for example in self.examples)

    def uniform(self, seed: int, purpose: str, count: int) -> NDArray[np.float64]:
        """Draws (B, count) numbers from [0, 1), a function of seed, purpose, and epoch and id of each example."""
        epochs, ids = [example.epoch for example in self.examples], [example.id for example in self.examples]
        return uniform(seed, epochs, ids, purpose, count)

    def add_image(self, image: Tensor | JpegFile | StoredTokens, epoch: int, id: int) -> int:
        """Appends the first image of another sample to the micro-batch.

        Args:
            image: as `Source.images` gives it.
            epoch, id: of that sample; they decide what is random about the image.

        Returns:
            Its index among the M images.
        """
        self.images.append(image)
        self.added.append((epoch, id))
        return len(self.images) - 1

    @property
    def shown(self) -> list[tuple[int, int, int]]:
        """Of each of the M images: epoch, id of its sample, and its place among that sample's images."""
        own = [(each.epoch, each.id, place) for each in self.examples for place in range(len(each.images))]
        return own + [(epoch, id, 0) for epoch, id in self.added]


TargetBuilder = Callable[[MicroBatch], Any]


def label_targets(micro: MicroBatch) -> LabelTargets:
    """The label of each example, -100 if it is hidden."""
    labels = [IGNORED if example.label is None else example.label for example in micro.examples]
    return LabelTargets(torch.tensor(labels), micro.metadata)


def stack_images(images: Sequence[Tensor] | Sequence[StoredTokens], keeps_aspect: bool) -> ImageInput | Tokens:
    """Puts images of shape (3, h, w) into one (M, 3, H, W) tensor; of those whose tokens are stored, reads the tokens.

    Args:
        images: uint8; all of one size unless `keeps_aspect`.
        keeps_aspect: pad below and on the right with zeros to the largest height and width, and note the real sizes.

    Returns:
        Pixels in torch's channels-last memory format: that is how they were decoded, and it is kept because transposing
        bytes costs more than all the rest of collation.
    """
    if isinstance(images[0], StoredTokens):
        return stack_tokens(images)
    if not keeps_aspect:
        return ImageInput(torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2))
    sizes = [tuple(image.shape[-2:]) for image in images]
    height, width = map(max, zip(*sizes, strict=True))
    pixels = torch.zeros(len(images), height, width, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    for i, (image, (h, w)) in enumerate(zip(images, sizes, strict=True)):
        pixels[i, :, :h, :w] = image
    return ImageInput(pixels, sizes)


@dataclass
class Collate:
    """Cuts the samples of one step into micro-batches and builds each of them; picklable.

    Args:
        tokenizer: any tokenizer of transformers.
        max_text_len: longest text in tokens, special tokens included.
        per_gpu_batchsize: samples of a micro-batch; the last one may be shorter.
        target_builders: by the task's name, what builds its targets.
        source: where the samples came from.
        multiple: of tokens, to which the texts of a micro-batch are padded.
        patch_drop: chooses the patches of each image that are encoded; None = all are.
    """

    tokenizer: PreTrainedTokenizerBase
    max_text_len: int
    per_gpu_batchsize: int
    target_builders: Mapping[str, TargetBuilder]
    source: Source
    multiple: int = PAD_MULTIPLE
    patch_drop: PatchDrop | None = None

    def __call__(self, examples: Sequence[Example]) -> list[Batch]:
        size = self.per_gpu_batchsize
        return [self._batch(examples[start : start + size]) for start in range(0, len(examples), size)]

    def _batch(self, examples: Sequence[Example]) -> Batch:
        texts, seconds = [example.text for example in examples], [example.text_pair for example in examples]
        pairs = None if seconds[0] is None else seconds
        tokenized = partial(encode, self.tokenizer, max_text_len=self.max_text_len, multiple=self.multiple)
        encoding, text = tokenized(texts, seconds=pairs, where=[example.where for example in examples])
        own = [image for example in examples for image in example.images]
        micro = MicroBatch(examples, encoding, text, self.source, own, tokenized)
        targets = {task: target_builder(micro) for task, target_builder in self.target_builders.items()}
        ids = torch.tensor([example.id for example in examples])
        images = self._stacked(micro.images) if micro.images else None
        if images is not None and self.patch_drop is not None and examples[0].step < self.patch_drop.steps:
            images = images._replace(kept=self.patch_drop.kept(micro.shown))
        return Batch(ids, text, images, targets, tuple(len(example.images) for example in examples))

    def _stacked(self, images: Sequence[Tensor | JpegFile] | Sequence[StoredTokens]) -> ImageInput | Tokens:
        transform = self.source.transform
        if any(isinstance(image, JpegFile) for image in images):
            return ImageInput(stack_encoded(images, transform))
        return stack_images(images, transform.keeps_aspect)
