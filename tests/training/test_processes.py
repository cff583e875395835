"""Runs of two processes, on CPU: one that dies or cannot read ends the run with a sentence, and nothing is lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from transformers import ResNetConfig

import small_run
from conftest import ROOT
from renaissance.core.atomic import FileLock
from renaissance.runs.checkpoint import read
from small_run import NO_DROPOUT, SMALL, started
from small_tasks import TASKS
from small_tasks import words as small_words

pytestmark = pytest.mark.slow

WORDS = ("task_mlm_itm", *SMALL, "batch_size=8", "val_check_interval=1000", "save_every_steps=1", "final_test=False",
         "accelerator=cpu", "num_gpus=2")  # fmt: skip


@pytest.fixture
def work(tmp_path: Path, hub_cache: Path) -> Path:
    small_run.write_coco_vg(tmp_path / "data" / "arrow")
    return tmp_path


def children(process: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def until(true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_the_others_within_a_minute(rank: int, work: Path):
    run = started(work, *WORDS, "max_steps=1000")
    last = work / "result" / "mlm_itm" / "version_0" / "checkpoints" / "last.ckpt"
    until(lambda: last.exists() or run.poll() is not None, 120)
    (other,) = [number for number in children(run.pid) if b"patched.py" in Path(f"/proc/{number}/cmdline").read_bytes()]
    os.kill(run.pid if rank == 0 else other, signal.SIGKILL)
    began = time.monotonic()
    said, _ = run.communicate(timeout=60)  # ends when the last process has closed it
    assert time.monotonic() - began < 60 and run.returncode != 0
    assert "Another process of this run has ended, so this one ends too" in said and "Traceback" not in said, said
    assert 0 < read(last).training["step"] < 1000


def test_a_long_save_after_the_death_of_another_process_is_done(work: Path):
    """Lightning would kill the first process in the middle of it."""
    patch = (
        "import time; from renaissance.training.checkpointing import CheckpointSaver; rescue = CheckpointSaver.rescue\n"
        "CheckpointSaver.rescue = lambda *each: (time.sleep(8), rescue(*each))"
    )
    words = [word for word in WORDS if word != "save_every_steps=1"]
    run = started(work, *words, "max_steps=100000", patch=patch)
    log = work / "result" / "mlm_itm" / "version_0" / "metrics.csv"
    until(lambda: log.exists() or run.poll() is not None, 120)
    time.sleep(1)
    (other,) = [number for number in children(run.pid) if b"patched.py" in Path(f"/proc/{number}/cmdline").read_bytes()]
    os.kill(other, signal.SIGKILL)
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 1 and "Another process of this run has ended, so this one ends too" in said, said
    assert read(log.parent / "checkpoints" / "last.ckpt").training["step"] > 0


def test_what_one_process_cannot_read_ends_both(work: Path):
    whole = started(work, *WORDS, "max_steps=6", "exp_name=whole")
    said, _ = whole.communicate(timeout=120)
    assert whole.returncode == 0, said
    path = work / "data" / "arrow" / "vg.arrow"
    sound = small_run.damage_picture(path)
    run = started(work, *WORDS, "max_steps=6", "resume_from=auto")
    said, _ = run.communicate(timeout=120)
    assert run.returncode == 1 and re.search(r"vg\.arrow row \d+", said) and "Traceback" not in said, said
    path.write_bytes(sound)
    run = started(work, *WORDS, "max_steps=6", "resume_from=auto")
    said, _ = run.communicate(timeout=120)
    assert run.returncode == 0 and "resume_from=auto: goes on with" in said, said
    one, two = (work / "result" / name / "version_0" for name in ("whole", "mlm_itm"))
    assert small_run.rows(one) == small_run.rows(two)


SLOW_SAVES = """
import time
from renaissance.runs import checkpoint
plain = checkpoint.save
checkpoint.save = lambda *args: (time.sleep(8), plain(*args))
"""


def test_a_save_that_takes_long_is_waited_for(work: Path):
    """Lightning ends the first process some seconds after another has ended; that is behind the save that rescues the run."""
    small_run.damage_picture(work / "data" / "arrow" / "vg.arrow")
    words = (*WORDS, "max_steps=6", "save_every_steps=1000")
    run = started(work, *words, patch=SLOW_SAVES)
    said, _ = run.communicate(timeout=200)
    assert (
        run.returncode == 1
        and re.search(r"vg\.arrow row \d+", said)
        and "resume_from=" in said
        and "Traceback" not in said
    ), said
    assert read(work / "result" / "mlm_itm" / "version_0" / "checkpoints" / "last.ckpt").training["step"] > 0


SLOW_TEST = """
import os, time
from renaissance.training.module import VisionLanguageModule
plain = VisionLanguageModule.test_step
def test_step(self, *args):
    open("testing", "w").close()
    if self.global_rank == 0:
        time.sleep(3)
    return plain(self, *args)
