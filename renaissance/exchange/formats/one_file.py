"""The modules of `hub_model` as the one file of code that an exported folder brings."""

from __future__ import annotations

import ast
from pathlib import Path

_MODULES = ("config", "fusion", "towers", "model", "heads", "processing")  # each reads those before it
_ABOUT = '''"""A vision-language encoder for transformers: this file needs torch, transformers and Pillow alone.

    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    model(**processor(images=image, text="a red cube")).pooler_output

Two towers: two models of transformers, projected to one width, then a fusion stack. One tower: word pieces and patches, joined,
through the blocks of one model. Shapes: B examples, n images of each, L text and P image tokens, D width, V pieces.
"""'''


def code() -> str:
    """The file: the imports of all modules once, then what they define."""
    imports: set[str] = set()
    bodies = []
    for name in _MODULES:
        text = (Path(__file__).parent / "hub_model" / f"{name}.py").read_text(encoding="utf-8")
        tree = ast.parse(text)
        found = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        for node in found:
            if not (isinstance(node, ast.ImportFrom) and (node.level or node.module == "__future__")):
                imports |= _each(node)
        start = text.splitlines(keepends=True)[found[-1].end_lineno :]
        bodies.append("".join(start).strip())
    lines = sorted(imports, key=lambda line: (not line.startswith("import"), line))
    parts = [_ABOUT, "from __future__ import annotations", "\n".join(lines), "\n\n\n".join(bodies)]
    return "\n\n".join(parts) + "\n"


def _each(node: ast.Import | ast.ImportFrom) -> set[str]:
    """An import as one line for each name."""
    start = f"from {node.module} import " if isinstance(node, ast.ImportFrom) else "import "
    return {start + each.name + (f" as {each.asname}" if each.asname else "") for each in node.names}
