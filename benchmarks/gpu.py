"""What a GPU makes of the program, in one command of six minutes: a report in Markdown, ready for RESULTS.md.

    python benchmarks/gpu.py [--minutes 6] [--batch 256] > report.md

Losses against the CPU's; samples a second of the program itself (its loaders, loop and optimizer) in each precision, beside the
step that the ancestors take (`reference_step.py`); how often a step makes the processor wait for the device; memory; the largest
micro-batch; the loader alone, and decoding on the device; two processes, where there are two GPUs. Each part is a process of its
own, and each row is kept as soon as it is measured, so that what fails, or takes too long, never loses the rest. `--small` does
all that a CPU can do, in small. Nothing here needs Sacred.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
import transformers
from lightning_fabric.utilities.apply_func import move_data_to_device

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from coco_like import write_captions  # noqa: E402
from pretrain_step import OURS, REFERENCE, VARIANTS, Variant, processor_name  # noqa: E402
from step_models import (  # noqa: E402
    DESCRIPTIONS,
    HALVES,
    KINDS,
    ONE_TOWER,
    TASKS,
    TWO_TOWER,
    Model,
    autocast,
    build_model,
    make_optimizer,
    open_loader,
    write_encoders,
)

from data import largest_difference, reduced  # noqa: E402
from renaissance.core.errors import first_line  # noqa: E402
from renaissance.core.launch import available_cores  # noqa: E402
from renaissance.core.types import Batch  # noqa: E402
from renaissance.data.encoded import EncodedPixels  # noqa: E402
from renaissance.data.loader import StepLoader  # noqa: E402

AIM = 4  # times the reference's step in bf16-mixed
PHOTOGRAPHS, MOST_FITTING = 48, 4096
STORED, FULL = "stored", "full"  # folders of the photographs, as `resize=224` stores them and as downloaded
WAIT = "called a synchronizing CUDA operation"
# Of the program, by its name here: settings. Of a bare step: what autocast takes.
PRECISIONS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "TF32": {"float32_matmul_precision": "high"},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "16-mixed": {"precision": "16-mixed"},
}
FIRST = os.environ.get("LOCAL_RANK", "0") == "0"  # not the second process of a run, which Lightning starts


class Bench(NamedTuple):
    """What a part measures with.

    Attributes:
        folder: of the photographs, encoders, runs and rows. device: cuda or cpu.
        batch: samples of a step. warm, steps: before and while the clock goes. small: as little as shows that it runs.
    """

    folder: Path
    device: str
    batch: int
    warm: int
    steps: int
    small: bool

    def row(self, part: str, *cells: object) -> None:
        """Keeps a row of a part's table."""
        with (self.folder / "rows").open("a", encoding="utf-8") as file:
            file.write(json.dumps([part, *map(str, cells)]) + "\n")

    def attempt(self, part: str, what: str, measure: Callable[[], tuple[object, ...]]) -> None:
        """Keeps a row of what `measure` returns, or of why it fails."""
        try:
            cells = measure()
        except Exception as error:
            cells = (f"failed: {type(error).__name__}: {first_line(error)[:150]}",)
        self.row(part, what, *cells)
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def rows(self, part: str) -> list[list[str]]:
        file = self.folder / "rows"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return [cells for of, *cells in map(json.loads, lines) if of == part]

    def batches(self, size: int, count: int) -> list[Batch]:
        """Batches of steps, on the device."""
        loaded = open_loader(str(self.folder / STORED), size, count)
        return [move_data_to_device(step[0], torch.device(self.device)) for step in loaded]

    def peak(self) -> int:
        """The most MiB of the GPU since `reset`; 0 on a CPU."""
        return torch.cuda.max_memory_allocated() >> 20 if self.device == "cuda" else 0

    def reset(self) -> None:
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def clock(self) -> float:
        """Seconds, when the device has done all it was asked for."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


# Losses, and bare steps


@torch.no_grad()
def losses(bench: Bench, model: Model, name: str, precision: str, device: str) -> dict[str, float]:
    """The mean loss of each task, without dropout."""
    batch = next(iter(open_loader(str(bench.folder / STORED), 2 if bench.small else 16, 1)))[0]
    variant = VARIANTS[name]
    batch = move_data_to_device(variant.prepare(batch), torch.device(device))
    torch.set_float32_matmul_precision("high" if precision == "TF32" else "highest")
    for part in model:
        part.to(device).eval()
    with variant.within(model.model), torch.device(device), autocast(device, precision):
        return {task: float(loss) for task, loss in variant.losses(model, batch).items()}


def compare_losses(bench: Bench) -> None:
    for kind in KINDS:
        model = build_model(kind)
        expected = losses(bench, model, OURS, "fp32", "cpu")
        bench.row("losses", kind, "CPU, fp32", *(f"{expected[task]:.4f}" for task in TASKS))
        for name in (OURS, REFERENCE):
            for precision in PRECISIONS if name == OURS else ("fp32",):
                if bench.device == "cpu" and precision == "16-mixed":
                    continue

                def away(name: str = name, precision: str = precision, model: Model = model) -> tuple[object, ...]:
                    found = losses(bench, model, name, precision, bench.device)
                    return f"{name}, {precision}", *(f"{found[task] - expected[task]:+.1e}" for task in TASKS)  # noqa: B023

                bench.attempt("losses", kind, away)


def bare_step(bench: Bench, kind: str, name: str, precision: str) -> Callable[[Batch], None]:
    """A step of a variant, without loader and loop."""
    variant: Variant = VARIANTS[name]
    model = Model(*(part.to(bench.device) for part in build_model(kind)))
    optimizer = make_optimizer(model, variant.fused)
    scaler = torch.amp.GradScaler(bench.device, enabled=precision == "16-mixed")

    def step(batch: Batch) -> None:
        with variant.within(model.model), torch.device(bench.device):
            with autocast(bench.device, precision):
                loss = sum(variant.losses(model, batch).values())
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)

    return step


def reference_rate(bench: Bench, kind: str, precision: str) -> tuple[object, ...]:
    """Samples a second and MiB of the ancestors' step, its batches on the device already."""
    batches = [VARIANTS[REFERENCE].prepare(batch) for batch in bench.batches(bench.batch, 2)]
    step = bare_step(bench, kind, REFERENCE, precision)
    for number in range(bench.warm):
        step(batches[number % 2])
    bench.reset()
    began = bench.clock()
    for number in range(bench.steps):
        step(batches[number % 2])
    return f"{bench.steps * bench.batch / (bench.clock() - began):.1f}", bench.peak()


