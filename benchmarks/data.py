"""How many images a second does one core turn from bytes into pixels, and how many loader processes does a GPU want?

    python benchmarks/data.py [--rounds 40] [--images 8] [--batch 16] [--seconds 3]

One run on one thread prints a table in Markdown: decode + resize + crop to 224 of made-up photographs of 640 x 480 in
140 to 180 kB, by the ancestors' path (Pillow) and by ours, and by ours of what `prepare ... resize=224` stores of them.
All variants take turns in each round, the ratios are medians over rounds, and all is processor time: what else the
machine does matters less. The loader is the product's own with the targets of MLM and ITM. Its processes are measured by
their own processor time, what they send included; with `decode_on_gpu` they read and tokenise alone.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from coco_like import photograph, write_captions  # noqa: E402
from pretrain_step import OURS, VARIANTS, loader_rate, processor_name, take_step  # noqa: E402
from step_models import SEED, build_model, make_optimizer, open_loader  # noqa: E402

from renaissance.data.images import decode  # noqa: E402
from renaissance.data.loader import StepLoader  # noqa: E402
from renaissance.data.prepare.image_pool import QUALITY, read_image  # noqa: E402
from renaissance.data.transforms import make_transform  # noqa: E402

SIZE = 224
# The least speed-up as downloaded and as `resize` stores, levels that pixels may differ, how much faster than the step.
SPEED_BAR, STORED_BAR, PIXEL_BAR, LOADER_BAR = 1.7, 10, 1, 20
WANTED = (1000, 5000)  # samples/s, of a large model on one GPU and of a small one, or of several GPUs
_WARM_UP, _ENDLESS = 4, 1_000_000  # steps
to_model = make_transform("vit", SIZE, patch_size=16, seed=SEED)


def ours(encoded: bytes) -> Tensor:
    return to_model(decode(encoded, "the benchmark"), 0, 0)


def ancestors(encoded: bytes) -> Tensor:
    return pillow_transform(pillow_decode(encoded))


def pillow_decode(encoded: bytes) -> Image.Image:
    return Image.open(io.BytesIO(encoded)).convert("RGB")


def pillow_transform(picture: Image.Image) -> Tensor:
    """Short side to `SIZE`, the long side in proportion, the centre: (3, SIZE, SIZE) uint8."""
    short = min(picture.size)
    width, height = (int(SIZE * side / short) for side in picture.size)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (round((side - SIZE) / 2) for side in (width, height))
    return torch.from_numpy(np.array(picture.crop((left, top, left + SIZE, top + SIZE)))).permute(2, 0, 1)


def reduced(encoded: bytes) -> bytes:
    """What `prepare` stores of an image with `resize=224`."""
    return read_image(encoded, resize=SIZE)


def variants(files: list[bytes]) -> dict[str, tuple[Callable[[Any], object], list[Any]]]:
    """By name, a function and what it is called with: the ancestors' and our way, whole and in their two halves."""
    stored = [reduced(file) for file in files]
    images, tensors = [pillow_decode(file) for file in files], [decode(file, "the benchmark") for file in files]
    return {
        "ancestors": (ancestors, files),
        "ours": (ours, files),
        "ancestors, stored": (ancestors, stored),
        "ours, stored": (ours, stored),
        "ancestors, decode": (lambda file: np.array(pillow_decode(file)), files),
        "ours, decode": (lambda file: decode(file, "the benchmark"), files),
        "ancestors, resize": (pillow_transform, images),
        "ours, resize": (lambda pixels: to_model(pixels, 0, 0), tensors),
    }


def time_variants(files: list[bytes], rounds: int) -> dict[str, list[float]]:
    """Seconds of the processor an image, of every variant once a round. The first round warms up and is left out."""
    ways = variants(files)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, (way, inputs) in ways.items():
            start = time.process_time()
            for each in inputs:
                way(each)
            if number:
                seconds[name].append((time.process_time() - start) / len(inputs))
    return seconds


def largest_difference(one: Tensor, other: Tensor) -> int:
    return int((one.int() - other.int()).abs().max())


def differences(files: list[bytes]) -> dict[str, int]:
    """The largest difference from Pillow's pixels, in levels of 255."""
    found = {"decode": 0, "resize + crop": 0, "all of it": 0}
    for file in files:
        picture = pillow_decode(file)
        same = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        pairs = (
            (decode(file, "the benchmark"), same),
            (to_model(same, 0, 0), pillow_transform(picture)),
            (ours(file), ancestors(file)),
        )
        for name, pair in zip(found, pairs, strict=True):
            found[name] = max(found[name], largest_difference(*pair))
    return found


def step_rate(folder: str, batch: int) -> float:
    """Samples a second of the processor that our pretraining step takes, without the loader; the second step counts."""
    batches = [step[0] for step in open_loader(folder, batch, 2)]
    model = build_model()
    optimizer = make_optimizer(model, VARIANTS[OURS].fused)
    return batch / [take_step(model, VARIANTS[OURS], each, optimizer)[1] for each in batches][-1]