VisionLanguageModule.test_step = test_step
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_in_the_evaluation_that_ends_a_run_hangs_nobody(number: signal.Signals, work: Path):
    """Lightning's own handler of SIGTERM would broadcast from within it."""
    words = (*(word for word in WORDS if word != "final_test=False"), "max_steps=1")
    run = started(work, *words, patch=SLOW_TEST)
    until(lambda: (work / "testing").exists() or run.poll() is not None, 120)
    time.sleep(0.5)
    run.send_signal(number)
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 75 and "goes on from there with resume_from=" in said, said


def test_machines_that_would_go_on_from_different_steps_are_refused(
    work: Path, tmp_path_factory: pytest.TempPathFactory
):
    """Two machines of which each sees a log_dir of its own, started without resume_from=auto, which the first answers for all."""
    alone = (*WORDS[:-1], "num_gpus=1", "max_steps=3")
    for words in (alone, (*alone, "max_steps=2")):
        run = started(work, *words)
        assert run.communicate(timeout=120) and run.returncode == 0
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(small_run.free_port())}
    machines = []
    for rank in (0, 1):
        path = work / "result" / "mlm_itm" / f"version_{rank}" / "checkpoints" / "last.ckpt"
        words = (f"resume_from={path}", "num_nodes=2", "max_steps=6", "per_gpu_batchsize=4")
        with mock.patch.dict(os.environ, place | {"NODE_RANK": str(rank)}):
            machines.append(started(work, *words))
    said = [machine.communicate(timeout=120)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [1, 1], said
    assert "would go on from different steps (3 by process 0, 2 by process 1): log_dir must lie on a disk" in said[0]
    assert "Traceback" not in "".join(said)


def test_a_folder_that_another_run_holds_ends_all_processes(work: Path):
    run = started(work, *WORDS, "max_steps=3")
    assert run.communicate(timeout=120) and run.returncode == 0
    folder = work / "result" / "mlm_itm" / "version_0"
    held = FileLock(folder)
    began = time.monotonic()
    by = small_run.torchrun(work, *WORDS[:-1], f"resume_from={folder}/checkpoints/last.ckpt", "max_steps=6")
    held.release()
    assert by.returncode != 0 and by.stderr.count("error: ") == 1 and "Another process is training in" in by.stderr
    assert time.monotonic() - began < 200  # the others have not waited for a meeting that never comes


def test_loader_processes_of_several_processes(work: Path):
    """They give the same batches, hang in no start and are gone with the run. Each is started anew at each validation."""
    words = (*WORDS, "max_steps=12", "val_check_interval=3", "save_every_steps=1000")
    for workers in (0, 2):
        run = started(work, *words, f"exp_name=by_{workers}", f"num_workers={workers}")
        said, _ = run.communicate(timeout=200)
        assert run.returncode == 0, said
    one, two = (work / "result" / name / "version_0" for name in ("by_0", "by_2"))
    assert small_run.rows(one) == small_run.rows(two)


FORKED = """
import gc, os, sys
def look(pipe):
    pipe.send(("renaissance.data.collate" in sys.modules, gc.get_freeze_count() > 0, os.environ["TOKENIZERS_PARALLELISM"]))
if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    from renaissance.data.workers import start_fork_server
    context = start_fork_server()
    here, there = context.Pipe()
    worker = context.Process(target=look, args=(there,))
    worker.start()
    print(*here.recv())
    worker.join()
"""


def test_what_loader_processes_are_forked_from_has_imported_what_they_need(tmp_path: Path):
    """Wherever the command is given; else each of them would import it."""
    (tmp_path / "program.py").write_text(FORKED, encoding="utf-8")
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "program.py", str(ROOT)]
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
    assert said.stdout == "True True false\n", said


