"""Who starts a run: plain python, torchrun or srun, as their environment says, and what contradicts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import small_run
from conftest import OFFLINE, ROOT
from renaissance.cli import main as cli
from renaissance.core.errors import Stopped, UserError
from renaissance.core.launch import (
    PYTHON,
    SRUN,
    TORCHRUN,
    Launch,
    are_cores_busy,
    available_cores,
    launch_environment,
    prepare_environment,
)
from renaissance.settings.resolver import SettingsError
from renaissance.training import devices, train
from small_run import NO_DROPOUT, SMALL, curve, resolver

TORCHELASTIC = {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
}
STEP = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NTASKS": "4",
}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Launch(PYTHON, True)),
        ({"MASTER_ADDR": "", "MASTER_PORT": "", "NODE_RANK": "", "LOCAL_RANK": ""}, Launch(PYTHON, True)),
        ({"LOCAL_RANK": "1"}, Launch(PYTHON, False)),
        ({"NODE_RANK": "1"}, Launch(PYTHON, False)),  # of another machine, before it has started others
        (TORCHELASTIC, Launch(TORCHRUN, False, 2, 2)),
        (STEP | TORCHELASTIC, Launch(TORCHRUN, False, 2, 2)),  # torchrun on each machine, by srun
        (STEP, Launch(SRUN, True, 2, 2, 4)),
        (STEP | {"SLURM_PROCID": "2"}, Launch(SRUN, False, 2, 2, 4)),
        # Slurm's job script, and a shell that srun has opened: python there starts its processes itself.
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, Launch(PYTHON, True)),
        (STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1"}, Launch(PYTHON, True)),
    ],
)
def test_the_environment_says_who_started_a_process(environment: dict[str, str], expected: Launch):
    assert launch_environment(environment) == expected


def test_what_is_set_to_nothing_is_not_set(monkeypatch):
    for name in ("MASTER_ADDR", "NODE_RANK"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("MASTER_PORT", "12345")
    prepare_environment()
    assert not {"MASTER_ADDR", "NODE_RANK"} & os.environ.keys() and os.environ["MASTER_PORT"] == "12345"


@pytest.mark.parametrize(
    ("content", "busy"), [("0.1 0.2 0.3 1/300 7", False), ("9.0 0.2 0.3 9999/9999 7", True), ("", False), (None, False)]
)
def test_waiting_threads_sleep_beside_other_programs(content: str | None, busy: bool, tmp_path: Path, monkeypatch):
    path = tmp_path / "loadavg"
    if content is not None:
        path.write_text(content)
    assert are_cores_busy(str(path)) == busy
    monkeypatch.setattr("renaissance.core.launch.are_cores_busy", lambda: busy)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    prepare_environment()
    assert os.environ.get("OMP_WAIT_POLICY") == ("PASSIVE" if busy else None)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    prepare_environment()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_who_has_started_the_processes_says_how_many(monkeypatch):
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    made = resolver(batch_size=8)
    assert (made["num_gpus"], made["num_nodes"], made["per_gpu_batchsize"]) == (2, 2, 2)
    assert made.sources["num_gpus"] == "srun"
    assert resolver(num_gpus=2, num_nodes=2, batch_size=8)["num_gpus"] == 2
    with pytest.raises(SettingsError) as caught:
        resolver(num_gpus=8)
    assert str(caught.value) == (
        "num_gpus=8, but srun has started this run with 2 processes on each machine; give num_gpus=2, or leave num_gpus out."
    )


def test_as_many_processes_on_each_machine(monkeypatch):
    for name, value in (STEP | {"SLURM_STEP_NUM_TASKS": "3"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        SettingsError, match="srun has started 3 processes on 2 machines, but each .* --ntasks-per-node"
    ):
        resolver()


def test_a_process_that_slurm_has_given_cores_of_its_own_uses_them_all(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert (available_cores(), available_cores(4), available_cores(16)) == (8, 2, 1)
    for name, value in (STEP | {"SLURM_CPUS_PER_TASK": "8"}).items():
        monkeypatch.setenv(name, value)
    assert available_cores(4) == 8
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")  # not bound: the four tasks share what each could use
    assert available_cores(4) == 2


@pytest.mark.parametrize(
    ("rank", "alone", "status"), [("0", False, 75), ("1", False, 0), ("0", True, 75), ("1", True, 75)]
)
def test_the_status_of_a_stopped_run_is_that_of_its_first_process(rank, alone, status, monkeypatch, capsys):
    """Unless only another one was asked, where nobody waits for the end of a step: srun reports the largest."""

    def stop(*_: object) -> None:
        raise Stopped("stopped by SIGUSR1", 75, local_only=alone)

    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr(train, "run", stop)
    assert cli.main(["with", "task_mlm", "max_steps=1"]) == status
    assert ("stopped by SIGUSR1" in capsys.readouterr().err) == (rank == "0")


def test_several_machines_must_be_told_who_they_are(monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
        with pytest.raises(UserError, match="num_nodes=2 needs a start on each machine: submit scripts/slurm"):
            devices.check_start(2)
        monkeypatch.setenv(name, "0")
    devices.check_start(2)


@pytest.mark.slow
def test_torchrun_trains_as_plain_python(tmp_path: Path, hub_cache: Path, run_cli):
    """Without num_gpus, with variables that a job script has left empty; both start the same two processes."""
    small_run.write_coco_vg(tmp_path / "data" / "arrow")
    words = ("with", "task_mlm_itm", *SMALL, *NO_DROPOUT, "max_steps=2", "val_check_interval=2", "final_test=False",
             "accelerator=cpu")  # fmt: skip
    empty = {"MASTER_ADDR": "", "MASTER_PORT": "", "NODE_RANK": ""}
    done = run_cli(*words, "num_gpus=2", env=empty)
    assert done.code == 0, done.stderr
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    by = subprocess.run(
        [*torchrun, str(ROOT / "run.py"), *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(OFFLINE)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert by.returncode == 0, by.stderr
    assert by.stdout.count("run folder: ") == 1
    folders = [tmp_path / "result" / "mlm_itm" / f"version_{number}" for number in (0, 1)]
    assert sorted(path.name for path in folders[0].parent.iterdir()) == ["version_0", "version_1"]
    for metric in ("mlm/train/loss", "itm/val/loss"):
        assert curve(folders[0], metric) == curve(folders[1], metric)
