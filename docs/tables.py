"""Writes the tables of CONFIGURING_MODELS.md and DATA.md that the code already says: settings and presets.

    python docs/tables.py

A table stands between `<!-- settings -->` and `<!-- /settings -->`; a test compares it with what this file writes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from renaissance import config  # noqa: E402
from renaissance.cli import check_data as checking  # noqa: E402
from renaissance.cli import prepare as command  # noqa: E402
from renaissance.core.registry import with_names  # noqa: E402
from renaissance.data.dataset_specs import DATASETS, Column, DatasetSpec  # noqa: E402
from renaissance.settings.declared import SETTINGS, Setting, declared, groups  # noqa: E402

_HEADER = ["| Setting | Default | Meaning |", "| --- | --- | --- |"]


def settings_table(settings: Mapping[str, Setting]) -> str:
    """Key, default and comment of each setting; a table for each group, where there are several."""
    found, lines = groups(settings), []
    for heading, group in found:
        lines += ["", f"**{heading}**", ""] if len(found) > 1 else []
        lines += _HEADER
        lines += [f"| `{each.key}` | `{each.default!r}` | {_cell(with_names(each.comment))} |" for each in group]
    return "\n".join(lines).strip()


def presets_table(tables: Mapping[str, Mapping[str, Any]], recipes: Mapping[str, str]) -> str:
    """A table for each kind of preset: its name, and what it sets or joins.

    Args:
        tables: title -> preset -> the settings that it sets.
        recipes: recipe -> the presets that it joins.
    """
    lines: list[str] = []
    for title, presets in tables.items():
        lines += ["", f"**{title}**", "", "| Preset | sets |", "| --- | --- |"]
        for name, values in presets.items():
            lines.append(f"| `{name}` | {', '.join(f'`{key}={_short(value)}`' for key, value in values.items())} |")
    lines += ["", "**Recipes**", "", "| Preset | joins |", "| --- | --- |"]
    lines += [f"| `{name}` | {' '.join(f'`{part}`' for part in joined.split())} |" for name, joined in recipes.items()]
    return "\n".join(lines).strip()


def families_table(measured: Mapping[str, Mapping[str, Mapping[str, str]]]) -> str:
    """What each family can be; a reason why not is a number that the list behind the tables explains.

    Args:
        measured: {transformers version: {family: {"tower", "one_tower"}}}, each "yes" or the reason why not.
    """
    from renaissance.models.backbones.families import FAMILIES, TEXT
    from renaissance.models.backbones.refused import REFUSED

    versions = sorted(measured, reverse=True)
    columns = [f"{what}, {version}" for what in ("tower", "one-tower") for version in versions]
    reasons: dict[str, int] = {}
    lines: list[str] = []
    for title, is_text in (("Text", True), ("Image", False)):
        lines += [f"### {title} families", "", "| Family | Pooled at | " + " | ".join(columns) + " |"]
        lines += ["|" + " --- |" * (len(columns) + 2)]
        for kind in sorted(measured[versions[0]]):
            family = FAMILIES[kind]
            if (family.modality == TEXT) is not is_text:
                continue
            said = [measured[version][kind][what] for what in ("tower", "one_tower") for version in versions]
            cells = [each if each == "yes" else f"no ({reasons.setdefault(each, len(reasons) + 1)})" for each in said]
            pooled = {"first": "first token", "mean": "mean", "last": "last token"}[family.pooling]
            lines.append(f"| {kind} | {pooled}{', causal' if family.causal else ''} | {' | '.join(cells)} |")
        lines.append("")
    lines += [f"{number}. {_cell(reason)}" for reason, number in reasons.items()]
    lines += ["", "### Refused", "", "| Family | It |", "| --- | --- |"]
    lines += [f"| {kind} | {_cell(reason)} |" for kind, reason in sorted(REFUSED.items())]
    lines += ["| others with a `...ForCausalLM` (gpt2, llama ...) | is causal: its tokens see only those before them |"]
    lines += ["| others with a `...ForVideoClassification` (videomae, vivit ...) | reads videos |"]
    return "\n".join(lines)


def datasets_table(datasets: Mapping[str, DatasetSpec]) -> str:
    """A row a data set: its files by split, and what the official download gives for each file."""
    lines = [
        "| `datasets=` | A sample is of | Split: files in `data_root` | Official counts |",
        "| --- | --- | --- | --- |",
    ]
    for name, row in datasets.items():
        splits = [f"{split}: {', '.join(f'`{file}`' for file in files)}" for split, files in row.splits.items()]
        beside = [f"beside them: `{file}`" for file in row.extra_files]
        counts = [
            f"`{file.removesuffix('.arrow')}` {count:,} {what}"
            for file, expected in row.expected.items()
            for what, count in (("rows", expected.rows), ("texts", expected.texts))
            if count is not None
        ]
        lines.append(f"| `{name}` | {row.sample_kind} | {'<br>'.join(splits + beside)} | {'<br>'.join(counts)} |")
    return "\n".join(lines)


def columns_table(datasets: Mapping[str, DatasetSpec]) -> str:
    """A table of columns for each layout, with the data sets that share it."""
    layouts: dict[tuple[Column, ...], list[str]] = {}
    for name, row in datasets.items():
        layouts.setdefault(row.columns, []).append(f"`{name}`")
    lines: list[str] = []
    for columns, names in layouts.items():
        lines += ["", f"**{', '.join(names)}**", "", "| Column | Type | What it holds |", "| --- | --- | --- |"]
        for column in columns:
            optional = "" if column.needed else "; not in every older file"
            lines.append(f"| `{column.name}` | {column.type} | {_cell(column.meaning)}{optional} |")
    return "\n".join(lines).strip()


def tables_of_documents() -> dict[Path, dict[str, str]]:
    """The tables of each document, by their names."""
    settings, preparing, checked = map(settings_table, (SETTINGS, declared(command), declared(checking)))
    families = families_table(json.loads((ROOT / "docs" / "families.json").read_text(encoding="utf-8")))
    presets = presets_table({"Tasks": config.TASKS, "Parts": config.PARTS}, config.RECIPES)
    return {
        ROOT / "CONFIGURING_MODELS.md": {"settings": settings, "presets": presets, "families": families},
        ROOT / "DATA.md": {
            "datasets": datasets_table(DATASETS),
            "columns": columns_table(DATASETS),
            "prepare": preparing,
            "check_data": checked,
        },
    }


def with_tables(text: str, tables: Mapping[str, str]) -> str:
    """A document with its tables between their markers."""
    for name, table in tables.items():
        before, opening, rest = text.partition(f"<!-- {name} -->\n")
        _, closing, after = rest.partition(f"<!-- /{name} -->")
        if not closing:
            raise ValueError(f"the document lacks <!-- {name} --> or <!-- /{name} -->")
        text = f"{before}{opening}\n{table}\n\n{closing}{after}"
    return text


def _short(value: Any) -> str:
    """A value as on the command line; of loss weights, those that are on."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {each}" for key, each in value.items() if each) + "}"
    return str(value)


def _cell(text: str) -> str:
    """Text that Markdown shows as it is in a table's cell."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


if __name__ == "__main__":
    for document, tables in tables_of_documents().items():
        document.write_text(with_tables(document.read_text(encoding="utf-8"), tables), encoding="utf-8")
