"""The benchmarks fit the package: each can be imported, and the steps that one compares compute the same losses."""

from __future__ import annotations

import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch

from conftest import ROOT

FOLDER = ROOT / "benchmarks"


@pytest.fixture(params=sorted(path.stem for path in FOLDER.glob("*.py")))
def benchmark(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))  # they import one another by name, as scripts do
    yield import_module(request.param)
    for name in [path.stem for path in FOLDER.glob("*.py")]:
        sys.modules.pop(name, None)


def test_a_benchmark_can_be_imported(benchmark: ModuleType):
    assert Path(benchmark.__file__).parent == FOLDER


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", ["pretrain_step"], indirect=True)
@pytest.mark.parametrize("kind", ["two-tower", "one-tower"])
def test_every_variant_of_the_step_has_the_same_losses(kind: str, benchmark: ModuleType, tmp_path: Path):
    benchmark.write_captions(tmp_path / "coco.arrow", images=8)
    [[batch]] = benchmark.open_loader(str(tmp_path), batch=2, steps=1)
    differences = benchmark.loss_differences(benchmark.build_model(kind), batch, kind)
    assert len(differences) > 6 and max(differences.values()) < 1e-4, differences


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("prepare.py", "--images", "100", "--workers", "1"),
        ("data.py", "--rounds", "1", "--images", "4", "--batch", "2", "--seconds", "0.2"),
        ("retrieval.py", "--images", "8", "--many", "20"),
        ("pretrain_step.py", "--rounds", "1", "--batch", "2"),
        ("patch_drop.py", "--rounds", "1", "--batch", "2"),
        ("patch_drop_demo.py", "--steps", "10", "--pictures", "200"),
        ("cache_frozen.py", "--rounds", "1", "--seconds", "1", "--images", "32", "--cases", "small,images"),
    ],
    ids=lambda words: words[0],
)
def test_a_benchmark_prints_its_table(words: tuple[str, ...]):
    done = subprocess.run(
        [sys.executable, FOLDER / words[0], *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0 and ("| --- |" in done.stdout or "held-out scenes" in done.stdout), (
        done.stdout + done.stderr
    )


@pytest.mark.parametrize("benchmark", ["gpu"], indirect=True)
def test_what_fails_on_a_gpu_never_loses_the_rest(benchmark: ModuleType, tmp_path: Path, capsys):
    def breaks() -> tuple[object, ...]:
        raise RuntimeError("CUDA error: out of order\nmore of it")

    bench = benchmark.Bench(tmp_path, "cpu", 2, 1, 1, True)
    bench.attempt("loader", "one", breaks)
    bench.attempt("loader", "two", lambda: (4, "1000"))
    programs = (("import sys; sys.exit('CUDA is gone')", 60), ("import time; time.sleep(60)", 0.5), ("", 60))
    sentences = [
        benchmark.run_part([sys.executable, "-c", program], tmp_path / "log", limit) for program, limit in programs
    ]
    assert sentences == ["failed (CUDA is gone).", "ended after 0 s, before it was done.", ""]
    benchmark.report(bench, sentences[:2])
    out = capsys.readouterr().out
    assert "| one | failed: RuntimeError: CUDA error: out of order |  |\n| two | 4 | 1000 |" in out
    assert out.endswith("failed (CUDA is gone).\nended after 0 s, before it was done.\n")


@pytest.mark.parametrize("benchmark", ["gpu"], indirect=True)
def test_waits_are_counted_after_the_steps_that_are_timed(benchmark: ModuleType, tmp_path: Path, monkeypatch):
    modes: list[str] = []
    for name, fake in {
        "synchronize": lambda: None,
        "reset_peak_memory_stats": lambda: None,
        "max_memory_allocated": lambda: 5 << 20,
        "set_sync_debug_mode": modes.append,
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    meter = benchmark.Meter(benchmark.Bench(tmp_path, "cuda", 8, 2, 3, False))
    for _ in range(2 * 2 + 3 + 1):  # steps of a run: to warm up, timed, counted, and the last
        meter()
        if modes == ["warn"]:  # as torch warns: three times a step, twice in one place
            for _ in range(2):
                warnings.warn("called a synchronizing CUDA operation (Triggered internally)", stacklevel=1)
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            warnings.warn("of something else", stacklevel=1)
    meter.close()
    assert modes == ["warn", "default", "default"] and meter.seconds > 0
    rate, peak, waits, places = meter.row()
    assert float(rate) > 0 and peak == 5 and waits == "3.0"
    assert [place.split(":")[0] for place in places.split(", ")] == ["test_benchmarks.py"] * 2


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there it measures more")
def test_the_benchmark_of_gpus_runs_in_small_without_one():
    done = subprocess.run(
        [sys.executable, FOLDER / "gpu.py", "--small"], cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0 and "failed" not in done.stdout, done.stdout + done.stderr
    tables = [part for part in done.stdout.split("\n\n") if part.startswith("| ")]
    # Losses, the two kinds of models, the loader, decoding, memory.
    assert [part.count("\n") - 1 for part in tables] == [10, 6, 4, 4, 2, 4]
