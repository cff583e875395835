"""The command line: picks the command by the first word, and turns mistakes into sentences and statuses."""

from __future__ import annotations

import contextlib
import errno
import importlib
import sys
import time
from collections import ChainMap
from collections.abc import Mapping, Sequence
from textwrap import indent
from types import ModuleType
from typing import Any

from sacred.utils import SacredError

from renaissance.core.checks import require_checkpoint
from renaissance.core.console import lost, say
from renaissance.core.errors import Stopped, UserError, require, suggest
from renaissance.core.launch import PYTHON, lasting_imports, launch_environment, prepare_environment
from renaissance.settings.declared import SETTINGS, converted, declared, defaults
from renaissance.settings.keys import AUTO
from renaissance.settings.presets import presets
from renaissance.settings.printing import print_config, print_named_configs, with_comments
from renaissance.settings.resolver import ConfigResolver, refuse
from renaissance.settings.words import configured

# Commands with settings of their own: the module that declares them, and does the work in `main`, which takes them by name.
_OWN = "demo prepare check_data compare predict serve encode export study report"
SUBCOMMANDS = {name: f"renaissance.cli.{name}" for name in _OWN.split()}
# Commands that try the first steps of a run: they take its words, beside settings of their own.
TRIALS = ("find_lr", "find_batch")
SUBCOMMANDS |= {name: f"renaissance.cli.{name}" for name in TRIALS}
SUBCOMMANDS["completion"] = "renaissance.cli.completion"
SUBCOMMANDS["import"] = "renaissance.cli.import_checkpoint"  # `import` is a word of Python
HELP = ("help", "-h", "--help")
WORDS = "[<preset> ...] [<file>.yaml ...] [key=value ...]"
COMMANDS = {
    "with": """trains and evaluates: python run.py with task_mlm_itm max_steps=50000
evaluates alone:      python run.py with task_mlm_itm test_only=True load_path=<checkpoint>""",
    "check": "what a run would build, and where each setting comes from; reads no data",
    "find_lr": "the learning rate of a run, suggested by a range test of some steps",
    "find_batch": "the largest per_gpu_batchsize of a run that fits into memory, measured",
    "print_config": "every setting of a run with its value and meaning",
    "print_named_configs": "every preset (tasks, parts, recipes) with what it sets",
    "prepare": "raw downloads to arrow files",
    "check_data": "arrow files, checked to their last pixel",
    "compare": "finished runs side by side",
    "report": "what a run has learned, as one page for a browser",
    "predict": "what a checkpoint makes of an image and a text",
    "serve": "a page of this machine where a checkpoint is asked of images and texts",
    "encode": "vectors of all texts and images of a split, a folder or a file",
    "import": "a model of another program (ViLT, METER) as a checkpoint of this one",
    "export": "a checkpoint as a folder that other programs read (transformers)",
    "study": "many runs from one file, and their table",
    "demo": "a small world, two models that learn it, and what they learned",
    "completion": """completes commands, presets, settings and choices in bash: eval "$(python run.py completion)\"""",
}
_TABLE = "\n".join(
    indent(text, " " * 23).replace(" " * 23, f"  {name.ljust(21)}", 1) for name, text in COMMANDS.items()
)
OVERVIEW = f"""Vision-language encoders: pretrain, finetune, evaluate.

usage: python run.py <command> with {WORDS}

{_TABLE}

`python run.py <command> --help` lists the settings of a command. Exit status: 0 done; 1 refused or failed, as it says;
75 stopped and saved, give the same command again with resume_from=auto; 130 interrupted and saved."""
# They leave files; what the others leave is what they print.
WORKS = ("with", "demo", "prepare", "import", "export", "encode", "study", "report")
FIRST_SAYS = 10  # seconds
QUERIES = {"print_config": print_config, "print_named_configs": print_named_configs}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit status. A user's mistake prints one sentence and gives 1."""
    prepare_environment()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if not words or words[0] in HELP:
            say(OVERVIEW)
        else:
            _command(*words)
    except (UserError, SacredError) as error:
        launch = launch_environment()
        if launch.is_rank_zero or getattr(error, "each", False):
            say(f"error: {str(error).strip()}", error=True)
        elif launch.launcher != PYTHON:
            # A launcher ends all processes when one has failed, and the first may not have said yet why.
            with contextlib.suppress(Stopped):
                time.sleep(FIRST_SAYS)
        return 1
    except Stopped as stop:
        if not launch_environment().is_rank_zero:
            return stop.status if stop.local_only else 0  # the first process says it, for all
        say(f"{stop}.", error=True)
        return stop.status
    return 0 if words and words[0] in WORKS else unread_status()


