"""Measures what `patch_drop` saves: steps of both kinds of model on all patches, and on a share of them, in turn.

    python benchmarks/patch_drop.py --rounds 5 --threads 2

Ratios are medians over rounds, each of one batch of the product's own loader, by the wall clock and by the processor's time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from datetime import date
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from coco_like import write_captions  # noqa: E402
from pretrain_step import OURS, VARIANTS, processor_name, take_step  # noqa: E402
from step_models import (  # noqa: E402
    DESCRIPTIONS,
    IMAGE_SIZE,
    KINDS,
    PATCH_SIZE,
    SEED,
    build_model,
    make_optimizer,
    open_loader,
)

from renaissance.data.patch_drop import PatchDrop  # noqa: E402
from renaissance.training.devices import set_float32_products  # noqa: E402

SHARES = (0.0, 0.5, 0.75)
BAR = 1.6  # x the steps a second at .5


def seconds_of(kind: str, folder: str, options: argparse.Namespace) -> dict[float, list[tuple[float, float]]]:
    """By share: of each round the seconds of a step, by the clock and of the processor. A round before them warms up."""
    model = build_model(kind)
    optimizer = make_optimizer(model, fused=True)
    seconds: dict[float, list[tuple[float, float]]] = {share: [] for share in SHARES}
    for number, [batch] in enumerate(open_loader(folder, options.batch, options.rounds + 1)):
        shown = [(0, id, 0) for id in batch.ids.tolist()]
        for share, taken in seconds.items():
            drop = PatchDrop(share, (IMAGE_SIZE // PATCH_SIZE) ** 2, 1, SEED)
            images = batch.images._replace(kept=drop.kept(shown) if share else None)
            step = take_step(model, VARIANTS[OURS], batch._replace(images=images), optimizer)
            if number:
                taken.append(step)
        print(f"{kind}: round {number} of {options.rounds}", file=sys.stderr, flush=True)
    return seconds


def report(folder: str, options: argparse.Namespace) -> None:
    print("## Patch dropping (`benchmarks/patch_drop.py`)\n")
    print(f"{date.today()}, {processor_name()}, {options.threads} threads, torch {torch.__version__}, fp32, batch")
    print(f"{options.batch}, {options.rounds} rounds.\n")
    print("| | `patch_drop` | a step | steps a second, wall clock | processor time | bar |")
    print("| --- | --- | --- | --- | --- | --- |")
    for kind in KINDS:
        seconds = seconds_of(kind, folder, options)
        for share, taken in seconds.items():
            pairs = list(zip(seconds[0.0], taken, strict=True))
            clock, processor = (statistics.median(whole[i] / part[i] for whole, part in pairs) for i in (0, 1))
            step = statistics.median(each[0] for each in taken)
            bar = f">= {BAR} x" if share == 0.5 else ""
            name = f"{kind}: {DESCRIPTIONS[kind]}"
            print(f"| {name} | {share:g} | {step:.2f} s | {clock:.2f} x | {processor:.2f} x | {bar} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    set_float32_products("highest", cpu=True)
    with tempfile.TemporaryDirectory() as folder:
        write_captions(Path(folder) / "coco.arrow", images=max(64, 4 * options.batch))
        report(folder, options)


if __name__ == "__main__":
    main()
