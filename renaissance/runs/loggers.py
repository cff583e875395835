"""Where a run is logged besides metrics.csv, by Lightning's loggers and the programs behind them.

    logger=tensorboard   events in the run folder: scalars, examples, hyperparameters
    logger=csv           csv/version_N/ in the run folder, one for each start
    logger=wandb         Weights & Biases; the environment (WANDB_MODE, WANDB_PROJECT ...) says where
    logger=mlflow        MLFLOW_TRACKING_URI, else <log_dir>/mlruns

A resumed run goes on in the same run of wandb and mlflow, whose id is in the run folder. What fails while a run goes on costs a
warning: metrics.csv has all numbers.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from renaissance.core.checks import LOGGERS
from renaissance.core.console import markdown_table
from renaissance.core.errors import UserError, first_line, printable, require
from renaissance.core.untrusted import read_json
from renaissance.settings.sections import Settings

if TYPE_CHECKING:
    from torch import Tensor

IDS = "loggers.json"  # {logger: id of this run}
_LONGEST = 120  # characters of a caption above its picture


class ShownExample(NamedTuple):
    """An example of the validation split.

    Attributes:
        picture: (3, H, W) uint8, its images side by side; None where it has none, or stored tokens in their place.
        text: caption, question or sentence.
        columns: what the tasks show of it, by heading.
    """

    picture: Tensor | None
    text: str
    columns: Mapping[str, str]


class Log:
    """What loggers have in common.

    Attributes: id, by which a resumed run finds its own, None where it has none; shows_examples, whether it can.
    """

    id: str | None = None
    shows_examples = True

    def __init__(self, logger: Any):
        self.logger = logger  # of Lightning

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self.logger.log_metrics(values, step)

    def hyperparameters(self, values: Mapping[str, Any]) -> None:
        self.logger.log_hyperparams(values)

    def pictures(self, examples: Sequence[ShownExample], step: int) -> None:
        """Shows the pictures of examples, once, as they stay the same; here not at all."""

    def table(self, rows: Sequence[Sequence[str]], step: int) -> None:
        """Shows what a model makes of the examples, the first row as a head; here not at all."""

    def close(self, status: str) -> None:
        """Ends it. status: "success" where the run has its results, else "failed"."""
        self.logger.finalize(status)


class TensorBoard(Log):
    """An events file. Lightning's logger would write hyperparameters that hide those of other runs; torch's writer has a thread
    that dies of a full disk, and keeps two minutes to itself."""

    def __init__(self, folder: Path, *_: Any):
        from tensorboard.compat.proto.event_pb2 import Event  # imported late: it takes a second

        began, host = time.time(), socket.gethostname()
        self.path = folder / f"events.out.tfevents.{began:010.0f}.{host}.{os.getpid()}.{began % 1 * 1e6:06.0f}"
        self._end: list[Any] = []
        self._append(Event(wall_time=began, file_version="brain.Event:2"))

    def _append(self, event: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        record, size = io.BytesIO(), self.path.stat().st_size if self.path.exists() else 0
        RecordWriter(record).write(event.SerializeToString())
        try:
            with open(self.path, "ab") as file:
                file.write(record.getvalue())
        except OSError:
            os.truncate(self.path, size)  # a part of it would hide all that follows
            raise

    def _write(self, summaries: Iterable[Any], step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [value for summary in summaries for value in summary.value]
        self._append(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        from torch.utils.tensorboard.summary import scalar

        self._write((scalar(name, value) for name, value in values.items()), step)

    def hyperparameters(self, values: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard.summary import hparams

        plain = {key: str(value) if isinstance(value, bool) else value for key, value in values.items()}
        # No summary of an experiment: TensorBoard would take that of one run for all, and finds what there is by itself.
        _, start, end = hparams(plain, {})
        self._end = [end]
        self._write([start], 0)

    def pictures(self, examples: Sequence[ShownExample], step: int) -> None:
        from tensorboard.data_compat import migrate_value
        from torch.utils.tensorboard.summary import image

        for place, example in enumerate(examples):
            if example.picture is not None:
                summary, caption = (
                    image(f"examples/{place}", example.picture, dataformats="CHW"),
                    printable(example.text),
                )
                summary.value[0].metadata.display_name = caption[:_LONGEST]
                summary.value[0].metadata.summary_description = caption
                summary.value[0].CopyFrom(
                    migrate_value(summary.value[0])
                )  # in torch's older form captions are not shown
                self._write([summary], step)

    def table(self, rows: Sequence[Sequence[str]], step: int) -> None:
        from torch.utils.tensorboard.summary import text

        self._write([text("examples", markdown_table(rows))], step)

    def close(self, status: str) -> None:
        if status == "success":
            self._write(self._end, 0)


class Wandb(Log):
    """A run of Weights & Biases."""

    def __init__(self, folder: Path, settings: Settings, id: str | None):
        from pytorch_lightning.loggers import WandbLogger

        project, group = os.environ.get("WANDB_PROJECT", "renaissance"), settings.run.exp_name
        name, tags = f"{group}/{folder.name}", settings.run.tags
        # It would else read what is printed, which log.txt has, and print behind it.
        quiet = {"console": "off", "silent": True}
        logger = WandbLogger(name, folder, id=id, project=project, group=group, tags=tags, settings=quiet)
        super().__init__(logger)
        self.id = logger.experiment.id

    def pictures(self, examples: Sequence[ShownExample], step: int) -> None:
        shown = [each for each in examples if each.picture is not None]
        if shown:
            pictures = [each.picture.permute(1, 2, 0).numpy() for each in shown]
            self.logger.log_image("pictures", pictures, step, caption=[each.text for each in shown])

    def table(self, rows: Sequence[Sequence[str]], step: int) -> None:
        self.logger.log_text("examples", [*rows[0]], [[*row] for row in rows[1:]], step=step)

    def close(self, status: str) -> None:
        self.logger.experiment.finish(exit_code=0 if status == "success" else 1)


class MLFlow(Log):
    """A run of MLflow."""

    def __init__(self, folder: Path, settings: Settings, id: str | None):
        from pytorch_lightning.loggers import MLFlowLogger

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            # MLflow wants files asked for by now; a database needs more packages, and lets runs beside each other wait.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = (Path(settings.run.log_dir).absolute() / "mlruns").as_uri()
        logger = MLFlowLogger(settings.run.exp_name, folder.name, uri, run_id=id)
        super().__init__(logger)
        with contextlib.suppress(Exception):  # another run may make the experiment at this moment; then it is there
            logger.experiment  # noqa: B018
        self.id = logger.run_id
        logger.experiment.update_run(self.id, status="RUNNING")
        for tag in settings.run.tags or ():
            logger.experiment.set_tag(self.id, tag, "true")

    def hyperparameters(self, values: Mapping[str, Any]) -> None:
        known = self.logger.experiment.get_run(
            self.id
        ).data.params  # never changed, be they of a run that goes on for longer
        super().hyperparameters({key: value for key, value in values.items() if key not in known})

    def pictures(self, examples: Sequence[ShownExample], step: int) -> None:
        for place, example in enumerate(examples):
            if example.picture is not None:
                pixels, file = example.picture.permute(1, 2, 0).numpy(), f"examples/{place}.png"
                self.logger.experiment.log_image(self.id, pixels, file)

    def table(self, rows: Sequence[Sequence[str]], step: int) -> None:
        self.logger.experiment.log_text(self.id, markdown_table(rows), f"examples/step_{step:09d}.md")


class _Csv(Log):
    """Tables."""

    shows_examples = False

    def __init__(self, folder: Path, *_: Any):
        from pytorch_lightning.loggers import CSVLogger

        super().__init__(CSVLogger(folder, "csv", flush_logs_every_n_steps=1))


# By the names in `core/checks.LOGGERS`.
_LOGS: dict[str, Callable[[Path, Settings, str | None], Log]] = dict(
    zip(LOGGERS, (TensorBoard, Wandb, MLFlow, _Csv), strict=True)
)


def refuse_missing(names: Sequence[str]) -> None:
    """Refuses loggers whose package is not installed, before anything starts."""
    for name in names:
        package = LOGGERS[name]
        there = package is None or find_spec(name) is not None
        require(there, f"logger={name} needs the package {name}: pip install '{package}'.")


class Loggers:
    """The loggers of a run.

    Args:
        folder: of the run. settings: of it. say: prints a warning.

    Raises:
        UserError: one cannot start.
    """

    def __init__(self, folder: Path, settings: Settings, say: Callable[[str], None]):
        self._say, self._failed, self._pictured = say, set(), False
        ids = read_json(folder / IDS, dict[str, str]) if (folder / IDS).is_file() else {}
        self._logs: dict[str, Log] = {}
        try:
            for name in settings.run.logger:
                self._logs[name] = _open(name, folder, settings, ids)
        except BaseException:
            self.close("failed")
            raise
        self.ids = ids | {name: log.id for name, log in self._logs.items() if log.id is not None}
        values = flattened(settings.flat)
        self._each(lambda log: log.hyperparameters(values))

    @property
    def shows_examples(self) -> bool:
        return any(log.shows_examples for log in self._logs.values())

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Logs numbers of an optimizer step."""
        self._each(lambda log: log.metrics(values, step))

    def examples(self, examples: Sequence[ShownExample], step: int) -> None:
        """Shows examples of the validation split: pictures at the first validation, what the model makes of them at each."""
        if not self._pictured:
            self._each(lambda log: log.pictures(examples, step))
            self._pictured = True
        heads = dict.fromkeys(head for each in examples for head in each.columns)
        if heads:
            rows = [["example", "text", *heads]]
            for place, each in enumerate(examples):
                rows.append([str(place), each.text, *(each.columns.get(head, "") for head in heads)])
            self._each(lambda log: log.table(rows, step))

    def close(self, status: str) -> None:
        self._each(lambda log: log.close(status))

    def _each(self, act: Callable[[Log], None]) -> None:
        for name, log in self._logs.items():
            try:
                act(log)
            except Exception as error:  # of another program, its network or a full disk: that ends no run
                if name not in self._failed:
                    self._say(
                        f"warning: logger={name} cannot write ({first_line(error)}); metrics.csv has all numbers."
                    )
                self._failed.add(name)


def _open(name: str, folder: Path, settings: Settings, ids: Mapping[str, str]) -> Log:
    try:
        return _LOGS[name](folder, settings, ids.get(name))
    except Exception as error:
        going_on = f" with its run {ids[name]}, which {IDS} of {folder} names," if name in ids else ""
        offline = "; WANDB_MODE=offline logs without a server" if name == "wandb" else ""
        raise UserError(
            f"logger={name} cannot start{going_on} ({first_line(error)}){offline}; see to that, or leave it out."
        ) from error


def flattened(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as loggers take them: entries of dictionaries as <key>.<entry>, lists as one text, none that is None."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{entry}": each for entry, each in value.items()}
        elif value is not None:
            flat[key] = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
    return flat
