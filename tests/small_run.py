"""Runs that take seconds: generated arrow files, tiny towers and fusion, the command line in this process."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from conftest import OFFLINE, ROOT
from renaissance.cli.main import main
from renaissance.runs.checkpoint import read
from renaissance.settings.declared import defaults
from renaissance.settings.resolver import ConfigResolver
from renaissance.tasks.mlm import Mlm
from renaissance.training.module import VisionLanguageModule

FOUR_STEPS = ("batch_size=16", "negative_group=4", "max_steps=4", "learning_rate=1e-3")  # in micro-batches of 4 or more
COCO = "coco_caption_karpathy_{}.arrow"
COCO_VG = {
    COCO.format("train"): 20,
    COCO.format("restval"): 4,
    COCO.format("val"): 9,
    COCO.format("test"): 10,
    "vg.arrow": 12,
}
"""File name -> images, two captions each; neither split is a multiple of a batch."""

TOWERS = ("image_encoder=facebook/deit-tiny-patch16-224", "text_encoder=google/electra-small-discriminator")
FUSION = ("cross_layer_hidden_size=32", "num_cross_layers=1", "num_cross_layer_heads=2")
SMALL = (
    *TOWERS,
    *FUSION,
    "image_size=32",
    "batch_size=8",
    "per_gpu_batchsize=4",
    "num_workers=0",
    "log_every_n_steps=1",
)
NO_DROPOUT = ("cross_layer_drop_rate=0.0", "image_encoder_drop_rate=0.0", "text_encoder_drop_rate=0.0")
MEASURED = ("samples_per_second", "data_wait_share")
"""Columns of metrics.csv that no two runs share."""

COLOURS = ("red", "green", "blue", "yellow", "black", "white", "brown")
CAPTION_SCHEMA = pa.schema([("image", pa.binary()), ("caption", pa.list_(pa.string())), ("image_id", pa.string())])
SHAPES = ("circle", "square", "triangle", "star", "cross")


def write_pairs(path: Path, pictures: int, captions: int = 2, format: str = "PNG") -> None:
    """Writes an arrow file of small noisy images, no two alike, with captions of many words."""
    random = np.random.default_rng([len(path.name), *path.name.encode()])
    rows = []
    for number in range(pictures):
        stream = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (24, 32, 3), np.uint8)).save(stream, format)
        thing = f"{random.choice(COLOURS)} {random.choice(SHAPES)} beside a {random.choice(SHAPES)}"
        texts = [f"a {thing} {number} of view {view}" for view in range(captions)]
        rows.append({"image": stream.getvalue(), "caption": texts, "image_id": str(number)})
    table = pa.Table.from_pylist(rows, CAPTION_SCHEMA)
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def write_coco_vg(folder: Path, files: dict[str, int] = COCO_VG, format: str = "PNG") -> Path:
    """Writes the default data sets, small, into `folder`."""
    for name, pictures in files.items():
        write_pairs(folder / name, pictures, format=format)
    return folder


def damage_picture(path: Path) -> bytes:
    """Overwrites some of the pixels of one image of an arrow file; returns the file as it was."""
    sound = path.read_bytes()
    start = sound.index(b"\x89PNG", len(sound) // 2) + 60
    path.write_bytes(sound[:start] + bytes(40) + sound[start + 40 :])
    return sound


def values_of(*words: str) -> dict[str, Any]:
    """Settings written as `key=value`, by key."""
    values = {}
    for word in words:
        key, _, text = word.partition("=")
        try:
            values[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[key] = text
    return values


def resolver(**given: Any) -> ConfigResolver:
    """The settings of a command that gives these and trains MLM and ITM for one step."""
    values = defaults() | {"loss_names": {"mlm": 1, "itm": 1}, "max_steps": 1} | given
    return ConfigResolver(values, dict.fromkeys(given, "given"))


class Ended(NamedTuple):
    """How a command ended. Attributes: code, its exit status; out and err, what it printed."""

    code: int
    out: str
    err: str

    def sentence(self) -> str:
        """The one sentence of a refusal; fails where the command did not refuse in one."""
        lines = self.err.strip().splitlines()
        assert self.code == 1 and len(lines) == 1 and lines[0].startswith("error: "), self
        return lines[0].removeprefix("error: ")


def equal_state(first, second) -> bool:
    """Whether two values read of checkpoints are bit-equal."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal_state(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(equal_state, first, second))
    return first == second


