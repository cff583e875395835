"""The declarations of settings: `config.py` has those of a run, each file of `cli/` those of its command.

    class Run:
        \"""The run\"""

        keep_last: integer(1).changeable = 2  # newest checkpoints that stay beside best.ckpt

`{TRANSFORMS}` in a comment stands for the names in that table of `core/registry.py`. A class is a group. Its name is the section
of `Settings` that the values go to, or its base class's is.
"""

from __future__ import annotations

import copy
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from itertools import groupby
from types import ModuleType
from typing import Any, NamedTuple

from renaissance import config
from renaissance.core import registry
from renaissance.core.checks import Check
from renaissance.core.errors import require


class Setting(NamedTuple):
    """One setting.

    Attributes:
        key: its name.
        declared: its default, or a function that returns it.
        check: what it may be.
        comment: its documentation.
        section: the section of `Settings` that has it, such as "run".
        heading: the title of its group.
    """

    key: str
    declared: Any
    check: Check
    comment: str
    section: str
    heading: str

    @property
    def default(self) -> Any:
        """Its value where none is given. Where it is None, None is allowed."""
        return self.declared() if callable(self.declared) else copy.deepcopy(self.declared)

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value; None where it is allowed."""
        if value is None and (self.default is None or "or_none" in self.check.marks):
            return None
        return self.check.problem(self.key, value)

    def convert(self, value: Any) -> Any:
        """An allowed value in its canonical form."""
        return None if value is None else self.check.convert(value)


def declared(module: ModuleType) -> dict[str, Setting]:
    """The settings that the classes of a module declare, by key, in their order."""
    groups = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__]
    return {setting.key: setting for group in groups for setting in _settings_of(group)}


def _settings_of(group: type) -> Iterator[Setting]:
    source = inspect.getsource(sys.modules[group.__module__])
    comments = dict(re.findall(r"^    (\w+): .+?  # (.+)$", source, re.MULTILINE))
    section = group.__mro__[-2].__name__.lower()
    for key, check in inspect.get_annotations(group, eval_str=True).items():
        require(key in comments, f"the setting {key!r} has no comment: write `  # what it is` behind its default.")
        require(
            isinstance(check, Check),
            f"the setting {key!r} needs a check of core/checks.py, such as integer(1), behind its colon.",
        )
        comment = comments[key] if check.fallback is None else f"{comments[key]}; fallback {check.fallback}"
        yield Setting(key, vars(group)[key], check, comment, section, group.__doc__)


def groups(settings: Mapping[str, Setting]) -> list[tuple[str, list[Setting]]]:
    """The settings of each group, with its title."""
    return [(heading, [*group]) for heading, group in groupby(settings.values(), lambda setting: setting.heading)]


def converted(settings: Mapping[str, Setting], values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Values in their canonical form, and a sentence about each that is not allowed and stays as it is."""
    problems = {key: problem for key, value in values.items() if (problem := settings[key].problem(value))}
    forms = {key: value if key in problems else settings[key].convert(value) for key, value in values.items()}
    return forms, [*problems.values()]


SETTINGS = registry.Registry("setting", Setting)


for _setting in declared(config).values():
    SETTINGS.add(_setting.key, _setting)


def add_settings(group: type) -> None:
    """Adds the settings of a class, which is derived from the class of config.py whose section of `Settings` gets them.

    Raises:
        UserError: it is derived from none, or a setting has no comment or a name that is taken.
    """
    for setting in _settings_of(group):
        sections = {each.section for each in SETTINGS.values()}
        require(setting.section in sections, f"derive {group.__name__} from a class of config.py, such as Objectives.")
        SETTINGS.add(setting.key, setting)


def defaults(settings: Mapping[str, Setting] = SETTINGS) -> dict[str, Any]:
    """The default of each setting."""
    return {key: setting.default for key, setting in settings.items()}
