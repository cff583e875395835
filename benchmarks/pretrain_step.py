"""How much faster and smaller is our pretraining step than the ancestors', and does the loader keep up with it?

    python benchmarks/pretrain_step.py [--rounds 5] [--batch 16] [--threads 2]

One run on one machine prints a table in Markdown: DeiT-tiny, ELECTRA-small and a fusion of 6 x 256, random weights,
fp32, captions as long as COCO's. The reference (`reference_step.py`) has the same weights. Each idea's share is what
the step costs with that idea alone switched off. All variants take turns in each round, so that a busy machine slows
all of them; the ratios are medians over rounds, by the wall clock and by the processor's time.
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
from transformers import DeiTConfig, ElectraConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import reference_step  # noqa: E402
from coco_like import MAX_TEXT_LEN, VOCAB_SIZE, tokenizer, write_captions  # noqa: E402

from renaissance.core.types import IGNORED, Batch, MlmTargets, TaskOutput, TextInput, Tokens  # noqa: E402
from renaissance.data.collate import Collate, Source  # noqa: E402
from renaissance.data.loader import StepLoader  # noqa: E402
from renaissance.data.masking import MlmMasker  # noqa: E402
from renaissance.data.negatives import FalseImages  # noqa: E402
from renaissance.data.pairs import PairDataset  # noqa: E402
from renaissance.data.sampler import TrainSteps  # noqa: E402
from renaissance.data.text import vocabulary  # noqa: E402
from renaissance.data.transforms import make_transform  # noqa: E402
from renaissance.models import backbones  # noqa: E402
from renaissance.models.attention import Attention, Dropout  # noqa: E402
from renaissance.models.base import EVERYTHING  # noqa: E402
from renaissance.models.embeddings import Normalize  # noqa: E402
from renaissance.models.fusion import FusionStack  # noqa: E402
from renaissance.models.initialization import initialize  # noqa: E402
from renaissance.models.two_tower import TwoTower  # noqa: E402
from renaissance.tasks import Context, Encodings, task_class  # noqa: E402
from renaissance.tasks.mlm import Mlm  # noqa: E402

TASKS = ("mlm", "itm")
SEED = 1
OURS, REFERENCE = "ours", "reference"
# The least speed-up, the most memory, how much faster than the step the loader is, and the samples/s that a GPU wants.
SPEED_BAR, MEMORY_BAR, LOADER_BAR, GPU_WANTS = 2.0, 0.7, 20, 1000


class Model(NamedTuple):
    """A model with its heads; `parameters` of both."""

    model: TwoTower
    heads: nn.ModuleDict

    def parameters(self) -> list[nn.Parameter]:
        return [p for part in self for p in part.parameters() if p.requires_grad]


def build_model() -> Model:
    torch.manual_seed(SEED)
    text = backbones.build_text_tower(ElectraConfig(), weights=None, vocab_size=VOCAB_SIZE)
    deit_tiny = DeiTConfig(hidden_size=192, num_attention_heads=3, intermediate_size=768)
    image = backbones.build_vision_tower(deit_tiny, weights=None)
    fusion = FusionStack("shared", num_layers=6, width=256, heads=4, mlp_ratio=4, drop_rate=0.1)
    model = TwoTower(text, image, fusion, "double", Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    initialize(model)
    model.token_types.copy_image_row()
    heads = nn.ModuleDict({name: task_class(name)(model, Context(None, VOCAB_SIZE, None)) for name in TASKS})
    initialize(heads)
    return Model(model, heads)


def open_loader(folder: str, batch: int, steps: int) -> StepLoader:
    """The product's own loader, in this process, over a file of made-up photographs."""
    pieces = tokenizer()
    target_builders = {"mlm": MlmMasker(vocabulary(pieces), 0.15, True, SEED), "itm": FalseImages(SEED, batch, 0)}
    dataset = PairDataset(folder, [("coco", "coco.arrow")], training=True)
    source = Source(dataset, make_transform("vit", 224, patch_size=16, seed=SEED))
    order = TrainSteps(len(dataset), batch, batch, 0, 1, SEED, 0, steps)
    return StepLoader(order, Collate(pieces, MAX_TEXT_LEN, batch, target_builders, source), 0, pin_memory=False)