def command(capsys: pytest.CaptureFixture[str], *words: str) -> Ended:
    """Runs `python run.py with <words>` in this process."""
    capsys.readouterr()
    code = main(["with", *words])
    return Ended(code, *capsys.readouterr())


def train(capsys: pytest.CaptureFixture[str], *words: str) -> Path:
    """Runs a small command that must succeed, and returns its run folder."""
    ended = command(capsys, *words)
    assert ended.code == 0, ended.err
    return Path(ended.out.rsplit("run folder: ", 1)[1].splitlines()[0])


def rows(folder: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without what is measured by the clock."""
    with open(folder / "metrics.csv", encoding="utf-8", newline="") as file:
        return [{name: text for name, text in row.items() if name not in MEASURED} for row in csv.DictReader(file)]


def same_run(one: Path, two: Path) -> None:
    """Asserts that two runs ended alike, to the last bit."""
    same_training(one, two)
    assert [(folder / "results.json").exists() for folder in (one, two)] == [True, True] and results(two) == results(
        one
    )


def killed_after(folder: Path, step: int) -> str:
    """A copy of a run that kept each step, as if it had been killed after this one; the word that resumes it."""
    killed = folder.with_name(f"version_{step}")
    shutil.copytree(folder, killed)
    for path in (killed / "checkpoints").iterdir():
        if path.name != f"step_{step:09d}.ckpt":
            path.unlink()
    (killed / "results.json").unlink()
    return f"resume_from={killed}/checkpoints/step_{step:09d}.ckpt"


def same_training(one: Path, two: Path, rows_from: int = 0) -> None:
    """Asserts that two runs have trained alike, to the last bit; the second has rows from this one on."""
    last, again = (read(folder / "checkpoints" / "last.ckpt") for folder in (one, two))
    assert equal_state(last.model, again.model) and equal_state(last.heads, again.heads)
    assert equal_state(last.training, again.training)
    assert rows(two) == rows(one)[rows_from:]


def curve(folder: Path, metric: str) -> list[float]:
    """The values of a column of metrics.csv in the order of steps."""
    return [float(row[metric]) for row in rows(folder) if row.get(metric)]


def results(folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    """The content of results.json."""
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def torchrun(work: Path, *words: str, **variables: str) -> subprocess.CompletedProcess:
    """A command in two processes that torchrun starts."""
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node=2",
            str(ROOT / "run.py"),
            "with",
            *words,
        ],
        cwd=work,
        env=os.environ | {"PYTHONPATH": str(OFFLINE)} | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )


def started(work: Path, *words: str, patch: str = "") -> subprocess.Popen:
    """A run, with a line of Python before it: the processes that it starts get the same command, and so the same line."""
    program = work / "patched.py"
    start = "import run\nif __name__ == '__main__':\n    run.run_program()\n"  # loader processes read it, too
    program.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{patch}\n{start}")
    return subprocess.Popen(
        [sys.executable, str(program), "with", *words],
        cwd=work,
        env=os.environ | {"PYTHONPATH": str(OFFLINE)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def interrupting(
    monkeypatch: pytest.MonkeyPatch, method: str, call: int, act: Callable[[], Any], owner: type = VisionLanguageModule
) -> None:
    """Acts in the midst of the n-th call, from 1, of a method of the loop, once."""
    plain, calls = getattr(owner, method), []

    def around(self: Any, *args: Any) -> Any:
        calls.append(method)
        if len(calls) == call:
            act()
        return plain(self, *args)

    monkeypatch.setattr(owner, method, around)


def kill(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def diverging(monkeypatch: pytest.MonkeyPatch, bad: set[int]) -> None:
    """Makes the masked-word loss of the given steps, from 1, no number."""
    plain, step = Mlm.forward, [0]

    def loss(self: Mlm, encodings: Any, targets: Any) -> Any:
        out = plain(self, encodings, targets)
        step[0] += self.training
        return out._replace(loss=out.loss * float("nan")) if self.training and step[0] in bad else out

    monkeypatch.setattr(Mlm, "forward", loss)
