"""Several processes of one command, which share its parts by their locks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import NoReturn

import torch

from renaissance.core.errors import UserError
from renaissance.core.signals import STOP_SIGNALS

from .features import Encoder, EncodingPlan, bar_of

_GRACE = 10  # seconds that a process has to remove its temporary files
_LOOK = 0.5  # seconds between two looks at the processes


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
    parts = plan.parts()
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, held)
        try:
            for rank in range(processes):
                said, says = context.Pipe(duplex=False)
                child = context.Process(target=_child, args=(plan, rank, processes, method, says))
                children.append((child, said))
                child.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, held)
        with bar_of(parts) as bar:
            runs = True
            while runs:
                runs = any(child.is_alive() for child, _ in children) and not any(
                    child.exitcode for child, _ in children
                )
                bar.update(sum(part.size for part in parts if not part.is_missing()) - bar.n)
                time.sleep(_LOOK if runs else 0)
    finally:
        _end([child for child, _ in children if child.pid is not None])
    if failed := [child.exitcode for child, _ in children if child.exitcode]:
        sentences = [said.recv() for _, said in children if said.poll()]
        lost = f"num_processes={processes}: a process has ended with status {failed[0]}"
        memory = "; most often the machine has run out of memory: give fewer num_processes, or a smaller batch_size"
        raise UserError(next(iter(sentences), f"{lost}{memory if failed[0] < 0 else ''}."))


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
        says.send(str(error))
        raise SystemExit(1) from None


def _leave(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once
    raise SystemExit(0)


def _watch(parent: int) -> None:
    """Ends this process where the one that started it was killed."""
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os.kill(os.getpid(), signal.SIGTERM)
