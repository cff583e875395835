"""The evaluation that ends a run: each split once, what its numbers are worth, and the files that keep them.

best.ckpt -> Trainer.test -> module.frames -> lines on the screen, predictions/, submissions/, results_details.json
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from pytorch_lightning import Trainer

from renaissance import evaluation
from renaissance.core.errors import UserError
from renaissance.data.limited import Limited
from renaissance.evaluation import BlindRun
from renaissance.runs.report import RunFolder, nested_results
from renaissance.settings.sections import Settings
from renaissance.tasks import Downstream, Worth, reading_task

from .module import VisionLanguageModule


class Final:
    """Evaluates splits, one after the other.

    Args:
        trainer, module, folder: of the run.
        blind: the blind run that `blind_run` names, or None.

    Attributes:
        told: of each number, what it is worth: {(split, task): {metric: see `record`}}.
    """

    def __init__(self, trainer: Trainer, module: VisionLanguageModule, folder: RunFolder, blind: BlindRun | None):
        self.trainer, self.module, self.folder, self.blind = trainer, module, folder, blind
        self.told: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}

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
        for name in self.module.heads if self.folder.speaks else ():
            start = f"{name}/{split}/"
            own = {key.removeprefix(start): value for key, value in values.items() if key.startswith(start)}
            self.told[split, name] = {metric: self._plain(split) for metric in own}
            if name in self.module.frames:
                self._tell(name, split, self.module.frames[name], own)
        if not self.module.frames and (part := self._part(split)):
            self.folder.say(f"note: {split}: {part}")
        return values

    def _part(self, split: str) -> str:
        """Why the numbers are of a part of a split; "" where they are of the whole."""
        samples, steps = self.module.loaders.data.samples[split], self.module.settings.run.fast_dev_run
        if steps:
            return f"fast_dev_run={steps}: some batches, which give no result of the whole split"
        return f"{samples}; no result of the whole split" if isinstance(samples, Limited) else ""

    def record(self, results: Mapping[str, float]) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
        """The content of results_details.json: {split: {task: {metric: what its number is worth}}}.

        Of each: method, how it was found, and whether that is exact; candidates, among how many the right one is to be
        found; baseline, what one gets who sees nothing; interval, of 95 %; examples, how many; files; eval_limit, where a
        part of the split was evaluated ("limit", and "of" so many samples). None where there is no such thing.
        """
        validated = {"method": "the last validation of training, not best.ckpt", "exact": False}
        return {
            split: {
                name: self.told.get((split, name)) or {metric: self._plain(split) | validated for metric in metrics}
                for name, metrics in tasks.items()
            }
            for split, tasks in nested_results(results).items()
        }

    def _plain(self, split: str) -> dict[str, Any]:
        samples = self.module.loaders.data.samples[split]
        part = {"limit": samples.limit, "of": samples.of} if isinstance(samples, Limited) else None
        return {
            **dict.fromkeys(("candidates", "baseline", "interval")),
            "method": "each example once",
            "exact": True,
            "examples": len(samples),
            "files": [file.file for file in samples.describe()],
            "eval_limit": part,
        }

    def _tell(self, name: str, split: str, frame: pd.DataFrame, values: Mapping[str, float]) -> None:
        task: Downstream = self.module.heads[name]
        samples: Any = self.module.loaders.data.samples[split]
        for ending, rows in task.tables(frame).items():
            evaluation.write_predictions(self.folder, name, f"{split}{ending}", rows)
        notes = [*task.notes(frame, getattr(samples, "dataset", samples)), *self._write_submissions(task, split, frame)]
        intervals, baseline, headline = {}, None, None
        if values:
            worth = {metric: each for metric, each in task.worth(frame).items() if metric in values}
            for metric, each in worth.items():
                bounds = evaluation.interval(each.frames, each.statistic)
                self.told[split, name][metric] |= _worth(each, bounds)
                intervals |= {metric: bounds} if bounds else {}
            headline = task.selecting if task.selecting in worth else next(iter(worth))
            baseline = worth[headline].baseline
            if headline not in intervals and not math.isnan(values[headline]):
                notes.append(
                    "so few examples, or groups of them, do not tell how sure the number is: it has no interval"
                )
        blind, problem = self._blind(samples, split)
        files = self._plain(split)["files"]
        lines = evaluation.lines(
            *(name, split, files, frame, values, headline, baseline, blind, intervals, [*notes, *problem])
        )
        self.folder.say("\n".join([*lines, *evaluation.nan_sentence(name, split, values)]))

    def _write_submissions(self, task: Downstream, split: str, frame: pd.DataFrame) -> list[str]:
        """Writes the files for the benchmark's server, which refuses parts of a split; says where it is one."""
        files, part = task.submission(frame, split), self._part(split)
        if not part:
            evaluation.write_submissions(self.folder, files)
            return []
        return [f"{part}{'; no file for the server, which wants all' if files else ''}"]

    def _blind(self, samples: Any, split: str) -> tuple[BlindRun | None, list[str]]:
        """The blind run, where it was evaluated on the same data; else why it does not stand beside this one."""
        if self.blind is None:
            return None, []
        problem = self.blind.run.unlike(split, samples.fingerprint(), self.module.settings.data.eval_limit)
        return (None, [f"the blind run {self.blind.run.path} {problem}"]) if problem else (self.blind, [])


def _worth(each: Worth, bounds: tuple[float, float] | None) -> dict[str, Any]:
    return {
        "method": each.method,
        "exact": each.exact,
        "candidates": each.candidates,
        "baseline": dict([each.baseline]) if each.baseline else None,
        "interval": bounds,
        "examples": each.examples,
    }


def blind_run_of(settings: Settings, splits: Iterable[str]) -> BlindRun | None:
    """The blind run that the command names, read before anything is computed.

    Args:
        settings: of this run. splits: on which it will be evaluated.

    Raises:
        UserError: it is none, or the run is no downstream task.
    """
    if not settings.objectives.blind_run:
        return None
    reading = reading_task(settings.objectives.loss_names)
    if reading is None:
        raise UserError("blind_run= belongs to a downstream task; leave it out of pretraining.")
    return evaluation.read_blind_run(settings.objectives.blind_run, reading, splits)