def test_a_run_goes_on_with_another_number_of_processes(work: Path):
    """The same samples, masks and images: without dropout the same curve."""
    words = (*(word for word in WORDS if not word.startswith("num_gpus")), *NO_DROPOUT, "negative_group=2")
    alone = started(work, *words, "max_steps=6", "keep_last=6")
    said, _ = alone.communicate(timeout=120)
    assert alone.returncode == 0, said
    path = work / "result" / "mlm_itm" / "version_0" / "checkpoints" / "step_000000003.ckpt"
    both = started(work, f"resume_from={path}", "num_gpus=2")
    said, _ = both.communicate(timeout=120)
    assert both.returncode == 0, said
    one, two = (work / "result" / "mlm_itm" / f"version_{number}" for number in (0, 1))
    for metric in ("mlm/train/loss", "itm/train/loss"):
        assert small_run.curve(two, metric) == pytest.approx(small_run.curve(one, metric)[3:], abs=1e-4)


GRADIENTS = """
import os
from renaissance.training.module import VisionLanguageModule
plain = VisionLanguageModule._gradient_norm
def behind_the_backward_pass(self, *args):
    lacking = [name for name, p in self.named_parameters() if p.requires_grad and p.grad is None]
    os.write(1, f"step {self.step} of process {self.global_rank}: without a gradient {lacking}\\n".encode())  # in one piece
    return plain(self, *args)
VisionLanguageModule._gradient_norm = behind_the_backward_pass
"""
PRETRAINING = ("task_mlm_itm", *SMALL, "loss_names={'mlm': 1, 'itm': 1, 'itc': 1}", "val_check_interval=1000")
KINDS = [
    ("pretraining", "two-tower"),
    *((task, "two-tower") for task in TASKS),
    ("nlvr2", "one-tower"),
    ("ref", "one-tower"),
]


@pytest.mark.parametrize(("task", "kind"), KINDS, ids=[f"{task}-{kind}" for task, kind in KINDS])
def test_every_trainable_parameter_gets_a_gradient_on_both_processes(task: str, kind: str, work: Path):
    """What no task reads is frozen, so DDP looks for nothing; it would refuse a second step where something had none."""
    words = PRETRAINING if task == "pretraining" else small_words(task, work, kind, work / "result")
    words = [word for word in words if not word.startswith("max_steps")]
    run = started(work, *words, "max_steps=2", "final_test=False", "accelerator=cpu", "num_gpus=2", patch=GRADIENTS)
    said, _ = run.communicate(timeout=200)
    assert run.returncode == 0, said
    lines = re.findall(r"step (\d) of process (\d): without a gradient (.*)", said)
    assert sorted(lines) == [(str(step), str(rank), "[]") for step in (0, 1) for rank in (0, 1)], said


