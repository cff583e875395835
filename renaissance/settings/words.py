"""What the words behind `with` set: presets, config files, and key=value.

Sacred runs code that a `py/` key of a JSON file names, unpickles `.pickle` files, prints a page about an unknown key, and only
warns of a wrong type. So the words are screened, and config files are read, before Sacred sees their values.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import sacred
from sacred import Experiment
from sacred.utils import set_by_dotted_path

from renaissance.core.checks import expanded
from renaissance.core.errors import UserError, require, suggest
from renaissance.core.plugins import load_plugins, plugin_hint

from .declared import SETTINGS, Setting, converted, defaults
from .presets import CONFIG_FILES, merge, presets, read_config_file
from .resolver import refuse

sacred.SETTINGS.CAPTURE_MODE = "no"
sacred.SETTINGS.CONFIG.READ_ONLY_CONFIG = False
# Our own checks refuse keys, in a sentence. Nothing is stored, so nothing can be read back as code.
sacred.SETTINGS.CONFIG.ENFORCE_KEYS_MONGO_COMPATIBLE = False
sacred.SETTINGS.CONFIG.ENFORCE_KEYS_JSONPICKLE_COMPATIBLE = False
sacred.SETTINGS.CONFIG.ENFORCE_KEYS_NO_EQUALS = False
sacred.SETTINGS.DISCOVER_SOURCES = "none"
sacred.SETTINGS.DISCOVER_DEPENDENCIES = "none"

_LISTING = "`python run.py print_config` lists them all"
# What text programs make of plain characters: quotes, dashes, a space.
_PLAIN = str.maketrans(
    {**dict.fromkeys("“”„‟«»", '"'), **dict.fromkeys("‘’‚‛", "'"), **dict.fromkeys("‐‑‒–—―−", "-"), "\xa0": " "}
)
# A setting as other programs take it: --name value, --name=value, name: value.
_ELSEWHERE = re.compile(r"-*(\w[\w.-]*)(?:\s*[:=\s]\s*(.*))?", re.DOTALL)


class Words(NamedTuple):
    """What the words after `with` set.

    Attributes:
        values: by key; a later preset or config file counts before an earlier one, and `key=value` before both.
        sources: by key, "given", "preset <name>" or "file <path>".
        problems: a sentence about each word that is refused.
    """

    values: dict[str, Any]
    sources: dict[str, str]
    problems: list[str]


def configured(
    settings: Mapping[str, Setting], updates: Sequence[str], listing: str = _LISTING
) -> tuple[dict[str, Any], dict[str, str]]:
    """Defaults and updates as Sacred puts them together, with `~` written out, and their sources. Plugins are imported.

    Args:
        listing: says what lists the settings, where those of a run are among them, to who gives one that there is not.

    Raises:
        UserError: a word is refused, or as `load_plugins`.
    """
    named = presets if settings.keys() >= SETTINGS.keys() else dict
    words = parse_words(updates, settings, named(), listing)
    if words.values.get("plugins") not in (None, ""):
        checked, problems = converted(settings, {"plugins": words.values["plugins"]})
        refuse(problems)
        load_plugins(checked["plugins"])
        words = parse_words(updates, settings, named(), listing)  # again: a plugin brings presets and settings
    refuse(words.problems, "words")
    # Sacred asserts that a seed is a whole number; ours is checked with the other settings, in a sentence.
    seed = {"seed": words.values.pop("seed")} if "seed" in words.values else {}
    experiment = Experiment("renaissance", save_git_info=False)
    experiment.add_config(defaults(settings))

    @experiment.main
    def configuration(_config: dict[str, Any]) -> dict[str, Any]:
        return dict(_config)

    config = experiment.run(config_updates=words.values, options={"--loglevel": "CRITICAL"}).result | seed
    given = {key: None if config[key] == "" else config[key] for key in settings}
    paths = {key: expanded(key, value) for key, value in given.items() if settings[key].check.is_path}
    return given | paths, words.sources


def parse_words(
    updates: Sequence[str], settings: Mapping[str, Setting], named: Mapping[str, Any], listing: str = _LISTING
) -> Words:
    """Turns updates into values, and finds those that Sacred would misread.

    Args:
        updates: words as `key=value`, `key.sub=value`, the name of a preset, or the path of a JSON or YAML config file,
            which may hold a = where there is such a file.
        settings: every one that exists. named: every preset. listing: see `configured`.
    """
    words, given = Words({}, {}, []), {}
    for before, word in zip(("", *updates), updates, strict=False):
        try:
            if "=" in word and not _is_config_file(word):
                key, value = _assigned(word, settings)
                _set(given, key, value, settings, named, listing)
            else:
                source, content = _named(word, before, settings, named)
                allowed: dict[str, Any] = {}
                for key, value in content.items():
                    try:
                        _set(allowed, str(key), value, settings, named, listing)
                    except UserError as error:  # the others may name a plugin, which brings this one
                        words.problems.append(f"{source}: {str(error).replace('There is', 'there is', 1)}")
                merge(words.values, allowed)
                words.sources.update(dict.fromkeys(allowed, source))
        except UserError as error:
            words.problems.append(str(error))
    merge(words.values, given)
    words.sources.update(dict.fromkeys(given, "given"))
    return words


def _is_config_file(word: str) -> bool:
    return Path(word).suffix.lower() in CONFIG_FILES and os.path.exists(os.path.expanduser(word))


def _assigned(word: str, settings: Mapping[str, Setting]) -> tuple[str, Any]:
    """The key of a word with =, and the value that it writes.

    Raises:
        UserError: it is written as other programs take it.
    """
    key, text = (part.strip() for part in word.split("=", 1))
    plain_form = key and not text.startswith("=")
    require(plain_form, f"{word!r} is no setting: write key=value, with one = and no spaces around it.")
    if key.split(".")[0] not in settings:
        _refuse_form(word, settings)
    value, plain = literal(text), text.translate(_PLAIN)
    if value == text != plain and literal(plain) != plain:
        raise UserError(f"{word} contains typographic quotes, dashes or spaces; type {key}={plain}.")
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and key in settings and (settings[key].check.is_path or isinstance(settings[key].default, str)):
        return key, text  # exp_name=2024_01 is no number
    return key, value


def _refuse_form(word: str, settings: Mapping[str, Setting]) -> None:
    """Refuses the form of a setting in other programs, such as --key=value."""
    found = _ELSEWHERE.fullmatch(word.translate(_PLAIN).strip())
    key, value = (found[1].replace("-", "_"), found[2] or "<value>") if found else ("", "")
    unknown = key.split(".")[0] not in settings
    require(unknown, f"{word!r} is not how a setting is written; write {key}={value}, without spaces.")


def _named(
    word: str, before: str, settings: Mapping[str, Setting], named: Mapping[str, Any]
) -> tuple[str, Mapping[str, Any]]:
    """The source and values of a word without =, a preset or config file; `before` is the word before it."""
    if word in named:
        return f"preset {word}", named[word]
    if Path(word).suffix.lower() in CONFIG_FILES:
        return f"file {word}", read_config_file(Path(os.path.expanduser(word)))
    _refuse_form(word, settings)
    lists = f"`python run.py print_named_configs` lists them all{plugin_hint(settings)}"
    advice = f"{suggest(word, [*named, *settings])}; {lists if named else 'this command has none: write key=value'}"
    if before.endswith("="):
        advice = f"; if it is the value of {before}, write them without a space"
    elif os.path.exists(word):
        advice = f"; the name of a config file ends in {', '.join(CONFIG_FILES)}"
    raise UserError(f"There is no preset {word!r}{advice}.")


def literal(text: str) -> Any:
    """The Python literal that a text writes, else the text. Three dots, copied from a README, stay three dots."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return text if value is Ellipsis else value


