"""The loaders: one item is one optimizer step of this process, a list of micro-batches.

    TrainSteps / EvalBatches -> list[Draw] -> Source.example -> list[Example] -> Collate -> list[Batch]

All of it happens in one worker for one step, so the number of workers changes nothing but the speed.
"""

from __future__ import annotations

import atexit
import math
import pickle
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from renaissance.core.errors import UserError, first_line
from renaissance.core.types import Batch

from .collate import Collate
from .sampler import Draw, EvalBatches, TrainSteps
from .workers import prepare_workers, start_method, start_worker

_PREFETCHED_STEPS = 2  # by each worker; a step may be many micro-batches, so more would cost memory
_LOOK = 2  # seconds between two checks of workers that deliver nothing
_GRACE = 20  # seconds to wait for a step after the run was asked to stop
_PATIENCE = 1800  # seconds to wait for a step

# torch's handler would raise wherever the main thread is, such as in an optimizer's step; `_wait_for` finds dead workers.
torch.utils.data._utils.signal_handling._SIGCHLD_handler_set = True

_LOADERS: weakref.WeakSet[StepLoader] = weakref.WeakSet()


@atexit.register  # after multiprocessing's own, and so before it
def _kill_all() -> None:
    for loader in list(_LOADERS):
        loader.kill()


class StepDataset(Dataset[list[Batch] | UserError]):
    """A map-style data set indexed by the draws of a step; its items are the micro-batches of that step.

    A `UserError` is returned, not raised: the DataLoader would add the worker's traceback.
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
        raises: False = yield the `UserError` of a step that cannot be loaded, so that the trainer can save before it ends.
        stop_requested: whether the run was asked to stop; then it waits `_GRACE` seconds for a step.

    Raises:
        UserError: while iterating, for an image that cannot be decoded, with its file and row; for a file that has changed;
            for workers that have died, or deliver nothing.
    """

    def __init__(
        self,
        sampler: TrainSteps | EvalBatches,
        collate: Collate,
        num_workers: int,
        pin_memory: bool,
        *,
        raises: bool = True,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self.raises, self.stop_requested = raises, stop_requested
        if num_workers:
            prepare_workers()
            _LOADERS.add(self)
        super().__init__(
            StepDataset(collate),
            sampler=sampler,
            batch_size=None,  # an item is a whole step
            collate_fn=_identity,
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            prefetch_factor=_PREFETCHED_STEPS if num_workers else None,
            worker_init_fn=start_worker,
            multiprocessing_context=start_method() if num_workers else None,
        )

    def __iter__(self) -> Iterator[list[Batch] | UserError]:
        for item in self._items():
            if isinstance(item, UserError) and self.raises:
                raise item
            yield item

    def kill(self) -> None:
        """Ends the workers at once: they ignore signals, and Python would wait for them when it exits."""
        items, self._iterator = self._iterator, None
        workers = getattr(items, "_workers", ())
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join(_LOOK)
        if items is not None:
            items._shutdown = True  # torch's own shutdown takes locks that a killed worker may hold
            if getattr(items, "_worker_pids_set", False):  # else the next iterator with this one's id is refused
                torch.utils.data._utils.signal_handling._remove_worker_pids(id(items))
                items._worker_pids_set = False

    def _items(self) -> Iterator[list[Batch] | UserError]:
        if not self.num_workers:
            yield from super().__iter__()
            return
        try:
            items = self._start()
            while (item := self._wait_for(partial(next, items, None), _PATIENCE)) is not None:
                yield item
        except UserError as error:
            yield error
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
            if not self._lost_a_worker():
                raise
            yield self._cause(error)

    def _start(self) -> Iterator[list[Batch] | UserError]:
        """Returns torch's iterator; workers of the previous pass that are alive but do not answer are replaced."""
        if self._iterator is not None:
            try:
                return self._wait_for(super().__iter__, 3 * _LOOK)
            except UserError:
                self.kill()
        return super().__iter__()

    def _wait_for(self, call: Callable[[], Any], patience: float) -> Any:
        """Returns the result of a call that reads from the workers.

        It runs in a thread: reading the message of a worker that was killed while it sent it would block for ever.

        Raises:
            UserError: no result within `patience` seconds, or within `_GRACE` seconds after the run was asked to stop.
            ConnectionResetError: a worker has died.
        """
        answer: Future[Any] = Future()
        threading.Thread(target=_answer, args=(call, answer), daemon=True).start()
        began, stopping_since = time.monotonic(), math.inf
        while not wait([answer], _LOOK).done:
            now = time.monotonic()
            waited = now - began
            stopping_since = min(stopping_since, now if self.stop_requested() else math.inf)
            if waited > 2 * _LOOK and not _all_alive(self._iterator):
                raise ConnectionResetError("a loader process has ended while it sent a step")
            if waited > patience or now - stopping_since > _GRACE:
                raise UserError(
                    f"num_workers={self.num_workers}: the loader processes have delivered nothing for {waited:.0f} "
                    "seconds. Is the disk of data_root there? num_workers=0 shows what they are waiting for."
                )
        return answer.result()

    def _lost_a_worker(self) -> bool:
        """Whether a worker has died; its pipe breaks a moment before."""
        end = time.monotonic() + 2
        while _all_alive(self._iterator) and time.monotonic() < end:
            time.sleep(0.1)
        return not _all_alive(self._iterator)

    def _cause(self, error: Exception) -> UserError:
        """Why a worker has died: a data file was cut short while it was mapped; else most often too little memory."""
        dataset = self.dataset.collate.source.dataset
        try:
            if (refuse := getattr(getattr(dataset, "dataset", dataset), "refuse_changed", None)) is not None:
                refuse()
        except UserError as changed:
            return changed
        return UserError(
            f"num_workers={self.num_workers}: a loader process has died ({first_line(error)}). Most often the "
            "machine has run out of memory: give fewer num_workers, or more memory."
        )


def _answer(call: Callable[[], Any], answer: Future[Any]) -> None:
    try:
        answer.set_result(call())
    except BaseException as error:
        answer.set_exception(error)


def _all_alive(items: Any) -> bool:
    return all(worker.is_alive() for worker in getattr(items, "_workers", ()))


def _identity(item: list[Batch] | UserError) -> list[Batch] | UserError:
    return item
