"""How much faster and smaller is our pretraining step than the ancestors', and does the loader keep up with it?

    python benchmarks/pretrain_step.py [--kind two-tower one-tower] [--rounds 5] [--batch 16] [--threads 2] [--precision 32]

One run on one machine prints a table in Markdown for each kind of model (`step_models.py`), with captions as long as COCO's.
The reference (`reference_step.py`) has the same weights. Each idea's share is what the step costs with that idea alone switched
off. All variants take turns in each round, so that a busy machine slows all of them; the ratios are medians over rounds, by the
wall clock and by the processor's time. `--precision bf16-mixed` takes the reference's steps in it as well.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import reference_step  # noqa: E402
from coco_like import MAX_TEXT_LEN, write_captions  # noqa: E402
from step_models import (  # noqa: E402
    DESCRIPTIONS,
    KINDS,
    ONE_TOWER,
    TASKS,
    TWO_TOWER,
    Model,
    autocast,
    build_model,
    make_optimizer,
    open_loader,
    our_losses,
)

from renaissance.core.types import IGNORED, Batch, MlmTargets, TaskOutput, TextInput, Tokens  # noqa: E402
from renaissance.data.masking import mlm_targets  # noqa: E402
from renaissance.models.attention import Attention, Dropout  # noqa: E402
from renaissance.models.backbones import Blocks  # noqa: E402
from renaissance.models.base import EVERYTHING  # noqa: E402
from renaissance.tasks import Encodings  # noqa: E402
from renaissance.tasks.mlm import Mlm  # noqa: E402
from renaissance.training.devices import float32_products, set_float32_products  # noqa: E402

OURS, REFERENCE, START = "ours", "reference", "all that came last"
# By kind: the least that the reference's and START's step take, in ours; then the most memory, how much faster than the step the
# loader is, and the samples/s of a GPU.
SPEED_BARS = {"32": {TWO_TOWER: 2.1, ONE_TOWER: 1.35}, "bf16-mixed": {TWO_TOWER: 2.2, ONE_TOWER: 1.5}}
START_BARS = {TWO_TOWER: 1.05, ONE_TOWER: 1.3}
MEMORY_BAR, LOADER_BAR, GPU_WANTS = 0.7, 20, 1000


# Switches: each takes one idea out of our step, or all of them.


class Forgetful(Encodings):
    """Runs the image tower for every task that asks."""

    def images(self, index: Tensor | None = None) -> Tokens:
        self._images = None
        return super().images(index)


class Thorough(Encodings):
    """Computes the whole last layer, whatever the task reads."""

    def fuse(self, text: Tokens, image: Tokens, needs: Any, slot: int = 0) -> Any:
        return super().fuse(text, image, EVERYTHING, slot)


def padded(batch: Batch) -> Batch:
    """The same texts, padded to the maximum length."""
    missing = MAX_TEXT_LEN - batch.text.input_ids.shape[1]
    text = TextInput(*(F.pad(each, (0, missing)) for each in batch.text))
    mlm = batch.targets["mlm"]
    mlm = mlm_targets(F.pad(mlm.input_ids, (0, missing)), F.pad(mlm.labels, (0, missing), value=IGNORED))
    return batch._replace(text=text, targets=batch.targets | {"mlm": mlm})


def decode_everywhere(task: Mlm, encodings: Encodings, targets: MlmTargets) -> TaskOutput:
    fused = encodings.fuse(encodings.text(targets.input_ids), encodings.images(), needs={"text"})
    logits = task.head(fused.text).flatten(0, 1)
    labels = targets.labels.flatten()
    loss = F.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED)
    return TaskOutput(loss, task.count(targets), logits, labels)


@contextlib.contextmanager
def attention(kind: str, model: nn.Module) -> Iterator[None]:
    """The families' attention by an implementation of transformers: "eager" or "sdpa"."""
    configs = {id(part.config): part.config for part in model.modules() if isinstance(part, PreTrainedModel | Blocks)}
    own = [config._attn_implementation for config in configs.values()]
    for config in configs.values():
        config._attn_implementation = kind
    yield
    for config, name in zip(configs.values(), own, strict=True):
        config._attn_implementation = name


def plain_dropout(_: nn.Module) -> contextlib.AbstractContextManager[Any]:
    return mock.patch.object(Dropout, "forward", nn.Dropout.forward)


@contextlib.contextmanager
def default_products(_: nn.Module) -> Iterator[None]:
    with float32_products("highest", cpu=False):  # so torch's own choice
        yield


@contextlib.contextmanager
def as_the_ancestors(model: nn.Module) -> Iterator[None]:
    with attention("eager", model), plain_dropout(model), default_products(model):
        yield


