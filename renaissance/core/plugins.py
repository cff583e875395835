"""Modules of users that add tasks, data sets and more to the tables of `registry`; the setting `plugins` names them."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path

from .errors import UserError, first_line, printable, require

_WANTED = "give a .py file, or a folder with an __init__.py, or a module's dotted name"
LOADED: dict[str, Path] = {}  # name of each plugin that was imported, and its file


def plugin_name(plugin: str) -> str:
    """The name by which a checkpoint knows a plugin, wherever it lies: `gqa` of my_lab.gqa, my_lab/gqa and my_lab/gqa.py."""
    return Path(plugin).name.removesuffix(".py").rpartition(".")[2]


def plugin_hint(settings: Iterable[str]) -> str:
    """The end of a sentence about a name that is not there, where the command takes plugins and names none."""
    return "; of a plugin? add plugins=" if "plugins" in settings and not LOADED else ""


def load_plugins(plugins: Sequence[str]) -> None:
    """Imports plugins, each a dotted name of a module or the path of a file or package.

    Raises:
        UserError: one is missing, fails, or registers a name that is taken.
    """
    for plugin in plugins:
        path = Path(os.path.expanduser(plugin)).resolve()
        by_path = path.suffix == ".py" or os.sep in plugin
        require(path.exists() or not by_path, f"plugins: there is no {plugin!r}; {_WANTED}.")
        importable = path.suffix == ".py" or (path / "__init__.py").exists() or not (by_path or path.is_file())
        require(importable, f"plugins: {plugin!r} cannot be imported; {_WANTED}.")
        module, folder = (path.stem, str(path.parent)) if by_path else (plugin, os.getcwd())
        if folder not in sys.path:
            sys.path.append(folder)  # for loader processes, too
        try:
            file = import_module(module).__file__
        except UserError as error:
            raise UserError(f"plugins: {plugin!r}: {error}") from error
        except (Exception, SystemExit) as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = "" if "importlib" in place.filename else f", {place.filename}:{place.lineno}"
            raise UserError(
                f"plugins: {plugin!r} cannot be imported ({type(error).__name__}: {first_line(error)}{where})."
            ) from error
        require(file, f"plugins: {plugin!r} is a folder without code; {_WANTED}.")
        found = Path(file).resolve()
        require(
            not by_path or found in (path, path / "__init__.py"),
            f"plugins: {plugin!r} has the name of another module, {found}; rename it.",
        )
        LOADED[plugin_name(plugin)] = found


def code_digest() -> str:
    """A hash of the code of all plugins that were imported; of a package that of all its modules."""
    digest = hashlib.sha256()
    for _, file in sorted(LOADED.items()):
        for each in sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]:
            digest.update(f"{each.name} ".encode() + each.read_bytes())
    return digest.hexdigest()


def refuse_missing_plugins(plugins: Iterable[str], where: str) -> None:
    """Refuses a checkpoint that was made with plugins which were not loaded: no file names code to run.

    Args:
        where: what the sentence begins with, such as "load_path=a.ckpt".

    Raises:
        UserError: naming them.
    """
    if missing := [printable(plugin) for plugin in plugins if plugin_name(plugin) not in LOADED]:
        given = json.dumps(missing, ensure_ascii=False)
        raise UserError(f"{where} was made with the plugin {missing[0]}; if you trust it, add plugins='{given}'.")
