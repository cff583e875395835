"""The worker processes of a loader: how they start, what they share with the trainer, and how they end with it."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from multiprocessing.process import current_process, parent_process
from typing import Any

import torch

from renaissance.core.errors import require
from renaissance.core.signals import ASKING

_SOCKETS_FIT = 60  # characters of a folder whose sockets still have a name of at most 104, as macOS has it


def start_method() -> BaseContext | None:
    """How workers start; None as the system does.

    Among several processes by a fork server: threads of torch's process groups come and go in Python, and a process that is
    forked in such a moment never wakes up (Python 3.11; its list of threads is locked for good).
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["renaissance.data.collate"])  # torch and transformers, once for all workers
    return context


def start_worker(_: int) -> None:
    """In a worker: ignores signals that ask a run to stop, which wants the steps that are loaded, and ends with the trainer."""
    for number in ASKING:
        signal.signal(number, signal.SIG_IGN)
    sys.stderr = _WhileThere(sys.stderr)
    threading.Thread(target=_end_with_trainer, daemon=True, name="end-with-trainer").start()


class _WhileThere:
    """stderr of a worker while its trainer lives: what breaks in the worker when the trainer has gone is nobody's business."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if wait([parent_process().sentinel], 0) else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _end_with_trainer() -> None:
    # A worker that was forked later holds an end of the pipe of those before it, but not of its own, so the last one goes first.
    wait([parent_process().sentinel])
    remove_socket_folder()
    os._exit(1)


def make_socket_folder() -> None:
    """Makes the folder of the sockets through which workers send their tensors: one for all processes that this one starts.

    Python makes one in each process, in TMPDIR however long its path is, and leaves those of killed processes.

    Raises:
        UserError: no folder for temporary files has a path that is short enough.
    """
    folder = current_process()._config.get("tempdir")
    if folder and os.path.isdir(folder) and len(folder) <= _SOCKETS_FIT + 20:
        return
    usual = tempfile.gettempdir()
    short = (place for place in (usual, "/tmp", "/var/tmp", "/dev/shm") if len(place) <= _SOCKETS_FIT)
    place = next((place for place in short if os.access(place, os.W_OK)), None)
    most = f"give one of at most {_SOCKETS_FIT} characters, or num_workers=0"
    require(place, f"TMPDIR={usual} is too long for the sockets of loader processes; {most}.")
    current_process()._config["tempdir"] = tempfile.mkdtemp(prefix="renaissance-s-", dir=place)
    atexit.register(remove_socket_folder)


def remove_socket_folder() -> None:
    """Removes the folder of the sockets, when the loaders have ended."""
    if folder := current_process()._config.pop("tempdir", None):
        shutil.rmtree(folder, ignore_errors=True)


def raise_file_limit() -> None:
    """Raises this process's limit of open files as far as the system lets it.

    Every tensor that a worker sends is an open file here until it is released, and the steps in flight hold hundreds
    where they are cut into many micro-batches; the usual limit of 1024 would end the run with "Too many open files".
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS calls its limit infinite and refuses infinity
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
