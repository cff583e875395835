"""What a run writes besides checkpoints: its folder, settings.json, metrics.csv, TensorBoard events, results.json, log.txt.

Only the first process writes; on the others a `RunFolder` does nothing.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import platform
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from renaissance.core.atomic import FileLock, free_name, link_or_copy, rename_damaged, write_whole
from renaissance.core.checks import plain_path
from renaissance.core.console import say
from renaissance.core.errors import UserError, printable
from renaissance.core.untrusted import read_bytes, refuse_special

_KEPT = "\n\t"  # control characters of our own
_LONGEST_NAME, _LONGEST_PATH = 255, 3800  # bytes that file systems take, less what a run puts behind its folder
_LONGEST_HEADER, _LONGEST_TABLE = 1 << 20, 1 << 30  # bytes of metrics.csv
PACKAGES = ("torch", "torchvision", "transformers", "pytorch_lightning", "tokenizers", "numpy", "pyarrow")


class RunFolder:
    """`<log_dir>/<exp_name>/version_N/`, one for each run.

    Args:
        path: the folder; None for a run that keeps nothing (fast_dev_run) or a process that writes nothing.
    """

    def __init__(self, path: Path | None, *, speaks: bool = True):
        self.path, self.speaks = path, speaks
        self._events: Any = None
        self._held: FileLock | None = None
        self._unwritten: list[dict[str, Any]] = []  # rows of metrics.csv that found no room

    @classmethod
    def create(cls, log_dir: str, exp_name: str) -> RunFolder:
        """Makes the next free version; two runs that start together never get the same one.

        Raises:
            UserError: the folder cannot be written.
        """
        parent = Path(log_dir) / exp_name
        try:
            number = 0
            while True:
                path = parent / f"version_{number}"
                try:
                    path.mkdir(parents=True)
                    break
                except FileExistsError:
                    number += 1
            (path / "checkpoints").mkdir()
        except OSError as error:
            raise UserError(
                f"log_dir={log_dir} cannot be written ({error.strerror}); give a folder that can be with log_dir=."
            ) from error
        return cls(path)

    @staticmethod
    def refuse_unwritable(log_dir: str, exp_name: str) -> None:
        """Says before anything is computed that `create` will fail; writes nothing.

        Raises:
            UserError: the nearest folder that exists is none, or takes no new entries.
        """
        nearest = Path(log_dir).absolute() / exp_name
        names = [len(os.fsencode(name)) for name in nearest.parts]
        while not os.path.lexists(nearest):
            nearest = nearest.parent
        reason = ""
        if not os.path.isdir(nearest):
            loops = nearest.is_symlink() and not nearest.exists()
            reason = f"{nearest} is {'a link that leads nowhere' if loops else 'not a folder'}"
        elif not os.access(nearest, os.W_OK | os.X_OK):
            reason = f"{nearest} is not writable"
        elif max(names) > _LONGEST_NAME or sum(names) + len(names) > _LONGEST_PATH:
            reason = "its path is too long"
        if reason:
            raise UserError(f"log_dir={log_dir} cannot be written ({reason}); give a folder that can be with log_dir=.")

    @classmethod
    def of_checkpoint(cls, path: str) -> RunFolder | None:
        """The folder of the run that wrote a checkpoint, or None where the file lies elsewhere."""
        given = Path(path)
        for place in (given.parent.resolve(), given.resolve().parent):  # the file may be a link to one, or be one here
            if place.name == "checkpoints" and (place.parent / "settings.json").is_file():
                return cls(place.parent)
        return None

    @classmethod
    def place_of(cls, path: str) -> dict[str, str]:
        """log_dir and exp_name of the run that wrote a checkpoint, by where it lies; {} where that is no run folder."""
        if (folder := cls.of_checkpoint(path)) is None:
            return {}
        return {"log_dir": plain_path(folder.path.parent.parent), "exp_name": folder.path.parent.name}

    def hold(self) -> RunFolder:
        """Keeps other runs out until `close`.

        Raises:
            UserError: another process trains in this folder.
        """
        if self.path is not None:
            self._held = FileLock(self.path)
        return self

    @property
    def checkpoints(self) -> Path | None:
        return None if self.path is None else self.path / "checkpoints"

    def to_go_on(self) -> str:
        """How a run that ends early goes on, as the end of a sentence; "" where nothing of it is saved."""
        path = self.checkpoints and self.checkpoints / "last.ckpt"
        return f"; the run goes on from there with resume_from={path}" if path and path.exists() else ""

    def say(self, text: str) -> None:
        """Prints, beside a progress bar where there is one, and keeps in log.txt."""
        if self.speaks:
            with tqdm.external_write_mode():
                say(text)
            self.keep(text)

    def keep(self, text: str) -> None:
        """Adds to log.txt what was said on the screen, with the time."""
        if self.path is None:
            return
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {printable(text.rstrip(), keep=_KEPT)}\n"
        # A full disk ends no run; the screen has it.
        with contextlib.suppress(OSError), open(self.path / "log.txt", "a", encoding="utf-8") as file:
            file.write(line)

    def write(self, name: str, content: bytes) -> None:
        """Writes `<name>` whole or not at all, below a folder that is made where there is none."""
        if self.path is not None:
            write_whole(self.path / name, content, "log_dir")

    def write_json(self, name: str, content: Any) -> None:
        """Writes a value as JSON."""
        self.write(name, (json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n").encode())

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One line of metrics.csv and one point a value in TensorBoard, at an optimizer step."""
        if self.path is None:
            return
        self._unwritten.append({"step": step, **values})
        try:
            while self._unwritten:
                if said := append_row(self.path / "metrics.csv", self._unwritten[0]):
                    self.say(f"warning: {said}")
                del self._unwritten[0]
        except (OSError, UserError) as error:
            if len(self._unwritten) == 1:
                self.say(f"warning: metrics.csv cannot be written ({error}); its rows are kept until it can.")
        with contextlib.suppress(OSError):  # events that find no room are lost; metrics.csv has them
            if self._events is None:
                from torch.utils.tensorboard import SummaryWriter  # imported late: it takes a second

                self._events = SummaryWriter(str(self.path))
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def bring_rows_to_the_disk(self) -> None:
        """So that no row of a step that is saved next is lost, even where the machine fails."""
        if self.path is not None and (path := self.path / "metrics.csv").exists():
            with contextlib.suppress(OSError), open(path, "rb") as file:
                os.fsync(file.fileno())

    def close(self) -> None:
        with contextlib.suppress(OSError):
            if self._events is not None:
                self._events.close()
        if self._held is not None:
            self._held.release()