def test_batch_norms_of_all_processes_are_those_of_the_checkpoint(work: Path, capsys, monkeypatch):
    """A validation on two processes gives what the checkpoint gives on one."""
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    ResNetConfig(**sizes, downsample_in_first_stage=True).save_pretrained(work / "resnet")
    words = (*(word for word in WORDS if not word.startswith(("image_encoder", "val_check"))), "max_steps=4")
    words += ("image_encoder=resnet", "random_init_vision_encoder=True", "val_check_interval=4")
    run = started(work, *words)
    said, _ = run.communicate(timeout=120)
    assert run.returncode == 0, said
    both = work / "result" / "mlm_itm" / "version_0"
    monkeypatch.chdir(work)
    evaluation = ("task_mlm_itm", "test_only=True", "num_workers=0", f"load_path={both}/checkpoints/last.ckpt")
    alone = small_run.results(small_run.train(capsys, *evaluation))["val"]
    for task in ("mlm", "itm"):
        assert small_run.curve(both, f"{task}/val/loss")[-1] == pytest.approx(alone[task]["loss"], abs=1e-5)


CANNOT_READ = """
import os
from renaissance.runs import checkpoint_folder
plain = checkpoint_folder.try_read
def try_read(path):
    return (None, f"{path} cannot be read here.") if os.environ.get("LOCAL_RANK", "0") != "0" else plain(path)
checkpoint_folder.try_read = try_read
"""


def test_a_best_checkpoint_that_one_process_cannot_read_is_evaluated_by_none(work: Path):
    """Else one would evaluate other splits, or other weights, than the other, and their sums would mix."""
    words = (*(word for word in WORDS if not word.startswith(("final_test", "val_check"))), "max_steps=2")
    found = {}
    for name, patch in (("whole", ""), ("cannot", CANNOT_READ)):
        run = started(work, *words, "val_check_interval=2", f"exp_name={name}", patch=patch)
        said, _ = run.communicate(timeout=200)
        assert run.returncode == 0 and ("is evaluated in place of the best one" in said) == bool(patch), said
        found[name] = small_run.results(work / "result" / name / "version_0")
    assert found["whole"] == found["cannot"]  # the best is the last


def curve_of(work: Path, name: str) -> list[float]:
    return small_run.curve(work / "result" / name / "version_0", "mlm/train/loss")


def test_a_strategy_changes_what_it_says_and_nothing_else(work: Path):
    """zero1: bit for bit as ddp, half the optimizer's state on each, checkpoints that either goes on from; ddp_bf16: nearly."""
    words = (*WORDS, "max_steps=4", "keep_last=4", "gradient_clip_val=0.5")
    for name in ("ddp", "ddp_bf16", "zero1"):
        run = started(work, *words, f"exp_name={name}", f"strategy={name}", patch=STATE)
        said, _ = run.communicate(timeout=120)
        assert run.returncode == 0, said
        numbers = [int(number) for number in re.findall(r"optimizer state: (\d+)", said)]
        assert len(numbers) == 2
        if name == "ddp":
            whole = numbers[0]
            assert numbers == [whole, whole]
        elif name == "zero1":
            assert sum(numbers) == whole and max(numbers) < 0.7 * whole
    ddp, half, zero = (work / "result" / name / "version_0" for name in ("ddp", "ddp_bf16", "zero1"))
    small_run.same_training(ddp, zero)
    assert curve_of(work, "ddp_bf16") == pytest.approx(curve_of(work, "ddp"), abs=0.02)
    assert curve_of(work, "ddp_bf16") != curve_of(work, "ddp")
    for number, name in enumerate(("ddp", "zero1"), 1):
        run = started(work, f"resume_from={zero}/checkpoints/step_000000002.ckpt", f"strategy={name}")
        said, _ = run.communicate(timeout=120)
        assert run.returncode == 0, said
        small_run.same_training(ddp, zero.with_name(f"version_{number}"), rows_from=2)


# Prints how many numbers of optimizer state a process holds when its training ends.
STATE = """
import os
from renaissance.training.checkpointing import CheckpointSaver
plain = CheckpointSaver.training_ends
def on_train_end(self, trainer, module):
    inner = getattr(trainer.optimizers[0], "optim", trainer.optimizers[0])
    numbers = sum(v.numel() for s in inner.state.values() for v in s.values() if v.ndim)
    os.write(1, f"optimizer state: {numbers}\\n".encode())
    plain(self, trainer, module)
CheckpointSaver.training_ends = on_train_end
"""
