"""Runs that are asked to stop, or stop learning: what they save, how they end, and that they go on as if nothing was."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ResNetConfig, ViTConfig

import small_run
from conftest import OFFLINE, ROOT
from renaissance.core.atomic import AtomicFile
from renaissance.core.errors import UserError
from renaissance.data.loader import _LOADERS
from renaissance.data.sampler import EvalBatches
from renaissance.runs import checkpoint
from renaissance.runs.report import RunFolder
from renaissance.training import checkpointing, loop
from renaissance.training import train as train_room
from renaissance.training.module import VisionLanguageModule
from renaissance.training.progress import Progress
from renaissance.training.step_report import HostCopy
from small_run import SMALL, command, diverging, equal_state, interrupting, kill

VIT = {"image_size": 32, "patch_size": 16, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
WORDS = ("task_mlm_itm", *SMALL, "max_steps=6", "val_check_interval=3", "train_transform_keys=['imagenet_randaug']")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_cache: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    small_run.write_coco_vg(tmp_path / "data" / "arrow")
    return tmp_path


_WHOLE: dict[tuple[str, ...], Path] = {}


@pytest.fixture
def undisturbed(work: Path, capsys, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes the folder of a run that nothing disturbs; the same command is run once for all tests."""

    def run(*words: str) -> Path:
        if words not in _WHOLE:
            _WHOLE[words] = small_run.train(capsys, *words, f"log_dir={tmp_path_factory.mktemp('whole')}")
        return _WHOLE[words]

    return run


@pytest.mark.parametrize(
    ("number", "status", "method", "call", "step", "long"),
    [
        (signal.SIGTERM, 75, "training_step", 2, 2, None),
        (signal.SIGUSR1, 75, "training_step", 3, 3, None),  # with a validation to come
        (signal.SIGINT, 130, "training_step", 4, 4, None),
        (signal.SIGTERM, 75, "training_step", 6, 6, None),  # with the last validation to come
        # A validation has five batches. Where it may be long it ends at once, else behind the first step after it.
        (signal.SIGUSR1, 75, "validation_step", 1, 3, None),
        (signal.SIGUSR1, 75, "validation_step", 1, 4, math.inf),
        (
            signal.SIGINT,
            130,
            "validation_step",
            7,
            6,
            None,
        ),  # short, the last: stops before the evaluation that ends the run
        (signal.SIGTERM, 75, "validation_step", 7, 6, -1),
        (signal.SIGUSR1, 75, "test_step", 1, 6, None),
        (signal.SIGTERM, 75, "test_step", 1, 6, None),
    ],
)
def test_a_stopped_run_goes_on_as_if_it_had_never_stopped(
    number: signal.Signals,
    status: int,
    method: str,
    call: int,
    step: int,
    long: float | None,
    work: Path,
    undisturbed,
    monkeypatch,
    capsys,
):
    whole = undisturbed(*WORDS)
    if long is not None:
        monkeypatch.setattr(checkpointing, "LONG", long)
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with monkeypatch.context() as patch:
        interrupting(patch, method, call, kill(number))
        ended = command(capsys, *WORDS)
    assert ended.code == status
    assert handlers == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    said = ended.err.strip().splitlines()[-1]
    what = "interrupted" if number == signal.SIGINT else f"stopped by {number.name}"
    at_once = method == "test_step" or (method == "validation_step" and (call, long) in ((1, None), (7, -1)))
    assert said.startswith(
        f"{what}{'' if at_once else f' after step {step}'}; the run goes on from there with resume_from="
    )
    path = Path(re.search(r"resume_from=(\S+last\.ckpt)", said)[1])
    assert checkpoint.read(path).training["step"] == step and not (path.parent.parent / "results.json").exists()

    resumed = small_run.train(capsys, f"resume_from={path}")
    assert resumed.resolve() == path.parent.parent.resolve()
    small_run.same_run(whole, resumed)


