"""`python run.py check with ...`: resolves, validates, and builds on the meta device. No data is read, no GPU is used."""

from __future__ import annotations

from renaissance.core.console import say
from renaissance.settings.printing import sources_table
from renaissance.settings.resolver import ConfigResolver
from renaissance.training import summary
from renaissance.training.train import prepare_run


def check(resolver: ConfigResolver) -> None:
    """Prints what a command would build and where each setting came from.

    Raises:
        UserError: what the run itself would be refused for, data aside.
    """
    _, resolved, built = prepare_run(resolver, reads_data=False)
    say(sources_table(resolved.settings) + "\n")
    notes = [f"note: {note}" for note in built.notes]
    lines = [*summary.model_lines(resolved), summary.parameter_table(built), *notes]
    say("\n".join([*lines, *summary.device_lines(resolved.settings)]))
