"""Several processes of one command, which share its parts by their locks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import NoReturn

import torch

from renaissance.core.errors import UserError
from renaissance.core.signals import STOP_SIGNALS

from .features import Encoder, EncodingPlan, bar_of

_GRACE = 10  # seconds that a process has to remove its temporary files
_LOOK = 0.5  # seconds between two looks at what there is, at least
_LOOKED = 500  # parts that are looked at in a second: each is two requests to a file system


def device_of(rank: int) -> str:
    """The device of a process: a GPU of its own in turn, or the CPU."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return f"cuda:{rank % count}" if count else "cpu"


def fill(plan: EncodingPlan, processes: int) -> None:
    """Makes what is missing, in this process or in several.

    Raises:
        UserError: what one of them says; the others are ended, and what is written stays.
    """
    if processes == 1:
        Encoder(plan, device_of(int(os.environ.get("LOCAL_RANK") or 0))).fill()
        return
    # What a terminal or Slurm sends to every process: the first one ends the others, which have it blocked from their start.
    held = {signal.SIGINT, signal.SIGHUP, signal.SIGUSR1}
    context, method = multiprocessing.get_context("spawn"), multiprocessing.get_start_method()
    resource_tracker.ensure_running()  # it lets signals in again
    children: list[tuple[BaseProcess, Connection]] = []
    parts, failed = plan.parts(), []
    missing = [part for part in parts if part.is_missing()]
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, held)
        try:
            for rank in range(processes):
                said, says = context.Pipe(duplex=False)
                child = context.Process(target=_child, args=(plan, rank, processes, method, says))
                children.append((child, said))
                child.start()
                says.close()  # so that what is read ends with the child
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, held)
        with bar_of(parts, missing) as bar:
            alive = [child for child, _ in children]
            while alive and not failed:
                wait([child.sentinel for child in alive], max(_LOOK, len(missing) / _LOOKED))
                alive = [child for child in alive if child.is_alive()]
                failed = [child.exitcode for child, _ in children if child.exitcode]
                missing = [part for part in missing if part.is_missing()]
                bar.update(bar.total - sum(part.size for part in missing) - bar.n)
    finally:
        _end([child for child, _ in children if child.pid is not None])
    if failed:  # the others were ended here
        lost = f"num_processes={processes}: a process has ended with status {failed[0]}"
        memory = "most often the machine has run out of memory: give fewer num_processes, or a smaller batch_size"
        why = memory if -signal.SIGKILL in failed else "give the same command again, and it goes on"
        raise next(filter(None, (_error(said) for _, said in children)), UserError(f"{lost}; {why}."))


def _error(said: Connection) -> UserError | None:
    """What a process that has ended raised; None where it raised nothing, or did not say all of it."""
    try:
        return said.recv() if said.poll(_LOOK) else None  # its loaders, too, hold an end until they find it gone
    except (EOFError, OSError):
        return None


def _end(children: Sequence[BaseProcess]) -> None:
    """Ends processes; what a second signal would leave of them stays behind, so it counts no more."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOP_SIGNALS}
    try:
        for child in children:
            child.terminate()
        end = time.monotonic() + _GRACE
        for child in children:
            child.join(max(0.0, end - time.monotonic()))
            child.kill()
            child.join()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _child(plan: EncodingPlan, rank: int, processes: int, method: str, says: Connection) -> None:
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()
    multiprocessing.set_start_method(method, force=True)  # of loaders, as in a single process; it was spawned itself
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    try:
        Encoder(plan, device_of(rank)).fill(rank, processes, shows=False)
    except UserError as error:
        says.send(error)
        raise SystemExit(1) from None


def _leave(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once
    raise SystemExit(128 + signal.SIGTERM)  # its work is not done


def _watch(parent: int) -> None:
    """Ends this process where the one that started it was killed."""
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os.kill(os.getpid(), signal.SIGTERM)
