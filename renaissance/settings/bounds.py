"""Sizes that no machine holds: refused by arithmetic, before anything is allocated.

Each setting has its own upper bound in `core/checks.py`. What several of them make together, or with a model's configuration,
is found here: by the tensors that are made while the model is built without memory (on the meta device).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from renaissance.core.errors import UserError

from .sections import Settings

MOST_PARTS = 100_000  # modules, parameters and buffers of a model, which take time each; the largest encoders have some thousands
_GB = 1e9
_NEW = 1 << 30  # bytes of weights beside those of its checkpoint: new heads, positions of larger images


@contextmanager
def bounded_building(stored_bytes: int | None = None) -> Iterator[None]:
    """Stops a build on the meta device of a model that does not fit into the memory of this machine.

    Args:
        stored_bytes: bytes of the weights that a checkpoint holds for it; None where there is none.

    Raises:
        UserError: its weights take more than the memory of this machine, or are more tensors than any encoder has.
    """
    most = memory = memory_of_machine()
    sentence = (
        f"The model's weights take more than {memory / _GB:,.0f} GB, the memory of this machine: give smaller sizes "
        "(width, layers, vocabulary, positions), or another encoder."
    )
    if stored_bytes is not None and 2 * stored_bytes + _NEW < memory:
        most = 2 * stored_bytes + _NEW
        sentence = (
            f"the configuration of its model asks for more than {most / _GB:,.1f} GB of weights, and the file holds "
            f"{stored_bytes / _GB:,.1f} GB; it is damaged, or was not written by this program."
        )
    with bounded(most, sentence):
        yield


@contextmanager
def bounded(most: int, sentence: str) -> Iterator[None]:
    """Stops the build of a model of more than `most` bytes of weights and buffers.

    Raises:
        UserError: it has more bytes, says `sentence`; or more modules and tensors than any encoder has.
    """
    from torch.nn.modules import module as registration

    parts = size = 0

    def count(_module: Any, _name: str, part: Any) -> None:
        nonlocal parts, size
        parts += part is not None
        size += part.numel() * part.element_size() if hasattr(part, "element_size") else 0
        if size > most:
            raise UserError(sentence)
        if parts > MOST_PARTS:
            raise UserError(f"The model has more than {MOST_PARTS:,} modules and weights: give fewer layers.")

    with ExitStack() as stack:
        for kind in ("module", "parameter", "buffer"):
            register = getattr(registration, f"register_module_{kind}_registration_hook")
            stack.callback(register(count).remove)
        yield


def refuse_huge_batches(settings: Settings) -> None:
    """Refuses a step whose images do not fit into memory: the loader returns all micro-batches of a step at once.

    Raises:
        UserError: naming the settings that decide.
    """
    data, side, memory = settings.data, settings.model.image_size, memory_of_machine()
    sizes = {"eval_batch_size": data.eval_batch_size}
    if not settings.run.test_only:
        sizes["batch_size"] = data.batch_size // settings.machine.num_nodes
    for key, images in sizes.items():
        if (size := images * 3 * side * side) > memory:
            raise UserError(
                f"{key}={settings.flat[key]} with image_size={side}: the images of one batch take {size / _GB:,.0f} GB, and "
                f"this machine has {memory / _GB:,.0f} GB of memory; give a smaller {key} or image_size."
            )


def memory_of_machine() -> int:
    """Bytes of its main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
