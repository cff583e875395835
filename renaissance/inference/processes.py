"""Several processes of one command, which share its parts by their locks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from typing import NoReturn

import torch

from renaissance.core.errors import UserError

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
    context = multiprocessing.get_context("spawn")
    said: Queue[str] = context.Queue()
    children: list[BaseProcess] = [
        context.Process(target=_child, args=(plan, rank, processes, said)) for rank in range(processes)
    ]
    parts = plan.parts()
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which they keep: the first process ends them
        try:
            for child in children:
                child.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        with bar_of(parts) as bar:
            runs = True
            while runs:
                runs = any(child.is_alive() for child in children) and not any(child.exitcode for child in children)
                bar.update(sum(part.size for part in parts if not part.is_missing()) - bar.n)
                time.sleep(_LOOK if runs else 0)
    finally:
        for child in [each for each in children if each.pid is not None]:
            child.terminate()
            child.join(_GRACE)
            child.kill()
            child.join()
    if failed := [child.exitcode for child in children if child.exitcode]:
        raise UserError(said.get() if not said.empty() else f"a process has ended with status {failed[0]}.")


def _child(plan: EncodingPlan, rank: int, processes: int, said: Queue[str]) -> None:
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    try:
        Encoder(plan, device_of(rank)).fill(rank, processes, shows=False)
    except UserError as error:
        said.put(str(error))
        said.close()
        said.join_thread()
        raise SystemExit(1) from None


def _leave(*_: object) -> NoReturn:
    raise SystemExit(0)


def _watch(parent: int) -> None:
    """Ends this process where the one that started it was killed."""
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os.kill(os.getpid(), signal.SIGTERM)
