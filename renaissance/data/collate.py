"""From the samples of one optimizer step to its micro-batches.

For each micro-batch: the texts are tokenised once, the pictures are stacked, and then each chosen task's *maker* builds
that task's targets from what is there. A maker is any picklable callable `maker(micro: MicroBatch) -> Targets`; masked
language modelling (`masking.MlmMasker`) and image-text matching (`negatives.FalseImages`) are two of them, and a task
or a demo brings its own without a change here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerBase

from renaissance.data.images import decode
from renaissance.data.pairs import RawPair
from renaissance.data.sampler import Draw
from renaissance.data.text import encode
from renaissance.data.transforms import Transform
from renaissance.types import Batch, Example, ImageInput, TextInput


class Pairs(Protocol):
    """A map-style data set of pairs, such as `pairs.PairDataset`."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> RawPair: ...


class Source:
    """A data set together with the transform of its pictures; picklable where both are.

    Args:
        dataset: the pairs.
        transform: what happens to a decoded picture.
    """

    def __init__(self, dataset: Pairs, transform: Transform) -> None:
        self.dataset = dataset
        self.transform = transform

    def pixels(self, pair: RawPair, epoch: int) -> Tensor:
        """Decode and transform a pair's picture: (3, H, W) uint8.

        Raises:
            UserError: the picture cannot be decoded.
        """
        return self.transform(decode(pair.image, pair.where), epoch, pair.id)

    def example(self, draw: Draw) -> Example:
        """Load one sample of the stream."""
        pair = self.dataset[draw.id]
        return Example(pair.id, draw.epoch, self.pixels(pair, draw.epoch), pair.text, pair.texts, pair.picture)


@dataclass
class MicroBatch:
    """What a maker sees of a micro-batch of B samples.

    Attributes:
        examples: the B samples, in the order of the stream.
        encoding: what the tokenizer gave for their texts, not padded; `encoding[i]` knows words and offsets of text i
            where the tokenizer is a fast one.
        text: the same as padded tensors; makers leave them as they are.
        source: the data set, for makers that want more of it.
        pictures: the pictures so far: the B own ones, then those that makers added.
    """

    examples: Sequence[Example]
    encoding: BatchEncoding
    text: TextInput
    source: Source
    pictures: list[Tensor]

    def add_picture(self, pixels: Tensor) -> int:
        """Append a picture, (3, H, W) uint8, to the micro-batch and return its index among the M pictures."""
        self.pictures.append(pixels)
        return len(self.pictures) - 1


Maker = Callable[[MicroBatch], Any]


def stack_pictures(pictures: Sequence[Tensor], keeps_aspect: bool) -> ImageInput:
    """Put pictures of shape (3, h, w) into one (M, 3, H, W) tensor.

    Args:
        pictures: uint8; all of one size unless `keeps_aspect`.
        keeps_aspect: pad below and on the right with zeros to the largest height and width, and note the real sizes.

    Returns:
        Pixels in torch's channels-last memory format: that is how they were decoded, and it is kept because transposing
        bytes costs more than all the rest of collation.
    """
    if not keeps_aspect:
        return ImageInput(torch.stack([picture.permute(1, 2, 0) for picture in pictures]).permute(0, 3, 1, 2))
    sizes = torch.tensor([picture.shape[-2:] for picture in pictures])
    height, width = sizes.amax(0).tolist()
    pixels = torch.zeros(len(pictures), height, width, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    for i, (picture, (h, w)) in enumerate(zip(pictures, sizes.tolist(), strict=True)):
        pixels[i, :, :h, :w] = picture
    return ImageInput(pixels, sizes)


class Collate:
    """Cut the samples of one step into micro-batches and build each of them; picklable.

    Args:
        tokenizer: any tokenizer of transformers.
        max_text_len: longest text in tokens, special tokens included.
        per_gpu_batchsize: samples of a micro-batch; the last one may be shorter.
        makers: by the task's name, what builds its targets.
        source: where the samples came from.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_text_len: int,
        per_gpu_batchsize: int,
        makers: Mapping[str, Maker],
        source: Source,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_text_len = max_text_len
        self.per_gpu_batchsize = per_gpu_batchsize
        self.makers = dict(makers)
        self.source = source

    def __call__(self, examples: Sequence[Example]) -> list[Batch]:
        size = self.per_gpu_batchsize
        return [self._batch(examples[start : start + size]) for start in range(0, len(examples), size)]

    def _batch(self, examples: Sequence[Example]) -> Batch:
        encoding, text = encode(self.tokenizer, [example.text for example in examples], self.max_text_len)
        micro = MicroBatch(examples, encoding, text, self.source, [example.pixels for example in examples])
        targets = {task: maker(micro) for task, maker in self.makers.items()}
        ids = torch.tensor([example.id for example in examples])
        return Batch(ids, text, stack_pictures(micro.pictures, self.source.transform.keeps_aspect), targets)
