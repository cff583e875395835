"""Rank zero first: it downloads, checks files and builds while the other processes wait, and shares what it has decided.

So one asks the network, refuses and checks, and all processes go on with the same checkpoint. They meet in a TCPStore at the
address where torch itself will bring them together.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from torch.distributed import DistNetworkError, DistStoreError, PrefixStore, Store, TCPStore

from renaissance.core.console import say
from renaissance.core.errors import Stopped, UserError, first_line
from renaissance.core.launch import PYTHON, Launch, launch_environment

from .devices import cluster_environment

# Seconds that a process waits for the first: a download, or the check of millions of images, takes long.
PATIENCE = 2 * 3600
_TO_START = 600  # seconds between the start of the first process and that of the last
_REMIND = 60  # seconds between two sentences that say so
_POLL = 2  # seconds between two looks for a signal, which torch's own wait does not hear
_LINGER = 10  # seconds that a first process which has been refused keeps the store for the others
_KEPT: list[Store] = []  # torch meets at the same port later, so the store has to stay


@contextlib.contextmanager
def rank_zero_first(num_nodes: int) -> Iterator[dict[str, Any]]:
    """Around all that leads to a run. The processes that plain python starts begin behind it, and need not wait.

    Args:
        num_nodes: machines, of processes that neither torchrun nor srun has started.

    Yields:
        A dictionary of plain values that the first process fills and the others find filled.

    Raises:
        UserError: the first process is gone, took too long, or has what this one does not find.
        Stopped: the first process has ended, as it says itself.
    """
    launch = launch_environment()
    shared: dict[str, Any] = {}
    if launch.launcher == PYTHON and (num_nodes == 1 or os.environ.get("LOCAL_RANK", "0") != "0"):
        yield shared
    elif launch.is_rank_zero:
        yield from _first(_store(launch), shared, (launch.per_node or 1) * (launch.nodes or num_nodes) - 1)
    else:
        shared |= _wait_for_first(_store(launch))
        try:
            yield shared
        except UserError as error:
            raise UserError(
                f"{error} (The first process has it: caches and data must be on a disk that all machines share, or on each.)"
            ) from error


def _first(store: Store, shared: dict[str, Any], others: int) -> Iterator[dict[str, Any]]:
    try:
        yield shared
    except BaseException:
        store.set("ready", "")
        end = time.monotonic() + _LINGER
        while time.monotonic() < end and store.add("heard", 0) < others:
            time.sleep(0.1)
        raise
    store.set("ready", json.dumps(shared))


def _wait_for_first(store: Store) -> dict[str, Any]:
    began = said_at = time.monotonic()
    while True:
        try:
            store.wait(["ready"], timedelta(seconds=_POLL))
        except DistNetworkError:
            raise UserError("The first process of this run ended before it was ready, so this one ends too.") from None
        except DistStoreError:  # not yet
            waited = time.monotonic() - began
            if waited > PATIENCE:
                raise UserError(f"The first process was not ready after {PATIENCE / 3600:.0f} hours.") from None
            speaks = (
                os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0"
                or launch_environment().nodes == 1
            )
            if speaks and time.monotonic() - said_at > _REMIND:
                said_at = time.monotonic()
                say(f"waits for the first process, which downloads and checks ({waited / 60:.0f} min)", error=True)
        else:
            break
    said = store.get("ready").decode()
    store.add("heard", 1)
    if not said:
        raise Stopped("the first process has ended", 0)
    return json.loads(said)


def _store(launch: Launch) -> Store:
    """The store of all processes; torchrun's agent keeps it for those that it starts, else the first process does."""
    environment = cluster_environment()
    host, port = environment.main_address, environment.main_port
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store = TCPStore(
            host,
            port,
            is_master=launch.is_rank_zero and not agent,
            timeout=timedelta(seconds=_TO_START),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except (DistNetworkError, DistStoreError) as error:
        what = "cannot be opened" if launch.is_rank_zero else f"was not there within {_TO_START // 60} minutes"
        raise UserError(
            f"The rendezvous address of this run, {host}:{port}, {what} ({first_line(error)}); is the port "
            "free (MASTER_PORT), and can the machines reach each other?"
        ) from None
    _KEPT.append(store)
    # torchrun starts processes again beside the same store.
    return PrefixStore(f"renaissance/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
