"""JPEG files that are decoded on the device: the same code, on the processor as the device."""

from __future__ import annotations

import contextlib
import io
import pickle
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers_of_many_kinds import tokenizer_of

from renaissance.core.errors import UserError
from renaissance.core.types import Example, ImageInput
from renaissance.data import encoded
from renaissance.data.collate import Collate, Source
from renaissance.data.encoded import EncodedPixels, refuse_without_decoder
from renaissance.data.negatives import FalseImages
from renaissance.data.sampler import Draw
from renaissance.data.transforms import make_transform

CPU = torch.device("cpu")


def picture(size: tuple[int, int], format: str = "JPEG", mode: str = "RGB") -> bytes:
    """Soft colours with grain, as photographs have."""
    generator = np.random.default_rng([*size])
    coarse = Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    grain = generator.normal(0, 8, (size[1], size[0], 1))
    stream = io.BytesIO()
    Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8)).convert(mode).save(stream, format)
    return stream.getvalue()


WIDE, TALL, STRIP, SMALL, SAME = (90, 60), (60, 91), (600, 20), (20, 24), (32, 32)
FILES = [picture(size) for size in (WIDE, TALL, STRIP, SMALL, SAME)] + [
    picture(WIDE, mode="L"),
    picture(TALL, mode="CMYK"),
]
FILES += [picture(WIDE, "PNG"), picture(SAME, "WEBP")]
ORDINARY = 6  # the first of them; the processor decodes the others


class Files:
    """A data set of one file each."""

    labelled = True

    def __init__(self, files: list[bytes]):
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        return Example(index, (self.files[index],), f"red {index}", image_key=index, where=f"files row {index}")


def batch(files: list[bytes], *, on_device: bool, draw: int = 0) -> ImageInput:
    source = Source(Files(files), make_transform("vit", 32, patch_size=16, seed=0), on_device=on_device)
    builders = {"itm": FalseImages(0, len(files), draw)}
    examples = [source.example(Draw(0, index)) for index in range(len(files))]
    [made] = Collate(tokenizer_of("word_piece"), 12, len(files), builders, source)(examples)
    return made.images


@pytest.mark.parametrize("draw", [0, 1], ids=["own", "false images beside them"])
def test_pixels_are_those_of_the_loader_but_for_rounding(draw: int):
    there, here = batch(FILES, on_device=True, draw=draw), batch(FILES, on_device=False, draw=draw)
    assert isinstance(there.pixels, EncodedPixels) and len(there.pixels.where) >= ORDINARY
    assert len(there.pixels.decoded) == len(there.pixels.lengths) - len(there.pixels.where)
    pixels = pickle.loads(pickle.dumps(there.pixels)).to(CPU)  # as out of a loader process
    assert pixels.dtype == torch.uint8 and pixels.shape == here.pixels.shape
    away = (pixels.int() - here.pixels.int()).abs()
    assert away.max() <= 1 and (away > 0).float().mean() < 0.15
    assert torch.equal(pixels[ORDINARY : len(FILES)], here.pixels[ORDINARY : len(FILES)])


def test_a_batch_without_an_ordinary_jpeg_is_loaded_as_ever():
    there, here = batch(FILES[ORDINARY:], on_device=True), batch(FILES[ORDINARY:], on_device=False)
    assert torch.equal(there.pixels, here.pixels)


def test_a_file_that_the_device_cannot_decode_is_decoded_by_the_processor(monkeypatch):
    """torchvision gives no partial results, and a GPU reads fewer kinds of JPEG."""
    expected, real, asked = batch(FILES, on_device=True).pixels.to(CPU), encoded.decode_jpeg, []

    def picky(files, mode, device):
        asked.append(len(files))
        if any(len(file) == len(FILES[1]) for file in files):
            raise RuntimeError("Unsupported sampling factor")
        return real(files, mode, device)

    monkeypatch.setattr(encoded, "decode_jpeg", picky)
    assert torch.equal(batch(FILES, on_device=True).pixels.to(CPU), expected)
    assert asked == [ORDINARY] + [1] * ORDINARY


def test_a_damaged_file_is_named():
    broken = FILES[1][: len(FILES[1]) // 2]
    images = batch([FILES[0], broken, FILES[2]], on_device=True)
    with pytest.raises(UserError, match="^The image of files row 1 cannot be decoded"):
        images.pixels.to(CPU)


def test_a_bomb_is_refused_where_it_is_loaded():
    huge = FILES[0].replace((60).to_bytes(2, "big") + (90).to_bytes(2, "big"), b"\xff\xff\xff\xff", 1)
    with pytest.raises(UserError, match=r"files row 0 cannot be decoded \(65535 x 65535 pixels"):
        batch([huge, FILES[0]], on_device=True)


def test_a_torchvision_without_a_decoder_is_refused(monkeypatch):
    refuse_without_decoder(CPU)

    def absent(*_: object) -> None:
        raise RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support")

    monkeypatch.setattr(encoded, "decode_jpeg", absent)
    with pytest.raises(UserError, match="^decode_on_gpu=True: this torchvision cannot decode on cuda:0 .*nvJPEG"):
        refuse_without_decoder(torch.device("cuda:0"))


def test_on_a_gpu_it_has_a_stream_of_its_own(monkeypatch):
    """nvJPEG writes at once, so it must find memory that no queued kernel reads (pytorch/vision#9606)."""
    said, own, current = [], MagicMock(), MagicMock()
    own.synchronize.side_effect = lambda: said.append("nobody reads its memory")
    current.wait_stream.side_effect = lambda other: said.append(other is own and "the step waits for it")
    pixels = MagicMock(record_stream=lambda other: said.append(other is current and "its pixels are kept for the step"))
    within = contextlib.ExitStack()
    within.callback(said.append, "its own stream ends")
    monkeypatch.setattr(encoded, "_own_stream", lambda device: own)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: within)
    monkeypatch.setattr(EncodedPixels, "_pixels", lambda self, device: said.append("decoded") or pixels)
    assert batch(FILES, on_device=True).pixels.to("cuda") is pixels
    expected = ["nobody reads its memory", "decoded", "its own stream ends", "the step waits for it"]
    assert said == [*expected, "its pixels are kept for the step"]