def unread_status() -> int:
    """Exit status of a command that only prints: 1 where the output could not be written."""
    error = lost()
    if error is not None and error.errno != errno.EPIPE:  # `| head` has read enough
        say(f"error: what this command prints could not be written ({error.strerror}).", error=True)
    return 0 if error is None else 1


def _command(name: str, *words: str) -> None:
    """Runs a command, or prints its help."""
    if name not in COMMANDS:
        run = f"write `python run.py with {name} ...` for a run, or"
        hint = run if "=" in name or name in presets() else "the commands are"
        raise UserError(f"There is no command {name!r}{suggest(name, COMMANDS)}; {hint} {', '.join(COMMANDS)}.")
    module = importlib.import_module(SUBCOMMANDS[name]) if name in SUBCOMMANDS else None
    own = declared(module) if module else {}
    settings = ChainMap(own, SETTINGS) if name in TRIALS else own if module else SETTINGS
    if {*words} & {*HELP[1:]}:
        command = f"python run.py {name} with".replace("with with", "with")
        usage = module.__doc__.replace("`", "") if module else f"{command} {WORDS}\n\n{indent(COMMANDS[name], '  ')}"
        listed = {} if name == "print_named_configs" else own if module else SETTINGS
        table = f"\n\n{with_comments(listed, defaults(listed), {})}" if listed else ""
        say(f"usage: {usage}{table}")
        return
    if name != "with" and words[:1] not in ((), ("with",)):
        raise UserError(f"{words[0]!r} is not understood here; write `python run.py {name} with key=value ...`.")
    updates = words if name == "with" else words[1:]
    run = "python run.py"
    listing = f"`{run} {name} --help` lists its own, `{run} print_config` those of a run"
    values, sources = configured(settings, updates, *([listing] if name in TRIALS else []))
    given, problems = converted(own, {key: values.pop(key) for key in own})
    refuse(problems)
    if module and name not in TRIALS:
        given.pop("plugins", None)  # they are loaded
        module.main(**given)
    elif name in QUERIES:
        say(QUERIES[name](values, sources))
    else:
        # A wrong setting is said before torch is imported, which takes seconds.
        resolver = ConfigResolver(values, {key: source for key, source in sources.items() if key in values})
        if name in TRIALS:
            _refuse_untrained(name, resolver)
        start = "resume_from" if resolver["resume_from"] else "load_path"
        if resolver[start] not in (None, AUTO) and resolver["num_nodes"] == 1:  # of several machines, the first says it
            require_checkpoint(start, resolver[start])
        _run(name, resolver, module, given)


def _refuse_untrained(name: str, resolver: ConfigResolver) -> None:
    """Refuses to try a run that trains nothing, or does not begin."""
    for key in ("test_only", "fast_dev_run", "resume_from", "max_time"):
        start = "; load_path= starts from a checkpoint" if key == "resume_from" else ""
        what = f"{key}={resolver[key]}: {name} tries the first steps of a run that trains from its beginning"
        require(not resolver[key], f"{what}; leave {key} out{start}.")


def _run(name: str, resolver: ConfigResolver, module: ModuleType | None, own: Mapping[str, Any]) -> None:
    """Trains and evaluates, or tries it, or reports what that would build."""
    with lasting_imports():
        if module:
            work = module.main
        elif name == "check":
            from .check import check as work
        else:
            from renaissance.training.train import run as work
    try:
        ended = work(resolver, **own)
    except UserError as error:
        error.each = True  # a file that only one machine lacks, say; wrong words are the same on all of them
        raise
    if name == "with":
        from renaissance.reports.page import report_ended

        report_ended(ended.path)
