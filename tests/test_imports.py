"""The house rules that a machine can check: who may import whom, how long things are, and the picture of the rooms.

Everything is read from the syntax trees of the package's files; nothing is imported.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from docs.rooms import (
    FILES,
    FLOOR_OF,
    MODULES,
    PACKAGE,
    PICTURE,
    PLACES,
    ROOT,
    arrows,
    code_lines,
    imports,
    module_name,
    picture,
    purpose,
    room_of,
    tree,
)

MOST_ENTRIES = 16  # of the top of the package
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}
MOST_FILE_LINES, MOST_FUNCTION_LINES, MOST_ROOM_LINES, MOST_PACKAGE_LINES = 350, 50, 2_600, 26_300

each_file = pytest.mark.parametrize("path", FILES, ids=[path.relative_to(ROOT).as_posix() for path in FILES])


@each_file
def test_imports_only_go_down(path: Path):
    module = module_name(path)
    room = room_of(module)
    if room is None:  # renaissance/__init__.py imports nothing of the package until `load` is called
        assert not [name for name in imports(tree(path), module, at_import=True) if room_of(name)]
        return
    assert room in FLOOR_OF, f"{module} is a room without a floor: give it one in docs/rooms.py"
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
    assert len(lines) <= MOST_FILE_LINES, f"{len(lines)} lines: this asks for a second room, not for an exemption"
    long = {}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            length = node.end_lineno - body[0].lineno + 1 if body else 0
            if length >= MOST_FUNCTION_LINES:
                long[node.name] = length
    assert not long, f"functions of {MOST_FUNCTION_LINES} lines or more, docstring and signature aside: {long}"


def test_no_two_classes_have_one_name():
    """But for the groups of settings, whose names are those of the sections of `Settings`; underscores make no difference.

    The code of exported folders has the names of the models that it stands for, and is no part of this program.
    """
    paths = [path for path in MODULES.values() if path.name != "config.py" and path.parent.name != "hub_model"]
    names = Counter(
        node.name.lstrip("_") for path in paths for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_the_package_and_its_rooms_are_small():
    """Lines of code: docstrings, comments and blank lines are free, so that nobody saves on them."""
    rooms = Counter()
    for module, path in MODULES.items():
        rooms[room_of(module)] += code_lines(path.read_text(encoding="utf-8"))
    assert rooms.total() <= MOST_PACKAGE_LINES
    assert not {room: lines for room, lines in rooms.items() if lines > MOST_ROOM_LINES}


def test_the_picture_of_the_rooms_is_current():
    assert PICTURE.read_text(encoding="utf-8") == picture(), "run `python docs/rooms.py`"
    assert PLACES.keys() == FLOOR_OF.keys()
    assert not [room for room in PLACES if len(purpose(room)) > 48], "longer than a box is wide"
    assert all(PLACES[room][0] < PLACES[other][0] for room, other in arrows()), "an arrow goes up"
    beside = [
        (row, abs(place - other)) for row, place in PLACES.values() for line, other in PLACES.values() if row == line
    ]
    assert all(apart == 0 or apart >= 2 for _, apart in beside), "a box lies on another"
    assert len({*PLACES.values()}) == len(PLACES), "a box hides another"


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
