"""The evaluation that ends a run: each split once, what its numbers are worth, and the files that keep them.

best.ckpt -> Trainer.test -> module.frames -> lines on the screen, predictions/, submissions/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from pytorch_lightning import Trainer

from . import evaluation
from .errors import UserError
from .evaluation import BlindRun
from .module import VisionLanguageModule
from .report import RunFolder
from .settings import Settings
from .tasks import Downstream, reading_task


class Final:
    """Evaluates splits, one after the other.

    Args:
        trainer, module, folder: of the run.
        blind: the blind run that `blind_run` names, or None.
    """

    def __init__(self, trainer: Trainer, module: VisionLanguageModule, folder: RunFolder, blind: BlindRun | None):
        self.trainer, self.module, self.folder, self.blind = trainer, module, folder, blind

    def evaluate(self, splits: Iterable[str]) -> dict[str, float]:
        """The results of all these splits: {"<task>/<split>/<metric>": value}."""
        for task in self.module.heads.values():
            task.check(self.module.heads)
        results: dict[str, float] = {}
        for split in splits:
            self.module.split = split
            self.trainer.test(self.module, verbose=False)
            results |= self.tell(split)
        return results

    def tell(self, split: str) -> dict[str, float]:
        """Says, and writes down, what the last evaluation found on a split; returns its values."""
        values = self.module.evaluated
        for name, frame in self.module.frames.items():
            start = f"{name}/{split}/"
            own = {key.removeprefix(start): value for key, value in values.items() if key.startswith(start)}
            if self.folder.speaks:
                self._tell(name, split, frame, own)
        return values

    def _tell(self, name: str, split: str, frame: pd.DataFrame, values: Mapping[str, float]) -> None:
        task: Downstream = self.module.heads[name]
        samples: Any = self.module.loaders.data.samples[split]
        evaluation.write_predictions(self.folder, name, split, frame)
        evaluation.write_submissions(self.folder, task.submission(frame, split))
        baseline = bounds = headline = None
        if values:
            scores = task.score(frame)
            headline = task.selecting if task.selecting in scores else next(iter(scores))
            baseline = task.baseline(frame)
            bounds = evaluation.interval(frame, values[headline], lambda rows: task.score(rows)[headline])
        files = [summary.file for summary in samples.describe()]
        notes = task.notes(frame, getattr(samples, "dataset", samples))
        lines = evaluation.lines(name, split, files, frame, values, headline, baseline, self.blind, bounds, notes)
        self.folder.say("\n".join([*lines, *evaluation.nan_sentence(name, split, values)]))


def blind_run_of(settings: Settings, splits: Iterable[str]) -> BlindRun | None:
    """The blind run that the command names, read before anything is computed.

    Args:
        settings: of this run. splits: on which it will be evaluated.

    Raises:
        UserError: it is none, or the run is no downstream task.
    """
    if not settings.run.blind_run:
        return None
    reading = reading_task(settings.objectives.loss_names)
    if reading is None:
        raise UserError("blind_run= belongs to a downstream task; leave it out of pretraining.")
    return evaluation.read_blind_run(settings.run.blind_run, reading, splits)
