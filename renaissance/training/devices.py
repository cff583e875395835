"""Devices, precision, strategy and processes of a run: checked, and as arguments of a Trainer."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from pytorch_lightning.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

from renaissance.core.errors import UserError, first_line, require
from renaissance.core.launch import PYTHON, SRUN, TORCHRUN, available_cores, launch_environment
from renaissance.core.processor import is_amd, lacks_bf16
from renaissance.settings.resolver import ConfigResolver
from renaissance.settings.sections import Settings

from .lightning_state import delay_kill

_WATCH = 2  # seconds between two looks for the process that started this one
_TO_SAY = 10  # seconds in which a process that notices by itself that it is alone can say so


def check_devices(resolver: ConfigResolver) -> None:
    """Whether this machine has the devices that a command asks for.

    Raises:
        UserError: it has none, or fewer.
    """
    gpus = torch.cuda.device_count()
    wanted = resolver["num_gpus"] or 1
    require(
        gpus or resolver["accelerator"] != "gpu",
        "accelerator=gpu, but this machine has no GPU that torch can use; leave accelerator out to run on CPU.",
    )
    why = "accelerator=cpu trains without one" if gpus else "this machine has none that torch can use"
    require(
        not resolver["decode_on_gpu"] or (gpus and resolver["accelerator"] != "cpu"),
        f"decode_on_gpu=True needs a GPU, but {why}; leave decode_on_gpu out: loader processes decode then.",
    )
    require(
        not gpus or resolver["accelerator"] == "cpu" or wanted <= gpus,
        f"num_gpus={wanted}, but this machine has {gpus}; give num_gpus={gpus} or less.",
    )


def check_start(num_nodes: int) -> None:
    """Whether the processes of a run will find each other; also tells Lightning which of them this one is.

    Raises:
        UserError: several machines, and nothing that says which.
    """
    launch = launch_environment()
    rank_zero_only.rank = 0 if launch.is_rank_zero else max(1, rank_zero_only.rank)
    lacking = [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if not os.environ.get(name)]
    require(
        num_nodes == 1 or launch.launcher != PYTHON or not lacking,
        f"num_nodes={num_nodes} needs a start on each machine: submit scripts/slurm/pretrain.sbatch, run scripts/torchrun.sh on "
        "each, or set MASTER_ADDR, MASTER_PORT and NODE_RANK there.",
    )
    if launch.launcher == PYTHON and os.environ.get("LOCAL_RANK", "0") != "0":
        _end_with_parent()


@contextlib.contextmanager
def ignore_known_warnings() -> Iterator[None]:
    """Filters warnings of Lightning and torch about what is intended here."""
    with warnings.catch_warnings():
        for message in (
            "Found .* in eval mode",  # a frozen tower has to be
            ".*GPU available but not used",
            "The `srun` command is available",  # on a login node, say; it guesses, we do not (`cluster_environment`)
            "You have overridden .* in `LightningModule` but have passed in a `LightningDataModule`",  # and it uses the former
            "`broadcast_buffers` is deprecated",  # what torch 2.14 names instead has no counterpart in older ones
        ):
            warnings.filterwarnings("ignore", message=message)
        yield


@contextlib.contextmanager
def lost_process_is_one_sentence(processes: int) -> Iterator[None]:
    """Around what the processes of a run do together: where one has died, the others end with one sentence.

    Args:
        processes: how many.

    Raises:
        UserError: another process has ended; why, it has said itself.
    """
    try:
        with ignore_known_warnings():
            yield
    except RuntimeError as error:  # of gloo; torch has types of its own for NCCL, which are RuntimeErrors too
        if processes == 1 or not any(name in str(error) for name in ("gloo", "NCCL", "Connection", "ProcessGroup")):
            raise
        reason = re.sub(r"^\[[^\]]*\]\s*|\. .*", "", first_line(error))  # no places in torch's source, no jokes
        raise UserError(f"Another process of this run has ended, so this one ends too ({reason}).") from error


class _Bf16GradientDDP(DDPStrategy):
    """DDP that sends and averages gradients as bfloat16, in half the bytes of 32 bits."""

    def configure_ddp(self) -> None:
        super().configure_ddp()
        self.model.register_comm_hook(None, bf16_compress_hook)


def all_gather(value: Any) -> list[Any]:
    """A value of each process, in the order of their ranks. Collective: call on all ranks."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def sum_on_device(values: Tensor) -> Tensor:
    """Sum of tensors over all processes, on their devices: the processor does not wait. Collective: call on all ranks."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
    return values


def sum_on_host(values: list[float]) -> list[float]:
    """Sum of numbers over all processes, past their devices. Collective: call on all ranks."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    total = torch.tensor(values, dtype=torch.float64)
    torch.distributed.all_reduce(total, group=_host_group(torch.distributed.group.WORLD))
    return total.tolist()


