"""The command line: picks the sub-command by the first word, screens the words, and hands them to Sacred.

    python run.py with <task> [<parts> ...] key=value      train and evaluate
    python run.py check with ...                           resolve, build on the meta device, print; no data, no GPU
    python run.py print_config with ...                    settings with their comments
    python run.py print_named_configs                      every preset with what it sets
    python run.py compare with runs='result/a/*'           finished runs side by side
    python run.py predict with load_path=... text=...      what a checkpoint makes of a picture and a text
    python run.py demo | prepare | check_data with ...     sub-commands with settings of their own

Sacred runs code that a `py/` key of a JSON config names, unpickles `.pickle` configs, answers an unknown key with a
page and a wrong type with a warning; so the words are screened, and config files read, before Sacred sees their values.
"""

from __future__ import annotations

import ast
import errno
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sacred import SETTINGS, Experiment
from sacred.utils import SacredError, set_by_dotted_path

from . import config
from .console import lost, say
from .draft import Draft
from .errors import Stopped, UserError, suggest
from .launch import launched, tidy
from .presets import comments_of, defaults_of, headings_of, merge, presets
from .printing import print_config, print_named_configs
from .signals import INTERRUPTED

SETTINGS.CAPTURE_MODE = "no"
SETTINGS.CONFIG.READ_ONLY_CONFIG = False
SETTINGS.DISCOVER_SOURCES = "none"
SETTINGS.DISCOVER_DEPENDENCIES = "none"

# First words that are experiments of their own: the module whose `ex` and `main(values)` they are.
SUBCOMMANDS = {name: f"renaissance.{name}.command" for name in ("demo", "prepare", "check_data", "compare", "predict")}
QUERIES = {"print_config": print_config, "print_named_configs": print_named_configs}


CONFIG_FILES = (".json", ".yaml", ".yml")
PICKLES = (".pickle", ".pkl")


class Words(NamedTuple):
    """What the words behind `with` set.

    Attributes:
        values: by key; a later preset or config file counts before an earlier one, and `key=value` before both.
        sources: by key, "given", "preset <name>" or "file <path>".
    """

    values: dict[str, Any]
    sources: dict[str, str]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit status. A user's mistake prints one sentence and gives 1."""
    tidy()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if not words or words[0] in ("help", "-h", "--help"):
            say(__doc__)
        elif words[0] in SUBCOMMANDS:
            module = importlib.import_module(SUBCOMMANDS[words[0]])
            _through_sacred(module.ex, module.main, _updates(words[1:], words[0]), {})
        else:
            _run(words)
    except (UserError, SacredError) as error:
        if launched().first or getattr(error, "each", False):
            say(f"error: {str(error).strip()}", error=True)
        return 1
    except Stopped as stop:
        if not launched().first:
            return stop.status if stop.alone else 0  # the first process says it, for all
        say(f"{stop}.", error=True)
        return stop.status
    except KeyboardInterrupt:
        say("error: interrupted.", error=True)
        return INTERRUPTED
    return unread_status() if words[:1] != ["with"] else 0


def unread_status() -> int:
    """The exit status of a command whose answer is what it prints: 1 where that did not arrive."""
    error = lost()
    if error is not None and error.errno != errno.EPIPE:  # `| head` has read enough
        say(f"error: what this command prints could not be written ({error.strerror}).", error=True)
    return 0 if error is None else 1


def _run(words: list[str]) -> None:
    """The main experiment: a run, or a question about one."""
    name = "run" if words[0] == "with" else words[0]
    if name not in ("run", "check", *QUERIES):
        known = ("with", "check", *QUERIES, *SUBCOMMANDS)
        raise UserError(f"There is no command {name!r}{suggest(name, known)}; the commands are {', '.join(known)}.")
    updates = _updates(words if name == "run" else words[1:], "" if name == "run" else name)

    def act(values: dict[str, Any], sources: dict[str, str]) -> None:
        if name.startswith("print"):
            say(QUERIES[name](values, sources, comments_of(config.ex), headings_of(config.ex)))
            return
        draft = Draft(values, sources)  # a wrong setting is said before torch is imported, which takes seconds
        if name == "run":
            from .train import run as work
        else:
            from .check import check as work
        try:
            work(draft)
        except UserError as error:
            error.each = True  # a file that only one machine lacks, say; wrong words are the same on all of them
            raise

    _through_sacred(config.ex, act, updates, presets())


def _updates(words: list[str], after: str) -> list[str]:
    """What stands behind `with`."""
    if words and words[0] != "with":
        command = f"{after} with" if after else "with"
        raise UserError(f"{words[0]!r} is not understood here; write `python run.py {command} key=value ...`.")
    return words[1:]