@contextlib.contextmanager
def whole_last_block(model: nn.Module) -> Iterator[None]:
    """Every token of a one-tower's last block."""
    narrowed = [part for part in model.modules() if isinstance(part, Blocks) and part.like_bert]
    for part in narrowed:
        part.like_bert = False
    yield
    for part in narrowed:
        part.like_bert = True


@contextlib.contextmanager
def as_before(model: nn.Module) -> Iterator[None]:
    """Families with their own attention and dropout, torch's default products, and one-towers with a whole last block."""
    with attention("sdpa", model), plain_dropout(model), default_products(model), whole_last_block(model):
        yield


class Variant(NamedTuple):
    """A way to take a step.

    Attributes:
        losses: (Model, Batch) -> the mean loss of each task.
        prepare: what happens to the batch before the clock starts.
        within: the context in which the losses are computed and differentiated.
        fused: the optimizer's one kernel for all parameters; else torch's foreach implementation.
        kind: of models that it makes a difference for, None for both.
    """

    losses: Callable[[Model, Batch], dict[str, Tensor]] = our_losses
    prepare: Callable[[Batch], Batch] = lambda batch: batch
    within: Callable[[nn.Module], contextlib.AbstractContextManager[Any]] = lambda model: contextlib.nullcontext()
    fused: bool = True
    kind: str | None = None


VARIANTS = {
    OURS: Variant(),
    REFERENCE: Variant(lambda m, batch: reference_step.losses(*m, batch), padded, as_the_ancestors, fused=False),
    "texts padded to the batch's longest": Variant(prepare=padded),
    "one pass of the images": Variant(lambda m, batch: our_losses(m, batch, Forgetful)),
    "vocabulary at masked positions": Variant(within=lambda _: mock.patch.object(Mlm, "forward", decode_everywhere)),
    "last layer as far as it is read": Variant(lambda m, batch: our_losses(m, batch, Thorough)),
    "short side of cross-attention": Variant(
        within=lambda _: mock.patch.object(Attention, "_is_cheaper", lambda *_: False), kind=TWO_TOWER
    ),
    "dropout from 16 bits": Variant(within=plain_dropout),
    "attention with dropout in few passes": Variant(within=lambda model: attention("sdpa", model)),
    "oneDNN's products": Variant(within=default_products),
    START: Variant(within=as_before),
    "fused optimizer": Variant(fused=False),
}


def variants(kind: str) -> dict[str, Variant]:
    return {name: variant for name, variant in VARIANTS.items() if variant.kind in (None, kind)}


def take_step(
    model: Model, variant: Variant, batch: Batch, optimizer: torch.optim.Optimizer, precision: str = "32"
) -> tuple[float, float]:
    """One optimizer step. Returns its seconds by the clock and of the processor."""
    batch = variant.prepare(batch)
    with variant.within(model.model):
        clock, processor = time.perf_counter(), time.process_time()
        with autocast("cpu", precision):
            loss = sum(variant.losses(model, batch).values())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - clock, time.process_time() - processor


def loss_differences(model: Model, batch: Batch, kind: str = TWO_TOWER) -> dict[str, float]:
    """How far the losses of each variant are from ours without dropout, the largest of both tasks."""
    losses = {}
    for part in model:
        part.eval()
    for name, variant in variants(kind).items():
        with torch.no_grad(), variant.within(model.model):
            losses[name] = variant.losses(model, variant.prepare(batch))
    for part in model:
        part.train()
    return {name: max(abs(float(of[t] - losses[OURS][t])) for t in TASKS) for name, of in losses.items()}


Seconds = dict[str, list[tuple[float, float]]]
"""By variant, of each round: by the clock and of the processor."""


def time_variants(model: Model, batches: list[Batch], kind: str, options: argparse.Namespace) -> Seconds:
    """Every variant once a round, all on the round's batch. The first round warms up and is left out."""
    optimizers = {fused: make_optimizer(model, fused) for fused in (True, False)}
    seconds: Seconds = {name: [] for name in variants(kind)}
    for number in range(options.rounds + 1):
        for name, taken in seconds.items():
            variant, batch = VARIANTS[name], batches[number % len(batches)]
            step = take_step(model, variant, batch, optimizers[variant.fused], options.precision)
            if number:
                taken.append(step)
        print(f"{kind}: round {number} of {options.rounds}", file=sys.stderr, flush=True)
    return seconds


def peak_of_steps(name: str, kind: str, batches: list[Batch], precision: str) -> float:
    """MiB that two steps take above the model: gradients, optimizer state, activations. For a process of its own."""
    model = build_model(kind)
    gc.collect()
    before = _reset_peak()
    optimizer = make_optimizer(model, VARIANTS[name].fused)
    for batch in batches[:2]:
        take_step(model, VARIANTS[name], batch, optimizer, precision)
    return _status("VmHWM") - before


