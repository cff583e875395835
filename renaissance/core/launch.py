"""How the processes of a run were started (plain python, torchrun or srun), and which of them this one is.

Plain python starts the other processes of its machine itself, once all is read and built. torchrun and srun have started all
of them, so what they say answers for `num_gpus` and `num_nodes`. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn

REPOSITORY = Path(__file__).parents[2]  # where run.py and scripts/ are, in a checkout
PYTHON, TORCHRUN, SRUN = "python", "torchrun", "srun"
_RANK_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "GROUP_RANK", "RANK", "LOCAL_RANK", "WORLD_SIZE",
                   "LOCAL_WORLD_SIZE")  # fmt: skip
_LOOKS, _BETWEEN_LOOKS = 5, 0.004  # seconds; a single look meets what runs for a moment


class Launch(NamedTuple):
    """How this process was started.

    Attributes:
        launcher: "python", "torchrun" or "srun".
        is_rank_zero: whether it is global rank 0, which writes and prints.
        per_node, nodes: processes per node and number of nodes; None for plain python, where the settings decide.
        processes: world size, if srun started them.
    """

    launcher: str
    is_rank_zero: bool
    per_node: int | None = None
    nodes: int | None = None
    processes: int | None = None


def launch_environment(environment: Mapping[str, str] = os.environ) -> Launch:
    """Reads from the environment variables how this process was started; an empty variable counts as not set."""
    found = {name: value for name, value in environment.items() if value}
    if "TORCHELASTIC_RUN_ID" in found:
        per_node, processes = int(found["LOCAL_WORLD_SIZE"]), int(found["WORLD_SIZE"])
        return Launch(TORCHRUN, found["RANK"] == "0", per_node, processes // per_node)
    # A shell that srun has opened is one task of a step; python in it starts its processes itself.
    tasks = int(found.get("SLURM_STEP_NUM_TASKS", "1")) if "SLURM_STEP_ID" in found else 1
    if tasks > 1 and "LOCAL_RANK" not in found:
        nodes = int(found["SLURM_STEP_NUM_NODES"])
        return Launch(SRUN, found["SLURM_PROCID"] == "0", tasks // nodes, nodes, tasks)
    return Launch(PYTHON, int(found.get("NODE_RANK", "0")) == int(found.get("LOCAL_RANK", "0")) == 0)


def prepare_environment() -> None:
    """Environment variables as libraries are to read them: none is empty, and only rank 0 asks the Hub."""
    for name in _RANK_VARIABLES:
        if os.environ.get(name) == "":
            del os.environ[name]
    if not launch_environment().is_rank_zero:
        os.environ["HF_HUB_OFFLINE"] = "1"  # the first has been there before (training/rank_zero_first.py)
    # Threads that wait spin by default. Beside other programs a step took up to five times as long so; alone, threads that
    # sleep take a quarter more.
    if are_cores_busy():
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def are_cores_busy(loadavg: str = "/proc/loadavg") -> bool:
    """Whether other programs run now on the cores that this process's threads will want; False where nobody knows."""
    running = []
    for _ in range(_LOOKS):
        time.sleep(_BETWEEN_LOOKS)
        try:
            running.append(int(Path(loadavg).read_text(encoding="ascii").split()[3].split("/")[0]) - 1)
        except (OSError, ValueError, IndexError):
            return False
    return statistics.median(running) + available_cores(1) > (os.cpu_count() or 1)


@contextlib.contextmanager
def lasting_imports() -> Iterator[None]:
    """Around the first import of torch, transformers and Lightning: a quarter less time.

    They make about a million objects that all stay, and Python's collector would search them again and again meanwhile. It does
    not search them later either: collections of a run, and of the loader processes that share this memory, are quicker.
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()


def check_launch(values: Mapping[str, object], given: frozenset[str]) -> tuple[Launch, list[str]]:
    """How this process was started, and how it contradicts the settings.

    Args:
        values: of the command's settings. given: keys that the command names.
    """
    launch = launch_environment()
    problems = []
    if launch.processes is not None and launch.per_node * launch.nodes != launch.processes:
        problems.append(
            f"srun has started {launch.processes} processes on {launch.nodes} machines, but each machine needs as many as the "
            "others: give srun --ntasks-per-node instead of --ntasks."
        )
    for key, number, what in (
        ("num_gpus", launch.per_node, "processes on each machine"),
        ("num_nodes", launch.nodes, "machines"),
    ):
        if number is not None and key in given and values[key] not in (None, number):
            problems.append(
                f"{key}={values[key]}, but {launch.launcher} has started this run with {number} {what}; give {key}={number}, or "
                f"leave {key} out."
            )
    return launch, problems


def exit_process(status: int) -> NoReturn:
    """Ends this process and its remaining loader processes.

    A distributed process, or one with loader processes, exits without Python's tear-down: threads of torch's process groups
    may abort in it, and Python would wait for the loaders. A process that rank 0 has started exits with 0: rank 0 reports how
    the run ended, and Lightning would kill rank 0 for any other status, perhaps while it saves.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # one more Ctrl-C has nothing left to interrupt
    children = multiprocessing.active_children()
    for child in children:
        child.kill()
    distributed = sys.modules.get("torch.distributed")
    in_group = distributed is not None and distributed.is_available() and distributed.is_initialized()
    if not (in_group or children):
        sys.exit(status)
    # NCCL does not tell the first process that this one has gone, so there Lightning has to.
    by_first = launch_environment().launcher == PYTHON and os.environ.get("LOCAL_RANK", "0") != "0"
    peers_notice = in_group and distributed.get_backend() == "gloo"
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if by_first and peers_notice else status)


def available_cores(processes_here: int = 1) -> int:
    """Number of CPU cores for this process, at least 1.

    Args:
        processes_here: processes of the run on this machine, which share its cores unless Slurm has assigned each its own.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    own = launch_environment().launcher == SRUN and cores <= int(os.environ.get("SLURM_CPUS_PER_TASK") or 0)
    return cores if own else max(1, cores // max(1, processes_here))
