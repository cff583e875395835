"""Submits what is missing of a study to Slurm: a job array for each stage, which waits for those whose results it takes."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from renaissance.core.atomic import write_whole
from renaissance.core.errors import UserError, first_line, require
from renaissance.core.launch import REPOSITORY
from renaissance.core.signals import INTERRUPTED

from .execute import last_line
from .spec import Stage
from .state import DONE, FAILED, RUNNING, AttemptRecord, StudyFolder, attempt_bytes

_OWN = {"array", "dependency", "job-name", "output", "chdir"}
_SCRIPT = "scripts/slurm/study.sbatch"


def submit(folder: StudyFolder, words: Sequence[str]) -> list[str]:
    """Submits the stages that are not in the queue already.

    Args:
        words: settings of `python run.py study with` by which each task finds its run.

    Returns:
        A line for each stage.

    Raises:
        UserError: there is no Slurm, or it refuses a job.
    """
    here = Path.cwd() == REPOSITORY
    require(here, f"where=slurm: give the command at the top of the repository, {REPOSITORY}, where its jobs run.")
    own = sorted(_OWN & folder.study.slurm.keys())
    require(not own, f"study={folder.study.name}: slurm has {', '.join(own)}, which the study decides; leave it out.")
    queued, jobs, lines = _queued(), {}, []
    states = folder.states()
    for stage in folder.study.stages:
        left = [
            name
            for name, state in states.items()
            if state.run.stage == stage.name and state.kind not in (DONE, FAILED, RUNNING)
        ]
        job = _job(folder, stage)
        if job in queued:
            jobs[stage.name] = queued[job]
            lines.append(f"{stage.name}: is in the queue already (job {queued[job]})")
        elif left:
            jobs[stage.name] = _submit(folder, stage, left, [jobs[name] for name in stage.needs if name in jobs], words)
            lines.append(f"{stage.name}: {len(left)} runs, job {jobs[stage.name]}")
        else:
            lines.append(f"{stage.name}: nothing is left to run")
    return lines


def record(folder: StudyFolder, name: str, status: int, seconds: float) -> None:
    """Writes the record of an attempt at a run that a task of an array has ended; study.sbatch calls it.

    Args:
        status: of the shell, which has 128 + the number of a signal. seconds: that the attempt took.
    """
    state = folder.states()[name]
    if state.kind == RUNNING or state.took is None:  # another task has it, or what it takes is gone
        return
    job, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    before = state.attempt["seconds"] if state.attempt else 0.0
    attempt: AttemptRecord = {
        "status": 128 - status if status > 128 and status != INTERRUPTED else status,  # as `subprocess` has it
        "line": last_line(_log(folder, state.run.stage, f"{job}_{task}")),
        "seconds": round(before + seconds, 1),
        "took": state.took,
    }
    write_whole(folder.record(state.run), attempt_bytes(attempt), "log_dir")


def _log(folder: StudyFolder, stage: str, task: str) -> Path:
    return folder.path / "attempts" / f"{stage}-{task}.log"


def _submit(folder: StudyFolder, stage: Stage, names: Sequence[str], after: Sequence[str], words: Sequence[str]) -> str:
    """Submits the array of a stage; returns its job's number."""
    path = folder.path / "attempts" / f"{stage.name}.txt"
    write_whole(path, "".join(f"{name}\n" for name in names).encode(), "log_dir")
    options = {"array": f"1-{len(names)}", "job-name": _job(folder, stage)}
    options |= {"output": str(_log(folder, stage.name, "%A_%a").absolute())}
    # Each task looks itself for what it needs: one run that failed keeps none of the others from running.
    options |= {"dependency": f"afterany:{':'.join(after)}"} if after else {}
    given = [f"--{key}={value}" for key, value in (options | folder.study.slurm).items()]
    command = ["sbatch", "--parsable", *given, f"--chdir={REPOSITORY}", _SCRIPT, str(path.absolute()), *words]
    return _call(command).split(";")[0]


def _job(folder: StudyFolder, stage: Stage) -> str:
    """The name of a stage's job: another folder is another study."""
    return f"{folder.study.name}.{stage.name}.{hashlib.sha256(str(folder.path.resolve()).encode()).hexdigest()[:6]}"


def _queued() -> dict[str, str]:
    """Numbers of this user's jobs by their names."""
    rows = (line.split() for line in _call(["squeue", "--me", "--noheader", "--format=%j %F"]).splitlines())
    return {row[0]: row[1] for row in rows if len(row) == 2}


def _call(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    except OSError as error:
        raise UserError(f"{command[0]} cannot be run ({error.strerror}): is this a machine of the cluster?") from error
    if done.returncode:
        raise UserError(f"{command[0]} refused the job ({first_line(done.stderr)}); see `slurm` in the study file.")
    return done.stdout.strip()
