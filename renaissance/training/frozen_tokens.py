"""Tokens of a frozen image tower, computed once: what `cache_frozen` keeps, where, and how it is made.

The folder of a tower is <cache_dir>/<encoder>-<hash of weights, configuration, normalisation, transform and precision>, and in it
is one folder for each arrow file, <name>-<hash of its content>. So another model, transform or file has another place, and what
is there is right for all runs. All processes of a run, and of other runs beside it, share the work out by locking one part
after the other (`data/token_cache.py`); a part of a process that died is made anew by another.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from renaissance.core.atomic import AtomicFile
from renaissance.core.checks import require_writable
from renaissance.core.console import say
from renaissance.core.errors import require
from renaissance.core.parts import make_parts
from renaissance.core.progress import Bar
from renaissance.core.types import Example, ImageInput
from renaissance.data.collate import Source, stack_images
from renaissance.data.file_cache import content_digest
from renaissance.data.loader import StepLoader
from renaissance.data.token_cache import TokenFile
from renaissance.data.transforms import Transform
from renaissance.models.two_tower import TwoTower
from renaissance.settings.sections import Settings

from .assembly import Built
from .devices import float32_products
from .image_inputs import transform_of
from .loading import RunData
from .resolution import Resolved

FOLDER = "tokens"  # in data_root
_VERSION = 1  # of what a part holds
_IMAGES = 64  # that a loader process reads at once, and the most of one call of the tower
# Values of a configuration that change no token of a trained tower in eval mode, or say where it came from.
_IDLE = re.compile(
    r"drop|version|name_or_path|architectures|dtype|label|attn_implementation|return_dict|output_(attentions|hidden_states)"
)


class MissingPart(NamedTuple):
    """A part of the tokens. Attributes: tokens; number of the part; source of the images; file, its number in the data set."""

    tokens: TokenFile
    number: int
    source: Source
    file: int

    @property
    def target(self) -> Path:
        return self.tokens.path(self.number)

    @property
    def size(self) -> int:
        return len(self.tokens.images_of(self.number))

    def is_missing(self) -> bool:
        return self.tokens.problem(self.number) is not None

    def draws(self, place: int) -> Iterator[list[_ImageDraw]]:
        """What a loader process reads at once, for `make_parts`."""
        images = self.tokens.images_of(self.number)
        for first in range(images.start, images.stop, _IMAGES):
            yield [_ImageDraw(place, image) for image in range(first, min(images.stop, first + _IMAGES))]


class TokenCache:
    """The tokens of the images of a run.

    Args:
        sources: the data sets, with the transform of their images.
        files: the tokens of each file of each of them.
        num_workers: loader processes that decode what is missing.
        batch: images of one call of the tower.
    """

    def __init__(self, sources: Sequence[Source], files: Sequence[Sequence[TokenFile]], num_workers: int, batch: int):
        self.sources, self.files, self.num_workers, self.batch = sources, files, num_workers, batch
        self.filled = False

    def missing(self) -> list[MissingPart]:
        """The parts that are not there, or not whole; of a file that several data sets read, once."""
        parts = {
            tokens.path(number): MissingPart(tokens, number, source, file)
            for source, files in zip(self.sources, self.files, strict=True)
            for file, tokens in enumerate(files)
            for number in tokens.parts
        }
        return [part for part in parts.values() if part.is_missing()]

    def fill(self, model: TwoTower, device: torch.device, rank: int = 0, world_size: int = 1) -> None:
        """Makes what is missing, together with all processes that call it; from then on samples have tokens for images.

        Raises:
            UserError: an image cannot be decoded, or the disk is full.
        """
        if self.filled:
            return
        parts, training = self.missing(), model.training
        if rank == 0:
            for problem in filter(None, (part.tokens.problem(part.number) for part in parts)):
                say(f"warning: {problem.removesuffix('.')}; it is put aside as <name>.damaged and made anew.")
        model.eval()
        model.image_tower.to(device), model.normalize.to(device)
        hide = rank > 0 or not parts
        bar = Bar(total=sum(part.size for part in parts), desc="encoding images", disable=hide)
        write = partial(_write, model, device, self.batch)
        # Whatever a run computes in, the tokens are the same.
        loader = partial(StepLoader, collate=_ImageReader(parts), num_workers=self.num_workers, pin_memory=False)
        with bar, torch.no_grad(), float32_products("highest", cpu=device.type == "cpu"):
            make_parts(parts, loader, "cache_dir", write, bar, rank, world_size)
        model.train(training)
        for source, files in zip(self.sources, self.files, strict=True):
            source.dataset.use_tokens(files)
        self.filled = True


def _write(
    model: TwoTower,
    device: torch.device,
    batch: int,
    part: MissingPart,
    file: AtomicFile,
    items: Iterator[Any],
    bar: Bar,
) -> None:
    """Makes a part; its images go through the tower `batch` at a time."""
    encode = partial(_encode, model, part.tokens.dtype, device, batch)
    part.tokens.write(part.number, file, _batches(part, items, encode, bar))


def _batches(
    part: MissingPart, items: Iterator[Any], encode: Callable[[Tensor], Tensor], bar: Bar
) -> Iterator[tuple[Tensor, list[int], list[int]]]:
    """The batches of a part, as `TokenFile.write` takes them."""
    left = part.size
    while left:
        pixels, keys, counts = next(items)
        yield encode(pixels), keys, counts
        bar.update(len(keys))
        left -= len(keys)


def _encode(model: TwoTower, dtype: torch.dtype, device: torch.device, batch: int, pixels: Tensor) -> Tensor:
    """The tokens of images (n, 3, H, W), which may be none: (n, P, D)."""
    parts = [torch.empty(0, dtype=dtype)]
    for images in pixels.split(batch) if len(pixels) else ():
        parts.append(model.unimodal_image(ImageInput(images.to(device))).hidden.to(dtype).cpu())
        why = "cache_frozen=True: an image's tokens are not finite, or too large for cache_precision=16; give 32."
        require(parts[-1].isfinite().all(), why)
    return torch.cat(parts[1:]) if parts[1:] else parts[0]


class _ImageDraw(NamedTuple):
    """Attributes: part, its place among those that are missing; image, its number in the part's file."""

    part: int
    image: int


