"""The largest micro-batch that fits into memory: bisection over the sizes that a run may have, each tried in a new process.

A process that has run out of memory is gone with all that it held, so no try leaks into the next. Where a GPU trains, its
allocator says when it is full. Main memory has no such end, as the system would rather swap, or kill any process: it is watched
from outside, and a try that takes more than the limit is killed.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

from renaissance.core.console import say, table
from renaissance.core.errors import UserError, require
from renaissance.core.memory import free_memory, memory_of_children, peak_memory
from renaissance.core.signals import StopSignals
from renaissance.data.workers import start_fork_server
from renaissance.settings.resolver import ConfigResolver, SettingsError

from .. import devices
from .trial import GIB, Trial, in_own_process

_SHARE = 0.9  # of the free main memory that is the limit: other programs want some, too
_LOOK = 0.02  # seconds between two looks at a try's memory, in which it takes some hundred megabytes more
_GRACE = 10  # seconds in which a try that has said its result ends by itself
_COUNT = 2.0  # seconds between two looks at that of its loader processes, which take the system longer


class Search:
    """Tries sizes of the micro-batches of a run.

    Args:
        resolver: of its command. steps: of each try. memory_limit: GiB, None = what is free.

    Attributes:
        tried: what each size took, None where it did not fit.
        limit: bytes of the memory that decides.
    """

    def __init__(self, resolver: ConfigResolver, steps: int, memory_limit: float | None):
        self.resolver, self.steps, self.memory_limit = resolver, steps, memory_limit
        self.tried: dict[int, Trial | None] = {}
        free = free_memory()
        self.gpu = devices.has_gpu(resolver["accelerator"])
        require(
            self.gpu or free is not None,
            "find_batch cannot tell on this system what memory is free; it needs a GPU or Linux.",
        )
        self.watched = None if free is None else int(_SHARE * free)
        self.limit = self.watched
        if memory_limit is not None and not self.gpu:
            have = f"memory_limit={memory_limit}: this machine has {free / GIB:.1f} GiB free; give as much or less"
            require(memory_limit * GIB <= free, f"{have}.")
            self.limit = self.watched = int(memory_limit * GIB)
        self.context = start_fork_server(in_own_process.__module__)

    def words_with(self, size: int) -> tuple[dict[str, Any], dict[str, str]]:
        """The values and sources of the command with this per_gpu_batchsize."""
        sources = {key: self.resolver.sources[key] for key in self.resolver.given} | {"per_gpu_batchsize": "given"}
        return self.resolver.raw | {"per_gpu_batchsize": size}, sources

    def sizes(self) -> list[int]:
        """The sizes that the rules of the settings allow, ascending.

        Raises:
            SettingsError: none is allowed.
        """
        batch, allowed, problem = self.resolver["batch_size"], [], None
        for size in (size for size in range(1, batch + 1) if batch % size == 0):
            try:
                ConfigResolver(*self.words_with(size))
                allowed.append(size)
            except SettingsError as error:
                problem = error
        if not allowed:
            raise problem
        return allowed

    def fits(self, size: int) -> bool:
        """Tries a size.

        Raises:
            UserError: the run is refused, or ends otherwise.
        """
        said, says = self.context.Pipe(duplex=False)
        how = (self.steps, self.memory_limit, multiprocessing.get_start_method(), says)
        child = self.context.Process(target=in_own_process, args=(*self.words_with(size), *how))
        child.start()
        says.close()  # so that what is read ends with the child
        try:
            trial, peak, killed = self._watch(child, said)
        finally:
            child.kill()
            child.join()
        if isinstance(trial, UserError):
            raise trial
        ended = f"per_gpu_batchsize={size}: its process has ended with status {child.exitcode}, as it says above"
        require(trial is not None or killed, ended)
        self.tried[size] = trial = trial and (trial._replace(memory=peak) if trial.memory is None else trial)
        self.limit = self.limit if trial is None or trial.limit is None else trial.limit
        say(f"per_gpu_batchsize={size}: {', '.join(filter(None, _cells(trial)))}", error=True)
        return trial is not None

    def _watch(self, child: Any, said: Any) -> tuple[Trial | UserError | None, int, bool]:
        """What a try says, the most main memory that it has held, and whether it did not fit."""
        peak, loaders, counted = 0, 0, time.monotonic()
        while not said.poll(_LOOK):
            if time.monotonic() - counted > _COUNT:
                loaders, counted = max(loaders, memory_of_children(child.pid)), time.monotonic()
            peak = max(peak, peak_memory(child.pid) + loaders)
            if self.watched is not None and peak > self.watched:
                return None, peak, True
        peak = max(peak, peak_memory(child.pid) + loaders)
        try:
            answer = said.recv()
        except (EOFError, OSError):
            child.join()
            return None, peak, child.exitcode == -signal.SIGKILL  # the system was quicker
        child.join(_GRACE)
        return answer, peak, answer is None


def largest_fitting(sizes: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """The largest of ascending sizes that fits, by bisection; None where none does."""
    low, high = -1, len(sizes)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(sizes[middle]) else (low, middle)
    return sizes[low] if low >= 0 else None


def find_batch(resolver: ConfigResolver, steps: int, memory_limit: float | None) -> None:
    """Prints what each size that was tried took, and the largest that fits.

    Raises:
        UserError: as a run, or none fits.
    """
    devices.check_devices(resolver)
    with StopSignals():
        search = Search(resolver, steps, memory_limit)
        sizes = search.sizes()
        found = largest_fitting(sizes, search.fits)
    rows = [("per_gpu_batchsize", "memory", "speed")]
    rows += [(str(size), *_cells(trial)) for size, trial in sorted(search.tried.items())]
    say(table(rows, indent=""))
    what = "GPU" if search.gpu else "main"
    space = f"{search.limit / GIB:.2f} GiB of {what} memory" if search.limit else f"the {what} memory"
    if found is None:
        raise UserError(
            f"per_gpu_batchsize={sizes[0]}, the smallest that these settings allow, does not fit into {space}; give a smaller "
            "model or image_size, gradient_checkpointing=True, or precision=bf16-mixed."
        )
    whole = f"; it is all of batch_size={resolver['batch_size']}" if found == resolver["batch_size"] else ""
    say(f"the largest that fits into {space}{whole}; add to the words of the run:\nper_gpu_batchsize={found}")


def _cells(trial: Trial | None) -> tuple[str, str]:
    return ("does not fit", "") if trial is None else (f"{trial.memory / GIB:.2f} GiB", f"{trial.speed:.1f} samples/s")
