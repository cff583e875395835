"""The loaders: one item is one optimizer step of this process, a list of micro-batches.

    TrainSteps / EvalBatches -> list[Draw] -> Source.example -> list[Example] -> Collate -> list[Batch]

All of it happens in one worker for one step, so the number of workers changes nothing but the speed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.context import BaseContext

import torch
from torch.utils.data import DataLoader, Dataset

from renaissance.data.collate import Collate
from renaissance.data.sampler import Draw, EvalBatches, TrainSteps
from renaissance.errors import UserError
from renaissance.signals import ASKING
from renaissance.types import Batch

try:
    import resource
except ImportError:  # not a POSIX system, which has no such limit
    resource = None

_PREFETCHED_STEPS = 2  # a worker; a step may be many micro-batches, so more would be memory rather than speed


class StepView(Dataset[list[Batch] | UserError]):
    """A map-style view of the data whose item, indexed by the draws of a step, is that step's micro-batches.

    A `UserError` is returned, not raised: the DataLoader would turn what a worker raises into a page of traceback.
    """

    def __init__(self, collate: Collate) -> None:
        self.collate = collate

    def __getitem__(self, draws: Sequence[Draw]) -> list[Batch] | UserError:
        try:
            return self.collate([self.collate.source.example(draw) for draw in draws])
        except UserError as error:
            return error


class StepLoader(DataLoader):
    """A DataLoader over the steps of a sampler; one item is `list[Batch]`.

    Args:
        sampler: yields the draws of each step.
        collate: builds the micro-batches of a step.
        num_workers: worker processes; 0 loads in this process. Each worker uses one thread.
        pin_memory: put the tensors in page-locked memory, for a faster copy to a GPU.
        raises: False: the item of a step that cannot be loaded is its `UserError`, and whoever trains saves before it ends.

    Raises:
        UserError: while iterating, for a picture that cannot be decoded, with its file and row; for a file that has changed;
            for a worker that has died.
    """

    def __init__(
        self,
        sampler: TrainSteps | EvalBatches,
        collate: Collate,
        num_workers: int,
        pin_memory: bool,
        *,
        raises: bool = True,
    ) -> None:
        self.raises = raises
        if num_workers:
            # Set before the fork: a tokenizer that this process used with threads prints a warning in every worker.
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
            _open_as_many_files_as_may_be()
        super().__init__(
            StepView(collate),
            sampler=sampler,
            batch_size=None,  # an item of the view is a whole step already
            collate_fn=_as_it_is,
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            prefetch_factor=_PREFETCHED_STEPS if num_workers else None,
            worker_init_fn=_leave_stopping_to_the_trainer,
            multiprocessing_context=_start_of_workers() if num_workers else None,
        )

    def __iter__(self) -> Iterator[list[Batch] | UserError]:
        for item in self._items():
            if isinstance(item, UserError) and self.raises:
                raise item
            yield item

    def _items(self) -> Iterator[list[Batch] | UserError]:
        handler = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
        items = super().__iter__()
        if handler is not None and threading.current_thread() is threading.main_thread():
            # torch raises from a handler of its own, in the midst of an optimizer's step, say; it also looks when it waits.
            signal.signal(signal.SIGCHLD, handler)
        try:
            yield from items
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            yield self._why(error)

    def _why(self, error: RuntimeError) -> UserError:
        """Why a worker has died: a file that was cut under it, or else most often want of memory."""
        dataset = self.dataset.collate.source.dataset
        try:
            if (refuse := getattr(getattr(dataset, "dataset", dataset), "refuse_changed", None)) is not None:
                refuse()
        except UserError as changed:
            return changed
        return UserError(
            f"num_workers={self.num_workers}: a loader process has died ({str(error).splitlines()[0]}). Most often the "
            "machine has run out of memory: give fewer num_workers, or more memory."
        )


def _start_of_workers() -> BaseContext | None:
    """How workers start; None as the system does.

    Among several processes by a fork server: threads of torch's process groups come and go in Python, and a process that is
    forked in such a moment never wakes up (Python 3.11; its list of threads is locked for good).
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["renaissance.data.collate"])  # torch and transformers, once for all workers
    return context


def _leave_stopping_to_the_trainer(_: int) -> None:
    """In a worker: what asks a run to stop reaches all of its processes, and the steps that are loaded are still wanted."""
    for number in ASKING:
        signal.signal(number, signal.SIG_IGN)


def _open_as_many_files_as_may_be() -> None:
    """Raises this process's limit of open files as far as the system lets it.

    Every tensor that a worker sends is an open file here until it is released, and the steps in flight hold hundreds
    where they are cut into many micro-batches; the usual limit of 1024 would end the run with "Too many open files".
    """
    if resource is not None:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(ValueError, OSError):  # macOS calls its limit infinite and refuses infinity
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _as_it_is(item: list[Batch] | UserError) -> list[Batch] | UserError:
    return item
