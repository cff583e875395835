"""Finds the runs that a command names by folders and patterns, and names each by the shortest unique end of its path."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from renaissance.core.errors import UserError, first_line, require, shortened
from renaissance.evaluation.runs import RUNS, FinishedRun, is_run, read_run
from renaissance.runs.metrics_table import read_rows


def find(runs: Sequence[str] | str | None, tags: Sequence[str] = ()) -> tuple[dict[str, FinishedRun], list[str]]:
    """The finished runs that have all these tags by their shortest names, and a sentence for each that is left out.

    Raises:
        UserError: a pattern without a match, a folder of no run, a damaged file, or no finished run with these tags.
    """
    paths, notes = _matching(_words(runs))
    every = {name: read_run(path, "runs") for name, path in zip(shortest_names(paths), paths, strict=True)}
    found = {name: run for name, run in every.items() if {*tags} <= {*run.tags}}
    there = shortened(dict.fromkeys(tag for run in every.values() for tag in run.tags), 10) or "none"
    require(found, f"tags={[*tags]}: none of the {len(every):,} runs has them all; their tags are {there}.")
    if others := len(every) - len(found):
        notes.append(f"without the tags {', '.join(tags)}, left out: {others:,} runs.")
    finished = {name: run for name, run in found.items() if run.results is not None}
    require(finished, f"runs={runs!r}: {', '.join(found)} has no results.json yet; let a run end first.")
    for name, run in found.items():
        if name not in finished:
            last = [row["step"] for row in logged(run.path)[0]][-1:] or ["none"]
            notes.append(f"{name} is unfinished (no results.json; last step logged: {last[0]}), left out.")
    return finished, notes


def logged(folder: Path) -> tuple[list[dict[str, str]], str | None]:
    """The rows of a run's metrics.csv, and a sentence about damaged ones."""
    try:
        _, rows, lost = read_rows(folder / "metrics.csv")
    except (OSError, UserError) as error:
        return [], f"metrics.csv cannot be read ({first_line(error)}), so its steps are not known."
    return rows, f"metrics.csv has {lost:,} damaged rows, left out." if lost else None


def _words(runs: Sequence[str] | str | None) -> list[str]:
    words = runs.split(",") if isinstance(runs, str) else list(runs) if isinstance(runs, list | tuple) else []
    words = [os.path.expanduser(word.strip()) if isinstance(word, str) else "" for word in words]
    require(
        words and "" not in words,
        f"runs={runs!r} is not allowed: give run folders or patterns, such as runs='result/a/*,result/b/version_3'.",
    )
    return words


def _matching(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The run folders of all words in their order, each once; and notes on other matches."""
    paths: dict[Path, Path] = {}
    notes = []
    for word in words:
        matches = newest_runs(Path(word)) or [Path(word)]
        if glob.has_magic(word) and not os.path.exists(word):
            found = sorted(map(Path, glob.glob(word, recursive=True)), key=_natural)
            require(found, f"runs names {word}, and nothing matches it; give run folders, such as result/vqa/*.")
            of_studies = {each: newest_runs(each) for each in found}
            matches = [run for each in found for run in ([each] if is_run(each) else of_studies[each])]
            require(
                matches,
                f"runs names {word}, which matches {len(found)} path(s) and no run folder (one holds settings.json).",
            )
            if strays := [str(each) for each in found if each not in matches and not of_studies[each]]:
                notes.append(f"no run folders, left out: {', '.join(strays)}.")
        for match in matches:
            paths.setdefault(Path(os.path.realpath(match)), match)
    return list(paths.values()), notes


def newest_runs(study: Path) -> list[Path]:
    """The newest run folder of each run of a study, by its name; [] where the folder is that of no study."""
    found = sorted((each for each in study.glob(f"{RUNS}/*/version_*") if is_run(each)), key=_natural)
    return [*{folder.parent: folder for folder in found}.values()]


def _natural(path: Path) -> list[tuple[int, str]]:
    """A sort key that puts version_2 before version_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def shortest_names(paths: Sequence[Path]) -> list[str]:
    """The shortest end of each path that is unique among them: the experiment and the version, or more."""
    every = [Path(os.path.realpath(path)).parts for path in paths]
    names = []
    for parts in every:
        lengths = range(min(2, len(parts)), len(parts) + 1)
        length = next(n for n in lengths if sum(other[-n:] == parts[-n:] for other in every) == 1)
        names.append(Path(*parts[-length:]).as_posix())
    return names
