"""The page of a run, or of several side by side: one HTML file that loads nothing.

run folder -> FinishedRun -> facts, results, measures, examples -> page.html -> report.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from renaissance import __version__
from renaissance.core.atomic import write_whole
from renaissance.core.console import say
from renaissance.core.errors import Stopped, UserError, first_line, printable, require
from renaissance.core.figures import COLOURS, ON_DARK
from renaissance.evaluation.calibration import BINS, Calibration, calibration
from renaissance.evaluation.compare import differing_settings, remarks
from renaissance.evaluation.compare.folders import find, shortest_names
from renaissance.evaluation.intervals import asked_otherwise
from renaissance.evaluation.runs import FinishedRun, find_run, read_run

from . import charts, examples, facts, measures, results

FILE = "report.html"
MOST_RUNS = 50  # on one page


def report(run: str | None, runs: Any, output: str | None = None, data_root: str | None = None) -> Path:
    """Writes the page of a run into its folder, or a page of several runs.

    Args:
        run: a run folder, or a file in one. runs: run folders or patterns of them.
        output: the file; None = report.html in the folder of `run`, or in the working folder for `runs`.
        data_root: folder of the arrow files that the pictures are of; None = as each run has it.

    Returns:
        The file.

    Raises:
        UserError: no run folder, or one of another program; both are given, or none; the file cannot be written.
    """
    require(
        (run is None) != (runs is None), "report needs one of run=<run folder> and runs=<folders or patterns of them>."
    )
    if run is not None:
        one = find_run(run, "run")
        return _write({shortest_names([one.path])[0]: one}, [], Path(output or one.path / FILE), data_root)
    found, notes = find(runs)
    require(len(found) <= MOST_RUNS, f"runs={runs!r} are {len(found)} runs; give at most {MOST_RUNS}.")
    return _write(found, notes, Path(output or FILE), data_root)


def report_ended(folder: Path | None) -> None:
    """Writes the page of a run that has just ended, and says where; the run keeps its results, whatever goes wrong.

    Args:
        folder: of the run; None where it keeps nothing.
    """
    if folder is not None and _try({shortest_names([folder])[0]: folder}, folder / FILE):
        say(f"report: {folder / FILE}")


def report_all(folders: Mapping[str, Path], target: Path) -> None:
    """The same for several runs, by name: a page in the folder of each, and one over all, which is named."""
    for name, folder in folders.items():
        _try({name: folder}, folder / FILE)
    if _try(folders, target):
        say(f"report: {target}")


def _try(folders: Mapping[str, Path], target: Path) -> bool:
    """Writes a page; returns whether it is there, else says why not. A page is worth no run."""
    try:
        _write({name: read_run(folder, "run") for name, folder in folders.items()}, [], target, None)
    except Stopped as stop:
        why = str(stop)
    except Exception as error:
        why = first_line(error).removesuffix(".")
    else:
        return True
    again = "run=" + str(target.parent) if len(folders) == 1 else f"runs={','.join(map(str, folders.values()))}"
    say(f"warning: {FILE} was not written ({why}); results are complete, and `python run.py report with {again}` "
        "writes it.", error=True)  # fmt: skip
    return False


def _write(runs: Mapping[str, FinishedRun], notes: Sequence[str], target: Path, data_root: str | None) -> Path:
    write_whole(target, render(runs, notes, data_root).encode("utf-8", "replace"), "output")
    return target


def render(runs: Mapping[str, FinishedRun], notes: Sequence[str] = (), data_root: str | None = None) -> str:
    """The page as HTML; every text is escaped where it is put in.

    Args:
        runs: by name; of several, the first is compared with. notes: sentences to show. data_root: as of `report`.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined  # here: commands that answer at once need none

    told = {name: facts.facts_of(run) for name, run in runs.items()}
    rows = {name: each.rows for name, each in told.items()}
    several = len(runs) > 1  # a blind one among them has a column of its own
    blind = {name: None if several else results.find_blind_run(run) for name, run in runs.items()}
    tasks = dict.fromkeys(task for run in runs.values() for task in results.tasks_of(run))
    sections = [_looked_into(runs, task, blind, data_root) for task in tasks]
    differences, problems = results.difference_rows(runs)
    finished = {name: run for name, run in runs.items() if run.results is not None}
    notes = [*notes, *(remarks(finished) if len(finished) > 1 else ()), *problems]
    environment = Environment(
        loader=PackageLoader("renaissance.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value, keep="\n") if type(value) is str else value,
    )
    return environment.get_template("page.html").render(
        names=[*runs],
        facts=told,
        notes=[*notes, *(f"{name}: {note}" for name, each in told.items() for note in each.notes)],
        differing=[
            [key, *(facts.plain(values[name]) if name in values else "" for name in runs)]
            for key, values in differing_settings(runs).items()
        ],
        tables=results.metric_tables(runs),
        differences=differences,
        curves=results.curves(rows),
        sections=sections,
        bins=BINS,
        validated=any(
            "/val/" in column and value for table in rows.values() for row in table for column, value in row.items()
        ),
        blind={name: str(run.path) for name, run in blind.items() if run is not None},
        palette=[*zip(COLOURS, ON_DARK, strict=True)],
        charts=charts,
        version=__version__,
    )


def _looked_into(
    runs: Mapping[str, FinishedRun], task: str, blind: Mapping[str, FinishedRun | None], data_root: str | None
) -> dict[str, Any]:
    """What the predictions of a task say, on one split for all runs."""
    having = {name: run for name, run in runs.items() if task in results.tasks_of(run)}
    split = measures.headline_split(having.values(), task)
    section: dict[str, Any] = {"task": task, "split": split, "problems": [], "heads": {}, "names": [], "kinds": {}}
    section |= {"calibrations": {}, "reliability": None, "confusions": {}, "categories": {}}
    frames: dict[str, pd.DataFrame] = {}
    for name, run in having.items():
        if split in run.results:
            section["heads"][name] = results.headline(run, task, split, blind[name])
        try:
            frame = measures.read_frame(run, task, split)
        except UserError as error:
            section["problems"].append(str(error))
            continue
        if frame is not None:
            frames[name] = frame
    if frames and (without := [name for name in having if name not in frames]):
        section["problems"].append(f"Without predictions of {split} that have a score: {', '.join(without)}.")
    try:
        source = _source(section, having[next(iter(frames))], data_root) if frames else None
        _add_measures(section, frames)
        if frames:
            _add_examples(section, {name: having[name] for name in frames}, frames, source)
    except UserError:
        raise  # of data_root
    except Exception as error:  # the columns of a task of others hold anything
        section["problems"].append(f"The predictions are not shown ({first_line(error).removesuffix('.')}).")
    return section


def _add_measures(section: dict[str, Any], frames: Mapping[str, pd.DataFrame]) -> None:
    calibrations = {name: found for name, frame in frames.items() if (found := calibration(frame))}
    section |= {
        "names": [*frames],
        "calibrations": calibrations,
        "reliability": _reliability(calibrations),
        "confusions": {name: found for name, frame in frames.items() if (found := measures.confusion(frame))},
        "categories": _by_column({name: measures.categories(frame) for name, frame in frames.items()}),
    }


def _by_column(of: Mapping[str, Mapping[str, Sequence[measures.Category]]]) -> dict[str, dict[str, list[Any]]]:
    """{column: {value: the category of each run, None where it has none}}."""
    found: dict[str, dict[str, list[Any]]] = {}
    for column in dict.fromkeys(column for tables in of.values() for column in tables):
        values = [{each.name: each for each in tables.get(column, ())} for tables in of.values()]
        found[column] = {
            name: [each.get(name) for each in values] for name in dict.fromkeys(n for v in values for n in v)
        }
    return found


def _reliability(calibrations: Mapping[str, Calibration]) -> charts.Chart | None:
    series = {name: each.bins[:, :2] for name, each in calibrations.items()}
    sizes = {name: 2.5 + 9 * np.sqrt(each.bins[:, 2]) for name, each in calibrations.items()}
    title = "Confidence and how often it is right"
    return charts.chart(title, ("confidence", "mean score"), series, bounds=(0, 1), sizes=sizes)


def _source(section: dict[str, Any], run: FinishedRun, data_root: str | None) -> examples.SplitSource | None:
    """The samples with their pictures; without them the page says why, but for a folder that was given, which is refused."""
    try:
        return examples.SplitSource(run, section["task"], section["split"], data_root)
    except (UserError, OSError) as error:
        require(data_root is None, f"data_root={data_root} has no pictures of these examples: {first_line(error)}")
        section["problems"].append(f"The pictures are not here: {first_line(error)}")
        return None


def _add_examples(
    section: dict[str, Any],
    runs: Mapping[str, FinishedRun],
    frames: Mapping[str, pd.DataFrame],
    source: examples.SplitSource | None,
) -> None:
    """The cards of examples: of one run the best, worst and least sure, of several those on which they disagree."""
    frame = next(iter(frames.values()))
    if several := len(frames) > 1:
        frames = _alike(section, runs, frames)
        kinds = {"Runs disagree": examples.disagreements(frames)} if len(frames) > 1 else {}
    else:
        kinds = examples.ordered(frame)
        if (rows := examples.fooled(frame)) is not None:
            kinds["False pictures that fooled it"] = rows
        if "confidence" not in frame and "first_scores" not in frame:
            section["problems"].append(
                "The predictions hold no confidences, so nothing is said of how sure the model was."
            )
    names = [*frames] if several else []
    for kind, rows in kinds.items():
        section["kinds"][kind] = [examples.card(row, source, names) for row in rows.to_dict("records")]


def _alike(
    section: dict[str, Any], runs: Mapping[str, FinishedRun], frames: Mapping[str, pd.DataFrame]
) -> dict[str, pd.DataFrame]:
    """The frames of the same examples as the first one; of the others the section says why."""
    first, *others = frames
    alike = {first: frames[first]}
    for name in others:
        unlike = runs[name].unlike_run(runs[first], section["split"])
        if why := unlike or asked_otherwise(frames[first], frames[name]):
            section["problems"].append(f"{name} is not among the runs that disagree with {first}: {why}.")
        else:
            alike[name] = frames[name]
    return alike
