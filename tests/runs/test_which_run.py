"""Which run a command goes on with: what makes it the same command, which folder comes first, what is damaged, who is first."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import small_run
from conftest import OFFLINE, ROOT
from renaissance.core.checks import no_losses
from renaissance.core.errors import UserError
from renaissance.core.registry import FIRST_TASKS
from renaissance.runs import checkpoint, start
from renaissance.runs.checkpoint_folder import CheckpointFolder, _same
from renaissance.runs.identity import identity, identity_record
from renaissance.runs.stored import Stored
from renaissance.settings import keys
from renaissance.settings.declared import defaults
from small_run import SMALL, command, train

DEFAULTS = defaults() | {"loss_names": no_losses() | {"mlm": 1}, "max_steps": 6, "exp_name": "mlm"}
WORDS = ("task_mlm", *SMALL, "max_steps=2", "final_test=False", "resume_from=auto")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_cache: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    small_run.write_coco_vg(tmp_path / "data" / "arrow")
    return tmp_path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the folders of `made` lie: result/mlm of the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return tmp_path / "result" / "mlm"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, hub_cache: Path) -> Stored:
    """What a run of two steps has stored."""
    from renaissance.cli.main import main

    with contextlib.chdir(tmp_path_factory.mktemp("trained")):
        small_run.write_coco_vg(Path("data/arrow"))
        assert main(["with", *WORDS[:-1]]) == 0
        return checkpoint.read("result/mlm/version_0/checkpoints/last.ckpt")


def made(run: Path, trained: Stored, *steps: int, **values: Any) -> Path:
    """A folder as a run of the command leaves it, with checkpoints of these steps."""
    (run / "checkpoints").mkdir(parents=True)
    (run / "settings.json").write_text(json.dumps(identity_record(DEFAULTS | values, None)))
    for step in steps:
        content = trained._replace(training=trained.training | {"step": step, "best_step": None, "best": None})
        checkpoint.save(run / "checkpoints" / f"step_{step:09d}.ckpt", content)
    if steps:
        os.link(run / "checkpoints" / f"step_{max(steps):09d}.ckpt", run / "checkpoints" / "last.ckpt")
    return run


def found() -> str:
    """Where the command goes on, from the folder of its runs on."""
    return str(start.newest(DEFAULTS)[0][0].relative_to("result/mlm"))


SAME = [
    {"load_path": ["x", "./x", "x/", "y/../x", "{cwd}/x", "{cwd}//./x", "link/x", "~/x"]},
    {"tokenizer": ["models/bert", "./models//bert/", "{cwd}/models/bert"]},
    {"encoder": ["org/name", "./org/name"]},
    {"batch_size": [8, 8.0, 8e0]},
    {"learning_rate": [1, 1.0]},
    {"precision": ["16", 16, "16-mixed"]},
    {"loss_names": [{"mlm": 1}, {"mlm": 1.0}]},
    {"val_check_interval": [100, 100.0]},
    {"seed": [0, 0.0]},
    {"image_encoder": [None, ""]},
]


@pytest.mark.parametrize("spelled", SAME, ids=lambda each: next(iter(each)))
def test_a_command_is_the_same_however_it_is_spelled(spelled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(tmp_path)
    ((key, values),) = spelled.items()
    texts = [value.format(cwd=tmp_path) if isinstance(value, str) else value for value in values]
    assert len({identity(DEFAULTS | {key: text}) for text in texts}) == 1
    others = {"val_check_interval": 1.0, "seed": 2**53 + 1, "batch_size": 16, "loss_names": {"itm": 1}, "precision": 64}
    assert identity(DEFAULTS | {key: others.get(key, "../x")}) != identity(DEFAULTS | {key: texts[0]})


def test_what_looks_alike_is_not_the_same():
    pairs = [{"val_check_interval": each} for each in (1, 1.0)], [{"seed": 2**53 + each} for each in (0, 1)]
    for one, two in pairs:
        assert identity(DEFAULTS | one) != identity(DEFAULTS | two)
    unknown = {key: value for key, value in DEFAULTS.items() if key != "mlm_prob"}  # of a version that had it not
    assert identity(DEFAULTS) == identity(unknown)


def test_runs_of_earlier_versions_are_found_and_get_the_new_identity(place, trained):
    """A setting that is new goes into `keys.YOUNGER`, or no run that began before it would be found."""
    counted = sorted(DEFAULTS.keys() - (keys.marked("changeable") - {"load_path"}) - keys.YOUNGER)
    assert hashlib.sha256(json.dumps(counted).encode()).hexdigest()[:16] == "43ad9858e2e10229"
    values = DEFAULTS | {"load_path": "./x"}
    fixed = {key: values[key] for key in counted} | {"loss_names": dict.fromkeys(FIRST_TASKS, 0) | {"mlm": 1}}
    before = hashlib.sha256(json.dumps(fixed, sort_keys=True, default=str).encode()).hexdigest()[:16]
    run = made(place / "version_0", trained, 1)
    (run / "settings.json").write_text(json.dumps({"identity": before, "job": None}))
    assert start.newest(values)[0][0] == Path("result/mlm/version_0/checkpoints/last.ckpt")
    assert identity_record(values, run) == {"identity": identity(values), "job": None}
    assert identity_record(DEFAULTS, run)["identity"] == before  # of another command, which goes on with it


def test_runs_are_ordered_by_step_and_version_and_not_by_date(place, trained, monkeypatch):
    assert start.newest(DEFAULTS) == (None, [])
    for name, steps in {"version_2": (3, 4), "version_10": (4,), "version_9": (4,), "version_11": (3,)}.items():
        made(place / name, trained, *steps)
    now = time.time()
    for age, name in enumerate(("version_11", "version_2", "version_9", "version_10")):
        for path in (place / name / "checkpoints").iterdir():
            os.utime(path, (now - 1000 * age,) * 2)
    assert found() == "version_10/checkpoints/last.ckpt"
    for path in (place / "version_10" / "checkpoints").iterdir():  # nothing whole is left in it: the next one
        path.write_bytes(b"")
    assert found() == "version_9/checkpoints/last.ckpt"
    shutil.copytree(place / "version_9", place / "version_3_before_2026")
    shutil.copytree(place / "version_2", place / "version_0 (copy)")  # hard links become files of their own
    assert found() == "version_9/checkpoints/last.ckpt"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    made(place / "version_12", trained, 1)
    made(place / "version_13", trained, 9, seed=1)
    assert found() == "version_12/checkpoints/last.ckpt"


def test_a_folder_that_was_copied_goes_on_with_its_newest_file(place, trained):
    run = made(place / "version_0", trained, 3, 4) / "checkpoints"
    shutil.copyfile(run / "step_000000004.ckpt", run / "other")
    os.replace(run / "other", run / "last.ckpt")
    assert found() == "version_0/checkpoints/step_000000004.ckpt"
    (run / "step_000000004.ckpt").unlink()  # last.ckpt is the further one
    (run / "step_abc.ckpt").write_bytes(b"")
    assert found() == "version_0/checkpoints/last.ckpt"
    assert CheckpointFolder(run).make_newest("step_000000003.ckpt", 3, best=False) == 4
    (run / "last.ckpt").rename(run / "best.ckpt")
    (run / "last.ckpt").mkdir()
    assert CheckpointFolder(run).make_newest("step_000000003.ckpt", 3, best=False) is None
    assert (run / "last.ckpt").samefile(run / "step_000000003.ckpt") and (run / "last.ckpt.damaged").is_dir()
    (run / "last.ckpt").unlink()
    (run / "step_000000003.ckpt").write_bytes(b"")
    assert found() == "version_0/checkpoints/best.ckpt"  # better than nothing


def test_names_that_cannot_be_looked_at_are_of_two_files(tmp_path):
    assert not _same(tmp_path, tmp_path / ("x" * 300))


@pytest.mark.parametrize("kind", ["its own", "missing", "later", "unknown", "empty", "folder", "link"])
def test_a_best_checkpoint_is_kept_where_it_is_what_the_run_says(kind, place, trained):
    run = made(place / "version_0", trained, 2, 4) / "checkpoints"
    best = run / "best.ckpt"
    if kind in ("its own", "later", "unknown"):
        os.link(run / f"step_{4 if kind == 'later' else 2:09d}.ckpt", best)
    elif kind == "folder":
        (best / "inside").mkdir(parents=True)
    elif kind != "missing":
        best.symlink_to("nowhere") if kind == "link" else best.write_bytes(b"")
    said = CheckpointFolder(run).check_best(None if kind == "unknown" else 2)
    if kind == "its own":
        assert said is None and best.exists()
        return
    what = {"missing": "is not there", "later": "is of step 4, and the best validation so far was at step 2",
            "unknown": "is of step 2, and there was no validation yet", "empty": "cannot be read as a checkpoint"}  # fmt: skip
    assert what.get(kind, "is not a file") in said and "load_path" not in said and "give" not in said
    assert not os.path.lexists(best) and os.path.lexists(run / "best.ckpt.damaged") is (kind != "missing")
    assert CheckpointFolder(run).check_best(None) is None


DAMAGE = {
    "cut": b'{"identity": "0',
    "empty": b"",
    "null": b"null",
    "list": b"[]",
    "number": b'{"identity": 3, "job": null}',
    "job": b'{"identity": "x", "job": {}}',
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "bytes": b'{"identity": "\xff"}',
    "lost": b'{"identity": null, "job": null}',
    "missing": None,
}


def damage(run: Path, content: bytes | None) -> None:
    (run / "settings.json").unlink()
    if content is not None:
        (run / "settings.json").write_bytes(content)


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_run_of_which_it_cannot_be_said_whose_it_is_is_never_passed_over(kind, place, trained):
    run = made(place / "version_0", trained, 1, 2)
    damage(run, DAMAGE[kind])
    damage(made(place / "version_1", trained), DAMAGE[kind])  # killed in its first second
    last = "result/mlm/version_0/checkpoints/last.ckpt"
    with pytest.raises(UserError, match=rf"version_0/settings.json'.*the same command and resume_from={last}, or move"):
        start.newest(DEFAULTS)
    assert identity_record(DEFAULTS, run)["identity"] == identity(DEFAULTS)  # as it says
    nothing = DEFAULTS | {"loss_names": no_losses(), "resume_from": last}
    assert identity_record(nothing, run)["identity"] is None
    made(place / "version_2", trained, 1)
    (path, _), damaged = start.newest(DEFAULTS)
    assert path.parts[2] == "version_2" and len(damaged) == 1 and "version_0/settings.json" in damaged[0]


def test_settings_that_were_edited_are_read(place, trained):
    """A byte order mark; and settings.json of a version that knew no identity is of no command."""
    run = made(place / "version_0", trained, 1)
    (run / "settings.json").write_bytes(b"\xef\xbb\xbf" + (run / "settings.json").read_bytes())
    older = made(place / "version_1", trained, 2)
    damage(older, b'{"settings": {}}')
    assert identity_record(DEFAULTS, older)["identity"] == identity(DEFAULTS)
    assert found() == "version_0/checkpoints/last.ckpt"


HOLDING = """
import sys; from pathlib import Path
sys.path.insert(0, sys.argv[1])
from renaissance.core.atomic import FileLock
held = FileLock(Path(sys.argv[2]), sys.argv[3])
print(flush=True)
input()
"""


@contextlib.contextmanager
def another(folder: Path, name: str = ".lock") -> Iterator[None]:
    """Another process that holds a folder, and is killed in the end."""
    words = [sys.executable, "-c", HOLDING, str(ROOT), str(folder), name]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


def refused(values: dict[str, Any] = DEFAULTS) -> bool:
    try:
        with start.lock_command(values):
            return False
    except UserError as error:
        assert re.match("Another process is (training|starting the same command) in 'result/mlm", str(error))
        return True


def test_a_command_that_another_process_starts_or_runs_is_refused(place, trained):
    with start.lock_command(DEFAULTS):
        assert [path.name for path in place.iterdir()] == [f".{identity(DEFAULTS)}.lock"]
    assert not place.parent.exists()  # nothing is left of a command that was refused
    run = made(place / "version_0", trained)  # no checkpoint yet
    made(place / "version_1", trained, 2)
    with another(run):
        assert refused() and not refused(DEFAULTS | {"seed": 1}) and refused(DEFAULTS | {"num_workers": 3})
    assert not refused()
    with another(place, f".{identity(DEFAULTS)}.lock"):
        assert refused() and not refused(DEFAULTS | {"seed": 1})
    assert not refused() and {path.name for path in place.iterdir()} == {"version_0", "version_1"}


def test_a_run_of_this_job_is_not_kept_out_by_that_of_another(place, trained, monkeypatch):
    other = made(place / "version_0", trained, 2)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    own = made(place / "version_1", trained, 1)
    with another(other):
        assert not refused()
    with another(own):
        assert refused()


def test_a_run_in_a_folder_that_cannot_be_written_is_looked_at_too(place, trained):
    """It may be another user's who trains there, or an old one on a disk that is read-only."""
    run = made(place / "version_0", trained, 1)
    read_only = (["mount", "--bind", run, run], ["mount", "-o", "remount,bind,ro", run])
    with another(run):
        if os.geteuid() != 0 or any(subprocess.run(words, capture_output=True).returncode for words in read_only):
            pytest.skip("needs to mount a folder, as root")
        try:
            assert refused()
        except BaseException:
            subprocess.run(["umount", "--lazy", run], check=True)
            raise
    try:
        assert not refused()
    finally:
        subprocess.run(["umount", "--lazy", run], check=True)


