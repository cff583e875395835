"""How large a model may be, before anything is allocated for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from renaissance.core.errors import UserError
from renaissance.settings.bounds import MOST_PARTS, counted

MOST_NUMBERS = 2**36  # of one tower
SLACK = 2**24  # numbers that no file of weights holds, such as those of positions


@contextmanager
def bounded(what: str, bytes_there: int | None = None) -> Iterator[None]:
    """Ends the building of a model whose configuration asks for more than any model has, before it takes hours or the memory.

    Args:
        what: what is built, for the sentence. bytes_there: of its files of weights; None where it gets random ones.

    Raises:
        UserError: as soon as there are too many modules or numbers.
    """
    most = MOST_NUMBERS if bytes_there is None else min(MOST_NUMBERS, SLACK + 2 * bytes_there)

    def check(parts: int, numbers: int, _: int) -> None:
        if parts > MOST_PARTS:
            raise UserError(
                f"{what} cannot be built with these dimensions: they make more than {MOST_PARTS:,} modules and weights."
            )
        if numbers > most:
            why = "" if bytes_there is None else f", more than its weights of {bytes_there:,} bytes hold"
            raise UserError(f"{what} cannot be built with these dimensions: they make more than {most:,} numbers{why}.")

    with counted(check):
        yield
