"""Several processes of one command, which share its parts by their locks."""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue

import torch
from tqdm import tqdm

from renaissance.core.errors import UserError

from .features import Encoder, EncodingPlan

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
    bar = tqdm(total=sum(part.end - part.first for part in parts), desc="encoding", unit=" rows", dynamic_ncols=True)
    try:
        for child in children:
            child.start()
        with bar:
            while any(child.is_alive() for child in children):
                bar.update(sum(part.end - part.first for part in parts if not part.is_missing()) - bar.n)
                if any(child.exitcode for child in children):
                    break
                time.sleep(_LOOK)
            bar.update(sum(part.end - part.first for part in parts if not part.is_missing()) - bar.n)
    finally:
        for child in children:
            child.terminate()
            child.join()
    if failed := [child.exitcode for child in children if child.exitcode]:
        raise UserError(said.get() if not said.empty() else f"a process has ended with status {failed[0]}.")


def _child(plan: EncodingPlan, rank: int, processes: int, said: Queue[str]) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    try:
        Encoder(plan, device_of(rank)).fill(rank, processes, shows=False)
    except UserError as error:
        said.put(str(error))
        said.close()
        said.join_thread()
        raise SystemExit(1) from None
