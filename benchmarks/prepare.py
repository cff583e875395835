"""How many images a second does the writer check and store, and how much memory does that take?

    python benchmarks/prepare.py [--images 200000] [--workers 1 2] [--resize 256]

JPEG files of 640 x 480 pixels and 60 kB are listed over and over, each with a caption, and written to one arrow file in
the temporary folder (1.2 GB for 20,000 images), which is removed again. A table in Markdown says for each number of
workers: images a second, and the peak of resident memory of the writing process and of its largest worker.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from renaissance.data.prepare.arrow_file import Plan  # noqa: E402
from renaissance.data.prepare.entries import Row  # noqa: E402
from renaissance.data.prepare.image_pool import available_cores  # noqa: E402
from renaissance.data.prepare.skipped import Skipped  # noqa: E402
from renaissance.data.prepare.writer import Download, arrow_writer  # noqa: E402

BYTES, FILES, SEED = 60_000, 500, 1
SCHEMA = pa.schema([("image", pa.binary()), ("caption", pa.list_(pa.string()))])


def photograph() -> bytes:
    """A JPEG file of 640 x 480 pixels and somewhat less than `BYTES`: soft colours with grain."""
    generator = np.random.default_rng(SEED)
    coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    soft = np.asarray(coarse.resize((640, 480), Image.Resampling.BICUBIC), np.float32)
    pixels = soft + 4 * generator.standard_normal((480, 640, 1), np.float32)
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def numbered(encoded: bytes, number: int) -> bytes:
    """The same image in a file of its own, brought to `BYTES` by a comment (marker FF FE) that begins with a number."""
    room = BYTES - len(encoded) - 2
    return encoded[:2] + b"\xff\xfe" + room.to_bytes(2, "big") + str(number).encode().ljust(room - 2) + encoded[2:]


def peak_mib(process: int) -> float:
    """Peak of a process's resident memory in MiB; not `getrusage`, which a process inherits from its parent."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def write(folder: Path, images: int, workers: int, resize: int | None) -> dict[str, float]:
    """Writes the file in this process; returns rows, seconds, and the two peaks in MiB."""
    peaks: list[float] = []

    def rows() -> Iterator[Row]:
        for number in range(images):
            yield Row({"image": f"{number % FILES}.jpg"}, {"caption": [f"caption {number}"]})
        peaks.extend(peak_mib(worker.pid) for worker in multiprocessing.active_children())  # they end with the writer

    plan = Plan("out.arrow", SCHEMA, rows(), images, Skipped(), ("caption",))
    begun = time.perf_counter()
    make_arrow = arrow_writer(lambda _: Download("benchmark", [plan]))
    (manifest,) = make_arrow(folder, folder, workers=workers, resize=resize)
    seconds = time.perf_counter() - begun
    return {
        "rows": manifest["rows"],
        "seconds": seconds,
        "writer": peak_mib(os.getpid()),
        "worker": max(peaks, default=0.0),
    }


def measure(images: int, workers: int, resize: int | None = None) -> dict[str, float]:
    """What `write` returns, of a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        encoded = photograph()
        for number in range(FILES):
            Path(folder, f"{number}.jpg").write_bytes(numbered(encoded, number))
        arguments = [folder, str(images), str(workers), str(resize or 0)]
        done = subprocess.run(
            [sys.executable, __file__, "--in-here", *arguments], stdout=subprocess.PIPE, text=True, check=True
        )
    return json.loads(done.stdout)


def processor() -> str:
    """The processor's name as the system gives it."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].partition(": ")[2] if names else platform.processor() or platform.machine()


def main() -> None:
    cores = available_cores()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--workers", type=int, nargs="+", default=sorted({1, 2, cores}))
    parser.add_argument("--resize", type=int, help="short side of the images in the file")
    parser.add_argument("--in-here", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.in_here:
        folder, images, workers, resize = given.in_here
        print(json.dumps(write(Path(folder), int(images), int(workers), int(resize) or None)))
        return
    print(f"{date.today()}, {processor()}, {cores} cores, {given.images:,} images of {BYTES // 1000} kB,", end=" ")
    print(
        f"resize={given.resize}\n\n| workers | images/s | writer, MiB | largest worker, MiB |\n| --- | --- | --- | --- |"
    )
    for workers in given.workers:
        got = measure(given.images, workers, given.resize)
        rate = got["rows"] / got["seconds"]
        print(f"| {workers} | {rate:,.0f} | {got['writer']:,.0f} | {got['worker']:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
