"""Settings on the screen: `print_config`, `print_named_configs`, `check` and `--help`; imports no torch."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from renaissance.core.registry import with_names

from .declared import SETTINGS, Setting, groups
from .presets import preset_tables
from .sections import Settings

WIDTH = 44


def print_config(values: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    """Every setting by groups, with its value, its comment, and where the value came from if it is not the default."""
    lines = [
        "# None: filled from the checkpoint, the pretrained model or a fallback; `python run.py check with ...` shows them.",
        "# [given], [preset ...], [file ...]: where a value that is not the default came from.",
    ]
    return "\n".join([*lines, "", with_comments(SETTINGS, values, sources)])


def with_comments(settings: Mapping[str, Setting], values: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    """Settings by groups, as `key = value  # comment  [source]`."""
    lines: list[str] = []
    for heading, group in groups(settings):
        lines += ["", f"# {heading}"]
        for setting in group:
            line = f"{setting.key} = {values[setting.key]!r}".ljust(WIDTH)
            source = sources.get(setting.key)
            lines.append(f"{line}  # {with_names(setting.comment)}" + (f"  [{source}]" if source else ""))
    return "\n".join(lines[1:])


def print_named_configs(*_: Mapping[str, Any]) -> str:
    """Every preset with what it sets: tasks, parts, and recipes by what they join."""
    lines = []
    for title, table in preset_tables().items():
        lines += ["", f"{title}:"]
        for name, content in table.items():
            joined = isinstance(content, str)
            text = content if joined else "  ".join(f"{key}={_short(value)}" for key, value in content.items())
            entry = f"  {name.ljust(28)}{text}"
            lines += textwrap.wrap(entry, 120, subsequent_indent=" " * 30, break_long_words=False)
    return "\n".join(lines[1:])


def _short(value: Any) -> str:
    if isinstance(value, dict):
        on = {key: weight for key, weight in value.items() if weight}
        return "{" + ", ".join(f"{key}: {weight}" for key, weight in on.items()) + "}"
    return str(value)


def sources_table(settings: Settings) -> str:
    """Every setting, its value, and where it came from."""
    rows = [("setting", "value", "from")]
    rows += [(key, str(value), settings.sources[key]) for key, value in settings.flat.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{key:{widths[0]}}  {value:{min(widths[1], 48)}}  {source}" for key, value, source in rows)
