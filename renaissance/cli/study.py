"""`python run.py study with study=studies/freezing.yaml action=run`: many runs from one file, and their table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from renaissance.core.checks import choice, integer, path, text
from renaissance.core.console import say
from renaissance.core.errors import UserError, require
from renaissance.core.launch import lasting_imports
from renaissance.settings.declared import SETTINGS
from renaissance.settings.words import configured
from renaissance.studies.plan import plan
from renaissance.studies.screen import plan_table, status_table
from renaissance.studies.spec import read_study
from renaissance.studies.state import FAILED, StudyFolder
from renaissance.studies.table import make_table, markdown, write_table

ACTIONS = ("plan", "run", "status", "retry", "table", "command")


# fmt: off
class StudySettings:
    """Which study, and what is done with it"""

    study: path("a study file") = None  # YAML or JSON file; CONFIGURING_MODELS.md says what it may hold
    action: choice(*ACTIONS) = "plan"  # plan: what would run; run: what is missing; status; retry: run, and what failed once more; table: written as Markdown, CSV and LaTeX; command: the words of one run
    log_dir: path("a folder") = "result"  # folder that the folder of the study lies in
    data_root: path("a folder of arrow files").or_none = None  # for all runs; None = as the study file or the default says
    workers: integer(1) = 1  # runs at a time, each with its share of the cores and GPUs
    run: text("the name of a run") = None  # with action=run or command: this run alone
# fmt: on


def main(study: str | None, action: str, log_dir: str, data_root: str | None, workers: int, run: str | None) -> None:
    """Does what `action` says.

    Raises:
        UserError: the file is none, a run would be refused, or runs failed.
    """
    require(study is not None, "study=None: give the path of a study file with study=.")
    require(
        action != "command" or run is not None,
        "action=command needs the name of a run, run=; action=status lists them.",
    )
    content = read_study(study)
    place = Path(log_dir) / content.name
    runs = plan(content, str(place / "runs"), {} if data_root is None else {"data_root": data_root})
    named = {each.name for each in runs}
    require(run in (None, *named), f"run={run}: the study has no such run; action=status lists them.")

    def configure(words: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
        try:
            return configured(SETTINGS, words)
        except UserError as error:
            raise UserError(f"study={study}: {error}") from error

    folder = StudyFolder(place, content, runs, configure)
    states = folder.states()
    if action == "command":
        words = states[run].words
        require(
            words is not None,
            f"run={run} waits for results of {', '.join(name for name, _ in states[run].run.needs.values())}.",
        )
        say("\n".join(words))
        return
    if action == "status":
        say(status_table(states.values()))
        return
    if action == "table":
        table = make_table(content, states.values())
        say(markdown(table))
        say(f"written to the folder {place}: {', '.join(write_table(table, place))}")
        return
    with lasting_imports():
        from renaissance.studies.check import check_runs  # here, because it imports torch
        from renaissance.studies.execute import run_study

    sizes = check_runs(runs, configure)
    if action == "plan":
        say(plan_table(runs, sizes, states))
        return
    if action == "retry":
        for state in states.values():
            if state.kind == FAILED:
                folder.forget(state.run)
    states = run_study(folder, workers, () if run is None else (run,))
    say(status_table(states.values()))
    failed = [name for name, state in states.items() if state.kind == FAILED]
    require(
        not failed, f"{len(failed)} of {len(runs)} runs failed; action=retry runs them again: {', '.join(failed[:5])}."
    )