def append_row(path: Path, row: Mapping[str, Any]) -> str | None:
    """Adds a row to a CSV file; a new column is added to the header, and left empty in the rows before.

    Returns:
        A sentence where another program has spoiled the file, and what became of it.
    """
    text = {name: str(value) for name, value in row.items()}
    rows: list[dict[str, str]] = []
    try:
        header, cut = _head(path)
        if header and set(text) <= set(header):
            _append(path, header, text, cut)
            return None
        header, rows, broken = sound_rows(path)
        said = _kept_damaged(path, broken) if broken else None
    except UserError as error:
        header, said = [], f"{error} It is now {rename_damaged(path).name}, and a new one begins."
    write_rows(path, header + [name for name in text if name not in header], [*rows, text])
    return said


def _append(path: Path, header: list[str], row: Mapping[str, str], cut: bool) -> None:
    """Writes a row behind the others, behind a line of its own where the last of them was cut short."""
    size = path.stat().st_size
    try:
        with open(path, "a", encoding="utf-8", newline="") as file:
            file.write("\n" if cut else "")
            csv.DictWriter(file, header, restval="").writerow(row)
    except OSError:
        os.truncate(path, size)  # half a row would spoil the next
        raise


def _head(path: Path) -> tuple[list[str], bool]:
    """The header of metrics.csv, and whether its last line has no end; ([], False) where there is no file, or an empty one.

    Raises:
        UserError: it is no table with a column "step".
    """
    if not os.path.lexists(path) or not refuse_special(path, f"'{path}'").st_size:
        return [], False
    with open(path, "rb") as file:
        first = file.readline(_LONGEST_HEADER)
        file.seek(-1, os.SEEK_END)
        cut = file.read(1) != b"\n"
    try:
        header = next(csv.reader([first.decode("utf-8-sig")]), [])
    except (ValueError, csv.Error):
        header = []
    if first[:5] == b"step,"[: len(first)] and not first.endswith(b"\n") and len(first) < _LONGEST_HEADER:
        return [], False  # of a machine that failed as the file was begun
    if "step" not in header or len(set(header)) < len(header):
        raise UserError(
            f"'{path}' is no table of this program any more (it begins with {printable(repr(first[:40]))})."
        )
    return header, cut