@cache
def _host_group(world: Any) -> Any:
    """All processes, by gloo, whose messages need no device; NCCL's would be read by waiting for all that a GPU has to do."""
    backend = torch.distributed.get_backend(world)
    return world if backend == "gloo" else torch.distributed.new_group(backend="gloo")


def on_gpu(settings: Settings) -> bool:
    """Whether the run trains on GPUs."""
    return has_gpu(settings.machine.accelerator)


def has_gpu(accelerator: str) -> bool:
    """Whether a run with this accelerator trains on GPUs."""
    return accelerator != "cpu" and torch.cuda.is_available()


def trainer_arguments(settings: Settings) -> dict[str, Any]:
    """The arguments of a Trainer that name devices, nodes, strategy and precision."""
    machine, gpu = settings.machine, on_gpu(settings)
    set_float32_products(machine.float32_matmul_precision, cpu=not gpu)
    strategy: Any = "auto"
    if machine.processes > 1:
        delay_kill()
        # Every parameter that a task does not reach is frozen (unused_parameters.py), so nothing unused has to be searched for.
        strategy = (_Bf16GradientDDP if machine.strategy == "ddp_bf16" else DDPStrategy)(
            process_group_backend="nccl" if gpu else "gloo", broadcast_buffers=False, gradient_as_bucket_view=True
        )
        if not gpu:
            torch.set_num_threads(available_cores(machine.num_gpus))
    return {
        "accelerator": "gpu" if gpu else "cpu",
        "devices": machine.num_gpus,
        "num_nodes": machine.num_nodes,
        "strategy": strategy,
        "precision": machine.precision,
        "plugins": [cluster_environment()],
    }


def set_float32_products(precision: str, *, cpu: bool) -> None:
    """Sets how precisely, and on CPUs by which library, torch multiplies float32 matrices: for all of this process.

    Args:
        precision: as of `torch.set_float32_matmul_precision`. cpu: whether a CPU computes.
    """
    torch.set_float32_matmul_precision(precision)
    if cpu and precision == "highest" and is_amd():
        _take_onednn()


@contextlib.contextmanager
def float32_products(precision: str, *, cpu: bool) -> Iterator[None]:
    """The same for a while."""
    before = torch.get_float32_matmul_precision()
    set_float32_products(precision, cpu=cpu)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _take_onednn() -> None:
    """Makes torch multiply matrices by oneDNN, in full float32: on AMD's processors twice as fast as MKL.

    MKL, torch's default, has its best kernels for Intel's processors alone. torch gives float32 to oneDNN where the precision
    "medium" lets it compute in bfloat16 inside, which it does on processors with AMX alone, of which AMD has none. A product is
    compared with one in float64, in case a later one has.
    """
    torch.set_float32_matmul_precision("medium")
    left, right = torch.rand(2, 256, 256, generator=torch.Generator().manual_seed(0)).unbind()
    if not torch.allclose((left @ right).double(), left.double() @ right.double(), rtol=1e-5):
        torch.set_float32_matmul_precision("highest")


def precision_notes(settings: Settings) -> list[str]:
    """A line for the report where another precision is faster on this machine."""
    if settings.machine.precision != "bf16-mixed" or on_gpu(settings) or not lacks_bf16():
        return []
    return ["precision=bf16-mixed: this processor has no units for bfloat16; precision=32 is faster here"]


def cluster_environment() -> ClusterEnvironment:
    """Named, so that Lightning does not guess: it takes any allocation of Slurm for a start by srun, and waits."""
    launch = launch_environment()
    if launch.launcher == SRUN:
        os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(launch.per_node))  # srun --ntasks alone does not set it
        return SLURMEnvironment(auto_requeue=False)  # a run saves, and its script requeues (signals.py)
    return TorchElasticEnvironment() if launch.launcher == TORCHRUN else LightningEnvironment()


def _end_with_parent() -> None:
    """Ends this process when the one that started it has died: it may be waiting for that one on a GPU, for half an hour."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH)
        time.sleep(_TO_SAY)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()
