"""Completion in a real bash: its functions as bash calls them, and TAB in an interactive shell."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from conftest import ROOT
from renaissance.cli import study
from renaissance.cli.main import COMMANDS, SUBCOMMANDS, main
from renaissance.core.registry import FUSIONS
from renaissance.settings.declared import SETTINGS, declared
from renaissance.settings.presets import presets

BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="needs bash")
RUN = str(ROOT / "run.py")
OTHERS = "mine() { COMPREPLY=(of-python:$1:$2:$3); }; complete -F mine python; "


@pytest.fixture
def script(capsys, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    assert main(["completion"]) == 0
    file = tmp_path / "completion.sh"
    file.write_text(capsys.readouterr().out, encoding="utf-8")
    return file


def replies(script: Path, *words: str, before: str = "", after: str = "") -> list[str]:
    """What bash is offered for the last of these words, in which `=` is a word as bash cuts them."""
    array = " ".join(map(shlex.quote, words))
    code = f"{before}. {script}; {after}COMP_WORDS=({array}); COMP_CWORD={len(words) - 1}\n"
    code += f"$(complete -p python | sed 's/.* -F \\([^ ]*\\).*/\\1/') python {shlex.quote(words[-1])} {shlex.quote(words[-2])}\n"
    code += 'printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run([BASH, "--norc", "-c", code], capture_output=True, text=True, timeout=60)
    # Outside of a real completion, which the test below is, bash does not let options be changed.
    errors = [line for line in done.stderr.splitlines() if "compopt: not currently executing" not in line]
    assert done.returncode == 0 and errors == []
    return done.stdout.split()


def test_commands_presets_settings_and_their_choices(script):
    assert replies(script, "python", RUN, "") == [*COMMANDS]
    assert replies(script, "python", RUN, "find_") == ["find_lr", "find_batch"]
    assert replies(script, "python", RUN, "with", "task_mlm_itm_") == ["task_mlm_itm_itc"]
    everything = replies(script, "python", RUN, "with", "x", "")
    assert {*presets(), *(f"{key}=" for key in SETTINGS), "loss_names.mlm="} <= {
        *everything
    } and "min_lr=" not in everything
    assert {"min_lr=", "task_mlm", "seed="} <= {*replies(script, "python", RUN, "find_lr", "with", "")}
    own = [f"{key}=" for key in declared(study)]
    assert replies(script, "python", RUN, "study", "with", "") == own and {"study=", "action=", "measure="} <= {*own}
    assert replies(script, "python", RUN, "with", "fusion", "=") == [*FUSIONS]
    assert replies(script, "python", RUN, "with", "a", "fusion", "=", "se") == ["separate"]
    assert replies(script, "python", RUN, "with", "blind", "=", "") == ["True", "False"]
    assert replies(script, "python", RUN, "with", "logger", "=", "w") == ["wandb"]
    assert replies(script, "python", RUN, "encode", "with", "store", "=", "") == ["float16", "float32"]
    for none in (
        ("seed", "="),
        ("log_dir", "=", ""),
        ("data_root", "=", "da"),
    ):  # of paths bash finds the files by itself
        assert replies(script, "python", RUN, "with", *none) == []


def test_where_an_equals_sign_is_no_break(script):
    Path("data").mkdir()
    assert replies(script, "python", RUN, "with", "fusion=se") == ["fusion=separate"]
    assert replies(script, "python", RUN, "with", "data_root=da") == ["data_root=data"]


def test_other_scripts_are_completed_as_before(script):
    other = Path("run.py")
    other.write_text("", encoding="utf-8")
    for words in (("python", ""), ("python", "run.py", "w"), ("python", "-m", "w"), ("python", "x.py", RUN, "w")):
        assert replies(script, *words, before=OTHERS) == [f"of-python:python:{words[-1]}:{words[-2]}"]
        assert replies(script, *words) == []
        # It stays so where the script is read twice.
        assert replies(script, *words, before=OTHERS, after=f". {script}; ") == [
            f"of-python:python:{words[-1]}:{words[-2]}"
        ]
    assert replies(script, "python", "-u", RUN, "che", before=OTHERS) == ["check", "check_data"]
    lazily = "load() { complete -F mine python; return 124; }; complete -D -F load; mine() { COMPREPLY=(loaded $1); }; "
    again = "_renaissance_python python x.py x >/dev/null; "
    assert replies(script, "python", "x.py", "w", before=lazily) == ["loaded", "python"]
    assert replies(script, "python", "x.py", "w", before=lazily, after=again) == ["loaded", "python"]
    assert replies(script, "python", RUN, "expo", before=lazily, after=again) == ["export"]


def test_no_name_of_a_setting_is_that_of_a_run():
    """Commands that take both kinds of settings know them by their names."""
    from importlib import import_module

    from renaissance.cli.main import TRIALS
    from renaissance.settings.declared import declared

    for name in TRIALS:
        assert not {*declared(import_module(SUBCOMMANDS[name]))} & {*SETTINGS, *presets()}


def test_tab_in_an_interactive_shell(script, tmp_path):
    """The keys that a user presses, and what then stands in the line."""
    (tmp_path / "data_of_mine").mkdir()
    (tmp_path / "other.py").touch()
    tabs = {
        f"python {RUN} print_n\t": f"python {RUN} print_named_configs ",
        f"python3 {RUN} with task_fin\tvq\tpool\tdou\t": f"python3 {RUN} with task_finetune_vqa pooler_type=double ",
        f"python {RUN} with data_root=data\t": f"python {RUN} with data_root=data_of_mine/",
        f"python {RUN} with seed=\t\t3": f"python {RUN} with seed=3",
        "python oth\t": "python other.py ",
    }
    master, slave = pty.openpty()
    # Between two prompts the terminal itself reads, to which Ctrl-U would mean that nothing was typed.
    modes = termios.tcgetattr(slave)
    modes[6][termios.VKILL] = b"\0"
    termios.tcsetattr(slave, termios.TCSANOW, modes)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TERM": "dumb", "PS1": "> ", "COLUMNS": "500"}
    shell = subprocess.Popen(
        [BASH, "--norc", "--noprofile", "-i"],
        cwd=tmp_path,
        env=environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    try:
        shows = """bind -x '"\\C-t": echo "<$READLINE_LINE>"'"""
        os.write(master, f"bind 'set bell-style none'; {shows}; . {script}; echo re''ady\n".encode())
        read_until(master, "ready\r\n> ")
        for keys, line in tabs.items():
            os.write(master, f"{keys}\x14\x15".encode())  # Ctrl-T, as bound here; Ctrl-U empties the line
            assert f"<{line}>" in read_until(master, f"<{line}>")
    finally:
        shell.kill()
        shell.wait()
        os.close(master)


def read_until(terminal: int, text: str) -> str:
    """What a terminal shows until it shows the text, or for two minutes."""
    shown, end = "", time.monotonic() + 120
    while text not in shown and time.monotonic() < end:
        if select.select([terminal], [], [], 0.5)[0]:
            with contextlib.suppress(OSError):
                shown += os.read(terminal, 1 << 16).decode(errors="replace")
    return shown


def test_tab_starts_no_python(script):
    began = time.monotonic()
    assert replies(script, sys.executable, RUN, "with", "task_finetune_vq") == ["task_finetune_vqa"]
    assert time.monotonic() - began < 5 and "python run.py" in script.read_text().splitlines()[0]
