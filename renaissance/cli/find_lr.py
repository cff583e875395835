"""`python run.py find_lr with <the words of a run>`: the learning rate range test (Smith 2017) on a run's first steps.

Takes every setting of a run too, as `python run.py with --help` lists them, and keeps nothing of the steps.
"""

from pathlib import Path

from renaissance.core.checks import integer, number, path, require_empty
from renaissance.core.errors import require
from renaissance.core.launch import lasting_imports
from renaissance.settings.resolver import ConfigResolver


# fmt: off
class FindLr:
    """The range test"""

    min_lr: number(1e-12, 1e6) = 1e-8  # learning rate of the first step, before the multipliers of fusion and heads
    max_lr: number(1e-12, 1e6) = 1.0  # learning rate of the last step, unless the loss diverges before
    num_training: integer(20, 100_000) = 100  # steps
    output: path("a folder") = None  # new folder for the curve as find_lr.csv, .png and .svg; None = it is printed alone
# fmt: on


def main(resolver: ConfigResolver, min_lr: float, max_lr: float, num_training: int, output: str | None) -> None:
    """Prints the curve and the learning rate that it suggests.

    Raises:
        UserError: as a run, or nothing can be suggested.
    """
    require(
        min_lr < max_lr, f"min_lr={min_lr} is not below max_lr={max_lr}; the learning rate grows from one to the other."
    )
    if output is not None:
        require_empty(Path(output))
    with lasting_imports():
        from renaissance.training.tuning.rates import find_rate

    find_rate(resolver, min_lr, max_lr, num_training, output and Path(output))