def our_losses(model: Model, batch: Batch, encodings: type[Encodings] = Encodings) -> dict[str, Tensor]:
    """What `VisionLanguageModule` does with a step of one micro-batch: sums over counts."""
    shared = encodings(model.model, batch)
    outputs = {name: task(shared, batch.targets[name]) for name, task in model.heads.items()}
    return {name: output.loss / output.count for name, output in outputs.items()}


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
    mlm = MlmTargets(F.pad(mlm.input_ids, (0, missing)), F.pad(mlm.labels, (0, missing), value=IGNORED))
    return batch._replace(text=text, targets=batch.targets | {"mlm": mlm})


def decode_everywhere(task: Mlm, encodings: Encodings, targets: MlmTargets) -> TaskOutput:
    fused = encodings.fuse(encodings.text(targets.input_ids), encodings.images(), needs={"text"})
    logits = task.head(fused.text).flatten(0, 1)
    labels = targets.labels.flatten()
    loss = F.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED)
    return TaskOutput(loss, task.count(targets), logits, labels)


@contextlib.contextmanager
def eager(model: TwoTower) -> Iterator[None]:
    towers = (model.text_tower.model, model.image_tower.model)
    own = [tower.config._attn_implementation for tower in towers]
    for tower in towers:
        tower.set_attn_implementation("eager")
    yield
    for tower, name in zip(towers, own, strict=True):
        tower.set_attn_implementation(name)


class Variant(NamedTuple):
    """A way to take a step.

    Attributes:
        losses: (Model, Batch) -> the mean loss of each task.
        prepare: what happens to the batch before the clock starts.
        within: the context in which the losses are computed.
        fused: the optimizer's one kernel for all parameters; else torch's foreach implementation.
    """

    losses: Callable[[Model, Batch], dict[str, Tensor]] = our_losses
    prepare: Callable[[Batch], Batch] = lambda batch: batch
    within: Callable[[TwoTower], contextlib.AbstractContextManager[Any]] = lambda model: contextlib.nullcontext()
    fused: bool = True


VARIANTS = {
    OURS: Variant(),
    REFERENCE: Variant(lambda m, batch: reference_step.losses(*m, batch), padded, eager, fused=False),
    "texts padded to the batch's longest": Variant(prepare=padded),
    "one pass of the images": Variant(lambda m, batch: our_losses(m, batch, Forgetful)),
    "vocabulary at masked positions": Variant(within=lambda _: mock.patch.object(Mlm, "forward", decode_everywhere)),
    "last layer as far as it is read": Variant(lambda m, batch: our_losses(m, batch, Thorough)),
    "short side of cross-attention": Variant(
        within=lambda _: mock.patch.object(Attention, "_is_cheaper", lambda *_: False)
    ),
    "dropout from 16 bits": Variant(within=lambda _: mock.patch.object(Dropout, "forward", nn.Dropout.forward)),
    "fused attention in the towers": Variant(within=eager),
    "fused optimizer": Variant(fused=False),
}


def make_optimizer(model: Model, fused: bool) -> torch.optim.Optimizer:
    how = {"fused": True} if fused else {"foreach": True}
    return torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.98), weight_decay=0.01, **how)


