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
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .atomic import Held, write_whole
from .errors import UserError

PACKAGES = ("torch", "torchvision", "transformers", "pytorch_lightning", "tokenizers", "numpy", "pyarrow")


class RunFolder:
    """`<log_dir>/<exp_name>/version_N/`, one for each run.

    Args:
        path: the folder; None for a run that keeps nothing (fast_dev_run) or a process that writes nothing.
    """

    def __init__(self, path: Path | None, *, speaks: bool = True):
        self.path, self.speaks = path, speaks
        self._events: Any = None
        self._held: Held | None = None
        self._unwritten: list[dict[str, Any]] = []  # rows of metrics.csv that found no room

    @classmethod
    def create(cls, log_dir: str, exp_name: str) -> RunFolder:
        """Makes the next free version; two runs that start together never get the same one.

        Raises:
            UserError: the folder cannot be written.
        """
        parent = Path(log_dir) / exp_name
        try:
            parent.mkdir(parents=True, exist_ok=True)
            number = 0
            while True:
                path = parent / f"version_{number}"
                try:
                    path.mkdir()
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
        while not os.path.lexists(nearest):
            nearest = nearest.parent
        if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
            reason = "is not writable" if nearest.is_dir() else "is not a folder"
            raise UserError(
                f"log_dir={log_dir} cannot be written ({nearest} {reason}); give a folder that can be with log_dir=."
            )

    @classmethod
    def of_checkpoint(cls, path: str) -> RunFolder | None:
        """The folder of the run that wrote a checkpoint, or None where the file lies elsewhere."""
        folder = Path(path).resolve().parent.parent
        return cls(folder) if (folder / "settings.json").is_file() else None

    def hold(self) -> RunFolder:
        """Keeps other runs out until `close`.

        Raises:
            UserError: another process trains in this folder.
        """
        if self.path is not None:
            self._held = Held(self.path)
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
        if not self.speaks:
            return
        with tqdm.external_write_mode():
            print(text, flush=True)
        if self.path is not None:
            with contextlib.suppress(OSError), open(self.path / "log.txt", "a", encoding="utf-8") as file:
                file.write(text + "\n")  # a full disk ends no run; the screen has it

    def write_json(self, name: str, content: Any) -> None:
        """Writes `<name>` whole or not at all."""
        if self.path is None:
            return
        text = json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"
        write_whole(self.path / name, text.encode(), "log_dir")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One line of metrics.csv and one point a value in TensorBoard, at an optimizer step."""
        if self.path is None:
            return
        self._unwritten.append({"step": step, **values})
        try:
            while self._unwritten:
                append_row(self.path / "metrics.csv", self._unwritten[0])
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


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Adds a row to a CSV file; a new column is added to the header, and left empty in the rows before."""
    text = {name: str(value) for name, value in row.items()}
    header: list[str] = []
    if path.exists():
        with open(path, encoding="utf-8", newline="") as file:
            header = next(csv.reader(file), [])
    if set(text) <= set(header):
        size = path.stat().st_size
        try:
            with open(path, "a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, header, restval="").writerow(text)
        except OSError:
            os.truncate(path, size)  # half a row would spoil the next
            raise
        return
    write_rows(path, header + [name for name in text if name not in header], [*read_rows(path), text])


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, none where there is no such file."""
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, header: list[str], rows: list[dict[str, str]]) -> None:
    """Writes a CSV file whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, header, restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode(), "log_dir")


def forget_after(path: Path, step: int, *, pending: bool = False) -> None:
    """Drops the rows of metrics.csv that a run which goes on writes again, and what a machine that failed has made of the last.

    Args:
        step: it goes on behind this one. pending: and first validates there.
    """
    if not path.exists():
        return
    rows = read_rows(path)
    if not path.read_bytes().endswith(b"\n"):
        del rows[-1:]
    rows = [row for row in rows if (row["step"] or "").isdecimal() and None not in [*row, *row.values()]]
    if rows:
        last = step - 1 if pending else step
        known = [row for row in rows if int(row["step"]) <= (last if _of_validation(row) else step)]
        write_rows(path, list(rows[0]), known)


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
