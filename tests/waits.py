"""Finds what would make the processor wait for a GPU, on a machine without one.

On a CPU every tensor is at hand. So it is followed which tensors would lie on the device: parameters, buffers and the batch, and
all that is computed from one of these, in the backward pass too. Where one of them is read by the processor, or where numbers of
the processor are put among them by a copy that blocks, the processor would wait until the device has done all it was asked for.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning.strategies import Strategy
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from renaissance.training.loop import Loop

# Operations whose result, or its size, the processor has to know; all reads of single numbers end in the first.
READS = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "bincount"}
READS |= {"unique_consecutive", "unique_dim_consecutive", "is_nonzero", "item", "argwhere", "histc"}
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
# Methods that reach a CPU's memory without an operation.
METHODS = {"tolist", "numpy", "cpu", "__array__", "data_ptr", "__repr__", "__format__"}
MAKERS = {"tensor", "as_tensor", "from_numpy", "new_tensor", "asarray", "frombuffer"}


class Watch:
    """What is found while it watches.

    Attributes:
        found: a line for each wait: the operation, and where in the program.
        operations: how many were seen, so that a test can tell that it has watched.
    """

    def __init__(self) -> None:
        self.found: list[str] = []
        self.operations = 0
        # By place in memory; a weak reference keeps the place from being taken by another.
        self._device: dict[int, StorageWeakRef] = {}
        self._host: dict[int, StorageWeakRef] = {}

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with _Methods(self), _Operations(self):
            yield

    def puts_on_device(self, values: Any) -> None:
        """Tensors that lie on the device, in any structure."""
        for tensor in _tensors(values):
            self._mark(self._device, tensor)
            self._host.pop(_place(tensor), None)

    def of_processor(self, values: Any) -> None:
        """Tensors that lie in the processor's memory."""
        for tensor in _tensors(values):
            self._mark(self._host, tensor)

    def _mark(self, where: dict[int, StorageWeakRef], tensor: Tensor) -> None:
        if (place := _place(tensor)) not in where:
            where[place] = StorageWeakRef(tensor.untyped_storage())

    def on_device(self, tensor: Tensor) -> bool:
        """Whether it lies there."""
        return _place(tensor) in self._device

    def on_host(self, tensor: Tensor) -> bool:
        """Whether it was made of numbers of the processor, or copied to it."""
        return _place(tensor) in self._host

    def wait(self, what: str) -> None:
        """Notes a wait, and the line of the program that asked for it."""
        frames = [frame for frame in traceback.extract_stack() if "/torch/" not in frame.filename][:-2]
        frames = [frame for frame in frames if frame.filename != __file__]
        self.found.append(f"{what} by {frames[-1].filename}:{frames[-1].lineno} {frames[-1].line}")


class _Operations(TorchDispatchMode):
    def __init__(self, watch: Watch):
        super().__init__()
        self.watch = watch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        watch, kwargs, name = self.watch, kwargs or {}, func.overloadpacket.__name__
        inputs = _tensors(args) + _tensors(kwargs)
        here = [tensor for tensor in inputs if watch.on_device(tensor)]
        watch.operations += 1
        if name == "copy_" and here and (kwargs.get("non_blocking") or args[2:3] == (True,)):
            result = func(*args, **kwargs)
            if not watch.on_device(args[0]):
                watch.of_processor(args[0])
            return result
        if here:
            if name in READS or (name == "repeat_interleave" and kwargs.get("output_size") is None):
                watch.wait(name)
            if name in INDEXED and any(each.dtype in (torch.bool, torch.uint8) for each in _tensors(args[1])):
                watch.wait(f"{name} with a mask")
            if any(watch.on_host(tensor) for tensor in inputs):
                watch.wait(f"a copy that blocks, for {name},")
        result = func(*args, **kwargs)
        if here:
            watch.puts_on_device(result)
        elif any(watch.on_host(tensor) for tensor in inputs):
            watch.of_processor(result)
        return result


class _Methods(TorchFunctionMode):
    def __init__(self, watch: Watch):
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        watch, kwargs, name = self.watch, kwargs or {}, getattr(func, "__name__", "")
        here = any(watch.on_device(tensor) for tensor in _tensors(args))
        if here and (name in METHODS or (name == "to" and "cpu" in args[1:])):
            watch.wait(name)
        if here and name in ("__getitem__", "__setitem__"):
            indices = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(index, list) for index in indices):
                watch.wait("a list as an index")
        result = func(*args, **kwargs)
        if name in MAKERS:  # a single number goes along with the next operation, and there is nothing of none
            watch.of_processor(
                [made for made in _tensors(result) if made.numel() and (made.ndim or "device" in kwargs)]
            )
        if name == "to" and kwargs.get("non_blocking") and watch.on_host(result):
            watch.puts_on_device(result)
        return result


def _tensors(values: Any) -> list[Tensor]:
    """All tensors of a structure."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, list | tuple):
        return []
    return [tensor for value in values for tensor in _tensors(value)]


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def watch_steps(patch: Callable[..., None]) -> Watch:
    """Watches all training steps of runs from now on, and what is reported of them; not saves and validations.

    Args:
        patch: sets an attribute, as `monkeypatch.setattr` does.
    """
    watch = Watch()
    step, report = Strategy.training_step, Loop._report

    def watched_step(self: Strategy, item: Any, number: int) -> Any:
        module = self.lightning_module
        watch.puts_on_device([*module.parameters(), *module.buffers(), getattr(item, "micro_batches", ())])
        with watch():
            return step(self, item, number)

    def watched_report(self: Loop, *args: Any, **options: Any) -> None:
        with watch():
            report(self, *args, **options)

    patch(Strategy, "training_step", watched_step)
    patch(Loop, "_report", watched_report)
    return watch
