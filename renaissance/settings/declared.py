"""The declarations of settings: `config.py` has those of a run, each file of `cli/` those of its command.

    class Run:
        \"""The run\"""

        keep_last: whole(1).free = 2  # newest checkpoints that stay beside best.ckpt

`{TRANSFORMS}` in a comment stands for the names in that table of `core/registry.py`. A class is a group. Its name is the section
of `Settings` that the values go to, or its base class's is.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Mapping, Sequence
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
        """Its value where nobody gives another; where it is None, None may be given, too."""
        return self.declared() if callable(self.declared) else copy.deepcopy(self.declared)

    def problem(self, value: Any) -> str | None:
        """A sentence, or None where the value may stand."""
        if value is None and (self.default is None or self.check.optional):
            return None
        return self.check.problem(self.key, value)

    def convert(self, value: Any) -> Any:
        """An allowed value in its one form."""
        return None if value is None else self.check.convert(value)


def declared(module: ModuleType, groups: Sequence[type] = ()) -> dict[str, Setting]:
    """The settings that the classes of a module declare, or these of them, by key, in their order.

    Raises:
        UserError: one has no comment.
    """
    comments = dict(re.findall(r"^    (\w+): .+?  # (.+)$", inspect.getsource(module), re.MULTILINE))
    classes = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__]
    settings = {}
    for group in groups or classes:
        section = group.__mro__[-2].__name__.lower()
        for key, check in inspect.get_annotations(group, eval_str=True).items():
            require(key in comments, f"the setting {key!r} has no comment: write `  # what it is` behind its default.")
            settings[key] = Setting(key, vars(group)[key], check, comments[key], section, group.__doc__)
    return settings


def groups(settings: Mapping[str, Setting]) -> list[tuple[str, list[Setting]]]:
    """The settings of each group, with its title."""
    return [(heading, [*group]) for heading, group in groupby(settings.values(), lambda setting: setting.heading)]


def converted(settings: Mapping[str, Setting], values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Values in their one form, and a sentence about each that may not stand, which stays as it is."""
    problems = {key: problem for key, value in values.items() if (problem := settings[key].problem(value))}
    forms = {key: value if key in problems else settings[key].convert(value) for key, value in values.items()}
    return forms, [*problems.values()]


SETTINGS = registry.Registry("setting")


def add_settings(module: ModuleType, *groups: type) -> None:
    """Adds the settings of all classes of a module, or of these.

    Args:
        groups: of a plugin, each derived from the class of config.py whose section of `Settings` gets its values.

    Raises:
        UserError: a class is derived from none of them, or a setting has no comment or a name that is taken.
    """
    for key, setting in declared(module, groups).items():
        known = module is config or setting.section in {each.section for each in SETTINGS.values()}
        require(
            known, f"the setting {key!r} is of no section; derive its class from one of config.py, such as Objectives."
        )
        SETTINGS.add(key, setting)


add_settings(config)


def defaults(settings: Mapping[str, Setting] = SETTINGS) -> dict[str, Any]:
    """The default of each setting."""
    return {key: setting.default for key, setting in settings.items()}
