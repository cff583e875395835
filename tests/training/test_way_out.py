"""However a run ends, in whichever phase and with whatever processes: soon, saved, with the right status, nobody left behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pytest

import small_run
from conftest import OFFLINE, ROOT
from renaissance.runs.checkpoint import read
from small_run import SMALL

WORDS = ("task_mlm_itm", *SMALL, "max_steps=6", "val_check_interval=3", "accelerator=cpu")
LIMIT = 60  # seconds from the fault to the end of the last process


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_cache: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    small_run.write_coco_vg(tmp_path / "data" / "arrow")
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, hub_cache: Path) -> Path:
    """The folder of a run that nothing disturbs."""
    place = tmp_path_factory.mktemp("whole")
    small_run.write_coco_vg(place / "data" / "arrow")
    ended = run_until_end(place, *WORDS, "num_workers=0")
    assert ended.status == 0, ended
    return place / "result" / "mlm_itm" / "version_0"


# Before the run: `act` is what goes wrong, once, in a call of a method of the loop on a process; "fault" is written when it does.
PATCH = """
import os, signal, sys, threading, time, multiprocessing
class PanicException(BaseException): pass
def once(method, call, rank, act):
    from renaissance.training.module import VisionLanguageModule
    plain, calls = getattr(VisionLanguageModule, method), []
    def around(self, *args):
        calls.append(method)
        if len(calls) == call and self.global_rank == rank:
            open("fault", "w").write(str(self.step))
            act()
        return plain(self, *args)
    setattr(VisionLanguageModule, method, around)
def fail(error):
    raise error
def kill_worker():
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
def stop_workers():
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGSTOP)
    threading.Timer(5, os.kill, (os.getpid(), signal.SIGTERM)).start()  # when the batches that were ready are used up
