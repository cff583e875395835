"""What `python run.py study` does with a study: a function for each value of `action`."""

from __future__ import annotations

from typing import Any, NamedTuple

from renaissance.core.console import say
from renaissance.core.errors import Stopped, require, shortened
from renaissance.core.launch import lasting_imports
from renaissance.core.signals import TRY_AGAIN

from .archive import archive
from .execute import run_study
from .layouts import markdown, write_table
from .plan import Configure
from .plot import plot
from .screen import plan_table, status_table
from .slurm import submit
from .state import DONE, FAILED, StudyFolder
from .table import make_table


class Command(NamedTuple):
    """What an action needs.

    Attributes: folder; study, the path of its file; words, by which another process finds the same study; the settings.
    """

    folder: StudyFolder
    study: str
    words: list[str]
    configure: Configure
    where: str
    x: str
    workers: int
    run: str | None


def _plan(command: Command) -> None:
    folder = command.folder
    say(plan_table(folder.runs, _checked(command), folder.states()))


def _checked(command: Command) -> dict[str, Any]:
    with lasting_imports():
        from renaissance.studies.check import check_runs  # here, because it imports torch
    return check_runs(command.folder.runs, command.configure)


def _run(command: Command, *, again: bool = False) -> None:
    """Runs what is missing, and with `again` what failed."""
    folder = command.folder
    _checked(command)
    for name, state in folder.states().items() if again else ():
        if state.kind == FAILED and command.run in (None, name):
            folder.forget(state.run)
    if command.where == "slurm":
        require(command.run is None, f"run={command.run} runs here alone; leave where=slurm out.")
        say("\n".join(submit(folder, command.words)))
        return
    if command.run is not None:
        _words_of(command)  # which needs what it takes to be there
    states = run_study(folder, command.workers, command.run)
    say(status_table(states.values()))
    chosen = {name: state for name, state in states.items() if command.run in (None, name)}
    failed = [name for name, state in chosen.items() if state.kind == FAILED]
    advice = f"action=retry runs them again: {shortened(failed)}"
    require(not failed, f"{len(failed)} of {len(chosen)} runs failed, as their logs in {folder.path} say; {advice}.")
    left = [name for name, state in chosen.items() if state.kind != DONE]
    if left:
        raise Stopped(
            f"{len(left)} of {len(chosen)} runs are not done; the same command goes on: {shortened(left)}", TRY_AGAIN
        )


def _retry(command: Command) -> None:
    _run(command, again=True)


def _status(command: Command) -> None:
    say(status_table(command.folder.states().values()))


def _table(command: Command) -> None:
    folder = command.folder
    table = make_table(folder.study, folder.states().values())
    say(markdown(table))
    say(f"written to the folder {folder.path}: {', '.join(write_table(table, folder.path))}")


def _plot(command: Command) -> None:
    folder = command.folder
    files = plot(folder.study, folder.states().values(), folder.path / "plots", command.x)
    say(f"written to the folder {folder.path / 'plots'}: {', '.join(files)}")


def _archive(command: Command) -> None:
    folder = command.folder
    name = archive(folder.study, command.study, folder.states().values(), folder.path)
    say(f"written to the folder {folder.path}: {name}, which `study={name}` reads")


def _words_of(command: Command) -> list[str]:
    """The words of the one run. Raises UserError where it waits for results of others."""
    state = command.folder.states()[command.run]
    needs = ", ".join(dict.fromkeys(name for name, _ in state.run.needs.values()))
    require(state.words is not None, f"run={command.run} waits for results of {needs}.")
    return state.words


def _words(command: Command) -> None:
    say("\n".join(_words_of(command)))


ACTIONS = {
    "plan": _plan, "run": _run, "status": _status, "retry": _retry, "table": _table, "plot": _plot, "archive": _archive,
    "command": _words,
}  # fmt: skip
ONE_RUN = ("run", "retry", "command")  # actions that `run` may name a run for