def fitting(bench: Bench, kind: str, name: str) -> tuple[object, ...]:
    """The largest micro-batch in bf16-mixed, of those that double from that of a step, and MiB a sample of it."""
    step, size, found = bare_step(bench, kind, name, "bf16-mixed"), bench.batch, ("none", "")
    while size <= (bench.batch if bench.small else MOST_FITTING):
        try:
            bench.reset()
            for batch in bench.batches(size, 1):
                step(VARIANTS[name].prepare(batch))
            bench.clock()
        except torch.OutOfMemoryError:
            return found
        found, size = (size, f"{bench.peak() / size:.1f}"), 2 * size
    return f"{found[0]} or more", found[1]


# The program


class Meter:
    """Measures a run from inside: called at the beginning of each step, before anything of it is done."""

    def __init__(self, bench: Bench):
        self.bench, self.step, self.began = bench, 0, bench.clock()
        self.warm_up = self.seconds = 0.0
        self.peak, self._seen = 0, contextlib.ExitStack()
        self.places: Counter[str] = Counter()

    def __call__(self) -> None:
        bench, after = self.bench, self.step - self.bench.warm - self.bench.steps
        if self.step == bench.warm:
            self.warm_up, self.began = bench.clock() - self.began, bench.clock()
            bench.reset()
        elif after == 0:
            self.seconds, self.peak = bench.clock() - self.began, bench.peak()
            if bench.device == "cuda":
                self._warned = self._seen.enter_context(warnings.catch_warnings(record=True))
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
        elif after == bench.warm and bench.device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
            self.places.update(f"{Path(w.filename).name}:{w.lineno}" for w in self._warned if WAIT in str(w.message))
            self._seen.close()
        self.step += 1

    def close(self) -> None:
        """Where the run has ended before it was all measured."""
        if self.bench.device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
        self._seen.close()

    def row(self, processes: int = 1) -> tuple[object, ...]:
        waits = f"{sum(self.places.values()) / self.bench.warm:.1f}" if self.bench.device == "cuda" else ""
        rate = f"{processes * self.bench.steps * self.bench.batch / self.seconds:.1f}"
        return rate, self.peak, waits, ", ".join(place for place, _ in self.places.most_common(3))