def _through_sacred(
    ex: Experiment, act: Callable[[dict[str, Any], dict[str, str]], None], updates: list[str], named: Mapping[str, Any]
) -> None:
    """Lets Sacred put defaults and updates together, and acts on the result."""
    defaults = defaults_of(ex)
    values, sources = screen(updates, defaults, named)
    # Sacred asserts that a seed is a whole number; ours is checked with the other settings, in a sentence.
    seed = {"seed": values.pop("seed")} if "seed" in values else {}

    @ex.main
    def main(_config: dict[str, Any]) -> None:
        act({**{key: _config[key] for key in defaults}, **seed}, sources)

    ex.run("main", config_updates=values, options={"--loglevel": "CRITICAL"})


def screen(updates: Sequence[str], defaults: Mapping[str, Any], named: Mapping[str, Any]) -> Words:
    """Turns updates into values, and refuses what Sacred would execute, misread or answer with a page.

    Args:
        updates: words as `key=value`, `key.sub=value`, the name of a preset, or the path of a JSON or YAML config file.
        defaults: every key that exists. named: every preset.

    Raises:
        UserError: listing every word that cannot stand.
    """
    words, given, problems = Words({}, {}), {}, []
    for word in updates:
        try:
            if "=" in word:
                key, _, text = word.partition("=")
                _set(given, key.strip(), literal(text.strip()), defaults, named)
            else:
                source, content = _named(word, defaults, named)
                merge(words.values, content)
                words.sources.update(dict.fromkeys(content, source))
        except UserError as error:
            problems.append(str(error))
    if problems:
        several = "\n".join([f"{len(problems)} words are wrong:", *(f"  - {problem}" for problem in problems)])
        raise UserError(problems[0] if len(problems) == 1 else several)
    merge(words.values, given)
    words.sources.update(dict.fromkeys(given, "given"))
    return words


def _named(word: str, defaults: Mapping[str, Any], named: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Where a word without = comes from, and what it sets."""
    if word in named:
        return f"preset {word}", named[word]
    if Path(word).suffix.lower() in (*CONFIG_FILES, *PICKLES):
        content: dict[str, Any] = {}
        for key, value in _read_file(Path(word)).items():
            _set(content, str(key), value, defaults, named)
        return f"file {word}", content
    near = suggest(word, [*named, *defaults])
    raise UserError(f"There is no preset {word!r}{near}; `python run.py print_named_configs` lists them all.")


def literal(text: str) -> Any:
    """A word as the Python value that it writes, else as itself; three dots, copied from a README, stay three dots."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return text if value is Ellipsis else value


def _set(into: dict[str, Any], key: str, value: Any, defaults: Mapping[str, Any], named: Mapping[str, Any]) -> None:
    """Sets `key` or `key.sub`, where there is such a setting."""
    base, *rest = key.split(".")
    if base not in defaults:
        near = suggest(base, [*defaults, *named])
        raise UserError(f"There is no setting {base!r}{near}; `python run.py print_config` lists them all.")
    if rest and not (isinstance(defaults[base], dict) and len(rest) == 1 and rest[0] in defaults[base]):
        known = ", ".join(defaults[base]) if isinstance(defaults[base], dict) else "none"
        raise UserError(f"{key} does not exist: {base} has the entries {known}.")
    for each in _keys(value):
        if str(each).startswith("py/"):
            raise UserError(f"{key} holds the key {each!r}, which Sacred would run as code; it is refused.")
        if not isinstance(each, str):
            raise UserError(f"{key}={value!r} is not allowed: {each!r} is no name.")
    set_by_dotted_path(into, key, value)


def _keys(value: Any) -> Iterator[Any]:
    """Every key of every dictionary in a value."""
    if isinstance(value, Mapping):
        yield from value
        value = list(value.values())
    if isinstance(value, (list, tuple, set)):
        for each in value:
            yield from _keys(each)


def _read_file(path: Path) -> Mapping[str, Any]:
    """The settings of a JSON or YAML file, as plain values.

    Raises:
        UserError: a pickle, no such file, or none that holds settings by name.
    """
    if path.suffix.lower() in PICKLES:
        raise UserError(f"{path} is a pickle, which can run code; give the settings as JSON.")
    if not path.is_file():
        raise UserError(f"The config file {path} does not exist.")
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix.lower() == ".json" else _yaml(text)
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path} cannot be read ({_first_line(error)}); give a JSON object of settings.") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path} does not hold settings by name; give a JSON object.")
    return content


def _yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:  # a !!python tag among others, which would run code
        raise ValueError(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
