"""How far runs are, and how fast: of training steps, as metrics.csv has them, without validations and evaluations."""

from __future__ import annotations

import contextlib
import json
import statistics
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple

from renaissance.core.errors import UserError
from renaissance.evaluation.runs import RUNS, FinishedRun, read_run
from renaissance.runs.metrics_table import read_rows, speeds
from renaissance.settings.declared import SETTINGS

# Runs that are alike in these take as long for a step.
_SECTIONS = ("model", "machine")
_KEYS = ("loss_names", "datasets", "batch_size", "per_gpu_batchsize", "negative_group", "text_only", "image_only", "blind",
         "patch_drop", "cache_frozen", "num_workers")  # fmt: skip


class Pace(NamedTuple):
    """How far a run is, and how fast.

    Attributes:
        settings: complete. step: the last that was logged.
        steps: of the whole run; seconds: of a step. None where they are not known.
    """

    settings: Mapping[str, Any]
    step: int
    steps: int | None
    seconds: float | None

    @property
    def left(self) -> float | None:
        """Seconds that are left."""
        return None if self.steps is None or self.seconds is None else max(0, self.steps - self.step) * self.seconds


def pace(run: FinishedRun) -> Pace:
    """Of a run, be it finished or not. Its first speed counts only where it is the only one: a start is slow."""
    _, rows, _ = read_rows(run.path / "metrics.csv")
    found = speeds(rows)
    speed, batch = statistics.median(found[1:] or found or [0.0]), run.settings.get("batch_size")
    step = int(rows[-1]["step"]) if rows else 0
    return Pace(run.settings, step, run.record.get("steps"), batch / speed if batch and speed > 0 else None)


def kind(settings: Mapping[str, Any]) -> str:
    """What runs whose steps take as long have in common."""
    keys = [key for key, setting in SETTINGS.items() if setting.section in _SECTIONS or key in _KEYS]
    return json.dumps([settings.get(key) for key in keys], sort_keys=True, default=str)


def known_paces(log_dir: Path, wanted: Set[str]) -> list[Pace]:
    """Those of all runs below a `log_dir`, in its studies too, that are of the wanted kinds."""
    found = []
    for pattern in ("*/version_*", f"*/{RUNS}/*/version_*"):
        for folder in log_dir.glob(pattern):
            with contextlib.suppress(UserError):  # of another program, or damaged
                run = read_run(folder, "log_dir")
                if kind(run.settings) in wanted:
                    found.append(pace(run))
    return found
