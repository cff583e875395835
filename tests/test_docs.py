"""Every command and every setting that the documents name works: each command is resolved as a run would resolve it.

A line of a fenced `bash` block, or an indented command, is one of: a run (`python run.py with ...`, resolved by `check`
on models of the documented sizes), a question that is answered at once (asked as it stands), another sub-command (its
settings are looked up), a script of this repository (it exists and parses), or one of a few tools of the shell.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import ROOT
from renaissance.cli.main import SUBCOMMANDS, TRIALS
from renaissance.settings import declared
from renaissance.settings.combinations import problems_between
from renaissance.settings.presets import presets
from renaissance.settings.words import configured

DOCUMENTS = [
    ROOT / name
    for name in ("README.md", "CONFIGURING_MODELS.md", "ARCHITECTURE.md", "DATA.md", "examples/gqa/README.md")
]
QUESTIONS = {"check", "print_config", "print_named_configs"}
SHELL_TOOLS = {"cd", "export", "git", "source", "pip", "head", "tail", "less", "cat", "column", "ls"}
# Point to what a run of the user's own left behind: their names are looked up, their values are not resolved.
OF_AN_EARLIER_RUN = {"load_path", "resume_from", "test_only"}
STANDS_FOR_AN_EARLIER_RUN = ("task_mlm_itm", "max_steps=1")  # the checkpoint's answers; what the command says wins
PROMISED = (  # word for word
    "python run.py with task_mlm_itm encoder=facebook/dino-vits16 max_steps=50000 num_gpus=1 num_nodes=1 "
    "per_gpu_batchsize=32 batch_size=256 data_root=data/arrow/",
    "python run.py with task_mlm_itm image_encoder=facebook/deit-tiny-patch16-224 "
    "text_encoder=google/electra-small-discriminator cross_layer_hidden_size=256 num_cross_layers=6 max_steps=50000 "
    "num_gpus=1 num_nodes=1 per_gpu_batchsize=32 batch_size=256 data_root=data/arrow/",
    "bash scripts/demo.sh",
    "bash scripts/test.sh",
)


class Command(NamedTuple):
    """A documented command. Attributes: document, its file's name; text, one line; words, as the shell splits it."""

    document: str
    text: str
    words: tuple[str, ...]


def command_lines(markdown: str) -> list[str]:
    """Lines of shell code: fenced as bash, sh or console, or indented by four spaces after a blank line."""
    lines, fence, indented, previous = [], None, False, ""
    for line in markdown.splitlines():
        opening = re.match(r"\s*```+\s*(\w*)", line)
        if opening:
            fence = None if fence is not None else opening.group(1)
        elif fence is not None:
            if fence in ("bash", "sh", "shell", "console"):
                lines.append(line.strip())
        else:
            indented = line.startswith("    ") and (indented or not previous.strip())
            # Indented text may also be an image or a listing: only what begins as a command is one.
            if indented and (lines and lines[-1].endswith("\\") or re.match(r"\s+(\w+=\S+ )*(python|bash) ", line)):
                lines.append(line.strip())
        previous = line
    joined = "\n".join(lines).replace("\\\n", " ")
    return [line.removeprefix("$ ") for line in joined.splitlines() if line and not line.startswith("#")]


def commands(path: Path) -> list[Command]:
    """Commands of a document; forms with <placeholders> are grammar, not commands."""
    found = []
    for line in command_lines(path.read_text(encoding="utf-8")):
        if re.search(r"<\w[^>]*>|\bkey=value\b", line):
            continue
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):  # HF_HUB_OFFLINE=1 python ...
            words.pop(0)
        if words:
            found.append(Command(path.name, " ".join(line.split()), tuple(words)))
    return found


SETTINGS = set(declared.SETTINGS)
ALL_SETTINGS = SETTINGS.union(*(declared.declared(import_module(module)) for module in SUBCOMMANDS.values()))
COMMANDS = [command for path in DOCUMENTS if path.exists() for command in commands(path)]


def arguments_of_run(command: Command) -> list[str] | None:
    """What follows `run.py`, however it is started (python, torchrun, srun); None if it is another command."""
    places = [index for index, word in enumerate(command.words) if Path(word).name == "run.py"]
    return list(command.words[places[0] + 1 :]) if places else None


RUNS = [command for command in COMMANDS if arguments_of_run(command) is not None]
OTHERS = [command for command in COMMANDS if arguments_of_run(command) is None]


