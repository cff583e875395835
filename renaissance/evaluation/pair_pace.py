"""What it costs to pass many pairs through the fusion, told after the first of them."""

from __future__ import annotations

import time

LONG = 3600  # seconds after which another way is advised
_MEASURED = 3  # batches that are timed, after one to warm up


class PairPace:
    """Estimates, from some batches after the first, how long all pairs of a process take.

    Args:
        total: how many there are.
    """

    def __init__(self, total: int):
        self.total, self._batches = total, 0

    def before(self, done: int) -> float | None:
        """Called before each batch, when nothing is computed any more.

        Args:
            done: pairs so far.

        Returns:
            Seconds that all take, once; None before and after.
        """
        self._batches += 1
        if self._batches == 2:
            self._began, self._warm = time.perf_counter(), done
        if self._batches != 2 + _MEASURED:
            return None
        return self.total * (time.perf_counter() - self._began) / (done - self._warm)


def pass_cost(pairs: int, seconds: float, processes: int) -> str:
    """The pairs of one process, and their time, in words."""
    minutes = seconds / 60
    duration = f"{minutes:,.0f} minutes" if minutes < 120 else f"{minutes / 60:,.0f} hours"
    return f"{pairs:,} pairs{' on this process' if processes > 1 else ''}, about {duration}"
