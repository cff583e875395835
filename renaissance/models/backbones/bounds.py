"""How large a model may be, before anything is allocated for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.modules import module as registration

from renaissance.errors import UserError

MOST_PARTS, MOST_NUMBERS = 100_000, 2**36  # registered modules and tensors of one tower; numbers in them
SLACK = 2**24  # numbers that no file of weights holds, such as those of positions


@contextmanager
def bounded(what: str, bytes_there: int | None = None) -> Iterator[None]:
    """Ends the building of a model whose configuration asks for more than any model has, before it takes hours or the memory.

    Args:
        what: what is built, for the sentence. bytes_there: of its files of weights; None where it gets random ones.

    Raises:
        UserError: as soon as there are too many modules or numbers.
    """
    modules = numbers = 0
    most = MOST_NUMBERS if bytes_there is None else min(MOST_NUMBERS, SLACK + 2 * bytes_there)

    def count(*registered: Any) -> None:
        nonlocal modules, numbers
        modules += 1
        part = registered[-1]
        numbers += part.numel() if isinstance(part, torch.Tensor) else 0
        if modules > MOST_PARTS:
            raise UserError(
                f"{what} cannot be built with these dimensions: they make more than {MOST_PARTS:,} modules."
            )
        if numbers > most:
            why = "" if bytes_there is None else f", more than its weights of {bytes_there:,} bytes hold"
            raise UserError(f"{what} cannot be built with these dimensions: they make more than {most:,} numbers{why}.")

    hooks = [
        registration.register_module_module_registration_hook(count),
        registration.register_module_parameter_registration_hook(count),
        registration.register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
