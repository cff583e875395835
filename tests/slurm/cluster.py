"""Slurm itself, with two nodes on this machine: what a batch script meets on a cluster, in seconds.

Both nodes are a slurmd on the loopback device, named by its addresses, so that every process finds them without an
entry in /etc/hosts. The daemons run in the foreground, keep all their state in one folder, and end with the tests.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

NODES = ("127.0.0.1", "127.0.0.2")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge", "iproute2")
REFRESH = ("apt-get", "update", "-qq")
INSTALL = ("apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES)

# cred_expire, here the least there is, is also what a job waits that goes back to the queue: 120 s by default. KillWait
# is between SIGTERM and SIGKILL.
# Nothing here needs cgroups, which a container may not have.
CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
MailProg=/bin/true
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
KillWait=10
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1
{nodes}
PartitionName=tests Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def require() -> None:
    """Skips the tests where Slurm is not there and cannot be installed."""
    if os.geteuid() != 0:
        pytest.skip("needs root: slurmd starts the processes of jobs")
    if all(map(shutil.which, PROGRAMS)):
        return
    if shutil.which("apt-get") is None:
        pytest.skip("needs Slurm: slurmctld, slurmd, sbatch and munged")
    for command in (REFRESH, INSTALL):
        variables = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(command, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"needs Slurm, and {' '.join(command)} failed: {done.stderr.strip()[-200:]}")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in taken]
    for each in taken:
        each.close()
    return ports


def until(true: Callable[[], object], seconds: float, what: Callable[[], str]) -> None:
    """Waits until something holds; fails when the time is over, and says `what()` was waited for."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            pytest.fail(f"{what()} took longer than {seconds:g} s")
        time.sleep(0.2)


class Cluster:
    """Two nodes, of two cores by name, and their controller.

    Args:
        folder: of everything that they write.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        self.daemons: dict[str, subprocess.Popen] = {}  # of a node, by its name
        self.jobs: list[str] = []

    def start(self) -> None:
        controller, *ports = free_ports(1 + len(NODES))
        host = socket.gethostname().partition(".")[0]
        nodes = [
            f"NodeName={node} NodeHostname={host} NodeAddr={node} Port={port} CPUs=2 RealMemory=1024"
            for node, port in zip(NODES, ports, strict=True)
        ]
        text = CONFIGURATION.format(folder=self.folder, host=host, controller=controller, nodes="\n".join(nodes))
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "cgroup.conf").write_text(
            "CgroupAutomount=no\n"
        )  # without it slurmd looks for cgroups all the same
        (self.folder / "state").mkdir()
        for node in NODES:
            (self.folder / f"spool-{node}").mkdir()
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        files = [f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        self._daemon("munged", "munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", *files)
        until((self.folder / "munge.socket").exists, 20, lambda: "the start of munged")
        self._daemon("slurmctld", "slurmctld", "-D")
        for node in NODES:
            self.boot(node)
        until(lambda: self.idle() == len(NODES), 30, lambda: "the start of Slurm")

    def stop(self) -> None:
        """Ends the jobs, whose processes would outlive the daemons, and then the daemons."""
        for job in self.jobs:
            subprocess.run(["scancel", job], env=self.environment, capture_output=True, timeout=20)
        end = time.monotonic() + 30
        while self.queue() and time.monotonic() < end:
            time.sleep(0.2)
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def boot(self, node: str) -> None:
        """Starts the daemon of a node."""
        self._daemon(node, "slurmd", "-D", "-N", node)

    def crash(self, node: str) -> None:
        """Ends all that runs on a node at once, as a power failure does."""
        dying = {self.daemons[node].pid}
        marks = {f"SLURMD_NODENAME={node}", f"SLURM_CONF={self.folder / 'slurm.conf'}"}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                variables = (process / "environ").read_bytes().decode(errors="replace").split("\0")
                parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
                if marks <= {*variables}:  # what a job runs there; its parent is what Slurm has started it with
                    dying.add(int(process.name))
                    if b"slurmstepd" in Path(f"/proc/{parent}/cmdline").read_bytes():
                        dying.add(int(parent))
            except OSError:
                continue  # it has just ended
        for number in dying:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.daemons[node].wait()

    def _daemon(self, name: str, *command: str) -> None:
        with open(self.folder / f"{name}.log", "a") as log:
            self.daemons[name] = subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests, which then end their daemons
            )

    def call(self, *words: str, **variables: str) -> str:
        """What a command of Slurm prints; fails with its message."""
        done = subprocess.run(
            words,
            env=self.environment | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
        return done.stdout.strip()

    def idle(self) -> int:
        """How many nodes are free."""
        done = subprocess.run(
            ["sinfo", "--noheader", "--states=idle", "--format=%D"],
            env=self.environment,
            capture_output=True,
            text=True,
        )
        return int(done.stdout.strip() or 0)

    def queue(self) -> str:
        """The jobs that wait or run."""
        return subprocess.run(["squeue", "--noheader"], env=self.environment, capture_output=True, text=True).stdout

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` knows of a job, by its names: JobState, Restarts, ExitCode."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.call("scontrol", "show", "job", "--oneliner", number)))