def take_step(model: Model, variant: Variant, batch: Batch, optimizer: torch.optim.Optimizer) -> tuple[float, float]:
    """One optimizer step. Returns its seconds by the clock and of the processor."""
    batch = variant.prepare(batch)
    with variant.within(model.model):
        clock, processor = time.perf_counter(), time.process_time()
        sum(variant.losses(model, batch).values()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - clock, time.process_time() - processor


def loss_differences(model: Model, batch: Batch) -> dict[str, float]:
    """How far the losses of each variant are from ours without dropout, the largest of both tasks."""
    losses = {}
    for part in model:
        part.eval()
    for name, variant in VARIANTS.items():
        with torch.no_grad(), variant.within(model.model):
            losses[name] = variant.losses(model, variant.prepare(batch))
    for part in model:
        part.train()
    return {name: max(abs(float(of[t] - losses[OURS][t])) for t in TASKS) for name, of in losses.items()}


def time_variants(model: Model, batches: list[Batch], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Every variant once a round, all on the round's batch. The first round warms up and is left out."""
    optimizers = {fused: make_optimizer(model, fused) for fused in (True, False)}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in VARIANTS}
    for number in range(rounds + 1):
        for name, variant in VARIANTS.items():
            taken = take_step(model, variant, batches[number % len(batches)], optimizers[variant.fused])
            if number:
                seconds[name].append(taken)
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    return seconds


def peak_of_steps(name: str, batches: list[Batch]) -> float:
    """MiB that two steps take above the model: gradients, optimizer state, activations. For a process of its own."""
    model = build_model()
    gc.collect()
    before = _reset_peak()
    optimizer = make_optimizer(model, VARIANTS[name].fused)
    for batch in batches[:2]:
        take_step(model, VARIANTS[name], batch, optimizer)
    return _status("VmHWM") - before


def _reset_peak() -> float:
    """Forgets the peak so far, which building may have set. Returns the memory in use, MiB. Linux alone."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(entry: str) -> float:
    """MiB of an entry of this process's status. `getrusage` would hand down the peak of the process that started it."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[entry].split()[0]) / 1024


def measured_peak(name: str, folder: str, options: argparse.Namespace) -> float:
    sizes = ["--batch", str(options.batch), "--threads", str(options.threads)]
    command = [sys.executable, __file__, "--peak", name, "--folder", folder, *sizes]
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


def ratio(seconds: dict[str, list[tuple[float, float]]], name: str, which: int) -> float:
    """How many times as long as our step, the median over rounds. which: 0 by the clock, 1 by the processor's time."""
    pairs = zip(seconds[name], seconds[OURS], strict=True)
    return statistics.median(other[which] / ours[which] for other, ours in pairs)


def report(folder: str, options: argparse.Namespace) -> None:
    batches = [step[0] for step in open_loader(folder, options.batch, options.rounds + 1)]
    model = build_model()
    differences = loss_differences(model, batches[0])
    seconds = time_variants(model, batches, options.rounds)
    del model
    peaks = {name: measured_peak(name, folder, options) for name in (OURS, REFERENCE)}
    clock_rate, core_rate = loader_rate(folder, options.batch)
    step = {name: [statistics.median(of[which] for of in taken) for which in (0, 1)] for name, taken in seconds.items()}
    rate = options.batch / step[OURS][0]
    print("## Pretraining step (`benchmarks/pretrain_step.py`)\n")
    print(f"{date.today()}, {processor_name()}, {options.threads} threads, torch {torch.__version__}, fp32, batch")
    print(f"{options.batch}, {options.rounds} rounds. DeiT-tiny + ELECTRA-small + fusion 6 x 256.\n")
    print("| | measured | bar |\n| --- | --- | --- |")
    print(f"| reference step / our step, wall clock | {ratio(seconds, REFERENCE, 0):.2f} x | >= {SPEED_BAR} x |")
    print(f"| the same by processor time | {ratio(seconds, REFERENCE, 1):.2f} x | |")
    print(f"| our step, reference step | {step[OURS][0]:.2f} s, {step[REFERENCE][0]:.2f} s | |")
    share = peaks[OURS] / peaks[REFERENCE]
    print(f"| peak memory above the model, ours / reference | {share:.2f} x | <= {MEMORY_BAR} x |")
    print(f"| the same in MiB | {peaks[OURS]:.0f}, {peaks[REFERENCE]:.0f} | |")
    print(f"| largest difference of the losses without dropout | {max(differences.values()):.1e} | <= 1e-4 |")
    print(
        f"| loader, one core | {clock_rate:.0f} samples/s ({core_rate:.0f} by processor time) | {GPU_WANTS} (a GPU) |"
    )
    print(f"| loader / our step ({rate:.2f} samples/s) | {clock_rate / rate:.0f} x | >= {LOADER_BAR} x |")
    print("\n| our step without this idea alone | wall clock | processor time |\n| --- | --- | --- |")
    for name in list(VARIANTS)[2:]:
        print(f"| {name} | {ratio(seconds, name, 0):.2f} x | {ratio(seconds, name, 1):.2f} x |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peak", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        batches = [step[0] for step in open_loader(options.folder, options.batch, 2)]
        print(peak_of_steps(options.peak, batches))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_captions(Path(folder) / "coco.arrow", images=max(64, 4 * options.batch))
        report(folder, options)


if __name__ == "__main__":
    main()
