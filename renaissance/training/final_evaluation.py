"""The evaluation that ends a run: each split once, what its numbers are worth, and the files that keep them.

best.ckpt -> Trainer.test -> SplitResult -> SplitReport -> screen, predictions/, submissions/, results_details.json
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from pytorch_lightning import Trainer

from renaissance.core.errors import require
from renaissance.data.limited import LimitedDataset
from renaissance.evaluation.frames import write_predictions
from renaissance.evaluation.metrics import MetricDetails
from renaissance.evaluation.runs import FinishedRun, read_blind_run
from renaissance.evaluation.score_report import nan_sentence, score_lines
from renaissance.runs.checkpoint_folder import try_read
from renaissance.runs.report import RunFolder, nested_results
from renaissance.runs.stored import Stored
from renaissance.settings.sections import Settings
from renaissance.tasks import Downstream, downstream_task

from .devices import all_gather
from .loading import Loaders
from .loop import Loop
from .module import VisionLanguageModule
from .split_evaluation import SplitResult


class SplitReport(NamedTuple):
    """The result of a split, and of each number how it was found.

    Attributes:
        result: of the evaluation.
        details: {task: {metric: {"method": how it was found, "exact": whether that is what the benchmark asks for,
            "candidates": among how many the right one is to be found, "baseline": what a model that sees nothing gets,
            "interval": of 95 %, "ties": how many examples equal scores decide, "examples": how many, "files": names,
            "eval_limit": {"limit", "of"} where a part of the split was evaluated, "stopped_early": {"step", "of"} where training
            ended before its last step}}}; None where there is no such thing.
    """

    result: SplitResult
    details: dict[str, dict[str, dict[str, Any]]]


@dataclass
class FinalEvaluation:
    """Evaluates splits, one after the other, prints what was found, and writes predictions and files for servers.

    Attributes:
        trainer, module, loaders, loop, folder: of the run.
        blind: the blind run that `blind_run` names, or None.
    """

    trainer: Trainer
    module: VisionLanguageModule
    loaders: Loaders
    loop: Loop
    folder: RunFolder
    blind: FinishedRun | None

    def evaluate(self, splits: Iterable[str]) -> list[SplitReport]:
        """Evaluates the model as it is on these splits."""
        for task in self.module.heads.values():
            task.check(self.module.heads)
        reports = []
        for split in splits:
            self.trainer.test(self.module, datamodule=self.loaders.of_split(split), verbose=False)
            reports.append(self.report(self.loop.result))
        return reports

    def best(self, path: str) -> list[SplitReport]:
        """Evaluates the labelled splits, after training, with the weights of the best checkpoint.

        Args:
            path: of the checkpoint; "" where none was selected, then the model is evaluated as it is.
        """
        module, run, validated = self.module, self.module.settings.run, self.loop.result
        if early := self.stopped_early:
            saver = self.loop.saver
            best = "" if saver.best_step is None else f"; the best was at step {saver.best_step:,}"
            best = best if saver.best is not None else "; none that was saved had a number, so nothing was selected"
            self.folder.say(
                f"stopped early after step {early['step']:,} of {early['of']:,}: early_stopping={saver.patience} validations "
                f"without a gain{best}"
            )
        labelled = [split for split in self.loaders.data.evaluated if self.loaders.labelled(split)]
        if run.fast_dev_run or not run.final_test:
            if validated is not None and validated.values:
                return [self.report_validation(validated)]
            return self.evaluate(split for split in labelled if split == "val")
        stored = self._read(path) if path else None
        if stored is None:
            return self.evaluate(labelled)
        is_best = stored.training["step"] == module.step  # the model is the best one, and has just been validated
        if (
            validated
            and validated.values
            and is_best
            and not any(task.partial_validation for task in module.heads.values())
        ):
            return [self.report(validated), *self.evaluate(split for split in labelled if split != "val")]
        module.model.load_state_dict(stored.model)
        module.heads.load_state_dict(stored.heads)
        return self.evaluate(labelled)

    @property
    def stopped_early(self) -> dict[str, int] | None:
        """The step after which training stopped early, and of how many; None where it did not."""
        step, steps = self.module.step, self.module.steps
        return {"step": step, "of": steps} if self.loop.saver.stops_early and step < steps else None

    def _read(self, path: str) -> Stored | None:
        """The best checkpoint; None, with a warning, where it is of another model, or a process cannot read it."""
        stored, why = try_read(Path(path))
        if stored is not None and _shapes(stored.model) != _shapes(self.module.model.state_dict()):
            why = f"{path} is of another model."
        if not any(reasons := all_gather(why)):
            return stored
        first = next(filter(None, reasons))
        self.folder.say(f"warning: {first} The last checkpoint is evaluated in place of the best one.")
        return None

    def report(self, result: SplitResult) -> SplitReport:
        """Prints, and writes down, what an evaluation has found. Collective: call on all ranks."""
        details = self._plain(result)
        gathered = {name: {"": gather()} for name, gather in result.rows.items()}
        if self.folder.prints:
            for name, tables in (result.tables | gathered).items():
                for ending, rows in tables.items():
                    write_predictions(self.folder, name, f"{result.split}{ending}", rows)
            for name in result.metrics:
                self._report_task(name, result, details)
            if not result.metrics and (part := self._part(result.split)):
                self.folder.say(f"note: {result.split}: {part}")
        return SplitReport(result, details)

    def report_validation(self, result: SplitResult) -> SplitReport:
        """The last validation of training as the result of a run that evaluates nothing after it; prints nothing."""
        method = {"method": "the last validation of training, not best.ckpt", "exact": False}
        plain = self._plain(result)
        return SplitReport(
            result,
            {name: {metric: each | method for metric, each in metrics.items()} for name, metrics in plain.items()},
        )

    def _part(self, split: str) -> str:
        """Why the numbers are of a part of a split; "" where they are of the whole."""
        samples, steps = self.loaders.data.samples[split], self.module.settings.run.fast_dev_run
        if steps:
            return f"fast_dev_run={steps}: some batches, which give no result of the whole split"
        return f"{samples}; no result of the whole split" if isinstance(samples, LimitedDataset) else ""

    def _plain(self, result: SplitResult) -> dict[str, dict[str, dict[str, Any]]]:
        """Details of each number as of an evaluation of each example once."""
        samples = self.loaders.data.samples[result.split]
        part = {"limit": samples.limit, "of": samples.of} if isinstance(samples, LimitedDataset) else None
        plain = {
            **MetricDetails(math.nan).record(),
            "examples": len(samples),
            "files": [file.file for file in samples.describe()],
            "eval_limit": part,
            "stopped_early": self.stopped_early,
        }
        nested = nested_results(result.values).get(result.split, {})
        return {name: {metric: dict(plain) for metric in metrics} for name, metrics in nested.items()}

    def _report_task(self, name: str, result: SplitResult, details: dict[str, dict[str, dict[str, Any]]]) -> None:
        """Prints a downstream task's results, writes its files for servers, and completes the details of its numbers."""
        split, task, frame = result.split, self.module.heads[name], result.tables[name][""]
        prefix, metrics = f"{name}/{split}/", dict(result.metrics[name])
        values = {key.removeprefix(prefix): value for key, value in result.values.items() if key.startswith(prefix)}
        samples: Any = self.loaders.data.samples[split]
        notes = [*task.notes(frame, getattr(samples, "dataset", samples)), *self._write_submissions(task, split, frame)]
        headline, recorded = None, details.get(name, {})
        if metrics:
            headline = task.selecting if task.selecting in metrics else next(iter(metrics))
            baseline = metrics[headline].baseline or task.baseline(frame)
            metrics[headline] = metrics[headline]._replace(baseline=baseline)
            for metric, each in metrics.items():
                recorded[metric] |= each.record() if each.frames else {}
            if recorded[headline]["interval"] is None and not math.isnan(values[headline]):
                notes.append("too few examples, or groups of them, to tell how sure the number is: no interval")
        blind, problem = self._blind(samples, split)
        notes += problem
        files = [file.file for file in samples.describe()]
        lines = score_lines(name, split, files, frame, values, headline, recorded, blind, notes)
        self.folder.say("\n".join([*lines, *nan_sentence(name, split, values)]))

    def _write_submissions(self, task: Downstream, split: str, frame: pd.DataFrame) -> list[str]:
        """Writes the files for the benchmark's server, which refuses parts of a split; a note where it is one."""
        files, part = task.submission(frame, split), self._part(split)
        if not part:
            for name, content in files.items():
                self.folder.write(f"submissions/{name}", content)
            return []
        return [f"{part}{'; no file for the server, which wants all' if files else ''}"]

    def _blind(self, samples: Any, split: str) -> tuple[FinishedRun | None, list[str]]:
        """The blind run, where it was evaluated on the same data; else why it cannot be compared with this one."""
        if self.blind is None:
            return None, []
        problem = self.blind.unlike(split, samples.fingerprint(), self.module.settings.data.eval_limit)
        return (None, [f"the blind run {self.blind.path} {problem}"]) if problem else (self.blind, [])


def _shapes(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tensor.shape for name, tensor in state.items()}


def all_values(reports: Iterable[SplitReport]) -> dict[str, float]:
    """{"<task>/<split>/<metric>": value} of all splits."""
    return {key: value for report in reports for key, value in report.result.values.items()}


def details_file(reports: Iterable[SplitReport]) -> Mapping[str, Any]:
    """The content of results_details.json: {split: {task: {metric: see `SplitReport`}}}."""
    return {report.result.split: report.details for report in reports if report.details}


def blind_run_of(settings: Settings, splits: Iterable[str]) -> FinishedRun | None:
    """The blind run that the command names, read before anything is computed.

    Args:
        settings: of this run. splits: on which it will be evaluated.

    Raises:
        UserError: it is none, or the run is no downstream task.
    """
    if not settings.objectives.blind_run:
        return None
    reading = downstream_task(settings.objectives.loss_names)
    require(reading, "blind_run= belongs to a downstream task; leave it out of pretraining.")
    return read_blind_run(settings.objectives.blind_run, reading, splits)
