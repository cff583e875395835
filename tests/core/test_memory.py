"""What is free and what processes hold, on files as Linux writes them and on real processes."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from pathlib import Path

import pytest

from renaissance.core import memory

GIB = 1 << 30
linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /proc")


def system(root: Path, groups: str, **files: str) -> None:
    """Writes what a system says: `groups` of this process, and files of control groups by path, `__` for `/`."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "meminfo").write_text("MemTotal: 8388608 kB\nMemFree: 100 kB\nMemAvailable: 4194304 kB\n")
    (root / "proc" / "self" / "cgroup").write_text(groups)
    for name, text in files.items():
        file = root / "cgroup" / name.replace("__", "/").replace("-", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


STATES = {
    "no limit": ("0::/\n", {"memory.max": "max\n", "memory.current": "5", "memory.stat": "inactive_file 1\n"}, 4 * GIB),
    "version 2": (
        "0::/slurm/job\n",
        {"slurm__job__memory.max": "max", "slurm__job__memory.current": str(GIB), "slurm__job__memory.stat": "inactive_file 0\n",
         "slurm__memory.max": str(3 * GIB), "slurm__memory.current": str(2 * GIB),
         "slurm__memory.stat": f"anon 7\ninactive_file {GIB // 2}\n"},
        GIB + GIB // 2,
    ),
    "version 1": (
        "3:cpu:/\n2:hugetlb,memory:/a\n",
        {"memory__a__memory.limit_in_bytes": str(2 * GIB), "memory__a__memory.usage_in_bytes": str(GIB),
         "memory__a__memory.stat": "inactive_file 9\ntotal_inactive_file 0\n"},
        GIB,
    ),
    "over its limit": ("0::/\n", {"memory.max": "5", "memory.current": "7", "memory.stat": "inactive_file 1\n"}, 0),
    "of another place": ("0::/gone\n", {}, 4 * GIB),
}  # fmt: skip


@pytest.mark.parametrize("name", STATES)
def test_free_memory_is_that_of_the_smallest_group(name, tmp_path, monkeypatch):
    groups, files, free = STATES[name]
    system(tmp_path, groups, **files)
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "cgroup")
    assert memory.free_memory() == free


def test_another_system_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    assert memory.free_memory() is None and memory.peak_memory(1) == memory.memory_of_children(1) == 0


def hold(mebibytes: int, release: bool, ready) -> None:
    held = bytearray(os.urandom(1)) * (mebibytes << 20)
    if release:
        held = None
    ready.set()
    time.sleep(60)
    del held


@linux
def test_the_peak_of_a_process_stays_and_its_children_are_counted(no_process_left):
    context = multiprocessing.get_context("fork")
    before, ready = memory.memory_of_children(os.getpid()), context.Event()
    child = context.Process(target=hold, args=(200, True, ready))
    child.start()
    try:
        assert ready.wait(30) and memory.peak_memory(child.pid) > 200 << 20
    finally:
        child.kill()
        child.join()
    ready, child = context.Event(), None
    child = context.Process(target=hold, args=(200, False, ready))
    child.start()
    try:
        assert ready.wait(30) and memory.memory_of_children(os.getpid()) - before > 190 << 20
    finally:
        child.kill()
        child.join()
    assert memory.peak_memory(child.pid) == 0