class _ImageReader:
    """What a `StepLoader` needs to read images in the place of samples."""

    dataset = None

    def __init__(self, parts: Sequence[MissingPart]):
        self.parts, self.source = parts, self

    def example(self, draw: _ImageDraw) -> Example:
        part = self.parts[draw.part]
        stored = part.source.dataset.image(part.file, draw.image)
        return stored._replace(images=part.source.images(stored, 0))

    def __call__(self, examples: Sequence[Example]) -> tuple[Tensor, list[int], list[int]]:
        """Returns images (n, 3, H, W), and of each example the hash of its encoded image and how many of them are its own."""
        images = [image for example in examples for image in example.images]
        pixels = stack_images(images, keeps_aspect=False).pixels if images else torch.empty(0)
        return pixels, [example.image_key for example in examples], [len(example.images) for example in examples]


def plan_tokens(built: Built, resolved: Resolved, data: RunData) -> TokenCache | None:
    """What a run with `cache_frozen` keeps and reads; notes how large it is. Writes nothing.

    Raises:
        UserError: there are no images, a transform is not fixed, or the disk has no room for what is missing.
    """
    settings = resolved.settings
    if not settings.data.cache_frozen:
        return None
    if settings.run.fast_dev_run:
        built.notes.append("cache_frozen: fast_dev_run keeps nothing, so images are decoded and encoded")
        return None
    names, sources = ", ".join(settings.data.datasets), []
    for split, samples in data.samples.items():
        # What training or the evaluation at its end reads; unlabelled splits are for test_only.
        if samples is not None and (split == "train" or samples.labelled or settings.run.test_only):
            pictured = hasattr(samples, "use_tokens") and len(samples.image_counts(0))
            lack = "have no images, or are of a class without use_tokens"
            require(pictured, f"cache_frozen=True: the samples of {names} {lack}; leave it out.")
            sources.append(Source(samples, transform_of(settings, split)))
            fixed = "cache_frozen=True: the transform of {} does not give the same pixels each time; give imagenet."
            require(sources[-1].transform.is_fixed, fixed.format(split))
    folder, bits = cache_folder(settings), settings.data.cache_precision
    files = token_files(built.model, sources, folder, settings.model.image_encoder.name, bits)
    batch = min(_IMAGES, settings.data.per_gpu_batchsize)  # a device that has room for training has it for this
    cache = TokenCache(sources, files, settings.data.num_workers, batch)
    built.notes.append(_room(cache, folder, bits))
    return cache


