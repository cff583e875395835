"""`python run.py find_batch with <the words of a run>`: the largest per_gpu_batchsize that fits into memory, measured.

Takes every setting of a run too, as `python run.py with --help` lists them, and keeps nothing of the steps.
"""

from renaissance.core.checks import integer, number
from renaissance.core.errors import require
from renaissance.core.launch import lasting_imports
from renaissance.settings.resolver import ConfigResolver


# fmt: off
class FindBatch:
    """The search"""

    memory_limit: number(0.1, 1e6) = None  # GiB that a run may take; None = of a GPU all that is free; without one 90 % of the free main memory
    steps_per_trial: integer(2, 1000) = 3  # optimizer steps of each size that is tried
# fmt: on


def main(resolver: ConfigResolver, memory_limit: float | None, steps_per_trial: int) -> None:
    """Prints what sizes take, and the largest that fits.

    Raises:
        UserError: as a run, or none fits.
    """
    gpus, nodes = resolver["num_gpus"], resolver["num_nodes"]
    share = resolver["batch_size"] // (gpus * nodes)
    require(
        gpus * nodes == 1,
        f"num_gpus={gpus}, num_nodes={nodes}: find_batch measures one process; give num_gpus=1 num_nodes=1 batch_size={share}, the "
        "share of each, and the run what it finds.",
    )
    with lasting_imports():
        from renaissance.training.tuning.batches import find_batch

    find_batch(resolver, steps_per_trial, memory_limit)