"""
PHASES = {"training": ("training_step", 5), "validation": ("validation_step", 2), "evaluation": ("test_step", 1)}


class Ended(NamedTuple):
    """How a run has ended.

    Attributes:
        status, said: of its first process, on both screens. seconds: from the fault to the end of the last process.
        left: processes of its session, and temporary files.
    """

    status: int
    said: str
    seconds: float
    left: list[str]


def session(number: int) -> list[str]:
    """What still runs of a session of processes."""
    table = subprocess.run(["ps", "-o", "pid=,stat=,args=", "-s", str(number)], capture_output=True, text=True).stdout
    return [line for line in table.splitlines() if not re.match(r"\s*\d+ Z", line)]


def run_until_end(work: Path, *words: str, patch: str = "", screen: str = "file", **variables: str) -> Ended:
    """A command in a session of its own, with lines of Python before it.

    Args:
        screen: where stdout and stderr go: "closed" (a pipe that nobody reads), "full" (/dev/full) or "file".
    """
    program = work / "patched.py"
    start = "import run\nif __name__ == '__main__':\n    run.run_program()\n"
    program.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{PATCH}\n{patch}\n{start}")
    (work / "fault").unlink(missing_ok=True)
    out, temporary = work / "screen.txt", tempfile.mkdtemp(prefix="rt-", dir="/tmp")
    if screen == "closed":
        reading, target = os.pipe()
        os.close(reading)
    else:
        target = os.open("/dev/full" if screen == "full" else out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    process = subprocess.Popen(
        [sys.executable, str(program), "with", *words],
        cwd=work,
        env=os.environ | {"PYTHONPATH": str(OFFLINE), "TMPDIR": temporary} | variables,
        stdin=subprocess.DEVNULL,
        stdout=target,
        stderr=target,
        start_new_session=True,
    )
    os.close(target)
    try:
        status = process.wait(240)
        until = time.monotonic() + 15
        while (left := session(process.pid)) and time.monotonic() < until:
            time.sleep(0.2)
    finally:
        if session(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        litter = [str(path) for path in Path(temporary).iterdir()]
        shutil.rmtree(temporary)
    began = (work / "fault").stat().st_mtime if (work / "fault").exists() else time.time()
    return Ended(status, out.read_text() if screen == "file" else "", time.time() - began, [*left, *litter])


def fault(phase: str, act: str, rank: int = 0) -> str:
    method, call = PHASES[phase]
    return f"once({method!r}, {call}, {rank}, lambda: {act})"


def steps_saved(work: Path, name: str = "mlm_itm") -> int:
    return read(work / "result" / name / "version_0" / "checkpoints" / "last.ckpt").training["step"]


def goes_on(capsys, whole: Path, *words: str) -> None:
    """The same command goes on, and ends as the undisturbed run did, bit for bit."""
    small_run.same_run(whole, small_run.train(capsys, *words, "resume_from=auto"))


DEFECTS = ("fail(ZeroDivisionError('a defect'))", "fail(PanicException('of Rust'))", "fail(MemoryError())")
# One process without loader processes is tested in test_stopping.py, in the same process and so quickly.
TRIALS = [
    (phase, DEFECTS[(number + place) % 3], workers, processes, rank)
    for number, phase in enumerate(PHASES)
    for place, (workers, processes, rank) in enumerate(((2, 1, 0), (0, 2, 0), (2, 2, 1)))
]


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "act", "workers", "processes", "rank"), TRIALS)
def test_a_defect_costs_no_step_and_hangs_nobody(phase, act, workers, processes, rank, work: Path, whole: Path, capsys):
    words = (*WORDS, f"num_workers={workers}", f"num_gpus={processes}")
    ended = run_until_end(work, *words, patch=fault(phase, act, rank))
    error = act.partition("(")[2].partition("(")[0]
    assert ended.status == 1 and not ended.left and ended.seconds < LIMIT, ended
    assert f"{error}" in ended.said and "Traceback" in ended.said and "resume_from=" in ended.said, ended
    assert steps_saved(work) == {"training": 4, "validation": 3, "evaluation": 6}[phase], ended
    if processes == 1:
        goes_on(capsys, whole, *words)


SCREENS = [
    (screen, phase, 2 * ((number + place) % 2))
    for number, screen in enumerate(("closed", "full"))
    for place, phase in enumerate(PHASES)
]


@pytest.mark.slow
@pytest.mark.parametrize(("screen", "phase", "workers"), SCREENS)
def test_a_run_does_not_care_whether_anyone_reads_it(screen, phase, workers, work: Path, whole: Path, capsys):
    """Ctrl-C takes the `tee` behind a pipe along; Slurm's logs share the disk that is full."""
    words = (*WORDS, f"num_workers={workers}")
    number, status = (signal.SIGINT, 130) if phase != "validation" else (signal.SIGTERM, 75)
    act = f"os.kill(os.getpid(), {int(number)})"
    ended = run_until_end(work, *words, patch=fault(phase, act), screen=screen)
    assert ended.status == status and not ended.left and ended.seconds < LIMIT, ended
    log = (work / "result" / "mlm_itm" / "version_0" / "log.txt").read_text()
    assert "resume_from=" in log.splitlines()[-1], log
    assert steps_saved(work) >= {"training": 5, "validation": 3, "evaluation": 6}[phase]
    goes_on(capsys, whole, *words)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("act", "status", "said", "processes"),
    [
        ("kill_worker()", 1, "a loader process has died", 2),
        ("stop_workers()", 75, "stopped by SIGTERM after step", 1),
    ],
)
def test_a_loader_that_is_gone_or_delivers_nothing(act, status, said, processes, work: Path):
    words = (*WORDS, "max_steps=40", "num_workers=2", f"num_gpus={processes}")
    ended = run_until_end(work, *words, patch=fault("training", act))
    assert ended.status == status and said in ended.said and not ended.left and ended.seconds < LIMIT, ended
    assert steps_saved(work) >= 4 and "Traceback" not in ended.said, ended
