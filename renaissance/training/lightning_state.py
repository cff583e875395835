"""The only places where a run reaches into Lightning's own state, because its public interface has no way."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Trainer


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
