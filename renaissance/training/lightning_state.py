"""The only places where a run reaches into Lightning's own state, because its public interface has no way."""

from __future__ import annotations

import time
from typing import Any

from lightning_fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from pytorch_lightning import Trainer

_TO_END = 30  # seconds in which a process that notices by itself that another one has died can save and say so
_kill_all = _ChildProcessObserver._terminate_all


def _kill_all_later(observer: _ChildProcessObserver) -> None:
    time.sleep(_TO_END)
    _kill_all(observer)


def delay_kill() -> None:
    """Else Lightning kills the first process up to five seconds after one that it started has failed, even in a save."""
    _ChildProcessObserver._terminate_all = _kill_all_later


def start_counting_at(trainer: Trainer, step: int) -> None:
    """Validations come at multiples of steps counted from 0, in a resumed run too."""
    trainer.fit_loop.epoch_loop.batch_progress.total.ready = step


def validate_now(trainer: Trainer) -> None:
    """Runs the validation loop of training before its first step."""
    trainer.validating = True
    trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True


def gradient_scaler(trainer: Trainer) -> Any:
    """The GradScaler of 16-mixed on a GPU; None elsewhere."""
    return getattr(trainer.precision_plugin, "scaler", None)