@pytest.mark.skipif(not RUNS, reason="no document names a command yet")
@pytest.mark.parametrize("command", RUNS, ids=lambda command: f"{command.document}: {command.text}")
def test_documented_run(command: Command, full_size_cache, own_tables, tmp_path, monkeypatch, capsys):
    arguments = arguments_of_run(command)
    given = [word.partition("=")[0].partition(".")[0] for word in arguments if "=" in word]
    assert set(given) <= ALL_SETTINGS
    if arguments[0] in TRIALS:  # the run that it tries
        arguments = [
            "check",
            *(word for word in arguments[1:] if word.partition("=")[0] in {"with", *SETTINGS, *presets()}),
        ]
    if arguments[0] != "with" and arguments[0] not in QUESTIONS:
        return  # its own tests run it
    from renaissance.cli.main import main

    if any(
        presets()[word].get("test_only") for word in arguments if word in presets()
    ):  # its checkpoint answers the rest
        values, sources = configured(declared.SETTINGS, arguments[1:])
        assert [*problems_between(values, frozenset(sources))] == []
        return
    kept = [word for word in arguments if word.partition("=")[0] not in OF_AN_EARLIER_RUN]
    if len(kept) < len(arguments):
        kept[1:1] = STANDS_FOR_AN_EARLIER_RUN
    question = kept if kept[0] in QUESTIONS else ["check", *kept]
    if any(
        presets().get(word, {}).get("test_only") for word in kept
    ):  # nothing but the checkpoint can stand for itself
        question = ["print_config", *kept[:1], *kept[1 + len(STANDS_FOR_AN_EARLIER_RUN) :]]
    monkeypatch.chdir(tmp_path)
    assert main(question) == 0, capsys.readouterr()


@pytest.mark.skipif(not OTHERS, reason="no document names a command yet")
@pytest.mark.parametrize("command", OTHERS, ids=lambda command: f"{command.document}: {command.text}")
def test_other_documented_command(command: Command):
    tool, *rest = command.words
    if tool == "bash":
        subprocess.run(["bash", "-n", rest[0]], cwd=ROOT, check=True)
    elif tool in ("python", "sbatch"):
        script = next(word for word in rest if word == "-m" or not word.startswith("--"))
        assert script == "-m" and rest[1] in ("pytest", "venv", "pip") or (ROOT / script).is_file(), command.text
        assert {word.partition("=")[0] for word in rest if re.match(r"[a-z]\w*=", word)} <= SETTINGS
    else:
        assert tool in SHELL_TOOLS or tool.startswith("./") and (ROOT / tool).is_file(), command.text


@pytest.mark.skipif(not DOCUMENTS[0].exists(), reason="README.md is not written yet")
@pytest.mark.parametrize("promised", PROMISED)
def test_readme_holds_the_promised_commands(promised: str):
    assert promised in {command.text for command in COMMANDS if command.document == "README.md"}


def named_settings(markdown: str) -> set[str]:
    """Settings that a text names: `key=value` in backticks, and the first column of tables headed Setting or Key."""
    names = {match for match in re.findall(r"`([a-z][a-z0-9_]*)=[^`=]*`", markdown)}
    in_table = False
    for line in markdown.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.lstrip().startswith("|"):
            in_table = False
        elif cells[0].lower() in ("setting", "settings", "key", "keys"):
            in_table = True
        elif in_table:
            names |= set(re.findall(r"`([a-z][a-z0-9_]*)`", cells[0]))
    return names


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path.exists()], ids=lambda path: path.name)
def test_named_settings_exist(path: Path):
    assert named_settings(path.read_text(encoding="utf-8")) <= ALL_SETTINGS


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_named_files_exist(path: Path):
    """`settings/resolver.py` is a file of the package, `tests/cli/` one of the repository."""
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"(?<![\w/<>-])((?:[a-z_]+/)+[a-z_0-9]+\.(?:py|svg|sh|sbatch)|tests/[a-z_/]*(?=`))", text)
    named = {*named} - {"path/to/file.py"}  # which stands for any
    assert not {name for name in named if not ((ROOT / name).exists() or (ROOT / "renaissance" / name).exists())}


def test_extraction():
    markdown = """
Text with `seed=3` and `a == b`.

```bash
# a comment
HF_HUB_OFFLINE=1 python run.py with task_mlm \\
    seed=3  # why
```

```python
python run.py with never
```

    python run.py with <task> key=value
    python run.py check with task_itm

   | Setting | means |
   |---|---|
   | `no_such`, `seed` | `not_this` |
"""
    lines = command_lines(markdown)
    assert [shlex.split(line, comments=True)[-1] for line in lines] == ["seed=3", "key=value", "task_itm"]
    assert named_settings(markdown) == {"seed", "no_such"}
    assert {"seed", "batch_size", "num_gpus"} <= SETTINGS
