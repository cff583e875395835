"""The declarations of settings: `config.py` has those of a run, each file of `cli/` those of its command.

    class Run:
        \"""The run\"""

        keep_last: whole(1).free = 2  # newest checkpoints that stay beside best.ckpt

A class is a group. Its name is the section of `Settings` that the values go to, or its base class's is.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Mapping
from itertools import groupby
from types import ModuleType
from typing import Any, NamedTuple

from renaissance import config
from renaissance.core.checks import Check


class Setting(NamedTuple):
    """One setting.

    Attributes:
        key: its name.
        default: its value where nobody gives another; where it is None, None may be given, too.
        check: what it may be.
        comment: its documentation.
        section: the section of `Settings` that has it, such as "run".
        heading: the title of its group.
    """

    key: str
    default: Any
    check: Check
    comment: str
    section: str
    heading: str

    def problem(self, value: Any) -> str | None:
        """A sentence, or None where the value may stand."""
        if value is None and (self.default is None or self.check.optional):
            return None
        return self.check.problem(self.key, value)

    def convert(self, value: Any) -> Any:
        """An allowed value in its one form."""
        return None if value is None else self.check.convert(value)


def declared(module: ModuleType) -> dict[str, Setting]:
    """The settings that a module declares, by key, in their order."""
    comments = dict(re.findall(r"^    (\w+): .+?  # (.+)$", inspect.getsource(module), re.MULTILINE))
    groups = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__]
    return {
        key: Setting(key, vars(group)[key], check, comments[key], group.__mro__[-2].__name__.lower(), group.__doc__)
        for group in groups
        for key, check in inspect.get_annotations(group).items()
    }


def groups(settings: Mapping[str, Setting]) -> list[tuple[str, list[Setting]]]:
    """The settings of each group, with its title."""
    return [(heading, [*group]) for heading, group in groupby(settings.values(), lambda setting: setting.heading)]


def converted(settings: Mapping[str, Setting], values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Values in their one form, and a sentence about each that may not stand, which stays as it is."""
    problems = {key: problem for key, value in values.items() if (problem := settings[key].problem(value))}
    forms = {key: value if key in problems else settings[key].convert(value) for key, value in values.items()}
    return forms, [*problems.values()]


SETTINGS = declared(config)


def defaults(settings: Mapping[str, Setting] = SETTINGS) -> dict[str, Any]:
    """The default of each setting."""
    return {key: copy.deepcopy(setting.default) for key, setting in settings.items()}
