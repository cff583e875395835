"""What a run writes besides checkpoints: its folder, settings.json, metrics.csv, results.json, log.txt; and what loggers get.

Only the first process writes; on the others a `RunFolder` does nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import renaissance
from renaissance.core.atomic import FileLock, write_whole
from renaissance.core.checks import plain_path
from renaissance.core.console import say
from renaissance.core.errors import UserError, printable, require
from renaissance.core.launch import REPOSITORY
from renaissance.core.progress import Bar
from renaissance.settings.sections import Settings

from .loggers import IDS, Loggers, ShownExample
from .metrics_table import MetricsTable

_KEPT = "\n\t"  # control characters of our own
_PATIENCE = 10  # seconds that git may take
_LONGEST_NAME, _LONGEST_PATH = 255, 3800  # bytes that file systems take, less what a run puts behind its folder
PACKAGES = ("torch", "torchvision", "transformers", "pytorch_lightning", "tokenizers", "numpy", "pyarrow")


class RunFolder:
    """`<log_dir>/<exp_name>/version_N/`, one for each run.

    Args:
        path: the folder; None for a run that keeps nothing (fast_dev_run) or a process that writes nothing.
    """

    def __init__(self, path: Path | None, *, prints: bool = True):
        self.path, self.prints = path, prints
        self._loggers: Loggers | None = None
        self._status = "failed"  # as far as loggers know
        self._lock: FileLock | None = None
        self._table = path and MetricsTable(path / "metrics.csv")
        self._unwritten: list[dict[str, Any]] = []  # rows that could not be written yet
        self._made: list[Path] = []  # by `create`: the folder, and those above it that were not there

    @classmethod
    def create(cls, log_dir: str, exp_name: str) -> RunFolder:
        """Creates the next free version folder, atomically: two runs never get the same one.

        Raises:
            UserError: the folder cannot be written.
        """
        parent = Path(log_dir) / exp_name
        made = [each for each in (parent, *parent.parents) if not each.exists()]
        try:
            parent.mkdir(parents=True, exist_ok=True)
            for number in itertools.count():
                with contextlib.suppress(FileExistsError):
                    (path := parent / f"version_{number}").mkdir()
                    break
            (path / "checkpoints").mkdir()
        except OSError as error:
            raise UserError(unwritable(log_dir, error.strerror)) from error
        folder = cls(path)
        folder._made = [path, *made]
        return folder

    @staticmethod
    def refuse_unwritable(log_dir: str, exp_name: str) -> None:
        """Checks early that `create` will work; writes nothing.

        Raises:
            UserError: the nearest existing parent is not a folder or not writable, or the path is too long.
        """
        path = Path(log_dir).absolute() / exp_name
        names = [len(os.fsencode(name)) for name in path.parts]
        short = max(names) <= _LONGEST_NAME and sum(names) + len(names) <= _LONGEST_PATH
        require(short, unwritable(log_dir, "its path is too long"))
        nearest = next(each for each in (path, *path.parents) if os.path.lexists(each))
        require(nearest.is_dir(), unwritable(log_dir, f"{nearest} is not a folder"))
        require(os.access(nearest, os.W_OK | os.X_OK), unwritable(log_dir, f"{nearest} is not writable"))

    @classmethod
    def of_checkpoint(cls, path: str) -> RunFolder | None:
        """The run folder of a checkpoint; None if the file is not in one."""
        given = Path(path)
        for place in (given.parent.resolve(), given.resolve().parent):  # the file may be a link to one, or be one here
            if place.name == "checkpoints" and (place.parent / "settings.json").is_file():
                return cls(place.parent)
        return None

    @classmethod
    def place_of(cls, path: str) -> dict[str, str]:
        """log_dir and exp_name of the run folder of a checkpoint; {} if it is not in one."""
        if (folder := cls.of_checkpoint(path)) is None:
            return {}
        return {"log_dir": plain_path(folder.path.parent.parent), "exp_name": folder.path.parent.name}

    def open_loggers(self, settings: Settings) -> None:
        """Opens what `logger` names, and hands over the settings.

        Raises:
            UserError: one cannot start; a folder that was made for this run is removed.
        """
        if self.path is None:
            return
        try:
            self._loggers = Loggers(self.path, settings, self.say)
            if self._loggers.ids:
                self.write_json(IDS, self._loggers.ids)
        except BaseException:
            self.close()
            self._discard()
            raise

    def lock(self) -> RunFolder:
        """Locks the folder until `close`.

        Raises:
            UserError: another process trains in this folder.
        """
        if self.path is not None:
            self._lock = FileLock(self.path)
        return self

    @property
    def checkpoints(self) -> Path | None:
        return None if self.path is None else self.path / "checkpoints"

    def resume_hint(self) -> str:
        """How to resume a run that ends early, as the end of a sentence; "" if it has saved nothing."""
        path = self.checkpoints and self.checkpoints / "last.ckpt"
        return f"; the run goes on from there with resume_from={path}" if path and path.exists() else ""

    def say(self, text: str) -> None:
        """Prints a message, above a progress bar, and appends it to log.txt."""
        if self.prints:
            with Bar.external_write_mode():
                say(text)
            self.write_log(text)

    def write_log(self, text: str) -> None:
        """Appends a message to log.txt, with the time."""
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
        """Logs scalars of an optimizer step to metrics.csv and the loggers."""
        if self.path is None:
            return
        self._unwritten.append({"step": step, **values})
        try:
            while self._unwritten:
                for sentence in self._table.append(self._unwritten[0]):
                    self.say(f"warning: {sentence}")
                del self._unwritten[0]
        except (OSError, UserError) as error:
            if len(self._unwritten) == 1:
                self.say(f"warning: metrics.csv cannot be written ({error}); its rows are kept until it can.")
        if self._loggers is not None:
            self._loggers.metrics(values, step)

    @property
    def shows_examples(self) -> bool:
        """Whether `log_examples` shows them to anybody."""
        return self._loggers is not None and self._loggers.shows_examples

    def log_examples(self, step: int, examples: Sequence[ShownExample]) -> None:
        """Shows examples of the validation split in the loggers."""
        if self._loggers is not None and examples:
            self._loggers.examples(examples, step)

    def log_results(self, step: int, values: Mapping[str, float]) -> None:
        """Hands the results of a run that ends well to the loggers, as final/<task>/<split>/<metric>."""
        self._status = "success"
        if self._loggers is not None:
            final = {f"final/{name}": value for name, value in values.items() if name.count("/") == 2}
            self._loggers.metrics(final, step)

    def sync_rows(self) -> None:
        """Writes metrics.csv to the disk: no row of a step that is saved next is lost, even if the machine fails."""
        if self.path is not None and (path := self.path / "metrics.csv").is_file():
            with contextlib.suppress(OSError), open(path, "rb") as file:
                os.fsync(file.fileno())

    def _discard(self) -> None:
        """Removes what `create` has made; nothing of a run that goes on in its folder."""
        for folder in self._made[:1]:
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            for folder in self._made[1:]:
                folder.rmdir()

    def close(self) -> None:
        if self._loggers is not None:
            self._loggers.close(self._status)
            self._loggers = None
        if self._lock is not None:
            self._lock.release()


def unwritable(log_dir: str | Path, why: str) -> str:
    return f"log_dir={log_dir} cannot be written ({why}); give a folder that can be with log_dir=."


def nested_results(values: Mapping[str, float]) -> dict[str, dict[str, dict[str, float | None]]]:
    """{"mlm/val/loss": 1.0} as {"val": {"mlm": {"loss": 1.0}}}, without sums over tasks ("val/the_metric")."""
    results: dict[str, dict[str, dict[str, float | None]]] = {}
    for key, value in values.items():
        if key.count("/") == 2:
            task, split, metric = key.split("/")
            # A share of nothing (no mismatched pair among three) is not a number, and JSON has no infinite loss either.
            results.setdefault(split, {}).setdefault(task, {})[metric] = value if math.isfinite(value) else None
    return results


def versions() -> dict[str, str]:
    """Versions of this program, of Python, and of the packages that affect the results."""
    found = {"renaissance": renaissance.__version__} | ({} if (commit := _commit()) is None else {"commit": commit})
    found |= {"python": platform.python_version(), "platform": platform.platform(), "command": " ".join(sys.argv)}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _commit() -> str | None:
    """The commit of the checkout that this program runs from, "-dirty" behind it where files have changed; None without one."""
    if not (REPOSITORY / ".git").exists():  # git would find that of a folder above, which is another project's
        return None
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=True)
        return done.stdout.strip() or None
    return None