def run_program(bench: Bench, kind: str, processes: int = 1, **given: Any) -> Meter:
    """`python run.py with task_mlm_itm ...`, without Sacred."""
    from renaissance.demo.settings import demo_settings
    from renaissance.training.module import VisionLanguageModule
    from renaissance.training.train import run

    text, image = str(bench.folder / "text"), str(bench.folder / "image")
    two = {"image_encoder": image, "text_encoder": text, "original_image_size": 224, "cross_layer_hidden_size": 256}
    two |= {"random_init_vision_encoder": True, "random_init_text_encoder": True, "num_cross_layers": 6}
    one = {"encoder": text, "random_init_encoder": True}
    given = (two if kind == TWO_TOWER else one) | {
        **{"datasets": ["photos"], "data_root": str(bench.folder / STORED), "log_dir": str(bench.folder / "runs")},
        **{"batch_size": processes * bench.batch, "per_gpu_batchsize": bench.batch, "num_gpus": processes},
        **{"max_steps": 2 * bench.warm + bench.steps + 1, "val_check_interval": 100_000, "final_test": False},
        **{"num_workers": workers(bench, processes), "accelerator": "gpu" if bench.device == "cuda" else "cpu"},
        **given,
    }
    meter, plain = Meter(bench), VisionLanguageModule.training_step

    def training_step(self: Any, *arguments: Any) -> Any:
        meter()
        return plain(self, *arguments)

    VisionLanguageModule.training_step = training_step
    try:
        with contextlib.redirect_stdout(sys.stderr):
            run(demo_settings(bench.folder, ["task_mlm_itm"], given))
    finally:
        VisionLanguageModule.training_step = plain
        meter.close()
        if FIRST:
            shutil.rmtree(bench.folder / "runs", ignore_errors=True)  # a checkpoint of hundreds of MiB each
    return meter