def _reset_peak() -> float:
    """Forgets the peak so far, which building may have set. Returns the memory in use, MiB. Linux alone."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(entry: str) -> float:
    """MiB of an entry of this process's status. `getrusage` would hand down the peak of the process that started it."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[entry].split()[0]) / 1024


def measured_peak(name: str, kind: str, folder: str, options: argparse.Namespace) -> float:
    sizes = ["--batch", str(options.batch), "--threads", str(options.threads), "--precision", options.precision]
    command = [sys.executable, __file__, "--peak", name, "--kind", kind, "--folder", folder, *sizes]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def loader_rate(folder: str, batch: int, steps: int = 12) -> tuple[float, float]:
    """Samples a second that the loader makes on one thread, by the clock and by the processor's time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    items = iter(open_loader(folder, batch, steps + 1))
    next(items)
    clock, processor = time.perf_counter(), time.process_time()
    samples = sum(len(micro.ids) for step in items for micro in step)
    rates = samples / (time.perf_counter() - clock), samples / (time.process_time() - processor)
    torch.set_num_threads(threads)
    return rates


def processor_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def ratio(seconds: Seconds, name: str, which: int) -> float:
    """How many times as long as our step, the median over rounds. which: 0 by the clock, 1 by the processor's time."""
    pairs = zip(seconds[name], seconds[OURS], strict=True)
    return statistics.median(other[which] / ours[which] for other, ours in pairs)


def report(kind: str, folder: str, options: argparse.Namespace) -> None:
    batches = [step[0] for step in open_loader(folder, options.batch, options.rounds + 1)]
    model = build_model(kind)
    differences = loss_differences(model, batches[0], kind)
    seconds = time_variants(model, batches, kind, options)
    del model
    peaks = {name: measured_peak(name, kind, folder, options) for name in (OURS, REFERENCE)}
    clock_rate, core_rate = loader_rate(folder, options.batch)
    step = {name: statistics.median(clock for clock, _ in taken) for name, taken in seconds.items()}
    rate = options.batch / step[OURS]
    print(f"### {kind.capitalize()}: {DESCRIPTIONS[kind]}\n")
    print("| | measured | bar |\n| --- | --- | --- |")
    for name, title, bar in (
        (REFERENCE, "reference step", SPEED_BARS[options.precision][kind]),
        (START, "step before attention, dropout, oneDNN and the last block were as now", START_BARS[kind]),
    ):
        times, by_processor = (f"{ratio(seconds, name, which):.2f} x" for which in (0, 1))
        print(f"| {title} / our step, wall clock (processor time) | {times} ({by_processor}) | >= {bar} x |")
    print(f"| our step, reference step | {step[OURS]:.2f} s, {step[REFERENCE]:.2f} s | |")
    share = peaks[OURS] / peaks[REFERENCE]
    print(f"| peak memory above the model, ours / reference | {share:.2f} x | <= {MEMORY_BAR} x |")
    print(f"| the same in MiB | {peaks[OURS]:.0f}, {peaks[REFERENCE]:.0f} | |")
    print(f"| largest difference of the losses without dropout | {max(differences.values()):.1e} | <= 1e-4 |")
    by_core = f"{clock_rate:.0f} samples/s ({core_rate:.0f} by processor time)"
    print(f"| loader, one core | {by_core} | {GPU_WANTS} (a GPU) |")
    print(f"| loader / our step ({rate:.2f} samples/s) | {clock_rate / rate:.0f} x | >= {LOADER_BAR} x |")
    print("\n| our step without this idea alone | wall clock | processor time |\n| --- | --- | --- |")
    for name in list(seconds)[2:]:
        print(f"| {name} | {ratio(seconds, name, 0):.2f} x | {ratio(seconds, name, 1):.2f} x |")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=SPEED_BARS, default="32")
    parser.add_argument("--peak", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    set_float32_products("highest", cpu=True)
    if options.peak:
        batches = [step[0] for step in open_loader(options.folder, options.batch, 2)]
        print(peak_of_steps(options.peak, options.kind[0], batches, options.precision))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_captions(Path(folder) / "coco.arrow", images=max(64, 4 * options.batch))
        print("## Pretraining step (`benchmarks/pretrain_step.py`)\n")
        print(
            f"{date.today()}, {processor_name()}, {options.threads} threads, torch {torch.__version__}, batch {options.batch},"
        )
        print(f"precision {options.precision}, {options.rounds} rounds.\n")
        for kind in options.kind:
            report(kind, folder, options)


if __name__ == "__main__":
    main()