def sound_rows(path: Path) -> tuple[list[str], list[dict[str, str]], int]:
    """The header of metrics.csv, its whole rows, and how many lines are none; one cut short at the end does not count.

    Raises:
        UserError: as `_head`.
    """
    header, cut = _head(path)
    if not header:
        return [], [], 0
    text = read_bytes(path, f"'{path}'", most=_LONGEST_TABLE).decode("utf-8-sig", "replace")
    lines = [line for line in text.splitlines()[1 : -1 if cut else None] if line.strip()]
    rows = [dict(zip(header, line.split(","), strict=True)) for line in lines if _is_row(line.split(","), header)]
    return header, rows, len(lines) - len(rows)


def _is_row(cells: list[str], header: list[str]) -> bool:
    if len(cells) != len(header) or not re.fullmatch("[0-9]{1,18}", cells[header.index("step")]):
        return False
    try:
        [float(cell) for cell in cells if cell]
    except ValueError:
        return False
    return True


def _kept_damaged(path: Path, broken: int) -> str:
    """Keeps a copy of a table from which lines are left out; a sentence about it."""
    copy = free_name(path)
    link_or_copy(path, copy, "log_dir")
    return f"'{path}': {broken} of its lines cannot be read and are left out; {copy.name} has them."


def write_rows(path: Path, header: list[str], rows: list[dict[str, str]]) -> None:
    """Writes a CSV file whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, header, restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode(), "log_dir")


def forget_after(path: Path, step: int, *, pending: bool = False, every: int | None = None) -> list[str]:
    """Drops the rows of metrics.csv that a run which goes on writes again, and what a machine that failed has made of the last.

    Args:
        step: it goes on behind this one. pending: and first validates there. every: steps between two rows so far.

    Returns:
        Sentences about rows that are lost.
    """
    if not os.path.lexists(path):
        return []  # a folder of its own that has not come to its first row, say
    said, header, rows = [], [], []
    try:
        header, rows, broken = sound_rows(path)
        said += [_kept_damaged(path, broken)] if broken else []
    except UserError as error:
        said.append(f"{error} It is now {rename_damaged(path).name}, and a new one begins.")
    last = step - 1 if pending else step
    known = [row for row in rows if int(row["step"]) <= (last if _of_validation(row) else step)]
    if header:
        write_rows(path, header, known)
    end = max((int(row["step"]) for row in known if not _of_validation(row)), default=0)
    if every and (missing := step // every - end // every) > 0:
        where = f"ends at step {end}" if known else "has no rows"
        said.append(f"'{path}' {where}, and the run goes on behind step {step}: {missing} or more rows of it are lost.")
    return said


def _of_validation(row: Mapping[str, str]) -> bool:
    return any(value for name, value in row.items() if "/val/" in name)


def nested_results(values: Mapping[str, float]) -> dict[str, dict[str, dict[str, float | None]]]:
    """{"mlm/val/loss": 1.0} as {"val": {"mlm": {"loss": 1.0}}}; sums over tasks ("val/the_metric") are left out."""
    results: dict[str, dict[str, dict[str, float | None]]] = {}
    for key, value in values.items():
        if key.count("/") == 2:
            task, split, metric = key.split("/")
            # A share of nothing (no mismatched pair among three) is not a number, and JSON has no infinite loss either.
            results.setdefault(split, {}).setdefault(task, {})[metric] = value if math.isfinite(value) else None
    return results


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide a run's numbers."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "platform": platform.platform(), "command": " ".join(sys.argv)}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def table(rows: list[tuple[str, ...]], indent: str = "  ") -> str:
    """Rows of words as aligned columns: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        indent
        + "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"
