"""Worker processes of a loader: how they start, what they share with their parent process, and how they end with it."""

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
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from multiprocessing.process import current_process, parent_process
from typing import Any

import torch

from renaissance.core.errors import require
from renaissance.core.launch import REPOSITORY
from renaissance.core.signals import STOP_SIGNALS

_SOCKETS_FIT = 60  # characters of a folder whose sockets still have a name of at most 104, as macOS has it


def start_method() -> BaseContext | None:
    """Returns the start method of workers; None = the default of the system.

    With several training processes it is a fork server: torch's process groups start and end threads, and a process that is
    forked at such a moment hangs (in Python 3.11 its list of threads stays locked).
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    return start_fork_server()


def start_fork_server(*modules: str) -> BaseContext:
    """Starts what the workers of a run of several processes are forked from, unless it runs; returns the start method.

    Its imports take seconds, in which this process goes on with its own: call it as early as it is known.

    Args:
        modules: that it imports besides torch and transformers.
    """
    prepare_workers()  # it hands down what it has been given
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["renaissance.data.preloaded", *modules]
    )  # torch and transformers, once for all workers
    # Older Pythons do not hand their path down, and what cannot be imported is left to each worker, without a word.
    paths = [str(REPOSITORY), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    forkserver.ensure_running()
    return context


def prepare_workers() -> None:
    """Sets what workers inherit: one thread for their tokenizers, a folder for their sockets, open files.

    Raises:
        UserError: as `make_socket_folder`.
    """
    # Else a tokenizer that has used threads in this process prints a warning in every worker.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    make_socket_folder()
    raise_file_limit()


def start_worker(_: int) -> None:
    """Prepares a worker: ignores the signals that stop a run, which still needs the loaded steps; ends with the parent."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sys.stderr = _SilentAfterParent(sys.stderr)
    threading.Thread(target=_end_with_parent, daemon=True, name="end-with-parent").start()


class _SilentAfterParent:
    """stderr of a worker that prints nothing after the parent has ended: what then fails in the worker is no error."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if wait([parent_process().sentinel], 0) else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _end_with_parent() -> None:
    # Workers that were forked later hold an end of the pipes of those before them, so the last one ends first.
    wait([parent_process().sentinel])
    remove_socket_folder()
    os._exit(1)


def make_socket_folder() -> None:
    """Makes one folder for the sockets through which all workers of this process send tensors.

    Python makes one for each process, in TMPDIR however long its path is, and leaves those of killed processes behind.

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
    """Removes the folder of the sockets after the loaders have ended."""
    if folder := current_process()._config.pop("tempdir", None):
        shutil.rmtree(folder, ignore_errors=True)


def leave_socket_folder() -> None:
    """In a process with loaders of its own: the folder that it has inherited is of the one that started it, which needs it."""
    current_process()._config.pop("tempdir", None)


def raise_file_limit() -> None:
    """Raises this process's limit of open files to the maximum.

    Each tensor that a worker sends is an open file until it is released. Prefetched steps of many micro-batches hold
    hundreds; the usual limit of 1024 would end the run with "Too many open files".
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS calls its limit infinite and refuses infinity
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
