"""What processes, precision and the settings for memory and speed bring, by the program itself.

    python benchmarks/scaling.py [--steps 6] [--batch 16] [--threads 1]

Every row is a run of `python run.py with task_mlm_itm ...`, DeiT-tiny, ELECTRA-small and a fusion of 6 x 256 with random
weights, over made-up photographs: on the GPUs of the machine where it has some, else on CPU processes of `--threads` threads
each. A process always has `--batch` pairs, so two do twice the work of one. The share of communication is what a step takes
longer than one whose gradients are not brought together. The first two steps warm up; times are medians over the others.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import NamedTuple

import torch
from lightning_fabric.utilities.apply_func import move_data_to_device

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import pretrain_step  # noqa: E402
from coco_like import write_captions  # noqa: E402
from step_models import write_encoders  # noqa: E402

WARM_UP = 2
MARK = "measured "


class Row(NamedTuple):
    """A run. Attributes: what it is; processes; words of its command; synchronises: its processes' gradients."""

    what: str
    processes: int = 1
    words: tuple[str, ...] = ()
    synchronises: bool = True


class Measured(NamedTuple):
    """Of the first process. Attributes: seconds of a step; peak of memory, MiB: of the GPU, or of the process above its start."""

    seconds: float
    peak: float


ONE = Row("1 process")
ROWS = (
    ONE,
    Row("1 process, precision=bf16-mixed", words=("precision=bf16-mixed",)),
    Row("1 process, gradient_checkpointing=True", words=("gradient_checkpointing=True",)),
    Row("1 process, compile=True", words=("compile=True",)),
    Row("1 process, compile=True precision=bf16-mixed", words=("compile=True", "precision=bf16-mixed")),
)
TWO, ALONE = Row("2 processes", 2), Row("2 processes that do not communicate", 2, synchronises=False)
PAIRS = (
    TWO,
    ALONE,
    Row("2 processes, strategy=ddp_bf16", 2, ("strategy=ddp_bf16",)),
    Row("2 processes, strategy=zero1", 2, ("strategy=zero1",)),
)


def write_inputs(folder: Path, batch: int) -> None:
    """A data set, and the folders of two encoders without weights."""
    write_captions(folder / "photos.arrow", images=max(64, 4 * batch))
    write_encoders(folder)


def measure(row: Row, folder: Path, options: argparse.Namespace) -> Measured:
    words = [
        *("task_mlm_itm", f"image_encoder={folder / 'image'}", f"text_encoder={folder / 'text'}"),
        *("random_init_vision_encoder=True", "random_init_text_encoder=True", "original_image_size=224"),
        *("cross_layer_hidden_size=256", "num_cross_layers=6", "num_workers=1", "datasets=['photos']"),
        *(f"data_root={folder}", f"log_dir={folder / 'result'}", f"max_steps={WARM_UP + options.steps}"),
        *(f"batch_size={row.processes * options.batch}", f"per_gpu_batchsize={options.batch}"),
        *(f"num_gpus={row.processes}", "val_check_interval=1000", "final_test=False", *row.words),
    ]
    switches = json.dumps({"synchronises": row.synchronises, "threads": options.threads})
    done = subprocess.run(
        [sys.executable, __file__, "--run", switches, *words],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(options.threads)},
    )
    if done.returncode:
        raise SystemExit(f"{row.what}: {done.stderr}")
    return Measured(**json.loads(done.stdout.rsplit(MARK, 1)[1].splitlines()[0]))


def run(switches: dict[str, object], words: list[str]) -> int:
    """The program, with a clock in it; the processes that it starts come here too."""
    from renaissance.cli import main as cli
    from renaissance.training.module import VisionLanguageModule

    plain, seconds = VisionLanguageModule.training_step, []

    def training_step(self: VisionLanguageModule, *args: object) -> object:
        if not seconds:
            reset_peak()
        torch.set_num_threads(switches["threads"])
        began = time.perf_counter()
        result = plain(self, *args)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        if self.step == self.steps and self.global_rank == 0:
            found = Measured(statistics.median(seconds[WARM_UP:]), peak())
            os.write(1, f"{MARK}{json.dumps(found._asdict())}\n".encode())
        return result

    VisionLanguageModule.training_step = training_step
    if not switches["synchronises"]:
        # `_without_sync` is around all micro-batches but the last; here it is around that one as well.
        backward = VisionLanguageModule.manual_backward

        def alone(self: VisionLanguageModule, *args: object) -> None:
            with self._without_sync():
                backward(self, *args)

        VisionLanguageModule.manual_backward = alone
    return cli.main(["with", *words])


def reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        _start.append(pretrain_step._reset_peak())


_start: list[float] = []


def peak() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return pretrain_step._status("VmHWM") - _start[0]


def reference(folder: Path, options: argparse.Namespace) -> float:
    """Seconds of the ancestors' step in fp32, `reference_step.py`."""
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    (folder / "photos.arrow").rename(folder / "coco.arrow")
    batches = [step[0] for step in pretrain_step.open_loader(str(folder), options.batch, WARM_UP + options.steps)]
    model = pretrain_step.Model(*(part.to(device) for part in pretrain_step.build_model()))
    variant = pretrain_step.VARIANTS[pretrain_step.REFERENCE]
    optimizer = pretrain_step.make_optimizer(model, variant.fused)
    seconds = []
    for batch in (move_data_to_device(batch, torch.device(device)) for batch in batches):
        began = time.perf_counter()
        with torch.device(device):  # the reference makes its masks where it is told
            pretrain_step.take_step(model, variant, batch, optimizer)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[WARM_UP:])


def report(folder: Path, options: argparse.Namespace) -> None:
    gpus = torch.cuda.device_count()
    rows = [row for row in (*ROWS, *PAIRS) if not gpus or row.processes <= gpus]
    found = {}
    for row in rows:
        found[row] = measure(row, folder, options)
        print(f"{row.what}: {found[row].seconds:.3f} s", file=sys.stderr, flush=True)
    one, old = found[ONE], reference(folder, options)
    device = (
        torch.cuda.get_device_name()
        if gpus
        else f"{pretrain_step.processor_name()}, {options.threads} thread(s) a process"
    )
    print("## Processes, precision, memory (`benchmarks/scaling.py`)\n")
    print(
        f"{date.today()}, {device}, torch {torch.__version__}, batch {options.batch} a process, {options.steps} steps each."
    )
    print("DeiT-tiny + ELECTRA-small + fusion 6 x 256.\n")
    print("| | samples/s | against 1 process | peak memory, MiB | against 1 process |\n| --- | --- | --- | --- | --- |")
    print(f"| the ancestors' step, 1 process | {options.batch / old:.2f} | {one.seconds / old:.2f} x | | |")
    for row, (seconds, memory) in found.items():
        rate = row.processes * options.batch / seconds
        against = rate * one.seconds / options.batch
        print(f"| {row.what} | {rate:.2f} | {against:.2f} x | {memory:.0f} | {memory / one.peak:.2f} x |")
    if TWO in found:
        share = 1 - found[ALONE].seconds / found[TWO].seconds
        print(f"\nShare of communication with 2 processes: {max(share, 0):.1%}.")


def main() -> None:
    if sys.argv[1:2] == ["--run"]:
        sys.exit(run(json.loads(sys.argv[2]), sys.argv[3:]))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder), options.batch)
        report(Path(folder), options)


if __name__ == "__main__":
    main()
