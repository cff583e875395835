"""The tables of settings and presets in the documents are what the code says, each setting and preset in them once."""

from __future__ import annotations

import importlib
import re

import pytest

from docs import tables
from renaissance.cli import check_data as checking
from renaissance.cli import prepare as command
from renaissance.core.checks import flag
from renaissance.core.errors import UserError
from renaissance.settings.declared import Setting, declared, defaults
from renaissance.settings.presets import presets


@pytest.mark.parametrize("path", tables.tables_of_documents(), ids=lambda path: path.name)
def test_the_document_holds_the_tables_of_the_code(path):
    text = path.read_text(encoding="utf-8")
    assert tables.with_tables(text, tables.tables_of_documents()[path]) == text, "run `python docs/tables.py`"


@pytest.mark.parametrize(
    ("document", "name", "known"),
    [
        ("CONFIGURING_MODELS.md", "settings", defaults()),
        ("CONFIGURING_MODELS.md", "presets", presets()),
        ("DATA.md", "prepare", defaults(declared(command))),
        ("DATA.md", "check_data", defaults(declared(checking))),
    ],
)
def test_every_setting_and_preset_stands_in_the_document_once(document, name, known):
    text = (tables.ROOT / document).read_text(encoding="utf-8")
    part = text.partition(f"<!-- {name} -->")[2].partition(f"<!-- /{name} -->")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)) == sorted(known)


def test_settings_table():
    one = Setting("exp_name", "a", flag, "folder is <log_dir>; a|b", "run", "The run")
    two = one._replace(key="sizes", declared={"x": 1}, comment="a * b")
    rows = ["| `exp_name` | `'a'` | folder is &lt;log_dir>; a\\|b |", "| `sizes` | `{'x': 1}` | a \\* b |"]
    header = ["| Setting | Default | Meaning |", "| --- | --- | --- |"]
    assert tables.settings_table({"exp_name": one, "sizes": two}).splitlines() == [*header, *rows]
    grouped = tables.settings_table({"exp_name": one, "sizes": two._replace(heading="Data")})
    run, data = (["**The run**", "", *header, rows[0]], ["**Data**", "", *header, rows[1]])
    assert grouped.splitlines() == [*run, "", *data]


def test_a_setting_without_a_comment_is_refused(tmp_path, monkeypatch):
    (tmp_path / "undocumented.py").write_text("class Run:\n    seed: int = 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="'seed' has no comment"):
        declared(importlib.import_module("undocumented"))


def test_presets_table():
    table = tables.presets_table({"Tasks": {"t": {"loss_names": {"mlm": 1, "itm": 0}, "seed": 3}}}, {"r": "t other"})
    assert "| `t` | `loss_names={mlm: 1}`, `seed=3` |" in table
    assert table.endswith("| `r` | `t` `other` |")


def test_a_document_without_markers_is_refused():
    with pytest.raises(ValueError, match="<!-- settings -->"):
        tables.with_tables("no markers", {"settings": "a table"})
