"""Rows to numbers, intervals and comparisons.

Honest numbers: the rows of a whole split, intervals by bootstrap, and what is printed and kept of them.

    rows of each process -> gather_rows -> frame -> the task's score -> lines, predictions/<task>_<split>.parquet

A *frame* has one row an example, sorted by `position` (in the data set): `id`, `prediction`, `target` (None = hidden),
`score` (NaN = hidden), and columns of the task's. Rows that share a value of the column `group` (the pairs that NLVR2
shows with one sentence) are no independent examples: the bootstrap then draws groups.
"""

from .frames import gather_rows, write_predictions
from .intervals import Paired, bootstrap, interval, paired_bootstrap
from .runs import BlindRun, FinishedRun, is_run, read_blind_run, read_run
from .sheet import lines, nan_sentence

SELECTING = "the_metric"  # sum of the tasks' selecting metrics; on "val" it selects the best checkpoint

__all__ = [
    "SELECTING",
    "BlindRun",
    "Paired",
    "FinishedRun",
    "bootstrap",
    "gather_rows",
    "interval",
    "is_run",
    "lines",
    "nan_sentence",
    "paired_bootstrap",
    "read_blind_run",
    "read_run",
    "write_predictions",
]
