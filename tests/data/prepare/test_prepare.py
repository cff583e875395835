"""`prepare`: the table of data sets, their writers' options, and the settings of the command."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from renaissance.cli import prepare as command
from renaissance.core.errors import UserError
from renaissance.data import prepare
from renaissance.data.dataset_specs import DATASETS, WRITERS
from renaissance.settings.declared import declared, defaults

ARGUMENTS = {"dataset", "root", "data_root", "plugins"}


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_option_of_a_data_set_is_a_setting(dataset: str):
    options = prepare.options_of(WRITERS[DATASETS[dataset].writer])
    assert set(options) <= set(defaults(declared(command))) - ARGUMENTS
    assert options[-4:] == ["workers", "max_unreadable", "resize", "quality"]


def test_every_setting_is_an_option_of_a_data_set():
    options = {name for row in DATASETS.values() for name in prepare.options_of(WRITERS[row.writer])}
    assert options == set(defaults(declared(command))) - ARGUMENTS


def test_a_writer_of_several_data_sets_is_told_which(monkeypatch: pytest.MonkeyPatch):
    seen = []

    def make_arrow(root, dataset_root, *, dataset="refcoco", split_by=None, **writing):
        seen.append((root, dataset_root, dataset, split_by, writing))
        return []

    monkeypatch.setitem(sys.modules, "renaissance.data.prepare.refcoco", SimpleNamespace(make_arrow=make_arrow))
    prepare.prepare("refcoco+", "raw", "arrow", split_by="unc", resize=9, workers=None)
    assert seen == [("raw", "arrow", "refcoco+", "unc", {"resize": 9})]
    with pytest.raises(
        UserError, match="has no option name; its options are split_by, workers, max_unreadable, resize"
    ):
        prepare.prepare("refcoco", "raw", "arrow", name="mine")
    with pytest.raises(UserError, match=r"dataset=\['coco'\] cannot be prepared"):
        prepare.prepare(["coco"], "raw", "arrow")
