"""The house rules that a machine can check: who may import whom, what stays light, how long things are.

Everything is read from the syntax trees of the package's files; nothing is imported.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import ROOT

PACKAGE = ROOT / "renaissance"

# Lowest floor first. A room may import rooms of lower floors and itself; rooms of one floor do not import each other.
FLOORS = (
    {"core"},
    {"config"},
    {"settings"},
    {"models", "runs"},
    {"data"},
    {"data.prepare"},
    {"data.check"},
    {"evaluation"},
    {"tasks"},
    {"training"},
    {"inference"},
    {"demo"},
    {"cli"},
    {"run"},  # run.py
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MOST_ENTRIES = 13  # of the top of the package
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}
MOST_FILE_LINES, MOST_FUNCTION_LINES, MOST_PACKAGE_LINES = 400, 50, 16_700

FILES = sorted(PACKAGE.rglob("*.py")) + ([ROOT / "run.py"] if (ROOT / "run.py").exists() else [])
FILE_IDS = [path.relative_to(ROOT).as_posix() for path in FILES]
each_file = pytest.mark.parametrize("path", FILES, ids=FILE_IDS)


def module_name(path: Path) -> str:
    """Dotted name of a file: `renaissance.models.fusion`, `run`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def room_of(module: str) -> str | None:
    """Room of a dotted name: `renaissance.models.fusion` -> `models`; None for the package itself and for libraries.

    A room inside another that has a floor of its own, such as `data.prepare`, is that room.
    """
    head, *rest = module.split(".")
    if head == "run":
        return "run"
    inner = ".".join(rest[:2])
    return inner if inner in FLOOR_OF else (rest[0] if head == "renaissance" and rest else None)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(node: ast.AST, module: str, at_import: bool) -> Iterator[str]:
    """Dotted names that `node` imports; submodules named in `from package import submodule` are followed.

    Args:
        node: syntax tree.
        module: dotted name of the file that holds it, which relative imports start from.
        at_import: only what runs when the file is imported: outside functions and `if TYPE_CHECKING`.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            origin = child.module or ""
            if child.level:
                package = module.split(".") if MODULES[module].name == "__init__.py" else module.split(".")[:-1]
                base = package[: len(package) - child.level + 1]
                origin = ".".join([*base, *([origin] if origin else [])])
            names = [f"{origin}.{alias.name}" for alias in child.names]
            yield origin
            yield from (name for name in names if name in MODULES)
        elif at_import and (isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            continue
        elif at_import and is_type_checking(child):
            for other in child.orelse:
                yield from imports(other, module, at_import)
        else:
            yield from imports(child, module, at_import)


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@each_file
def test_imports_only_go_down(path: Path):
    module = module_name(path)
    room = room_of(module)
    if room is None:  # renaissance/__init__.py imports nothing of the package until `load` is called
        assert not [name for name in imports(tree(path), module, at_import=True) if room_of(name)]
        return
    assert room in FLOOR_OF, f"{module} is a room without a floor: give it one in FLOORS and in ARCHITECTURE.md"
    for name in imports(tree(path), module, at_import=False):
        other = room_of(name)
        if other is not None and other != room:
            assert FLOOR_OF[other] < FLOOR_OF[room], f"{module} imports {name}, which is not on a lower floor"


def test_the_top_of_the_package_is_seen_at_a_glance():
    entries = [path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= MOST_ENTRIES, sorted(entries)


@each_file
def test_no_room_for_leftovers(path: Path):
    assert not FORBIDDEN_NAMES & set(path.relative_to(ROOT).with_suffix("").parts)


@each_file
def test_files_and_functions_are_short(path: Path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) < MOST_FILE_LINES, f"{len(lines)} lines: this asks for a second room, not for an exemption"
    long = {}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            length = node.end_lineno - body[0].lineno + 1 if body else 0
            if length >= MOST_FUNCTION_LINES:
                long[node.name] = length
    assert not long, f"functions of {MOST_FUNCTION_LINES} lines or more, docstring and signature aside: {long}"


def test_the_package_is_small():
    """Lines of code: docstrings, comments and blank lines are free, so that nobody saves on them."""
    assert sum(code_lines(path.read_text(encoding="utf-8")) for path in FILES) < MOST_PACKAGE_LINES


def code_lines(source: str) -> int:
    """Number of lines that hold code."""
    documented = set()
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            documented.update(range(body[0].lineno, body[0].end_lineno + 1))
    return sum(
        number not in documented and bool(line.strip()) and not line.strip().startswith("#")
        for number, line in enumerate(source.splitlines(), 1)
    )


def test_the_reader_of_imports_sees_what_it_should():
    source = """
from typing import TYPE_CHECKING
import torch.nn as nn
from renaissance import settings
from ..data import arrow
if TYPE_CHECKING:
    import timm
def later():
    import transformers
"""
    MODULES["renaissance.models.example"] = PACKAGE / "models" / "example.py"
    try:
        at_import = set(imports(ast.parse(source), "renaissance.models.example", at_import=True))
        ever = set(imports(ast.parse(source), "renaissance.models.example", at_import=False))
    finally:
        del MODULES["renaissance.models.example"]
    assert {"torch.nn", "renaissance.settings", "renaissance.data.arrow"} <= at_import
    assert ever - at_import == {"timm", "transformers"}
