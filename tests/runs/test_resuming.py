"""resume_from=auto: the same command starts a run, goes on with it whatever has become of its files, and ends with it."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import small_run
from conftest import ROOT
from renaissance.runs import checkpoint
from renaissance.runs.checkpoint import read
from renaissance.training import checkpointing
from renaissance.training import train as train_room
from renaissance.training.module import VisionLanguageModule
from small_run import SMALL, command, equal_state, train

WORDS = ("task_mlm_itm", *SMALL, "max_steps=6", "val_check_interval=3")
AUTO = (*WORDS, "resume_from=auto")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_cache: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    small_run.write_coco_vg(tmp_path / "data" / "arrow")
    return tmp_path


def before_step(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
    """Acts at the start of each step, with its number from 1."""
    plain = VisionLanguageModule.training_step

    def acting(self: VisionLanguageModule, *args: object) -> object:
        act(self.step + 1)
        return plain(self, *args)

    monkeypatch.setattr(VisionLanguageModule, "training_step", acting)


def stopped_at(step: int, capsys, monkeypatch: pytest.MonkeyPatch, *words: str) -> Path:
    """The folder of a run that a signal has stopped after a step."""
    with monkeypatch.context() as patch:
        before_step(patch, lambda number: os.kill(os.getpid(), signal.SIGTERM) if number == step else None)
        ended = command(capsys, *words)
    assert ended.code == 75, ended
    return Path(re.search(r"resume_from=(\S+)last\.ckpt", ended.err)[1]).parent.resolve()


def test_the_same_command_starts_goes_on_and_is_finished(work: Path, monkeypatch, capsys):
    whole = train(capsys, *WORDS)
    shutil.rmtree(whole.parent.rename(work / "kept").parent / "result", ignore_errors=True)
    whole = work / "kept" / whole.name

    run = stopped_at(4, capsys, monkeypatch, *AUTO)
    assert "has no run of this command; starts a new one" in (run / "log.txt").read_text()
    again = train(capsys, *AUTO)
    assert (
        again == run
        and f"goes on with result/mlm_itm/{run.name}/checkpoints/last.ckpt" in (run / "log.txt").read_text()
    )
    last, other = (read(folder / "checkpoints" / "last.ckpt") for folder in (whole, run))
    assert equal_state(last.model, other.model) and equal_state(last.training, other.training)
    assert small_run.rows(run) == small_run.rows(whole) and small_run.results(run) == small_run.results(whole)

    files = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    finished = command(capsys, *AUTO)
    assert finished.code == 0 and "has done its 6 steps and has its results; nothing is left" in finished.err
    assert files == {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    longer = command(capsys, *AUTO, "max_steps=7", "num_workers=1")
    assert longer.code == 0 and "max_steps=7 (the run began with 6)" in longer.out
    assert read(run / "checkpoints" / "last.ckpt").training["step"] == 7


def test_another_command_is_another_run(work: Path, monkeypatch, capsys):
    run = stopped_at(1, capsys, monkeypatch, *AUTO)
    assert train(capsys, *AUTO, "learning_rate=1e-5", "final_test=False") != run
    pretrained = train(capsys, *WORDS, "final_test=False") / "checkpoints" / "best.ckpt"
    tuned = ("task_mlm", *SMALL, "max_steps=2", f"load_path={pretrained}", "resume_from=auto")
    started = stopped_at(1, capsys, monkeypatch, *tuned)
    assert train(capsys, *tuned) == started  # the checkpoint that it started from is not asked again


def test_a_run_of_this_job_comes_first(work: Path, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    of_job = stopped_at(1, capsys, monkeypatch, *AUTO)
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    monkeypatch.setattr("renaissance.runs.start.newest", lambda values: (None, []))
    newer = stopped_at(1, capsys, monkeypatch, *AUTO)
    monkeypatch.undo()
    monkeypatch.chdir(work)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert newer != of_job and train(capsys, *AUTO) == of_job


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncated, flipped, emptied])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(damage, work: Path, monkeypatch, capsys):
    run = stopped_at(4, capsys, monkeypatch, *AUTO)
    last, before = run / "checkpoints" / "last.ckpt", run / "checkpoints" / "step_000000003.ckpt"
    damage(last)  # and so step_000000004.ckpt, which is the same file
    sentence = command(capsys, f"resume_from={last}").sentence()
    assert sentence.startswith(f"resume_from={last} cannot be read as a checkpoint")
    assert sentence.endswith(f"{before} is whole: give resume_from={before}.")
    ended = command(capsys, *AUTO)
    assert ended.code == 0 and f"goes on with {before.relative_to(work)}" in ended.out
    assert f"{last.relative_to(work)} cannot be read as a checkpoint" in ended.out
    assert small_run.curve(run, "mlm/train/loss") and len(small_run.curve(run, "mlm/train/loss")) == 6

    (run / "results.json").unlink()
    for path in last.parent.glob("*.ckpt"):
        emptied(path)
    assert "No checkpoint of this run is whole" in command(capsys, *AUTO).sentence()


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_saves_come_by_steps_and_the_newest_are_kept(work: Path, monkeypatch, capsys):
    seen = []
    before_step(
        monkeypatch, lambda step: seen.append([path.name for path in work.glob("result/*/*/checkpoints/step_*")])
    )
    run = train(capsys, *WORDS, "save_every_steps=2", "keep_last=3", "final_test=False")
    assert [len(files) for files in seen] == [0, 0, 1, 2, 3, 3]
    kept = [f"step_{step:09d}.ckpt" for step in (3, 4, 6)]
    assert names(run) == ["best.ckpt", "last.ckpt", *kept]
    assert (run / "checkpoints" / "last.ckpt").samefile(run / "checkpoints" / kept[-1])


def test_saves_come_by_the_clock(work: Path, monkeypatch, capsys):
    """Ten minutes a step, on a clock of our own: as asked for, and by default as seldom as their cost wants it."""
    clock = [0.0]
    monkeypatch.setattr(checkpointing.time, "monotonic", lambda: clock[0])
    before_step(monkeypatch, lambda _: clock.__setitem__(0, clock[0] + 600))
    saved = []
    save = checkpoint.save

    def costly(path: Path, content: object) -> None:
        saved.append(int(path.stem.removeprefix("step_")))
        save(path, content)
        clock[0] += 20  # 2 % of a thousand seconds

    monkeypatch.setattr(checkpoint, "save", costly)
    words = ("task_mlm", *SMALL, "max_steps=7", "val_check_interval=7", "final_test=False")
    train(capsys, *words, "save_every_minutes=25")
    assert saved == [3, 6, 7, 7]  # the last before a validation of unknown length and behind it
    saved.clear()
    train(capsys, *words)
    assert saved == [1, 3, 5, 7, 7]


def test_a_full_disk_costs_a_save_and_not_the_run(work: Path, monkeypatch, capsys):
    """A limit of the size of files, which small ones meet: the refusal is the system's own."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    limits = {4: 100_000, 6: most}
    before_step(
        monkeypatch,
        lambda step: (
            resource.setrlimit(resource.RLIMIT_FSIZE, (limits.get(step, most), most)) if step in limits else None
        ),
    )
    try:
        run = train(capsys, *WORDS, "save_every_steps=1", "final_test=False")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    said = (run / "log.txt").read_text()
    assert re.findall(r"warning: step (\d) is not saved: There is no room left", said) == ["4", "5"]
    assert "is not saved: There is no room left" in said
    assert names(run) == ["best.ckpt", "last.ckpt", "step_000000003.ckpt", "step_000000006.ckpt"]
    assert read(run / "checkpoints" / "last.ckpt").training["step"] == 6


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs to mount a file system, as root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_disk_that_is_full_for_a_while_costs_no_step_and_no_line(small_disk: Path, work: Path, monkeypatch, capsys):
    """Not a byte can be written from step 3 on, until step 6: metrics.csv catches up, the run ends as any other."""
    whole = train(capsys, *WORDS, "save_every_steps=1", "exp_name=whole")

    def fill(step: int) -> None:
        filler = small_disk / "filler"
        if step == 3:
            with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            assert shutil.disk_usage(small_disk).free == 0
        elif step == 6:
            filler.unlink()

    before_step(monkeypatch, fill)
    ended = command(capsys, *WORDS, "save_every_steps=1", f"log_dir={small_disk}", "log_every_n_steps=1")
    assert ended.code == 0 and "Traceback" not in ended.err, ended.err
    run = small_disk / "mlm_itm" / "version_0"
    assert re.findall(r"warning: step (\d) is not saved: There is no room left", ended.out) == ["3", "4", "5"]
    assert ended.out.count("warning: metrics.csv cannot be written") == 1
    assert small_run.rows(run) == small_run.rows(whole)
    assert equal_state(*(read(folder / "checkpoints" / "last.ckpt").model for folder in (run, whole)))
    # The validation of step 3 may have been the best; no file holds it, so it is not what a later one has to surpass.
    best = read(run / "checkpoints" / "best.ckpt")
    assert best.training["step"] == 6 and best.training["best"] == pytest.approx(
        small_run.curve(run, "val/the_metric")[-1]
    )