def process_rate(folder: str, batch: int, seconds: float, *, on_device: bool) -> float:
    """Samples a second of its processor that one loader process gives, whom nobody keeps waiting."""
    loader = open_loader(folder, batch, _ENDLESS)
    loader.dataset.collate.source.on_device = on_device
    loader = StepLoader(loader.sampler, loader.dataset.collate, 1, pin_memory=False)
    items = iter(loader)
    for _ in range(_WARM_UP):
        next(items)
    [process] = loader._iterator._workers
    start, samples = processor_time(process.pid), 0
    while (taken := processor_time(process.pid) - start) < seconds:
        samples += sum(len(micro.ids) for micro in next(items))
    loader.kill()
    return samples / taken


def processor_time(process: int) -> float:
    """Seconds of the processor that a process has had. Linux alone."""
    values = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


def processes_table(folders: tuple[str, str], options: argparse.Namespace) -> None:
    wanted = " | ".join(f"processes for {rate:,} samples/s" for rate in WANTED)
    print(f"\n| loader process | samples/s | {wanted} |\n| --- |{' --- |' * (1 + len(WANTED))}")
    for on_device in (False, True):
        for folder, name in zip(folders, ("as downloaded", f"stored with `resize={SIZE}`"), strict=True):
            rate = process_rate(folder, options.batch, options.seconds, on_device=on_device)
            needed = " | ".join(str(math.ceil(each / rate)) for each in WANTED)
            print(f"| {name}{', `decode_on_gpu=True`' if on_device else ''} | {rate:.0f} | {needed} |")


def report(folders: tuple[str, str], options: argparse.Namespace) -> None:
    generator = np.random.default_rng(SEED)
    files = [photograph(generator) for _ in range(options.images)]
    seconds = time_variants(files, options.rounds)
    rate = {name: 1 / statistics.median(taken) for name, taken in seconds.items()}

    def faster(one: str, other: str) -> str:
        pairs = zip(seconds[one], seconds[other], strict=True)
        return f"{statistics.median(slow / quick for slow, quick in pairs):.2f} x"

    sizes = [statistics.mean(map(len, each)) / 1000 for each in (files, [reduced(file) for file in files])]
    pixels = differences(files)
    step = step_rate(folders[0], options.batch)
    loaders = [loader_rate(folder, options.batch)[1] for folder in folders]
    print("## Data (`benchmarks/data.py`)\n")
    print(f"{date.today()}, {processor_name()}, torch {torch.__version__}, Pillow {PIL.__version__}, one thread,")
    print(f"processor time, {options.rounds} rounds of {options.images} images of 640 x 480 in {sizes[0]:.0f} kB,")
    print(f"which `resize={SIZE}` stores in {sizes[1]:.0f} kB (quality {QUALITY}).\n")
    print(f"| decode + resize + crop to {SIZE} | images/s | faster than the ancestors' | bar |")
    print("| --- | --- | --- | --- |")
    print(f"| the ancestors' (Pillow), as downloaded | {rate['ancestors']:.0f} | | |")
    print(f"| ours, as downloaded | {rate['ours']:.0f} | {faster('ancestors', 'ours')} | >= {SPEED_BAR} x |")
    stored = faster("ancestors", "ours, stored")
    print(f"| ours, stored with `resize={SIZE}` | {rate['ours, stored']:.0f} | {stored} | >= {STORED_BAR} x |")
    for name, of in (("decode", "downloaded"), ("resize", "downloaded"), ("stored", "stored")):
        both = f"{rate[f'ours, {name}']:.0f}, {rate[f'ancestors, {name}']:.0f}"
        what = f"{name} alone, as downloaded" if of != name else f"all of it, stored with `resize={SIZE}`"
        print(f"| {what}: ours, the ancestors' | {both} | {faster(f'ancestors, {name}', f'ours, {name}')} | |")
    print("\n| | measured | bar |\n| --- | --- | --- |")
    for name, levels in pixels.items():
        bar = f"<= {PIXEL_BAR}" if name == "resize + crop" else ""
        print(f"| largest difference from Pillow's pixels, {name}, of 255 levels | {levels} | {bar} |")
    print(f"| our pretraining step, batch {options.batch} | {step:.2f} samples/s | |")
    for name, loader in zip(("as downloaded", f"stored with `resize={SIZE}`"), loaders, strict=True):
        print(f"| whole loader, {name} | {loader:.0f} samples/s | |")
        print(f"| whole loader / our step, {name} | {loader / step:.0f} x | >= {LOADER_BAR} x |")
    processes_table(folders, options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3, help="of a loader process")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as downloaded, tempfile.TemporaryDirectory() as stored:
        write_captions(Path(downloaded) / "coco.arrow", images=max(64, 4 * options.batch))
        write_captions(Path(stored) / "coco.arrow", images=max(64, 4 * options.batch), stored=reduced)
        report((downloaded, stored), options)


if __name__ == "__main__":
    main()
