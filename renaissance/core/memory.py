"""Main memory: what is free, and what a process has taken. As Linux says it; other systems say nothing here."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

_PROC, _GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
# Of the two versions of control groups: folder, limit, what is used, what of it is cache that can be dropped.
_VERSIONS = {
    "": ("", "memory.max", "memory.current", "inactive_file"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def free_memory() -> int | None:
    """Bytes that can be taken without swapping: of the system, or of a control group (Slurm, a container) that has fewer.

    None where nobody knows.
    """
    if (available := _entry(_PROC / "meminfo", "MemAvailable:")) is None:
        return None
    return max(0, min([available * 1024, *_left_in_groups()]))


def _left_in_groups() -> Iterator[int]:
    """What is left in each control group with a limit that this process is in."""
    with contextlib.suppress(OSError):
        for line in (_PROC / "self" / "cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, place = line.split(":", 2)
            for name in {*controllers.split(",")} & {*_VERSIONS}:
                root, limit, used, cache = _VERSIONS[name]
                folder = _GROUPS / root / place.lstrip("/")
                while folder.is_relative_to(_GROUPS / root):  # a group has no more than those above it
                    numbers = (
                        _entry(folder / limit, ""),
                        _entry(folder / used, ""),
                        _entry(folder / "memory.stat", cache),
                    )
                    if None not in numbers:  # "max" is no number
                        yield numbers[0] - numbers[1] + numbers[2]
                    folder = folder.parent


def peak_memory(process: int) -> int:
    """Bytes of main memory that a process has held at most; 0 where it has ended."""
    return 1024 * (_entry(_PROC / str(process) / "status", "VmHWM:") or 0)


def memory_of_children(process: int) -> int:
    """Bytes that its children hold now, each its share of what several hold, as forked ones do. The system counts all pages."""
    return 1024 * sum(_entry(_PROC / str(child) / "smaps_rollup", "Pss:") or 0 for child in _children(process))


def _children(process: int) -> Iterator[int]:
    for file in (_PROC / str(process) / "task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, file.read_text(encoding="ascii").split()):
                yield child
                yield from _children(child)


def _entry(file: Path, name: str) -> int | None:
    """The whole number behind a name at the start of a line; None where there is none."""
    with contextlib.suppress(OSError):
        found = re.search(rf"^{name}\s*(\d+)\b", file.read_text(encoding="utf-8"), re.MULTILINE)
        return int(found[1]) if found else None
    return None