def test_two_runs_never_train_in_one_folder(work: Path, monkeypatch, capsys):
    run = stopped_at(2, capsys, monkeypatch, *AUTO)
    holding = "import sys; from pathlib import Path; from renaissance.core.atomic import FileLock"
    other = subprocess.Popen(
        [sys.executable, "-c", f"{holding}; lock = FileLock(Path(sys.argv[1])); print(flush=True); input()", str(run)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with other:
        other.stdout.readline()
        sentence = command(capsys, *AUTO).sentence()
        assert sentence.startswith("Another process is training in '") and sentence.endswith(
            "or give another exp_name."
        )
        other.kill()  # and a killed one holds it no more
    assert train(capsys, *AUTO) == run
    assert not (run / ".lock").exists()


def test_what_goes_on_from_an_older_checkpoint_gets_a_folder_of_its_own(work: Path, monkeypatch, capsys):
    """And the run that was further stays as it is; the same command goes on with whichever was written last."""
    whole = stopped_at(5, capsys, monkeypatch, *WORDS, "save_every_steps=1", "keep_last=3", "resume_from=auto")
    before = {path.name: path.read_bytes() for path in (whole / "checkpoints").iterdir()}
    older = train(capsys, f"resume_from={whole}/checkpoints/step_000000003.ckpt", "max_steps=6")
    assert older.name == "version_1" and (older / "checkpoints" / "best.ckpt").exists()
    said = (older / "log.txt").read_text()
    assert re.search(
        r"version_0 has been at step 5; what goes on from \S+step_000000003.ckpt gets a folder of its own", said
    )
    assert before == {path.name: path.read_bytes() for path in (whole / "checkpoints").iterdir()}
    assert [row["step"] for row in small_run.rows(older)][0] == "4"


def test_damaged_checkpoints_are_set_aside_where_a_run_goes_on(work: Path, monkeypatch, capsys):
    """They count neither as the newest that are kept nor as the best; nothing of a killed save stays."""
    words = (*AUTO, "save_every_steps=1", "keep_last=2", "val_check_interval=2")
    whole = train(capsys, *(word for word in words if word != "resume_from=auto"), "exp_name=whole")
    run = stopped_at(5, capsys, monkeypatch, *words)
    emptied(run / "checkpoints" / "step_000000005.ckpt")
    (run / "checkpoints" / ".step_000000009.ckpt.tmp").write_bytes(bytes(100))
    train(capsys, *words)
    assert "last.ckpt cannot be read" in (run / "log.txt").read_text()
    small_run.same_run(whole, run)
    assert names(run) == [
        *names(whole)[:2],
        "step_000000005.ckpt",
        "step_000000005.ckpt.damaged",
        "step_000000006.ckpt",
    ]


def test_a_run_that_has_gone_on_meanwhile_is_not_rolled_back(work: Path, monkeypatch, capsys):
    """A second submission has read its checkpoint; before it has the folder, the first one saves once more, and ends."""
    run = stopped_at(3, capsys, monkeypatch, *AUTO)
    last = run / "checkpoints" / "last.ckpt"
    build = train_room.build

    def slowly(*args: object) -> object:
        shutil.copyfile(last, last.with_name("step_000000004.ckpt"))
        return build(*args)

    monkeypatch.setattr(train_room, "build", slowly)
    before = small_run.rows(run)
    assert "has gone on to step 4 since this command read" in command(capsys, *AUTO).sentence()
    assert small_run.rows(run) == before and not (run / "results.json").exists()


def test_the_state_of_a_scaler_of_gradients_is_kept(work: Path, monkeypatch, capsys):
    """It exists on GPUs only; here one of torch's own stands in."""
    scalers = []

    def scaler(trainer: object) -> torch.amp.GradScaler:
        if not scalers or scalers[-1][0] is not trainer:
            scalers.append((trainer, torch.amp.GradScaler("cpu", init_scale=1024.0 if not scalers else 2.0)))
        return scalers[-1][1]

    monkeypatch.setattr(checkpointing, "gradient_scaler", scaler)
    run = stopped_at(2, capsys, monkeypatch, *AUTO)
    assert read(run / "checkpoints" / "last.ckpt").training["scaler"]["scale"] == 1024.0
    train(capsys, *AUTO)
    assert scalers[-1][1].get_scale() == 1024.0 and len(scalers) > 1


def test_a_picture_of_the_validation_that_cannot_be_read_costs_nothing(work: Path, capsys):
    path = work / "data" / "arrow" / small_run.COCO.format("val")
    sound = small_run.damage_picture(path)
    ended = command(capsys, *WORDS, "max_steps=3", "val_check_interval=3")
    assert ended.code == 1 and re.search(r"val\.arrow row \d+", ended.err)
    last = Path(re.search(r"resume_from=(\S+last\.ckpt)", ended.err)[1])
    assert read(last).training["step"] == 3 and read(last).training["pending"]
    path.write_bytes(sound)
    small_run.same_run(train(capsys, *WORDS, "max_steps=3", "exp_name=whole"), train(capsys, f"resume_from={last}"))


def test_a_validation_that_cannot_read_what_the_one_before_could_costs_nothing(work: Path, monkeypatch, capsys):
    """No save comes before it, as it does not take long."""
    whole = train(capsys, *WORDS, "exp_name=whole")
    path = work / "data" / "arrow" / small_run.COCO.format("val")
    sound = []
    with monkeypatch.context() as patch:
        before_step(patch, lambda step: sound.append(small_run.damage_picture(path)) if step == 5 else None)
        ended = command(capsys, *WORDS)
    assert ended.code == 1 and "coco_caption_karpathy_val.arrow" in ended.err
    last = Path(re.search(r"resume_from=(\S+last\.ckpt)", ended.err)[1])
    assert read(last).training["step"] == 6 and read(last).training["pending"]
    path.write_bytes(sound[0])
    small_run.same_run(whole, train(capsys, f"resume_from={last}"))


@pytest.mark.parametrize("kind", ["empty", "missing", "other"])
def test_a_best_checkpoint_that_cannot_be_had_costs_no_results(kind, work: Path, monkeypatch, capsys):
    """At the end of a run; where it goes on, it is mended. No setting is named, as none has named it."""
    fit, run = train_room.Trainer.fit, work / "result" / "mlm" / "version_0"
    best = run / "checkpoints" / "best.ckpt"

    def spoiling(self: object, *args: object, **options: object) -> None:
        fit(self, *args, **options)
        stored = read(best)
        best.unlink()
        if kind == "empty":
            best.write_bytes(b"")
        elif kind == "other":
            checkpoint.save(best, stored._replace(model={**stored.model, "more": torch.ones(2)}))

    words = ("task_mlm", *SMALL, "max_steps=1")
    with monkeypatch.context() as patch:
        patch.setattr(train_room.Trainer, "fit", spoiling)
        ended = command(capsys, *words)
    what = {"empty": "cannot be read as a checkpoint", "other": "is of another model"}.get(kind, "is not a file")
    warning = rf"warning: \S+/best\.ckpt {what}.*\. The last checkpoint is evaluated in place of the best one\.\n"
    assert ended.code == 0 and re.search(warning, ended.out), ended
    assert "load_path" not in ended.out + ended.err and "give the path" not in ended.out
    last = small_run.results(run)
    assert last.keys() == {"val", "test"}

    (run / "results.json").write_text("{")  # of a disk that was full
    ended = command(capsys, *words, "resume_from=auto")
    assert ended.code == 0 and "load_path" not in ended.out + ended.err
    assert small_run.results(run) == last
    assert best.samefile(best.with_name("last.ckpt"))  # which is the best one, and whole


@pytest.mark.parametrize("name", ["last.ckpt", "step_000000002.ckpt", "copy.ckpt"])
def test_the_advice_for_a_damaged_checkpoint_names_one_that_is_whole_or_none(name, work: Path, monkeypatch, capsys):
    folder = stopped_at(2, capsys, monkeypatch, *AUTO, "save_every_steps=1") / "checkpoints"
    if name == "copy.ckpt":  # no run folder; that of another run lies beside it
        shutil.copytree(folder, work / "kept" / "checkpoints")
        folder = work / "kept" / "loose"
        folder.mkdir()
    given, before = folder / name, folder / "step_000000001.ckpt"
    emptied(given)
    sentence = command(capsys, f"resume_from={given}").sentence()
    assert sentence.startswith(f"resume_from={given} cannot be read as a checkpoint") and "None" not in sentence
    if before.exists():
        assert sentence.endswith(f" {before} is whole: give resume_from={before}.")
        emptied(before)
        sentence = command(capsys, f"resume_from={given}").sentence()
    assert sentence.endswith("it is cut short, damaged, or was not written by this program.")
    assert "None" not in sentence and "is whole" not in sentence


def test_a_checkpoint_does_not_say_where_its_run_writes(work: Path, monkeypatch, capsys):
    """Another person's has any log_dir and exp_name; a run folder that was moved goes on where it lies now."""
    words = ("task_mlm", *SMALL, "max_steps=3", "save_every_steps=1", "keep_last=3", "final_test=False")
    run = stopped_at(2, capsys, monkeypatch, *words)
    evil = {"log_dir": str(work / "elsewhere"), "exp_name": "../evil"}
    for path in (run / "checkpoints").glob("step_*.ckpt"):
        stored = read(path)
        checkpoint.save(path, stored._replace(settings=stored.settings | evil))
    loose = shutil.copyfile(run / "checkpoints" / "step_000000002.ckpt", work / "loose.ckpt")
    assert train(capsys, f"resume_from={loose}") == Path("result/renaissance/version_0")
    assert train(capsys, f"resume_from={loose}", "log_dir=mine", "exp_name=own") == Path("mine/own/version_0")
    moved = work / "moved" / "here" / "version_3"
    moved.parent.mkdir(parents=True)
    run.rename(moved)
    older = train(capsys, f"resume_from={moved}/checkpoints/step_000000001.ckpt")
    assert older == Path("moved/here/version_0")  # and so what needs a folder of its own
    assert train(capsys, f"resume_from={moved}/checkpoints/step_000000002.ckpt") == moved
    settings = small_run.json.loads((moved / "settings.json").read_text())["settings"]
    assert (settings["log_dir"], settings["exp_name"]) == ("moved", "here")
    assert sorted(path.name for path in work.iterdir()) == ["data", "loose.ckpt", "mine", "moved", "result"]


def test_a_run_whose_files_were_damaged_is_not_passed_over(work: Path, monkeypatch, capsys):
    run = stopped_at(2, capsys, monkeypatch, *AUTO)
    table = run / "metrics.csv"
    table.write_bytes(table.read_bytes()[:-40])
    (run / "settings.json").write_text('{"settings": {')
    sentence = command(capsys, *AUTO).sentence()
    advice = re.search(
        r"the same command and resume_from=(\S+), or move 'result/mlm_itm/version_0' elsewhere", sentence
    )
    assert "resume_from=auto cannot tell" in sentence and sorted(run.parent.iterdir()) == [run]
    assert stopped_at(3, capsys, monkeypatch, *WORDS, f"resume_from={advice[1]}") == run
    lost = (
        r"warning: '\S+metrics\.csv' ends at step 1, and the run goes on behind step 2: 1 or more rows of it are lost\."
    )
    assert re.search(lost, (run / "log.txt").read_text())
    assert train(capsys, *AUTO) == run
