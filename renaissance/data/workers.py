"""The worker processes of a loader: how they start, what they share with the trainer, and how they end with it."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
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

from renaissance.core.errors import UserError
from renaissance.core.signals import ASKING

try:
    import resource
except ImportError:  # not a POSIX system, which has no such limit
    resource = None

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


def start_worker(folder: str, _: int) -> None:
    """In a worker: what asks a run to stop reaches all of its processes, and the steps that are loaded are still wanted.

    Args:
        folder: of the sockets; who finds the trainer gone removes it.
    """
    for number in ASKING:
        signal.signal(number, signal.SIG_IGN)
    sys.stderr = _WhileThere(sys.stderr)
    threading.Thread(target=_end_with_trainer, args=(folder,), daemon=True, name="end-with-trainer").start()


def _trainer_has_gone(seconds: float = 0) -> bool:
    """Whether the trainer ends within so many seconds; it is not the parent of a worker that a fork server has started."""
    return bool(wait([parent_process().sentinel], seconds))


class _WhileThere:
    """stderr of a worker while its trainer lives: what breaks in the worker when the trainer has gone is nobody's business."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if _trainer_has_gone() else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _end_with_trainer(folder: str) -> None:
    # A worker that was forked later holds an end of the pipe of those before it, but not of its own, so the last one goes first.
    while not _trainer_has_gone(60):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def socket_folder() -> str:
    """The folder of the sockets through which workers send their tensors: one for all processes that this one starts.

    Python makes one in each process, in TMPDIR however long its path is, and leaves those of killed processes.

    Raises:
        UserError: no folder for temporary files has a path that is short enough.
    """
    folder = current_process()._config.get("tempdir")
    if folder and os.path.isdir(folder) and len(folder) <= _SOCKETS_FIT + 20:
        return folder
    places = [place for place in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm") if len(place) <= _SOCKETS_FIT]
    for place in places:
        with contextlib.suppress(OSError):
            folder = tempfile.mkdtemp(prefix="renaissance-s-", dir=place)
            current_process()._config["tempdir"] = folder
            atexit.register(remove_socket_folder)
            return folder
    raise UserError(
        f"TMPDIR={tempfile.gettempdir()} is too long for the sockets of loader processes; give one of at most {_SOCKETS_FIT} "
        "characters, or num_workers=0."
    )


def remove_socket_folder() -> None:
    """Removes the folder of the sockets, when the loaders have ended."""
    if folder := current_process()._config.pop("tempdir", None):
        shutil.rmtree(folder, ignore_errors=True)


def raise_file_limit() -> None:
    """Raises this process's limit of open files as far as the system lets it.

    Every tensor that a worker sends is an open file here until it is released, and the steps in flight hold hundreds
    where they are cut into many micro-batches; the usual limit of 1024 would end the run with "Too many open files".
    """
    if resource is not None:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(ValueError, OSError):  # macOS calls its limit infinite and refuses infinity
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
