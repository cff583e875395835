"""What a study prints: its plan, and what became of its runs."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from renaissance.core.console import millions, table
from renaissance.core.errors import printable

from .forecast import checkpoint_bytes
from .plan import PlannedRun
from .state import DONE, STATES, WAITING, RunState, StudyFolder

if TYPE_CHECKING:
    from .check import Size

_LONGEST = 90  # characters of a note


def plan_table(
    runs: Sequence[PlannedRun],
    sizes: Mapping[str, Size],
    states: Mapping[str, RunState],
    left: Mapping[str, float | None],
) -> str:
    """A line for each run: what differs, what it needs, what it will take, and whether it is done already.

    Args:
        left: seconds of training that each is still to take.
    """
    rows = [("run", "parameters", "trainable", "steps", "checkpoints", "to go", "needs", "now")]
    for run in runs:
        size, state, seconds = sizes[run.name], states[run.name].kind, left[run.name]
        needs = ", ".join(dict.fromkeys(name for name, _ in run.needs.values()))
        steps = size.steps if isinstance(size.steps, str) else f"{size.steps:,}"
        unknown = "not timed" if size.settings["test_only"] else "unknown"
        to_go = "" if state == DONE else unknown if seconds is None else said_time(seconds)
        counts = (millions(size.parameters), millions(size.trainable), steps, _gib(checkpoint_bytes(size)))
        rows.append((run.name, *counts, to_go, needs, state))
    stages = Counter(run.stage for run in runs)
    counted = ", ".join(f"{count} of {stage}" for stage, count in stages.items())
    return f"{len(runs):,} runs ({counted}):\n{table(rows)}"


def plan_sums(
    folder: StudyFolder,
    sizes: Mapping[str, Size],
    states: Mapping[str, RunState],
    left: Mapping[str, float | None],
    *,
    measured: bool = False,
) -> list[str]:
    """What all runs will take, of disk and time, beside what there is. measured: whether steps were, so there is no advice."""
    needed = sum(checkpoint_bytes(sizes[name]) for name, state in states.items() if state.kind != DONE)
    place = next(each for each in (folder.path.absolute(), *folder.path.absolute().parents) if each.exists())
    free = f"{_gib(shutil.disk_usage(place).free)} are free in {place}"
    lines = [f"disk: checkpoints of the runs that are not done take {_gib(needed)} at most, data not counted; {free}"]
    known, without = [each for each in left.values() if each is not None], [key for key in left if left[key] is None]
    evaluations = sum(sizes[name].settings["test_only"] for name in without)
    unknown = len(without) - evaluations
    said = f"{said_time(sum(known))} of training to go, validations and evaluations aside" if any(known) else ""
    said = said or ("" if without else "nothing to go")
    more = f"{unknown} of {len(left)} runs unknown" if unknown else ""
    advice = "measure=True measures three steps of each kind" if unknown and not measured else ""
    aside = f"{evaluations} of {len(left)} runs train nothing, and evaluations are not timed" if evaluations else ""
    lines.append(f"time: {'; '.join(filter(None, (said, more, advice, aside)))}")
    study, spent = folder.study, folder.seconds_spent()
    most = [] if study.most_runs is None else [f"{len(states)} of max_runs={study.most_runs}"]
    most += [] if study.hours is None else [f"{said_time(spent)} spent of hours={study.hours}"]
    if study.hours is not None and spent + sum(known) > 3600 * study.hours:
        most.append("which is too little, so action=run refuses")
    return [*lines, *([f"budget: {', '.join(most)}"] if most else [])]


def _gib(number: int) -> str:
    return f"{number / 2**30:,.2f} GiB"


def said_time(seconds: float) -> str:
    """Such as "3 d 4 h", "2 h 10 min" or "12 s"."""
    for size, unit, smaller, below in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} {int(seconds % size // smaller)} {below}"
    return f"{seconds:.0f} s"


def status_table(states: Iterable[RunState]) -> str:
    """How many runs of each stage are in each state, and a line for each run that has begun or cannot begin."""
    counts: dict[str, Counter[str]] = {}
    states = [*states]
    for state in states:
        counts.setdefault(state.run.stage, Counter())[state.kind] += 1
    rows = [("stage", "runs", *STATES)]
    rows += [(name, str(count.total()), *(str(count[kind] or "") for kind in STATES)) for name, count in counts.items()]
    lines = [_status_line(state) for state in states if state.note or state.kind != WAITING]
    return "\n".join([table(rows), *lines])


def _status_line(state: RunState) -> str:
    """What became of a run: how far it is and what is left, how long it took, why it failed."""
    said = f"{state.run.name}: {state.kind}"
    if state.kind == DONE:
        said += "" if state.attempt is None else f" in {said_time(state.attempt['seconds'])}"
    elif state.kind != WAITING and (going := state.pace()) is not None:
        said += f" at step {going.step:,}" + ("" if going.steps is None else f" of {going.steps:,}")
        said += "" if going.left is None else f", {said_time(going.left)} of training to go"
    return said + (f": {printable(state.note[:_LONGEST])}" if state.note else "")
