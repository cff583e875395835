"""The checkpoints of one run: `step_<step>.ckpt` files, with last.ckpt and best.ckpt as further names of two of them.

A run may be killed between writing a file and naming it; files may be copied, damaged or removed. What is on the disk decides.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from renaissance.core.atomic import link_or_copy, rename_damaged
from renaissance.core.errors import UserError, first_line

from . import checkpoint
from .stored import Stored

LAST, BEST = "last.ckpt", "best.ckpt"
UNKNOWN = -1  # step of a checkpoint that cannot be read


class CheckpointFolder:
    """The folder `checkpoints` of a run.

    Args:
        path: of the folder; it need not exist.
    """

    def __init__(self, path: Path):
        self.path = path

    def file(self, step: int) -> Path:
        """Path of the checkpoint of a step; names sort by step."""
        return self.path / f"step_{step:09d}.ckpt"

    def write(self, step: int, stored: Stored, names: Iterable[str], keep: int) -> str | None:
        """Writes the checkpoint of a step, links further names to it, and removes all but the newest `keep`.

        An old file is removed only when the new one is whole on the disk.

        Returns:
            Why it could not be written, then the files before it are untouched; None where it was.
        """
        path = self.file(step)
        try:
            checkpoint.save(path, stored)
            for name in names:
                link_or_copy(path, path.with_name(name), "log_dir")
        except (UserError, OSError) as error:
            return first_line(error)
        for old in sorted(self.path.glob("step_*.ckpt"))[:-keep]:
            with contextlib.suppress(OSError):  # the next save tries again
                old.unlink()
        return None

    def newest_first(self) -> list[tuple[int, Path]]:
        """Step and path of the checkpoints that a run can be resumed from, each under one of its names.

        A run that was killed in a save may have a newer one than last.ckpt. best.ckpt comes last, whatever its step, which is
        not looked up: it serves where all others are damaged.
        """
        found = self._numbered()
        last, best = self.path / LAST, self.path / BEST
        if found and _same(found[0][1], last):
            found[0] = (found[0][0], last)
        elif last.exists() and not any(_same(path, last) for _, path in found):  # copied, or the only one
            stored, _ = try_read(last)
            found = sorted([*found, (stored.training["step"] if stored else UNKNOWN, last)], reverse=True)
        if best.exists() and not any(_same(path, best) for _, path in found):
            found.append((UNKNOWN, best))
        return found

    def make_newest(self, name: str, step: int, *, best: bool) -> int | None:
        """Makes a checkpoint the newest of its run; renames damaged ones of later steps.

        Args:
            name: of its file. step: its step. best: whether it is the best one, too.

        Returns:
            The step of a later one that is whole; then nothing is changed. None where there is none.
        """
        path = self.path / name
        for number, other in self.newest_first():
            if number > step and try_read(other)[0]:
                return number
        for rest in (*self.path.glob(".*.tmp"), *self.path.glob(".*.link")):  # of a run that was killed in a save
            rest.unlink(missing_ok=True)
        for number, damaged in self._numbered():
            if number > step:
                rename_damaged(damaged)
        # A run that was killed in a save may not have given the names that a checkpoint has by its content.
        for other in (*([self.path / BEST] if best else []), self.path / LAST):
            if other.is_dir() and not other.is_symlink():
                rename_damaged(other)
            if not _same(path, other):
                link_or_copy(path, other, "log_dir")
        return None

    def check_best(self, step: int | None) -> str | None:
        """Renames best.ckpt where it is not of the step of the best validation that the resumed checkpoint tells.

        Args:
            step: of the best validation so far, None where there was none.

        Returns:
            What is wrong, and what follows; None where nothing is.
        """
        best, anew = self.path / BEST, "the next validation, if any is left, selects anew"
        if not os.path.lexists(best):
            return None if step is None else f"'{best}' is not there; {anew}"
        stored, why = try_read(best)
        if stored and stored.training["step"] == step:
            return None
        renamed = rename_damaged(best)
        known = "there was no validation yet" if step is None else f"the best validation so far was at step {step}"
        why = why or f"{best} is of step {stored.training['step']}, and {known}."
        return f"{why} It is now {renamed.name}; {anew}"

    def _numbered(self) -> list[tuple[int, Path]]:
        """Step and path of the files `step_<step>.ckpt`, newest first."""
        files = {path: re.fullmatch(r"step_(\d{1,18})\.ckpt", path.name) for path in self.path.glob("*.ckpt")}
        return sorted(((int(number[1]), path) for path, number in files.items() if number), reverse=True)


def first_whole(files: Iterable[tuple[int, Path]], damaged: list[str]) -> tuple[Path, Stored] | None:
    """The first whole one of some `newest_first`, and its content; a sentence about each before it is added to `damaged`."""
    for _, path in files:
        stored, why = try_read(path)
        if stored is not None:
            return path, stored
        damaged.append(why)
    return None


def try_read(path: Path) -> tuple[Stored | None, str]:
    """A checkpoint that no setting of the command names, or None and why it cannot be read."""
    try:
        return checkpoint.read(path), ""
    except UserError as error:
        return None, str(error).removeprefix("load_path=") if path.is_file() else f"{path} is not a file."


def _same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return False
