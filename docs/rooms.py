"""Reads the rooms of the package and who imports whom from the syntax trees, and draws them: docs/rooms.svg.

    python docs/rooms.py

Nothing is imported. tests/test_imports.py holds the rules, and that the picture is current.
"""

from __future__ import annotations

import ast
import html
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "renaissance"
PICTURE = ROOT / "docs" / "rooms.svg"

# Lowest floor first. A room may import rooms of lower floors and itself; rooms of one floor do not import each other.
FLOORS = (
    {"core"},
    {"config"},
    {"settings"},
    {"models", "runs"},
    {"data"},
    {"data.prepare", "data.glue"},
    {"data.check"},
    {"evaluation"},
    {"tasks"},
    {"training"},
    {"inference", "exchange", "training.tuning"},
    {"demo", "reports", "studies"},
    {"cli"},
    {"run"},  # run.py
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

FILES = sorted(PACKAGE.rglob("*.py")) + [ROOT / "run.py"]


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
        elif at_import and _is_type_checking(child):
            for other in child.orelse:
                yield from imports(other, module, at_import)
        else:
            yield from imports(child, module, at_import)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def code_lines(source: str) -> int:
    """Number of lines that hold code: docstrings, comments and blank lines are free, so that nobody saves on them."""
    documented = set()
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and _is_text(body[0].value):
            documented |= set(range(body[0].lineno, body[0].end_lineno + 1))
    return sum(
        bool(line.strip()) and not line.lstrip().startswith("#") and number not in documented
        for number, line in enumerate(source.splitlines(), 1)
    )


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def arrows() -> set[tuple[str, str]]:
    """(room, other room that it imports)."""
    found = set()
    for module, path in MODULES.items():
        others = {room_of(name) for name in imports(tree(path), module, at_import=False)}
        found |= {(room_of(module), other) for other in others}
    return {(room, other) for room, other in found if room and other and room != other}


def purpose(room: str) -> str:
    """First line of the docstring of a room."""
    path = MODULES["run" if room == "run" else f"renaissance.{room}"]
    return (ast.get_docstring(tree(path)) or "").partition("\n")[0].rstrip(".")


# Row and column of each room in the picture, columns in halves of a box.
PLACES = {
    "run": (0, 1.1), "cli": (1, 1.1), "demo": (2, 2.2), "reports": (2, 4.4), "studies": (2, 0), "data.check": (4, 5.5),
    "inference": (3, 0), "exchange": (3, 2.2), "training.tuning": (3, 4.4), "training": (4, 1.1),
    "tasks": (5, 1.1), "data.prepare": (5, 5.5), "evaluation": (6, 1.1), "data.glue": (6, 3.3), "data": (7, 3.3),
    "models": (8, 0), "runs": (8, 2.2),
    "settings": (9, 1.1), "config": (10, 1.1), "core": (11, 1.1),
}  # fmt: skip
WIDTH, HEIGHT, ACROSS, DOWN = 280, 50, 140, 82


def picture() -> str:
    """The SVG: a box for each room, an arrow to each room that it imports; those that go by way of others are faint."""
    every = {(room, other) for room, other in arrows() if other != "core"}
    corner = {room: (20 + column * ACROSS, 20 + row * DOWN) for room, (row, column) in PLACES.items()}
    lines = []
    for room, other in sorted(every):
        direct = not any((room, middle) in every and (middle, other) in every for middle in PLACES)
        (x, y), (left, top) = corner[room], corner[other]
        begin, end = (x + WIDTH / 2, y + HEIGHT), (left + WIDTH / 2, top - 4)
        bend = (end[1] - begin[1]) / 2
        path = f"M{begin[0]:g},{begin[1]:g} C{begin[0]:g},{begin[1] + bend:g} {end[0]:g},{end[1] - bend:g} {end[0]:g},{end[1]:g}"
        kind = "direct" if direct else "faint"
        lines.append((not direct, f'  <path class="{kind}" d="{path}"><title>{room} imports {other}</title></path>'))
    boxes = []
    for room, (x, y) in corner.items():
        name = "run.py" if room == "run" else "config.py" if room == "config" else room.replace(".", "/")
        boxes.append(
            f'  <rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="7"/>\n'
            f'  <text class="name" x="{x + WIDTH / 2:g}" y="{y + 20:g}">{name}</text>\n'
            f'  <text x="{x + WIDTH / 2:g}" y="{y + 38:g}">{html.escape(purpose(room))}</text>'
        )
    width = max(x for x, _ in corner.values()) + WIDTH + 20
    height = max(y for _, y in corner.values()) + HEIGHT + 20
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" '
            'role="img" font-family="Helvetica, Arial, \'DejaVu Sans\', sans-serif" font-size="11.5" text-anchor="middle">',
            "  <title>The rooms of Renaissance, and who imports whom</title>",
            "  <style>rect{fill:#fff;stroke:#345;stroke-width:1.4} text{fill:#456}",
            "  .name{font-size:15px;font-weight:bold;fill:#123}",
            "  path{fill:none} .direct{stroke:#345;stroke-width:1.6;marker-end:url(#tip)} .faint{stroke:#b8c4d0;stroke-width:1}",
            "  </style>",
            '  <defs><marker id="tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0,0 L8,4 L0,8 z" style="fill:#345"/></marker></defs>',
            f'  <rect x="0" y="0" width="{width:g}" height="{height:g}" style="stroke:none"/>',
            *(line for _, line in sorted(lines, reverse=True)),
            *boxes,
            f'  <text x="{width - 190:g}" y="{height - 46:g}">an arrow: imports; faint: by way of other rooms too</text>',
            f'  <text x="{width - 190:g}" y="{height - 28:g}">every room may import core</text>',
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
