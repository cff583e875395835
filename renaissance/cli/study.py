"""`python run.py study with study=studies/freezing.yaml action=run`: many runs from one file, and their table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from renaissance.core.checks import choice, flag, integer, number, path, text
from renaissance.core.errors import UserError, require
from renaissance.evaluation.runs import RUNS
from renaissance.settings.declared import SETTINGS
from renaissance.settings.words import configured
from renaissance.studies.actions import ACTIONS, ONE_RUN, Command
from renaissance.studies.plan import plan
from renaissance.studies.plot import COSTS
from renaissance.studies.spec import read_study
from renaissance.studies.state import StudyFolder


# fmt: off
class StudySettings:
    """Which study, and what is done with it"""

    study: path("a study file") = None  # YAML or JSON file, or an archive of one; CONFIGURING_MODELS.md says what it may hold
    action: choice(*ACTIONS) = "plan"  # plan: what would run; run: what is missing; status; retry: run, and what failed once more; table: written as Markdown, CSV and LaTeX; plot: figures as PNG and SVG; archive: settings, scores and versions in one zip; command: the words of one run; record: what study.sbatch says when one has ended
    log_dir: path("a folder") = "result"  # folder that the folder of the study lies in
    data_root: path("a folder of arrow files").or_none = None  # for all runs; None = as the study file or the default says
    x: choice(*COSTS) = "parameters"  # what action=plot shows scores against: parameters, trainable, steps, samples, hours or flops
    where: choice("here", "slurm") = "here"  # with action=run or retry: on this machine, or a job array for each stage
    workers: integer(1) = 1  # runs at a time on this machine, each with its share of the cores and GPUs
    run: text("the name of a run") = None  # with action=run or command: this run alone
    measure: flag = False  # with action=plan: starts a run of each kind, measures three steps, and keeps nothing
    status: integer(0, 255) = 0  # with action=record: the exit status of the run
    seconds: number(0) = 0  # with action=record: that it took
# fmt: on


def main(
    study: str | None,
    action: str,
    log_dir: str,
    data_root: str | None,
    x: str,
    where: str,
    workers: int,
    run: str | None,
    measure: bool,
    status: int,
    seconds: float,
) -> None:
    """Does what `action` says.

    Raises:
        UserError: the file is none, a run would be refused, or runs failed.
    """
    require(study is not None, "study=None: give the path of a study file with study=.")
    asked = action not in ("command", "record") or run is not None
    idle = run is not None and action not in ONE_RUN
    require(not idle, f"run={run} is of action={', '.join(ONE_RUN)}; leave it out with action={action}.")
    require(action == "plan" or not measure, f"measure=True is of action=plan; leave it out with action={action}.")
    require(asked, f"action={action} needs the name of a run, run=; action=status lists them.")
    content = read_study(study)
    place = Path(log_dir) / content.name
    runs = plan(content, str(place / RUNS), {} if data_root is None else {"data_root": data_root})
    known = run is None or any(run == each.name for each in runs)
    require(known, f"run={run}: the study has no such run; action=status lists them.")

    def configure(words: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
        try:
            return configured(SETTINGS, words)
        except UserError as error:
            raise UserError(f"study={study}: {error}") from error

    paths = {"study": study, "log_dir": log_dir} | ({} if data_root is None else {"data_root": data_root})
    words = [f"{key}={Path(value).absolute()}" for key, value in paths.items()]
    folder = StudyFolder(place, content, runs, configure)
    ACTIONS[action](Command(folder, study, words, configure, where, x, workers, run, measure, status, seconds))