def cache_folder(settings: Settings) -> Path:
    """The folder of all towers' tokens."""
    return Path(settings.data.cache_dir or Path(settings.data.data_root) / FOLDER)


def token_files(
    model: TwoTower, sources: Sequence[Source], cache_dir: Path, name: str, bits: int
) -> list[list[TokenFile]]:
    """The tokens of each file of each data set.

    Args:
        model: whose image tower is frozen. sources: the data sets, and the transforms of their images.
        cache_dir: folder of all towers. name: of the image encoder. bits: 16 or 32.
    """
    weights, shape, found = fingerprint(model), _shape(model, sources[0].transform.image_size), []
    for source in sources:
        how = {"version": _VERSION, "bits": bits, "weights": weights, "transform": _described(source.transform)}
        tower = hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()[:16]
        shown, files = source.dataset.images_shown(), []
        for number, path in enumerate(source.dataset.paths()):
            content = content_digest(path)
            data = hashlib.sha256(f"{content} {source.dataset.image_source(number)}".encode()).hexdigest()[:16]
            meta = {"encoder": _short(name), "tower": tower, "bits": bits, "shape": shape, "data": data}
            place = cache_dir / f"{_short(name)}-{tower}" / f"{_short(Path(path).stem)}-{data}"
            counts, dtype = source.dataset.image_counts(number), torch.float16 if bits == 16 else torch.float32
            files.append(TokenFile(place, meta, shape, dtype, counts, shown[number]))
        found.append(files)
    return found


def _shape(model: TwoTower, side: int) -> tuple[int, int]:
    """(P, D) of the tokens of an image of so many pixels."""
    device, training = next(model.parameters()).device, model.training
    with torch.no_grad():
        blank = ImageInput(torch.zeros(1, 3, side, side, dtype=torch.uint8, device=device))
        shape = tuple(model.eval().unimodal_image(blank).hidden.shape[1:])
    model.train(training)
    return shape


def _described(transform: Transform) -> dict[str, str]:
    values = {key: str(value) for key, value in vars(transform).items() if not key.startswith("_")}
    return values | {"class": f"{type(transform).__module__}.{type(transform).__qualname__}"}


def fingerprint(model: TwoTower) -> str:
    """Hash of weights and configuration of the image tower, and of the normalisation of its pixels."""
    config = {key: value for key, value in model.image_tower.config.to_dict().items() if not _IDLE.search(key)}
    described = {"channels": model.normalize.channels, "config": config}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
    normalize = {"scale": model.normalize.scale, "shift": model.normalize.shift}
    for name, tensor in {**model.image_tower.state_dict(), **normalize}.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _short(name: str) -> str:
    """The end of a name as that of a folder."""
    return re.sub(r"[^\w.-]", "_", Path(name).name)[-60:]


def _room(cache: TokenCache, folder: Path, bits: int) -> str:
    """A note about the size of the tokens.

    Raises:
        UserError: the disk has no room for those that are missing, or the folder cannot be written.
    """
    parts = {each.path(part): (each, part) for files in cache.files for each in files for part in each.parts}
    images = sum(len(each.images_of(part)) for each, part in parts.values())
    whole = sum(each.nbytes[part] for each, part in parts.values())
    missing = sum(part.tokens.nbytes[part.number] for part in cache.missing())
    tokens, width = cache.files[0][0].shape
    size = f"{_size(whole)} in {folder} ({images:,} images, {tokens} tokens of {width} numbers in {bits} bits each)"
    if not missing:
        return f"cache_frozen: {size}, all of it there"
    require_writable(folder, "cache_frozen=True", "cache_dir")
    nearest = next(each for each in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(each))
    free = shutil.disk_usage(nearest).free
    half = ", or cache_precision=16 for half of it" if bits == 32 else ""
    lack = f"cache_frozen=True: {size} lack {_size(missing)}, and the disk has {_size(free)} free"
    require(missing < free, f"{lack}; free space, give another disk with cache_dir={half}, or leave it out.")
    return f"cache_frozen: {size}, {_size(missing)} of it are made before the first step"


def _size(count: int) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e8 else f"{count / 1e6:,.2f} MB"
