"""The batch scripts under Slurm itself: jobs that finish, are warned, are ended, and lose a node."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from cluster import NODES, Cluster, require, until

import small_run
from conftest import OFFLINE, ROOT
from renaissance.runs.checkpoint import read
from small_run import SMALL

pytestmark = pytest.mark.slurm

STEPS = 40
WORDS = (
    *SMALL,
    f"max_steps={STEPS}",
    "val_check_interval=20",
    "save_every_steps=5",
    "train_transform_keys=['imagenet_randaug']",
)
ONE_TASK = ("--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1", "--time=20")
LIMIT = 240  # seconds that a run of seconds may take on a busy machine


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    require()
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


class Job(NamedTuple):
    """A submitted batch script. Attributes: cluster; number, its job id; folder, of its data, run and output."""

    cluster: Cluster
    number: str
    folder: Path

    @property
    def state(self) -> str:
        return self.cluster.job(self.number)["JobState"]

    @property
    def said(self) -> str:
        """What the job has printed so far."""
        path = self.folder / f"{self.number}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def steps(self) -> int:
        """Optimizer steps that its runs have logged."""
        return max((len(small_run.rows(path.parent)) for path in self.folder.glob("result/*/*/metrics.csv")), default=0)

    @property
    def run(self) -> Path:
        """The only run folder."""
        (path,) = self.folder.glob("result/*/*")
        return path

    def trains(self) -> None:
        """Waits until it is in the midst of its steps, with a checkpoint."""
        self._until(lambda: self.steps >= 6 or self.over(), "the first steps")
        assert self.steps < STEPS and not self.over(), self.said

    def ends(self, state: str) -> None:
        self._until(self.over, "the job")
        assert self.state == state, self.said

    def over(self) -> bool:
        return self.state not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED")

    def _until(self, true, what: str) -> None:
        until(true, LIMIT, lambda: f"{what} ({self.state})\n{self.said}")


def submit(cluster: Cluster, folder: Path, *words: str) -> str:
    """Submits a batch script as a user does, at the top of the repository.

    Args:
        cluster: where. folder: of data, runs and output. words: options of sbatch, the script, its arguments.

    Returns:
        The job's number.
    """
    small_run.write_coco_vg(folder / "data" / "arrow")
    variables = {
        "DATA_ROOT": str(folder / "data" / "arrow"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "VIRTUAL_ENV": sys.prefix,
        "PYTHONPATH": str(OFFLINE),
        "OMP_WAIT_POLICY": "passive",  # both nodes are this machine: threads that spin take its cores from each other
    }
    command = ("sbatch", "--parsable", f"--chdir={ROOT}", *ONE_TASK, *words, f"log_dir={folder}/result")
    number = cluster.call(*command, **variables)
    cluster.jobs.append(number)
    return number


def pretrain(cluster: Cluster, folder: Path) -> Job:
    """Submits pretraining on both nodes."""
    options = ("--nodes=2", f"--output={folder}/%j.log")
    return Job(cluster, submit(cluster, folder, *options, "scripts/slurm/pretrain.sbatch", *WORDS), folder)


@pytest.fixture(scope="module")
def whole(cluster: Cluster, hub_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job that nothing disturbs."""
    job = pretrain(cluster, tmp_path_factory.mktemp("whole"))
    job.ends("COMPLETED")
    return job


def same(first: Path, second: Path) -> None:
    """Fails where two runs differ in a number of any step or in a result."""
    assert small_run.rows(first) == small_run.rows(second)
    assert small_run.results(first) == small_run.results(second)


def test_two_nodes_train_as_one_run(whole: Job):
    assert whole.cluster.job(whole.number)["NumNodes"] == "2" and "2 process(es)" in whole.said
    assert read(whole.run / "checkpoints" / "last.ckpt").training["step"] == STEPS
    assert whole.cluster.job(whole.number)["Restarts"] == "0"


def test_a_warned_job_saves_and_goes_on_by_itself(cluster: Cluster, whole: Job, tmp_path: Path):
    job = pretrain(cluster, tmp_path)
    job.trains()
    cluster.call("scancel", "--signal=USR1", job.number)
    job.ends("COMPLETED")
    assert cluster.job(job.number)["Restarts"] == "1", job.said
    assert "stopped by SIGUSR1" in job.said and "resume_from=auto: goes on with" in job.said
    same(job.run, whole.run)


def test_a_job_that_is_ended_saves_and_stays_ended(cluster: Cluster, hub_cache: Path, tmp_path: Path):
    job = pretrain(cluster, tmp_path)
    job.trains()
    cluster.call("scancel", job.number)
    job.ends("CANCELLED")
    until(lambda: cluster.idle() == len(NODES), 30, lambda: "the end of its processes")
    assert job.state == "CANCELLED" and cluster.job(job.number)["Restarts"] == "0"
    assert "stopped by SIGTERM" in job.said
    assert 6 <= read(job.run / "checkpoints" / "last.ckpt").training["step"] < STEPS


