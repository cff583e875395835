"""Reads and writes metrics.csv: a row for each logged training step and each validation; damaged rows are left out."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from renaissance.core.atomic import damaged_name, link_or_copy, rename_damaged, write_whole
from renaissance.core.errors import UserError, printable, require
from renaissance.core.untrusted import read_bytes

Row = dict[str, str]
_LONGEST = 1 << 30  # bytes


def speeds(rows: Iterable[Mapping[str, str]]) -> list[float]:
    """Samples a second, of the rows of training steps that have them."""
    return [float(row["samples_per_second"]) for row in rows if row.get("samples_per_second")]


class MetricsTable:
    """Appends rows to a CSV file; a new column is added to the header and is empty in earlier rows.

    Args:
        path: of the file, which need not exist.
    """

    def __init__(self, path: Path):
        self.path = path
        self._header: list[str] = []
        self._left: tuple[int, bytes] | None = None  # `_state` of the file as it was left; if another, it is read again

    def append(self, values: Mapping[str, float]) -> list[str]:
        """Appends a row.

        Returns:
            Warnings if the file was damaged meanwhile.

        Raises:
            OSError, UserError: it cannot be written; the file is as it was.
        """
        row = {name: str(value) for name, value in values.items()}
        warnings: list[str] = []
        if set(row) <= set(self._header) and self._state() == self._left:
            try:
                with open(self.path, "a", encoding="utf-8", newline="") as file:
                    csv.DictWriter(file, self._header, restval="").writerow(row)
            except OSError:
                os.truncate(self.path, self._left[0])  # it will be appended again
                raise
        else:
            header, rows, warnings = _read_usable(self.path)
            header += [name for name in row if name not in header]
            _write(self.path, header, [*rows, row])
            self._header = header
        self._left = self._state()
        return warnings

    def _state(self) -> tuple[int, bytes] | None:
        """Size and start of the file; not its date, which network disks settle later."""
        if not self.path.is_file():
            return None
        with open(self.path, "rb") as file:
            return os.fstat(file.fileno()).st_size, file.readline(1 << 16)


def read_rows(path: Path) -> tuple[list[str], list[Row], int]:
    """The header, the valid rows and the number of invalid lines, without a partial last line.

    Raises:
        UserError: it is no table with a column "step".
    """
    if not os.path.lexists(path):
        return [], [], 0
    text = read_bytes(path, most=_LONGEST).decode("utf-8-sig", "replace")
    first, *lines = text.splitlines() or [""]
    if not lines and not text.endswith("\n") and (first.startswith("step,") or "step,".startswith(first)):
        return [], [], 0  # of a machine that failed as the file was begun
    header, began = first.split(","), printable(repr(first[:40]))
    table = "step" in header and len(set(header)) == len(header)
    require(table, f"'{path}' is no table of this program any more (it begins with {began}).")
    if not text.endswith("\n"):
        lines = lines[:-1]
    lines = [line for line in lines if line.strip()]
    rows = [dict(zip(header, line.split(","), strict=True)) for line in lines if _is_row(line.split(","), header)]
    return header, rows, len(lines) - len(rows)


def _is_row(cells: list[str], header: list[str]) -> bool:
    try:
        [float(cell) for cell in cells if cell]
    except ValueError:
        return False
    return len(cells) == len(header) and bool(re.fullmatch("[0-9]{1,18}", cells[header.index("step")]))


def _read_usable(path: Path) -> tuple[list[str], list[Row], list[str]]:
    """Header, valid rows and warnings; what is invalid is kept as *.damaged: a file that is no table, or a copy."""
    try:
        header, rows, broken = read_rows(path)
    except UserError as error:
        return [], [], [f"{error} It is now {rename_damaged(path).name}, and a new one begins."]
    if not broken:
        return header, rows, []
    copy = damaged_name(path)
    link_or_copy(path, copy, "log_dir")  # no renaming: the disk may be full when the valid rows are written
    return header, rows, [f"'{path}': {broken} of its lines cannot be read and are left out; {copy.name} has them."]


def _write(path: Path, header: list[str], rows: list[Row]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, header, restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode(), "log_dir")


def drop_rows_after(path: Path, step: int, *, pending: bool = False, every: int | None = None) -> list[str]:
    """Drops the rows that a resumed run writes again, and damaged ones.

    Args:
        step: of the checkpoint. pending: whether its validation is still to come. every: steps between two rows so far.

    Returns:
        Warnings about lost rows.
    """
    if not os.path.lexists(path):
        return []  # a folder of its own that has not come to its first row, say
    header, rows, warnings = _read_usable(path)
    validated = step - 1 if pending else step
    known = [row for row in rows if int(row["step"]) <= (validated if _of_validation(row) else step)]
    if header:
        _write(path, header, known)
    end = max((int(row["step"]) for row in known if not _of_validation(row)), default=0)
    if every and (missing := step // every - end // every) > 0:
        where = f"ends at step {end}" if known else "has no rows"
        warnings.append(
            f"'{path}' {where}, and the run goes on behind step {step}: {missing} or more rows of it are lost."
        )
    return warnings


def _of_validation(row: Row) -> bool:
    return any(value for name, value in row.items() if "/val/" in name)
