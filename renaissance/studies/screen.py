"""What a study prints: its plan, and what became of its runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from renaissance.core.console import millions, table
from renaissance.core.errors import printable

from .plan import PlannedRun
from .state import STATES, WAITING, RunState

if TYPE_CHECKING:
    from .check import Size

_LONGEST = 90  # characters of a note


def plan_table(runs: Sequence[PlannedRun], sizes: Mapping[str, Size], states: Mapping[str, RunState]) -> str:
    """A line for each run: what differs, what it needs, its size, and whether it is done already."""
    rows = [("run", "parameters", "trainable", "steps", "needs", "now")]
    for run in runs:
        size = sizes[run.name]
        needs = ", ".join(dict.fromkeys(name for name, _ in run.needs.values()))
        steps = size.steps if isinstance(size.steps, str) else f"{size.steps:,}"
        state = states[run.name].kind
        rows.append((run.name, millions(size.parameters), millions(size.trainable), steps, needs, state))
    stages = Counter(run.stage for run in runs)
    counted = ", ".join(f"{count} of {stage}" for stage, count in stages.items())
    return f"{len(runs):,} runs ({counted}):\n{table(rows)}"


def status_table(states: Iterable[RunState]) -> str:
    """How many runs of each stage are in each state, and a line for each run that has begun and is not done."""
    counts: dict[str, Counter[str]] = {}
    states = [*states]
    for state in states:
        counts.setdefault(state.run.stage, Counter())[state.kind] += 1
    rows = [("stage", "runs", *STATES)]
    rows += [(name, str(count.total()), *(str(count[kind] or "") for kind in STATES)) for name, count in counts.items()]
    parts = [table(rows)]
    lines = [
        f"{state.run.name}: {state.kind}"
        + ("" if state.kind == WAITING or (step := state.step()) is None else f" at step {step:,}")
        + (f": {printable(state.note[:_LONGEST])}" if state.note else "")
        for state in states
        if state.note or state.kind in STATES[1:-1]
    ]
    return "\n".join([*parts, *lines])