def workers(bench: Bench, processes: int = 1) -> int:
    return 1 if bench.small else max(1, (available_cores() - processes) // processes)


def speed(bench: Bench, kind: str) -> None:
    for precision in ("fp32", *HALVES):
        if bench.device == "cuda" or precision != "16-mixed":
            bench.attempt(f"reference {kind}", precision, lambda p=precision: reference_rate(bench, kind, p))
    for precision, given in PRECISIONS.items():
        if bench.device == "cuda" or precision == "fp32" or (precision == "bf16-mixed" and kind == TWO_TOWER):
            bench.attempt(kind, precision, lambda given=given: run_program(bench, kind, **given).row())
    dropping = PRECISIONS["bf16-mixed"] | {"patch_drop": 0.5}
    bench.attempt(kind, "bf16-mixed, patch_drop=0.5", lambda: run_program(bench, kind, **dropping).row())
    if bench.device == "cuda":
        full = {"decode_on_gpu": True, "data_root": str(bench.folder / FULL), **PRECISIONS["bf16-mixed"]}
        bench.attempt(kind, "bf16-mixed, decode_on_gpu", lambda: run_program(bench, kind, **full).row())


def compiled(bench: Bench, kind: str) -> None:
    def measure() -> tuple[object, ...]:
        meter = run_program(bench, kind, compile=True, **PRECISIONS["bf16-mixed"])
        return *meter.row(), f"first {bench.warm} steps: {meter.warm_up:.0f} s"

    bench.attempt(kind, "bf16-mixed, compile=True", measure)


def two_processes(bench: Bench) -> None:
    """Lightning starts the second process by this one's command: it comes here as well."""
    meter = run_program(bench, TWO_TOWER, 2, **PRECISIONS["bf16-mixed"])
    if FIRST:
        bench.row(TWO_TOWER, f"bf16-mixed, 2 processes, {'NCCL' if bench.device == 'cuda' else 'gloo'}", *meter.row(2))


# Data


def data(bench: Bench) -> None:
    for on_device in (False, True):
        for name in (FULL, STORED):
            what = f"{'as downloaded' if name == FULL else 'resize=224'}{', decode_on_gpu' if on_device else ''}"
            bench.attempt("loader", what, lambda name=name, on=on_device: loader_rate(bench, name, on))
    for name in (FULL, STORED):
        what = "as downloaded" if name == FULL else "resize=224"
        bench.attempt("decoding", what, lambda name=name: decode_rate(bench, name))


def step_loader(bench: Bench, name: str, processes: int, *, on_device: bool) -> StepLoader:
    of = open_loader(str(bench.folder / name), bench.batch, 1_000_000)
    of.dataset.collate.source.on_device = on_device
    return StepLoader(of.sampler, of.dataset.collate, processes, pin_memory=bench.device == "cuda")


def loader_rate(bench: Bench, name: str, on_device: bool) -> tuple[object, ...]:
    """Samples a second of all loader processes together, with nobody who computes."""
    processes, seconds = workers(bench), 0.5 if bench.small else 3
    loader = step_loader(bench, name, processes, on_device=on_device)
    items = iter(loader)
    for _ in range(2 * processes + 1):  # what was loaded ahead
        next(items)
    began, samples = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        samples += sum(len(batch.ids) for batch in next(items))
    rate = samples / (time.perf_counter() - began)
    loader.kill()
    return processes, f"{rate:.0f}"


def decode_rate(bench: Bench, name: str) -> tuple[object, ...]:
    """Images a second that the device decodes, resizes and crops, and how far they are from a loader's."""
    here, there = (next(iter(step_loader(bench, name, 0, on_device=on)))[0].images.pixels for on in (False, True))
    pixels, times = there.to(bench.device), 1 if bench.small else 20
    began = bench.clock()
    for _ in range(times):
        there.to(bench.device)
    rate = times * len(pixels) / (bench.clock() - began)
    away = (pixels.cpu().int() - here.int()).abs().float()
    return f"{rate:.0f}", f"{away.mean():.2f}", largest_difference(pixels.cpu(), here), disturbed(bench, there)


def disturbed(bench: Bench, images: EncodedPixels, rounds: int = 20) -> str:
    """How often decoding changed memory that was freed while queued work still had to read it (pytorch/vision#9606)."""
    if bench.device == "cpu":
        return ""
    images.to(bench.device)
    busy, changed = torch.ones(8192, 8192, device=bench.device), []
    for _ in range(rounds):
        for _ in range(4):
            busy @ busy
        blocks = [torch.ones(1 << 20, dtype=torch.uint8, device=bench.device) for _ in range(64)]
        changed.append(sum((block != 1).sum() for block in blocks))
        del blocks
        images.to(bench.device)
    return f"{sum(bool(each) for each in changed)} of {rounds}"


def memory(bench: Bench) -> None:
    for kind in KINDS:
        for name in (OURS, REFERENCE):
            bench.attempt("memory", f"{kind}, {name}", lambda kind=kind, name=name: fitting(bench, kind, name))


# The report


class Part(NamedTuple):
    """Attributes: work, in a process of its own; seconds, the most that it may take."""

    work: Callable[[Bench], None]
    seconds: int


PARTS = {
    "losses": Part(compare_losses, 60),
    **{f"speed of {kind}": Part(partial(speed, kind=kind), 120) for kind in KINDS},
    "data": Part(data, 60),
    "two processes": Part(two_processes, 60),
    f"compiled {TWO_TOWER}": Part(partial(compiled, kind=TWO_TOWER), 110),
    "memory": Part(memory, 60),
    f"compiled {ONE_TOWER}": Part(partial(compiled, kind=ONE_TOWER), 110),
}


def measure(bench: Bench, minutes: float) -> list[str]:
    """Runs all parts. Returns a sentence about each that did not come to its end."""
    end, failures = time.monotonic() + 60 * minutes, []
    write_inputs(bench.folder)
    for name, part in PARTS.items():
        if bench.device == "cpu" and name.startswith("compiled"):
            continue
        if name == "two processes" and bench.device == "cuda" and torch.cuda.device_count() < 2:
            failures.append("Two processes: this machine has one GPU.")
            continue
        left = end - time.monotonic()
        limit = left if bench.small else min(part.seconds, left)
        if limit < 10:
            failures.append(f"{name.capitalize()}: no time was left.")
            continue
        command = [sys.executable, __file__, "--part", name, "--bench", json.dumps([str(bench.folder), *bench[1:]])]
        print(f"{name} ...", file=sys.stderr, flush=True)
        if sentence := run_part(command, bench.folder / "log", limit):
            failures.append(f"{name.capitalize()}: {sentence}")
    return failures


def run_part(command: list[str], log: Path, limit: float) -> str:
    """Runs a process, and ends it and all that it started after so many seconds. Returns how it failed, "" where it did not."""
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            return f"ended after {limit:.0f} s, before it was done."
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    said = log.read_text(encoding="utf-8", errors="replace").strip()
    if status:
        print(said, file=sys.stderr, flush=True)
    return f"failed ({(said.splitlines() or ['?'])[-1][:200]})." if status else ""


def write_inputs(folder: Path) -> None:
    """The photographs, once as downloaded and once as `prepare ... resize=224` leaves them; the encoders' shapes."""
    for name, stored in ((FULL, bytes), (STORED, reduced)):
        (folder / name).mkdir()
        write_captions(folder / name / "coco.arrow", images=PHOTOGRAPHS, stored=stored)
        os.link(
            folder / name / "coco.arrow", folder / name / "photos.arrow"
        )  # the program has files of its own for coco
    write_encoders(folder)


def table(head: str, rows: list[list[str]]) -> None:
    columns = [each.strip() for each in head.split("|")]
    print(f"\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join([*row, *[''] * (len(columns) - len(row))])} |")


def times(rate: str, of: list[list[str]], precision: str) -> str:
    """How many times the reference's rate in a precision, "" where one of them was not measured."""
    try:
        return f"{float(rate) / float(dict(row[:2] for row in of)[precision]):.2f} x"
    except (KeyError, ValueError):
        return ""


def report(bench: Bench, failures: list[str]) -> None:
    name = torch.cuda.get_device_name() if bench.device == "cuda" else f"{processor_name()} (no GPU)"
    versions = (
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, transformers {transformers.__version__}"
    )
    print(f"## GPU (`benchmarks/gpu.py`)\n\n{date.today()}, {name}, {available_cores()} cores, {versions},")
    print(f"batch {bench.batch}, {bench.steps} steps each after {bench.warm}.")
    print("\nLosses without dropout, and how far they are from the CPU's:")
    table(" | | mlm | itm", bench.rows("losses"))
    for kind in KINDS:
        print(
            f"\n{kind.capitalize()}: {DESCRIPTIONS[kind]}. The reference has its batches on the device, the program its loaders."
        )
        reference = bench.rows(f"reference {kind}")
        rows = [[f"reference, {precision}", *cells] for precision, *cells in reference]
        for what, rate, *cells in bench.rows(kind):
            rows.append(
                [what, rate, *cells[:1], *(times(rate, reference, each) for each in ("fp32", "bf16-mixed")), *cells[1:]]
            )
        table("| samples/s | peak MiB | x reference fp32 | x reference bf16 | waits a step | where | note", rows)
    print(f"\nAim: >= {AIM} x the reference in bf16-mixed.")
    table("loader processes, together | processes | samples/s", bench.rows("loader"))
    table(
        "decoding on the device | images/s | mean difference, levels | largest | other work disturbed",
        bench.rows("decoding"),
    )
    table("largest micro-batch in bf16-mixed | samples | MiB a sample", bench.rows("memory"))
    print("".join(f"\n{each}" for each in failures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--small", action="store_true", help="a few steps of a few samples, to see that it runs")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--bench", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        PARTS[options.part].work(Bench(Path(options.bench[0]), *options.bench[1:]))
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.small:
        parser.error("this machine has no GPU that torch can use; --small runs on its CPU")
    with tempfile.TemporaryDirectory() as folder:
        sizes = (2, 1, 1) if options.small else (options.batch, 6, 16)
        bench = Bench(Path(folder), device, *sizes, options.small)
        failures = measure(bench, 60 if options.small else options.minutes)
        report(bench, failures)


if __name__ == "__main__":
    main()