def test_a_job_whose_node_dies_goes_on_where_it_has_saved(cluster: Cluster, whole: Job, tmp_path: Path):
    job = pretrain(cluster, tmp_path)
    job.trains()
    cluster.crash(NODES[1])
    until(lambda: "task 0: Exited" in job.said, 60, lambda: f"the end of the other process\n{job.said}")
    assert job.state == "RUNNING", job.said  # until Slurm finds the node dead, here told so
    cluster.call("scontrol", "update", f"nodename={NODES[1]}", "state=down", "reason=test")
    until(lambda: job.state == "PENDING", 60, lambda: f"the way back to the queue ({job.state})")
    cluster.boot(NODES[1])
    cluster.call("scontrol", "update", f"nodename={NODES[1]}", "state=resume")
    job.ends("COMPLETED")
    assert cluster.job(job.number)["Restarts"] == "1" and "resume_from=auto: goes on with" in job.said
    same(job.run, whole.run)


def test_an_array_runs_a_line_in_each_task(cluster: Cluster, hub_cache: Path, tmp_path: Path):
    grid = tmp_path / "grid.txt"
    grid.write_text(f"seed=1 max_steps=2\nseed=2 max_steps={STEPS}\n")
    words = ("scripts/slurm/array.sbatch", str(grid), "task_mlm", *WORDS)
    number = submit(cluster, tmp_path, "--array=1-2", f"--output={tmp_path}/%A_%a.log", *words)
    short, long = (Job(cluster, f"{number}_{task}", tmp_path) for task in (1, 2))
    until(lambda: long.steps >= 6, LIMIT, lambda: f"the first steps\n{long.said}")
    cluster.call("scancel", "--signal=USR1", long.number)
    for job in (short, long):
        job.ends("COMPLETED")
    assert [cluster.job(job.number)["Restarts"] for job in (short, long)] == ["0", "1"]
    runs = {path.parent.name: path for path in tmp_path.glob("result/*/version_*")}
    steps = {name: read(path / "checkpoints" / "last.ckpt").training["step"] for name, path in runs.items()}
    assert steps == {"grid_1": 2, "grid_2": STEPS} and len(list(tmp_path.glob("result/*/*"))) == 2


def test_a_study_runs_every_run_once_though_a_node_dies(cluster: Cluster, hub_cache: Path, tmp_path: Path):
    """Two variants of pretraining, each with two finetunings: arrays of two stages, six runs; and one that finds no data."""
    small_run.write_coco_vg(tmp_path / "data" / "arrow")
    words = "\n".join(f"  {word.replace('=', ': ')}" for word in (*SMALL, "max_steps: 12", "save_every_steps=3"))
    (tmp_path / "small.yaml").write_text(
        f"base:\n{words}\n  presets: [task_mlm_itm]\n"
        "stages:\n  first: {grid: {freeze_text_encoder: [false, true]}}\n"
        '  then: {load_path: "stage:first.best", grid: {learning_rate: [1e-4, 1e-3]}}\n'
        "  broken: {datasets: [sbu]}\n"
        "metrics: [then:mlm/val/accuracy]\n"
        "slurm: {gpus-per-node: 0, cpus-per-task: 1, time: 20}\n"
    )
    variables = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "VIRTUAL_ENV": sys.prefix,
        "PYTHONPATH": str(OFFLINE),
        "OMP_WAIT_POLICY": "passive",
        "DATA_ROOT": str(tmp_path / "data" / "arrow"),
    }
    command = (sys.executable, str(ROOT / "run.py"), "study", "with", f"study={tmp_path / 'small.yaml'}")
    given = (f"log_dir={tmp_path / 'result'}", "where=slurm")

    def done() -> int:
        return len(list(tmp_path.glob("result/small/runs/*/version_*/results.json")))

    said = cluster.call(*command, *given, "action=run", **variables)
    numbers = [line.split()[-1] for line in said.splitlines() if "job" in line]
    cluster.jobs += numbers
    assert len(numbers) == 3 and "broken: 1 runs" in said and "first: 2 runs" in said and "then: 4 runs" in said
    assert "is in the queue already" in cluster.call(*command, *given, "action=run", **variables)
    until(lambda: done() >= 1, LIMIT, lambda: "the first run")
    cluster.crash(NODES[1])
    cluster.call("scontrol", "update", f"nodename={NODES[1]}", "state=down", "reason=test")
    cluster.boot(NODES[1])
    cluster.call("scontrol", "update", f"nodename={NODES[1]}", "state=resume")
    until(lambda: not cluster.queue().strip(), 3 * LIMIT, lambda: cluster.queue())
    if done() < 6:  # what the node took with it
        cluster.jobs += [
            line.split()[-1] for line in cluster.call(*command, *given, "action=run", **variables).splitlines()
        ]
        until(lambda: not cluster.queue().strip(), 3 * LIMIT, lambda: cluster.queue())
    assert done() == 6 and len(list(tmp_path.glob("result/small/runs/*/version_*"))) == 6
    assert "nothing is left to run" in cluster.call(*command, *given, "action=run", **variables)
    status = cluster.call(*command, given[0], "action=status", **variables)
    assert status.count(": done in ") == 6 and "broken_seed=0: failed: error: " in status, status
    table = cluster.call(*command, given[0], "action=table", **variables)
    assert table.count("(n=1)") == 4 and "first.freeze_text_encoder" in table
