"""config.py: defaults with their documentation, tasks, parts and recipes; and what the recipes resolve to."""

from __future__ import annotations

import copy
import inspect
import re
from pathlib import Path

import pytest
from sacred.utils import recursive_update

from renaissance import config
from renaissance.cli.main import main
from renaissance.core.registry import TASKS
from renaissance.demo.run import write_models
from renaissance.settings.declared import SETTINGS, defaults
from renaissance.settings.presets import merge, presets
from renaissance.settings.words import parse_words

DEFAULTS = defaults()
PRESETS = presets()


def test_every_setting_has_a_comment_which_is_its_documentation():
    assert all(setting.comment.split() and setting.heading for setting in SETTINGS.values())
    assert SETTINGS["seed"].comment == "every random choice is a function of (seed, epoch, sample)"
    assert SETTINGS["exp_name"].heading == "The run" and SETTINGS["image_encoder_num_heads"].section == "model"


def test_config_is_short_and_holds_no_logic():
    source = inspect.getsource(config)
    assert len(source.splitlines()) < 400
    assert not re.search(r"^\s*(if|for|while|return|import|def)\b", source, re.MULTILINE)


def test_each_task_sets_every_objective():
    for name in config.TASKS:
        assert name.startswith("task_") and PRESETS[name]["loss_names"].keys() == set(TASKS)
        assert any(PRESETS[name]["loss_names"].values())


def test_no_preset_is_a_copy_of_another():
    contents = [repr(sorted(content.items(), key=str)) for content in PRESETS.values()]
    assert len(set(contents)) == len(contents)
    assert not config.TASKS.keys() & config.PARTS.keys() and not config.RECIPES.keys() & {*config.TASKS, *config.PARTS}
    for joined in config.RECIPES.values():
        assert len(joined.split()) > 1  # a recipe of one name would be its copy


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_what_exists_to_what_may_be(name: str):
    assert name not in DEFAULTS and PRESETS[name]
    for key, value in PRESETS[name].items():
        assert SETTINGS[key].problem(value) is None
        assert value != DEFAULTS[key]  # it would set nothing


def test_merging_is_sacreds():
    first, second = {"a": {"x": 1, "y": 2}, "c": {"x": 1}}, {"a": {"y": 3, "z": 4}, "b": {"x": 1}, "c": 5}
    ours, theirs = copy.deepcopy(first), copy.deepcopy(first)
    merge(ours, second)
    recursive_update(theirs, copy.deepcopy(second))
    assert ours == theirs == {"a": {"x": 1, "y": 3, "z": 4}, "b": {"x": 1}, "c": 5}
    ours["b"]["x"] = 2
    assert second["b"] == {"x": 1}  # a preset is not changed by what is merged over it


# Millions of parameters: in all, trainable. The first four are those of the paper.
PAPER = {
    "paper_small": ("38.23", "38.23"),
    "paper_small_frozen_image": ("38.23", "32.70"),
    "paper_small_frozen_text": ("38.23", "24.74"),
    "paper_small_frozen_both": ("38.23", "19.22"),
}


@pytest.mark.parametrize("name", config.RECIPES)
def test_every_recipe_resolves(name: str, full_size_cache: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if name.startswith("demo_"):
        write_models(Path("demo"), seed=0)
    assert main(["check", "with", name, "max_steps=10"]) == 0, capsys.readouterr()
    all_parameters = re.search(r"^ +all +([\d.]+) M +([\d.]+) M", capsys.readouterr().out, re.MULTILINE)
    assert all_parameters.groups() == PAPER.get(name, all_parameters.groups())


@pytest.mark.parametrize("name", config.RECIPES)
def test_a_recipe_is_what_its_names_are_together(name: str):
    by_name, by_parts = (parse_words(words, SETTINGS, PRESETS) for words in ([name], config.RECIPES[name].split()))
    assert by_name.values == by_parts.values
    assert set(by_name.sources.values()) == {f"preset {name}"}
