"""The presets of config.py, recipes joined, and the config files of users."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from renaissance import config
from renaissance.core.checks import no_losses
from renaissance.core.errors import UserError, first_line, printable, require
from renaissance.core.registry import PRESETS, TASKS
from renaissance.core.untrusted import parse_json, read_bytes

CONFIG_FILES = (".json", ".yaml", ".yml")
_MOST_BYTES = 256 << 10  # of a config file; all settings with their comments are a twentieth of it


for _name, _content in (config.TASKS | config.PARTS | config.RECIPES).items():
    PRESETS.add(_name, _content)


def preset_tables() -> dict[str, dict[str, Any]]:
    """Tasks, parts and recipes, as config.py and plugins write them. A task that none turns on has the preset task_<name>."""
    contents = [content for content in PRESETS.values() if not isinstance(content, str)]
    for name, content in PRESETS.items():
        weights = {} if isinstance(content, str) else content.get("loss_names", {})
        require(
            isinstance(weights, dict), f"preset {name}: loss_names={weights!r} is not allowed: give weights by task."
        )
    used = {name for content in contents for name in content.get("loss_names", ())}
    own = {f"task_{name}": {"exp_name": name, "loss_names": {name: 1}} for name in TASKS if name not in used}
    tables: dict[str, dict[str, Any]] = {"tasks": {}, "parts": {}, "recipes": {}}
    for name, content in (own | dict(PRESETS)).items():
        kind = "recipes" if isinstance(content, str) else "tasks" if name.startswith("task_") else "parts"
        tables[kind][name] = content
    return tables


def presets() -> dict[str, dict[str, Any]]:
    """Every preset as the dictionary that it sets; its `loss_names` name every task, so that those of another are off."""
    tables = preset_tables()
    known = {
        name: {key: no_losses() | value if key == "loss_names" else value for key, value in content.items()}
        for name, content in (tables["tasks"] | tables["parts"]).items()
    }
    for name, joined in tables["recipes"].items():
        known[name] = {}
        for part in joined.split():
            require(part in known, f"The recipe {name} joins {part}, and there is no such preset.")
            merge(known[name], known[part])
    return known


def merge(into: dict[str, Any], update: Mapping[str, Any]) -> None:
    """Merges a preset into another in place, nested dictionaries too, as Sacred does."""
    for key, value in update.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = copy.deepcopy(value)


def read_config_file(path: Path) -> Mapping[str, Any]:
    """The settings of a JSON or YAML file, as plain values.

    Raises:
        UserError: no such file, or none that holds settings by name.
    """
    name = printable(str(path))
    require(os.path.exists(path), f"The config file {name} does not exist.")  # False, too, of a name that is too long
    return parse_config(read_bytes(path, most=_MOST_BYTES), path.suffix, name)


def parse_config(content: bytes, ending: str, name: str) -> Mapping[str, Any]:
    """The settings of the content of a JSON or YAML file, by its name's ending. Raises UserError as `read_config_file`."""
    content = parse_json(content, Any, name) if ending.lower() == ".json" else _yaml(content, name)
    found = "is empty" if content is None else "does not hold settings by name"
    require(isinstance(content, Mapping), f"{name} {found}; give `name: value` lines of YAML, or a JSON object.")
    return content


class _Yaml(yaml.SafeLoader):
    """YAML with the scalars of the core schema of YAML 1.2: null, true, false, decimal numbers such as 1e-4, and text.
    PyYAML's own rules, of YAML 1.1, make text of 1e-4, 8 of 010, False of no, and 90 of 1:30.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):  # a few that double hold more values than any memory
            raise _wrong(f"*{event.anchor} is an alias; write it out", event)
        if event.tag is not None:  # such as !!python/object, which would run code
            raise _wrong(f"{event.tag} is a tag; leave it out", event)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key.value, str):
                raise _wrong("a key has to be a name", key)
            if key.value in seen:
                raise _wrong(f"the key {key.value} stands there twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _wrong(problem: str, place: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


for _kind, _form, _starts in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Yaml.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"^(?:{_form})$"), _starts)


def _yaml(content: bytes, name: str) -> Any:
    try:
        return _Yaml(content.decode("utf-8-sig")).get_single_data()
    except RecursionError:
        problem = "it is nested too deeply"
    except yaml.MarkedYAMLError as error:
        why = ", ".join(filter(None, (error.context, error.problem)))
        problem = f"line {error.problem_mark.line + 1}: {printable(why)}"
    except (yaml.YAMLError, ValueError) as error:  # no UTF-8; a control character; a number of thousands of digits
        problem = first_line(error)
    raise UserError(f"{name} cannot be read as YAML ({problem}); give `name: value` lines.")
