"""JPEG files that travel to the device as they are and are decoded there (`decode_on_gpu`).

A loader process then only reads and tokenises. On the device follow the same resize and crop, in floating point and rounded
to whole levels: of one decoded image a tenth of the values differ from the loader's, by a level of 255, few by two. nvJPEG itself
rounds, and enlarges halved colours, otherwise than libjpeg-turbo. What is no ordinary JPEG file is decoded where it is loaded.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

from renaissance.core.errors import UserError, first_line

from .images import decode
from .transforms import Transform


class JpegFile(NamedTuple):
    """Stands for an image until it is decoded. Attributes: content, the file's bytes; where, what an error names."""

    content: bytes
    where: str


class EncodedPixels(NamedTuple):
    """Stands for the (M, 3, S, S) pixels of a micro-batch until it is moved to a device, which decodes them there.

    `pin_memory` and Lightning's moving of a batch take a NamedTuple with a `to` as it is meant here: one pins its tensors, the
    other calls `to`.

    Attributes:
        content: (bytes,) uint8, the JPEG files one after another.
        lengths: bytes of each image's file, 0 where it is decoded already.
        decoded: (K, 3, S, S) uint8, those that are, in order.
        where: of each file, for messages.
        transform: without augmentation, and of one size S.
    """

    content: Tensor
    lengths: tuple[int, ...]
    decoded: Tensor
    where: tuple[str, ...]
    transform: Transform

    def to(self, device: torch.device | str, **_: object) -> Tensor:
        """Decodes and transforms: (M, 3, S, S) uint8 on the device. It waits for the decoder, not for the steps before.

        Raises:
            UserError: a file cannot be decoded.
        """
        device = torch.device(device)
        if device.type != "cuda":
            return self._pixels(device)
        # nvJPEG's engine writes at once, whatever is queued, so PyTorch must not hand it memory that queued kernels still
        # read (pytorch/vision#9606). Blocks of a stream of its own are free once that stream is done, and nobody else waits.
        current, own = torch.cuda.current_stream(device), _own_stream(device)
        own.synchronize()
        with torch.cuda.stream(own):
            pixels = self._pixels(device)
        current.wait_stream(own)
        pixels.record_stream(current)
        return pixels

    def _pixels(self, device: torch.device) -> Tensor:
        files = list(self.content.split([length for length in self.lengths if length]))
        images = (self._transformed(image) for image in _decoded(files, self.where, device))
        others = iter(self.decoded.to(device, non_blocking=True))
        return torch.stack([next(images if length else others) for length in self.lengths])

    def _transformed(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 -> (3, S, S) uint8; GPUs resize floating-point numbers only."""
        pixels = self.transform.crop(self.transform.resize(image.float()))
        return pixels.round_().clamp_(0, 255).to(torch.uint8)


@cache
def _own_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def stack_encoded(images: Sequence[JpegFile | Tensor], transform: Transform) -> EncodedPixels:
    """Puts the images of a micro-batch together: files, and (3, S, S) uint8 pixels of those that are decoded."""
    files = [image for image in images if isinstance(image, JpegFile)]
    decoded = [image for image in images if isinstance(image, Tensor)]
    return EncodedPixels(
        torch.from_numpy(np.concatenate([np.frombuffer(file.content, np.uint8) for file in files])),
        tuple(len(image.content) if isinstance(image, JpegFile) else 0 for image in images),
        torch.stack(decoded) if decoded else torch.empty(0, dtype=torch.uint8),
        tuple(file.where for file in files),
        transform,
    )


def _decoded(files: list[Tensor], where: Sequence[str], device: torch.device) -> list[Tensor]:
    """Decodes (bytes,) files to (3, H, W) uint8 RGB on the device. One that it cannot decode is left to the processor."""
    try:
        return _decode_there(files, device)
    except RuntimeError:  # of any one of them; there are no partial results
        if len(files) == 1:
            return [decode(files[0].numpy().tobytes(), where[0]).to(device)]
        return [_decoded([file], [name], device)[0] for file, name in zip(files, where, strict=True)]


def _decode_there(files: list[Tensor], device: torch.device) -> list[Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchvision's own future
        return decode_jpeg(files, ImageReadMode.RGB, device)


def refuse_without_decoder(device: torch.device) -> None:
    """Raises UserError where torchvision cannot decode on a device, such as one that was built without nvJPEG."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        grey = encode_jpeg(torch.full((3, 16, 16), 127, dtype=torch.uint8))
    try:
        _decode_there([grey], device)
    except RuntimeError as error:
        raise UserError(
            f"decode_on_gpu=True: this torchvision cannot decode on {device} ({first_line(error)}); leave decode_on_gpu out: "
            "loader processes decode then."
        ) from error
