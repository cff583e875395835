"""The settings of the demo's runs: presets of config.py, with the files of the demo in the place of theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from renaissance.settings.declared import defaults
from renaissance.settings.presets import presets
from renaissance.settings.resolver import ConfigResolver


def demo_settings(folder: Path, names: Sequence[str], given: Mapping[str, Any]) -> ConfigResolver:
    """The settings of `python run.py with <names> <given>`.

    Args:
        folder: of the demo; it takes the place of `demo/` in the values of presets.
        names: presets; a later one counts before an earlier one, and `given` before all.
    """
    chosen = {name: presets()[name] for name in names}
    values = {key: value for preset in chosen.values() for key, value in preset.items()}
    sources = {key: f"preset {name}" for name, preset in chosen.items() for key in preset}
    paths = {"data_root": str(folder / "arrow"), "log_dir": str(folder / "runs")}
    for key, value in values.items():
        if isinstance(value, str) and value.startswith("demo/"):
            paths[key] = str(folder / Path(value).name)
    given = paths | given
    return ConfigResolver(defaults() | values | given, sources | dict.fromkeys(given, "given"))
