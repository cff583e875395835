"""Sizes that no machine holds: refused by arithmetic, before anything of them is allocated or walked through.

Each setting has a most of its own in `rules`. What several of them make together, or a model's configuration says, is found here:
by its numbers before it is read, and by the tensors that it makes while it is built without memory (on the meta device).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from .errors import UserError, printable
from .settings import Settings

MOST_TENSORS = 100_000  # of a model: its names alone take time. The largest encoders have some thousands.
# What a configuration's numbers may be, by what their names hold: all of these are gone through one by one.
_MOST_NUMBER = 1 << 31
_MOST_NAMED = {"layer": 4096, "depth": 4096, "block": 4096, "expert": 4096, "label": 1 << 20, "position": 1 << 24}
_LISTS = ("id2label", "label2id")  # words of others, as long as they are written out
_GB = 1e9


def refuse_huge_configuration(values: Mapping[str, Any], name: str) -> None:
    """Refuses a configuration of a million layers: transformers makes lists as long as some of its numbers say.

    Args:
        values: as config.json or a checkpoint has them. name: what the sentence calls it.

    Raises:
        UserError: naming the first that is too large.
    """
    waiting: list[tuple[str, Any]] = [(key, value) for key, value in values.items() if key not in _LISTS]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(str(part), each) for part, each in value.items() if part not in _LISTS]
        elif isinstance(value, (list, tuple)):
            waiting += [(key, each) for each in value]
        elif isinstance(value, (int, float)):
            most = min((most for part, most in _MOST_NAMED.items() if part in key.lower()), default=_MOST_NUMBER)
            if not abs(value) <= most:
                raise UserError(
                    f"{name}: {printable(key)}={value} is more than any model has; at most {most:,} is read."
                )


@contextmanager
def bounded_building() -> Iterator[None]:
    """Around a build on the meta device: a model that this machine could not hold is not built to its end.

    Raises:
        UserError: its weights take more than the memory of this machine, or are more tensors than any encoder has.
    """
    from torch.nn.modules import module as hooks

    count = size = 0
    memory = memory_of_machine()

    def made(_module: Any, _name: str, tensor: Any) -> None:
        nonlocal count, size
        if tensor is None:
            return
        count, size = count + 1, size + tensor.numel() * tensor.element_size()
        if size > memory:
            raise UserError(
                f"The model's weights take more than {memory / _GB:,.0f} GB, the memory of this machine: give smaller sizes "
                "(width, layers, vocabulary, positions), or another encoder."
            )
        if count > MOST_TENSORS:
            raise UserError(f"The model has more than {MOST_TENSORS:,} tensors of weights: give fewer layers.")

    with ExitStack() as stack:
        for register in (
            hooks.register_module_parameter_registration_hook,
            hooks.register_module_buffer_registration_hook,
        ):
            stack.callback(register(made).remove)
        yield


def refuse_huge_batches(settings: Settings) -> None:
    """Refuses a step whose pictures this machine cannot hold: the loader hands over those of all its micro-batches at once.

    Raises:
        UserError: naming the settings that decide.
    """
    data, side, memory = settings.data, settings.model.image_size, memory_of_machine()
    sizes = {"eval_batch_size": data.eval_batch_size}
    if not settings.run.test_only:
        sizes["batch_size"] = data.batch_size // settings.machine.num_nodes
    for key, pictures in sizes.items():
        if (size := pictures * 3 * side * side) > memory:
            raise UserError(
                f"{key}={settings.flat[key]} with image_size={side}: the pictures of one batch take {size / _GB:,.0f} GB, and "
                f"this machine has {memory / _GB:,.0f} GB of memory; give a smaller {key} or image_size."
            )


def memory_of_machine() -> int:
    """Bytes of its main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
