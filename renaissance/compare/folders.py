"""Which runs a command names: folders and patterns, in order, each by the shortest name that tells it from the others."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from renaissance.errors import UserError
from renaissance.evaluation import Run, is_run, read_run
from renaissance.report import read_rows


class Named(NamedTuple):
    """A finished run. Attributes: name, the shortest end of its path that no other run has; run."""

    name: str
    run: Run


def find(runs: Sequence[str] | str | None) -> tuple[list[Named], list[str]]:
    """The finished runs among those named, each once, and a sentence for each that is left out.

    Raises:
        UserError: nothing matches a pattern, a folder is none of a run, a file is damaged, or no run is finished.
    """
    paths, notes = _matching(_words(runs))
    found = [read_run(path, "runs") for path in paths]
    names = shortest_names(paths)
    unfinished = [name for name, run in zip(names, found, strict=True) if run.results is None]
    finished = [Named(name, run) for name, run in zip(names, found, strict=True) if run.results is not None]
    if not finished:
        raise UserError(f"runs={runs!r}: {', '.join(unfinished)} has no results.json yet; let a run end first.")
    for name, run in zip(names, found, strict=True):
        if run.results is None:
            steps = [row["step"] for row in read_rows(run.path / "metrics.csv")][-1:]
            notes.append(
                f"{name} is unfinished (no results.json; last step logged: {(steps or ['none'])[0]}), left out."
            )
    return finished, notes


def _words(runs: Sequence[str] | str | None) -> list[str]:
    words = runs.split(",") if isinstance(runs, str) else list(runs) if isinstance(runs, list | tuple) else []
    words = [word.strip() if isinstance(word, str) else "" for word in words]
    if not words or "" in words:
        raise UserError(
            f"runs={runs!r} is not allowed: give run folders or patterns, such as runs='result/a/*,result/b/version_3'."
        )
    return words


def _matching(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The run folders of all words, each once, in the order of the words; and what a pattern matched besides."""
    paths: dict[Path, Path] = {}
    notes = []
    for word in words:
        if not glob.has_magic(word) or Path(word).exists():
            paths.setdefault(Path(word).resolve(), Path(word))
            continue
        matches = sorted((Path(match) for match in glob.glob(word, recursive=True)), key=_natural)
        if not matches:
            raise UserError(f"runs names {word}, and nothing matches it; give run folders, such as result/vqa/*.")
        folders = [match for match in matches if is_run(match)]
        if not folders:
            raise UserError(
                f"runs names {word}, which matches {len(matches)} path(s) and no run folder (one holds settings.json)."
            )
        if strays := [str(match) for match in matches if match not in folders]:
            notes.append(f"no run folders, left out: {', '.join(strays)}.")
        for match in folders:
            paths.setdefault(match.resolve(), match)
    return list(paths.values()), notes


def _natural(path: Path) -> list[tuple[int, str]]:
    """A key under which version_2 comes before version_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def shortest_names(paths: Sequence[Path]) -> list[str]:
    """For each path the shortest end that no other of them has."""
    whole = [path.resolve().parts for path in paths]

    def ends(length: int) -> list[tuple[str, ...]]:
        return [parts[-length:] for parts in whole]

    names = []
    for place, parts in enumerate(whole):
        length = next(n for n in range(1, len(parts) + 1) if ends(n).count(ends(n)[place]) == 1)
        names.append(Path(*parts[-length:]).as_posix())
    return names
