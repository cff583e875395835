"""What goes out to others names no folders of this disk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Of an absolute path in a command, up to its last name; a URL has its slashes behind a colon.
_FOLDERS = re.compile(r"(?<![^\s=\"'\[(,])[~/][^\s\"',\])]*/")


def public(value: Any) -> Any:
    """A setting's value without the folders of absolute paths: where things lie on one's disk is nobody's."""
    if isinstance(value, str):
        return Path(value).name if value.startswith(("/", "~")) else value
    if isinstance(value, Mapping):
        return {key: public(each) for key, each in value.items()}
    return [public(each) for each in value] if isinstance(value, (list, tuple)) else value


def public_command(command: str) -> str:
    """The same of a command."""
    return _FOLDERS.sub("", command)
