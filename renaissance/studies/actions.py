"""What `python run.py study` does with a study: a function for each value of `action`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from renaissance.core.console import say
from renaissance.core.errors import Stopped, require, shortened
from renaissance.core.launch import lasting_imports
from renaissance.core.signals import TRY_AGAIN

from .archive import archive
from .execute import run_study, shares_of
from .forecast import seconds_left
from .layouts import markdown, write_table
from .pace import Pace, kind, known_paces
from .plan import Configure
from .plot import plot
from .screen import plan_sums, plan_table, status_table
from .slurm import record, submit
from .state import DONE, FAILED, StudyFolder
from .table import make_table

if TYPE_CHECKING:
    from .check import Size


class Command(NamedTuple):
    """What an action needs.

    Attributes: folder; study, the path of its file; words, by which another process finds the same study; settings of
        the command.
    """

    folder: StudyFolder
    study: str
    words: list[str]
    configure: Configure
    where: str
    x: str
    workers: int
    run: str | None
    measure: bool
    status: int
    seconds: float


def _plan(command: Command) -> None:
    folder, sizes, states = command.folder, _checked(command), command.folder.states()
    paces, notes = _paces(command, sizes), []
    if command.measure:
        from .measure import measure  # here, as it starts runs

        todo = [state.run for state in states.values() if state.kind != DONE]
        measured, notes = measure(folder.runs, todo, sizes, command.configure, shares_of(command.workers)[0])
        kinds = {kind(each.settings) for each in measured}
        paces = [*measured, *(each for each in paces if kind(each.settings) not in kinds)]
    left = seconds_left(states, sizes, paces)
    say(plan_table(folder.runs, sizes, states, left))
    say("\n".join([*plan_sums(folder, sizes, states, left, measured=command.measure), *notes]))


def _checked(command: Command, *, flops: bool = False) -> dict[str, Size]:
    with lasting_imports():
        from renaissance.studies.check import check_runs  # here, because it imports torch
    return check_runs(command.folder.runs, command.folder.study.metrics, command.configure, flops=flops)


def _paces(command: Command, sizes: Mapping[str, Size]) -> list[Pace]:
    return known_paces(command.folder.path.parent, {kind(size.settings) for size in sizes.values()})


def _refuse_too_long(command: Command, sizes: Mapping[str, Size]) -> None:
    """Refuses a study of which it is known that its runs take more hours than it has."""
    folder = command.folder
    if (hours := folder.study.hours) is None:
        return
    left = seconds_left(folder.states(), sizes, _paces(command, sizes))
    spent, needed = folder.seconds_spent() / 3600, sum(filter(None, left.values())) / 3600
    require(
        not needed or spent + needed <= hours,
        f"study={folder.study.name}: its runs took {spent:.2f} hours and will take {needed:.2f} more by the speeds of runs like "
        f"them, and its budget allows hours={hours}; raise it, or take variants out.",
    )


def _run(command: Command, *, again: bool = False) -> None:
    """Runs what is missing, and with `again` what failed."""
    folder = command.folder
    _refuse_too_long(command, _checked(command))
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
    counted = _checked(command, flops=True) if command.x == "flops" else {}
    flops = {name: size.flops for name, size in counted.items()}
    files, left_out = plot(folder.study, folder.states().values(), folder.path / "plots", command.x, flops)
    if left_out:
        say(f"x={command.x} is not known of {len(left_out)} runs, which are left out: {shortened(left_out)}")
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


def _record(command: Command) -> None:
    record(command.folder, command.run, command.status, command.seconds)


ACTIONS = {
    "plan": _plan, "run": _run, "status": _status, "retry": _retry, "table": _table, "plot": _plot, "archive": _archive,
    "command": _words, "record": _record,
}  # fmt: skip
ONE_RUN = ("run", "retry", "command", "record")  # actions that `run` may name a run for