def test_a_signal_to_all_processes_of_a_job_stops_a_run_with_loader_processes(
    work: Path, undisturbed, monkeypatch, capsys
):
    """As Slurm and a terminal send it: to the loader processes too."""
    words = (*WORDS, "num_workers=2", "train_transform_keys=['imagenet']")
    whole = undisturbed(*words, "num_workers=0")
    for number, status in ((signal.SIGTERM, 75), (signal.SIGINT, 130)):
        run = subprocess.Popen(
            [sys.executable, "-c", GROUP, str(ROOT), str(int(number)), *words, f"exp_name={number.name}"],
            cwd=work,
            env=os.environ | {"PYTHONPATH": str(OFFLINE)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        _, said = run.communicate(timeout=120)
        assert run.returncode == status and said.count("stopping after this step") == 1, said
        path = work / "result" / number.name / "version_0" / "checkpoints" / "last.ckpt"
        small_run.same_run(whole, small_run.train(capsys, f"resume_from={path}"))


# A run that sends its whole process group a signal in its second step.
GROUP = """
import os, sys
sys.path.insert(0, sys.argv[1])
from renaissance.cli import main as cli
from renaissance.training.module import VisionLanguageModule
plain, steps = VisionLanguageModule.training_step, []
def step(self, *args):
    steps.append(1)
    if len(steps) == 2:
        os.killpg(0, int(sys.argv[2]))
    return plain(self, *args)
VisionLanguageModule.training_step = step
sys.exit(cli.main(["with", *sys.argv[3:]]))
"""


def test_a_second_interrupt_ends_at_once(work: Path, monkeypatch, capsys):
    interrupting(monkeypatch, "training_step", 2, lambda: (kill(signal.SIGINT)(), kill(signal.SIGINT)()))
    ended = command(capsys, *WORDS)
    assert ended.code == 130 and "Traceback" not in ended.err
    assert not list(work.glob("result/*/*/checkpoints/*.ckpt"))


def test_two_interrupts_in_a_save_end_it_as_an_interrupt(work: Path, monkeypatch, capsys):
    """torch's writer makes an error of its own of whatever ends a write."""
    plain, calls = AtomicFile._explaining, []

    @contextlib.contextmanager
    def explaining(self: AtomicFile) -> Any:
        with plain(self):
            calls.append(self._target.name)
            if calls.count("step_000000001.ckpt") == 9:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
            yield

    monkeypatch.setattr(AtomicFile, "_explaining", explaining)
    ended = command(capsys, *WORDS, "save_every_steps=1")
    assert ended.code == 130 and ended.err.splitlines()[-1] == "interrupted." and "Traceback" not in ended.err, ended
    assert calls[-1] == "step_000000001.ckpt" and not list(work.glob("result/*/*/checkpoints/*"))


def test_a_run_ends_when_its_time_is_over(work: Path, undisturbed, monkeypatch, capsys):
    """It saves as for a signal, and the same command goes on; where the time is over before it begins, nothing is left."""
    whole = undisturbed(*WORDS)
    words = (*WORDS, "resume_from=auto", "max_time=1:00")
    with monkeypatch.context() as patch:
        interrupting(patch, "training_step", 4, lambda: (signal.setitimer(signal.ITIMER_REAL, 1e-3), time.sleep(0.1)))
        ended = command(capsys, *words)
    assert ended.code == 75 and "stopped by max_time after step 4; the run goes on" in ended.err, ended
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    small_run.same_run(whole, small_run.train(capsys, *words))
    monkeypatch.setattr(train_room, "seconds_of", lambda time: 0)
    ended = command(capsys, *words, "seed=1")
    assert ended.code == 75 and "stopped by max_time" in ended.err, ended
    assert len(list((work / "result" / "mlm_itm").glob("version_*"))) == 1


def test_signals_that_somebody_has_switched_off_stay_so(work: Path, monkeypatch, capsys):
    """nohup: a terminal that closes ends no run."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        interrupting(monkeypatch, "training_step", 2, kill(signal.SIGHUP))
        small_run.train(capsys, *WORDS, "max_steps=3")
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        interrupting(monkeypatch, "training_step", 2, kill(signal.SIGHUP))
        ended = command(capsys, *WORDS)
        assert ended.code == 75 and "stopped by SIGHUP after step 2" in ended.err, ended
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("method", "call", "error", "step"),
    [
        ("_loss", 1, ZeroDivisionError(), 0),  # before anything was done: nothing is saved, and nothing selected
        ("_loss", 6, ZeroDivisionError(), 2),  # in the second micro-batch of the third step
        ("_gradient_norm", 5, MemoryError(), 4),
        ("_warn", 5, RuntimeError("CUDA out of memory"), 5),  # behind the fifth step, when the fourth is told
        ("validation_step", 1, KeyError("panic"), 3),
        ("test_step", 1, type("PanicException", (BaseException,), {})("of Rust"), 6),
    ],
)
def test_a_defect_costs_no_step(
    method: str, call: int, error: BaseException, step: int, work, undisturbed, monkeypatch, capsys
):
    """What is saved is whole: the same command goes on, and is bit for bit the run that nothing disturbed."""
    words = (*WORDS, "cross_layer_drop_rate=0.1")
    whole = undisturbed(*words)

    def fail() -> None:
        raise error

    with monkeypatch.context() as patch:
        interrupting(patch, method, call, fail, Progress if method == "_warn" else VisionLanguageModule)
        with pytest.raises(type(error)):
            command(capsys, *words)
    assert not multiprocessing.active_children()
    run = work / "result" / "mlm_itm" / "version_0"
    log = (run / "log.txt").read_text()
    last = Path("result", "mlm_itm", "version_0", "checkpoints", "last.ckpt")
    goes_on = f"; the run goes on from there with resume_from={last}." if step else "."
    assert "Traceback" in log and f"error: a defect ended the run{goes_on}" in log
    if step == 0:
        assert not list(run.glob("checkpoints/*.ckpt"))
        return
    assert checkpoint.read(last).training["step"] == step
    with monkeypatch.context() as patch:  # and again, in the first step of the run that goes on, where it has one
        interrupting(patch, "training_step", 1, fail)
        if step < 6:
            with pytest.raises(type(error)):
                command(capsys, *words, "resume_from=auto")
            assert checkpoint.read(last).training["step"] == step
    small_run.same_run(whole, small_run.train(capsys, *words, "resume_from=auto"))


def test_a_tower_may_be_spelled_otherwise_by_the_command_that_goes_on(work: Path, monkeypatch, capsys):
    ViTConfig(**VIT).save_pretrained(work / "m")
    words = [word for word in (*WORDS, "random_init_vision_encoder=True", "resume_from=auto") if "deit" not in word]
    with monkeypatch.context() as patch:
        interrupting(patch, "training_step", 2, kill(signal.SIGTERM))
        assert command(capsys, *words, "image_encoder=m").code == 75
    assert "goes on with" in command(capsys, *words, f"image_encoder={work}/./m/", "max_steps=3").out


def assert_step_4_is_not_saved(work: Path, capsys: pytest.CaptureFixture[str], why: str) -> None:
    """Of a run that fails in step 5."""
    with pytest.raises(RuntimeError, match="out of memory"):
        command(capsys, *WORDS)
    run = work / "result" / "mlm_itm" / "version_0"
    assert checkpoint.read(run / "checkpoints" / "last.ckpt").training["step"] == 3
    assert f"step 4 cannot be saved: {why}" in (run / "log.txt").read_text()


def test_a_step_that_is_torn_is_not_saved(work: Path, monkeypatch, capsys):
    """An optimizer that fails has given some weights their new values, and others not."""
    plain = torch.optim.AdamW.step

    def fail(self: Any, *args: Any, **options: Any) -> None:
        plain(self, *args, **options)
        raise RuntimeError("out of memory")

    def patched() -> None:
        monkeypatch.setattr(torch.optim.AdamW, "step", fail)

    interrupting(monkeypatch, "training_step", 5, patched)
    assert_step_4_is_not_saved(work, capsys, "it ended inside the step after")


def test_a_step_that_its_device_does_not_finish_is_not_waited_for(work: Path, monkeypatch, capsys):
    """As on a GPU whose step waits in NCCL for a process that has died."""
    monkeypatch.setattr(loop, "_LAST_STEP", 0.1)

    def fail() -> None:
        monkeypatch.setattr(HostCopy, "is_done", property(lambda _: False))
        monkeypatch.setattr(HostCopy, "read", lambda _: pytest.fail("waits for ever"))
        raise RuntimeError("out of memory")

    interrupting(monkeypatch, "training_step", 5, fail)
    assert_step_4_is_not_saved(work, capsys, "its device has not finished it")


def test_a_run_whose_last_save_fails_has_no_results(work: Path, undisturbed, monkeypatch, capsys):
    """Status 0 only where last.ckpt and results.json both stand; the same command then goes on."""
    whole = undisturbed(*WORDS)
    plain = checkpoint.save
    last = 3

    def full(path: Path, stored: Any) -> None:
        if stored.training["step"] > last:
            raise UserError("There is no room left.")
        plain(path, stored)

    run = work / "result" / "mlm_itm" / "version_0"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", full)
        ended = command(capsys, *WORDS)
        assert ended.code == 1 and "The last step of this run, 6, is not saved" in ended.err, ended
        assert "The save before it is whole; the run goes on from there with resume_from=" in ended.err
        assert (
            checkpoint.read(run / "checkpoints" / "last.ckpt").training["step"] == 3
            and not (run / "results.json").exists()
        )
        interrupting(patch, "training_step", 2, kill(signal.SIGTERM))
        ended = command(capsys, *WORDS, "resume_from=auto")
        assert ended.code == 75 and "after step 5, which is not saved (see above)" in ended.err, ended
        last = 0
        ended = command(capsys, *WORDS, "exp_name=none")
        assert ended.code == 1 and ended.err.strip().endswith("free space first. Nothing of this run is saved."), ended
        assert re.findall(r"warning: step (\d) is not saved", ended.out) == ["3", "6"]
    plain_json = RunFolder.write_json
    with monkeypatch.context() as patch:

        def no_room(self: RunFolder, name: str, content: Any) -> None:
            if name == "results.json":
                raise UserError("There is no room left.")
            plain_json(self, name, content)

        patch.setattr(RunFolder, "write_json", no_room)
        assert command(capsys, *WORDS, "resume_from=auto").code == 1
        assert not (run / "results.json").exists()
    small_run.same_run(whole, small_run.train(capsys, *WORDS, "resume_from=auto"))


def test_an_idle_loader_that_is_killed_is_a_sentence(work: Path, monkeypatch, capsys):
    """The processes of the first validation wait for the second."""

    def kill_idle() -> None:
        for loader in _LOADERS:
            if isinstance(loader.sampler, EvalBatches) and loader._iterator is not None:
                for worker in loader._iterator._workers:
                    os.kill(worker.pid, signal.SIGKILL)
                    killed.append(worker.pid)

    killed: list[int] = []
    interrupting(monkeypatch, "training_step", 5, kill_idle)
    ended = command(capsys, *WORDS, "num_workers=1", "train_transform_keys=['imagenet']")
    if not killed:
        pytest.fail("no loader was idle")
    assert ended.code == 1 and "num_workers=1: a loader process has died" in ended.err.splitlines()[-1], ended
    assert not multiprocessing.active_children()


def test_a_step_that_is_no_number_is_left_out(work: Path, monkeypatch, capsys):
    """And the steps behind it are those of a run that never tried it: AdamW's moments have not moved."""
    words = ("task_mlm_itm", *SMALL, "per_gpu_batchsize=8", "val_check_interval=1", "final_test=False", "max_steps=2")
    kept: list[dict[str, torch.Tensor]] = []
    plain = VisionLanguageModule.training_step

    def keeping(self: VisionLanguageModule, *args: Any) -> Any:
        result = plain(self, *args)
        kept.append({name: value.clone() for name, value in self.state_dict().items()})
        return result

    monkeypatch.setattr(VisionLanguageModule, "training_step", keeping)
    diverging(monkeypatch, {2})
    folder = small_run.train(capsys, *words)
    assert equal_state(kept[0], kept[1])
    assert checkpoint.read(folder / "checkpoints" / "last.ckpt").training["step"] == 2
    said = re.search(r"warning: step 2 is skipped: (.*)", (folder / "log.txt").read_text())[1]
    assert re.fullmatch(
        r"the loss of mlm is not finite \(samples (\d+, ){7}\d+; learning rate \d\.\d\de[+-]\d\d\)", said
    )


def test_a_step_that_is_left_out_leaves_batch_norms_as_they_were(work: Path, monkeypatch, capsys):
    """Else one batch that overflows makes their statistics, and every checkpoint from there on, no numbers."""
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    ResNetConfig(**sizes, downsample_in_first_stage=True).save_pretrained(work / "resnet")
    words = [word for word in WORDS if not word.startswith("image_encoder")]
    words += ["image_encoder=resnet", "random_init_vision_encoder=True", "max_steps=3", "final_test=False"]
    kept: list[list[torch.Tensor]] = []
    plain = VisionLanguageModule.training_step

    def keeping(self: VisionLanguageModule, *args: Any) -> Any:
        result = plain(self, *args)
        kept.append([buffer.clone() for buffer in self._statistics()])
        return result

    monkeypatch.setattr(VisionLanguageModule, "training_step", keeping)
    diverging(monkeypatch, {3, 4})  # the micro-batches of the second step
    small_run.train(capsys, *words)
    assert kept[0] and equal_state(kept[0], kept[1]) and not equal_state(kept[1], kept[2])


def test_a_run_that_does_not_learn_any_more_ends_with_its_last_good_state(work: Path, monkeypatch, capsys):
    words = ("task_mlm", *SMALL, "per_gpu_batchsize=8", "max_steps=9", "max_bad_steps=3", "val_check_interval=9")
    diverging(monkeypatch, {2, 4, 5, 6})
    ended = command(capsys, *words)
    sentence = ended.err.strip().splitlines()[-1]
    why = "that many steps in a row were skipped, the last because the loss of mlm is not finite"
    assert ended.code == 1 and sentence.startswith(f"error: max_bad_steps=3: {why}")
    assert "give a lower learning_rate" in sentence
    path = re.search(r"resume_from=(\S+last\.ckpt)", sentence)[1]
    stored = checkpoint.read(path)
    assert stored.training["step"] == 6
    assert all(bool(value.isfinite().all()) for value in stored.model.values() if value.is_floating_point())
    assert {float(state["step"]) for state in stored.training["optimizer"]["state"].values()} == {2.0}


def test_a_picture_that_cannot_be_read_ends_the_run_where_it_stands(work: Path, undisturbed, capsys):
    """With the file and row of it; once they are mended, the run goes on as if nothing had been."""
    whole = undisturbed(*WORDS)
    path = work / "data" / "arrow" / "vg.arrow"
    sound = small_run.damage_picture(path)
    ended = command(capsys, *WORDS)
    assert ended.code == 1 and "Traceback" not in ended.err, ended.err
    sentence = ended.err.strip().splitlines()[-1]
    assert re.search(r"vg\.arrow row \d+", sentence) and "resume_from=" in sentence, sentence
    last = Path(re.search(r"resume_from=(\S+last\.ckpt)", sentence)[1])
    assert checkpoint.read(last).training["step"] < 6
    path.write_bytes(sound)
    small_run.same_run(whole, small_run.train(capsys, f"resume_from={last}"))


def cut(path: Path) -> None:
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)


def replaced(path: Path) -> None:
    other = path.with_name("other.arrow")
    small_run.write_pairs(other, 30)
    other.replace(path)


@pytest.mark.parametrize(("change", "workers"), [(cut, 0), (cut, 1), (replaced, 0), (replaced, 1)])
def test_data_that_change_under_a_run_end_it(
    change: Callable[[Path], None], workers: int, work: Path, monkeypatch, capsys
):
    for name in ("coco_caption_karpathy_train", "coco_caption_karpathy_restval"):
        (work / "data" / "arrow" / f"{name}.arrow").unlink()
    path = work / "data" / "arrow" / "vg.arrow"
    small_run.write_pairs(path, 40)
    interrupting(monkeypatch, "training_step", 2, lambda: change(path))
    words = ("task_mlm", *SMALL, "datasets=['vg']", "max_steps=60", "val_check_interval=30", f"num_workers={workers}")
    ended = command(capsys, *words)
    sentence = ended.err.strip().splitlines()[-1]
    assert ended.code == 1 and re.search(
        r"vg\.arrow' was changed since this run began(, before sample \d+ was read)?; put it back", sentence
    ), ended.err
    step = checkpoint.read(Path(re.search(r"resume_from=(\S+last\.ckpt)", sentence)[1])).training["step"]
    assert 2 <= step < 8  # those that were loaded before are done


def test_a_loader_process_that_dies_ends_the_run_and_loses_nothing(work: Path, undisturbed, monkeypatch, capsys):
    whole = undisturbed(*WORDS)

    def kill_workers() -> None:
        for process in multiprocessing.active_children():
            os.kill(process.pid, signal.SIGKILL)
            process.join()

    with monkeypatch.context() as patch:
        interrupting(patch, "training_step", 1, kill_workers)
        ended = command(capsys, *WORDS, "num_workers=1")
    sentence = ended.err.strip().splitlines()[-1]
    assert ended.code == 1 and "num_workers=1: a loader process has died" in sentence, ended.err
    last = re.search(r"resume_from=(\S+last\.ckpt)", sentence)[1]
    assert 1 <= checkpoint.read(last).training["step"] < 6
    small_run.same_run(whole, small_run.train(capsys, f"resume_from={last}"))