def test_the_same_command_refuses_while_it_starts(work: Path, capsys):
    """And a command that is refused leaves nothing of its start."""
    values = small_run.values_of(*(word for word in WORDS if "=" in word))
    loss = no_losses() | {"mlm": 1}
    place = work / "result" / "mlm"
    place.mkdir(parents=True)
    with another(place, f".{identity(defaults() | values | {'loss_names': loss})}.lock"):
        assert "Another process is starting the same command in 'result/mlm'" in command(capsys, *WORDS).sentence()
        command(capsys, *WORDS, "fast_dev_run=1")  # keeps nothing, and asks nobody
    assert [path.name for path in place.iterdir()] == [f".{identity(defaults() | values | {'loss_names': loss})}.lock"]
    shutil.rmtree(work / "result")
    command(capsys, *WORDS, "data_root=nowhere").sentence()
    assert not (work / "result").exists()
    run = train(capsys, *WORDS, f"log_dir={work}/result/")
    assert "nothing is left" in command(capsys, *WORDS).err and {path.name for path in place.iterdir()} == {run.name}


@pytest.mark.slow
def test_three_first_starts_at_once_are_one_run(work: Path):
    words = [sys.executable, str(ROOT / "run.py"), "with", *WORDS]
    for _ in range(3):
        env = os.environ | {"PYTHONPATH": str(OFFLINE)}
        starts = [subprocess.Popen(words, cwd=work, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                  for _ in range(3)]  # fmt: skip
        said = [each.communicate(timeout=300)[1] for each in starts]
        place = work / "result" / "mlm"
        assert [path.name for path in place.iterdir()] == ["version_0"]
        ended = [each.returncode for each in starts]
        assert ended.count(0) >= 1 and (place / "version_0" / "results.json").exists(), said
        lines = [text.strip().splitlines()[-1] for text, code in zip(said, ended, strict=True) if code]
        assert all(re.search("Another process is (training in|starting)", line) for line in lines), said
        assert set(ended) <= {0, 1}, said
        shutil.rmtree(work / "result")