def written(value: Any) -> str:
    """A value as the command line reads it back: a text as it is, where that is read as no other value; else as a literal."""
    return value if isinstance(value, str) and literal(value) == value else repr(value)


def _set(
    into: dict[str, Any],
    key: str,
    value: Any,
    settings: Mapping[str, Setting],
    named: Mapping[str, Any],
    listing: str,
) -> None:
    """Sets `key` or `key.sub`, where there is such a setting."""
    base, *rest = key.split(".")
    if base not in settings:
        near = suggest(base, [*settings, *named])
        lists = f"{listing}{plugin_hint(settings)}"
        every = f"the settings are {', '.join(settings)}"
        raise UserError(f"There is no setting {base!r}{near}; {lists if named else every}.")
    entries = settings[base].default if isinstance(settings[base].default, dict) else {}
    known = not rest or ".".join(rest) in entries
    require(known, f"{key} does not exist: {base} has the entries {', '.join(entries) or 'none'}.")
    if isinstance(value, Mapping):
        plain = entries and not rest
        require(plain, f"{key}={value!r} is not allowed: {key} has no entries of its own.")
        for name, each in value.items():
            _set({}, f"{key}.{name}", each, settings, named, listing)
    if rest and not isinstance(into.get(base, {}), dict):
        raise UserError(f"{base}={into[base]!r} and {key}={value!r} contradict each other; give one of the two.")
    set_by_dotted_path(into, key, value)
