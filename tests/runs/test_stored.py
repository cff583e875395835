"""One schema for what a checkpoint stores: whatever a part of it is instead, it is one sentence that names file and part."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_checkpoint import stored

import small_run
from renaissance.cli.main import main
from renaissance.core.errors import UserError
from renaissance.demo.raw import write_tokenizer
from renaissance.inference.loaded import Loaded
from renaissance.runs import checkpoint
from renaissance.runs.stored import TrainingState, check_parts
from renaissance.settings.declared import SETTINGS, defaults
from renaissance.settings.keys import marked
from renaissance.settings.resolver import ConfigResolver
from renaissance.training import train
from renaissance.training.assembly import build
from renaissance.training.checkpointing import checkpoint_content
from renaissance.training.resolution import resolve
from small_run import resolver

WRONG = (
    None, True, -1, 0, 10**9, 2**70, 3.5, float("nan"), float("inf"), "", "x", [], [None], [1.0], {}, {"a": 1}, {1: "a"},
    torch.zeros(2), b"x",
)  # fmt: skip
ABSENT = object()


def good_parts() -> dict[str, Any]:
    """The parts of a good checkpoint."""
    parts = stored()._asdict() | {"labels": {"vqa": ["yes", "no"]}}
    scaler = dict.fromkeys(("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"), 1.0)
    parts["training"] |= {"best_step": 3, "pending": False, "scaler": scaler}
    parts["training"]["optimizer"]["state"][0] = {"step": torch.zeros(())}
    return parts


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every part of a checkpoint, and of every part of those; configurations of towers are transformers'."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if type(value) is list else ()
    for key, each in pairs:
        yield (*at, key)
        if (*at, key) != ("towers", "encoder"):
            yield from places(each, (*at, key))


def changed(parts: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    parts = copy.deepcopy(parts)
    inner = parts
    for key in place[:-1]:
        inner = inner[key]
    if value is ABSENT:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return parts


MAY_BE: dict[tuple[Any, ...], Any] = {
    ("training", "best"): lambda value: value is None or isinstance(value, (int, float)),
    ("training", "best_step"): lambda value: value is None or value == 0 or isinstance(value, int),
    ("training", "step"): lambda value: isinstance(value, int),
    ("training", "pending"): lambda value: value is None or isinstance(value, bool),
    ("training", "optimizer"): lambda value: value is None,
    ("training", "scaler"): lambda value: value is None or value == {},
    ("training", "optimizer", "state", 0, "step"): lambda value: value is None or isinstance(value, torch.Tensor),
}


def may_stand(place: tuple[Any, ...], value: Any) -> bool:
    """Whether a wrong value is a right one in this place."""
    if value is ABSENT:
        return True
    if place[0] == "settings" and len(place) > 1:
        return (
            place[1] not in SETTINGS.keys() - marked("command_only")
            or SETTINGS[place[1]].problem(value) is None
            or len(place) > 2
        )
    if place in MAY_BE:
        return MAY_BE[place](value)
    good = GOOD
    for key in place:
        good = good[key]
    numbers = isinstance(good, float) and isinstance(value, int) and not isinstance(value, bool)
    return numbers or type(value) is type(good)


GOOD = good_parts()


@pytest.mark.parametrize("part", GOOD)
def test_every_part_and_its_parts_are_checked(part: str):
    check_parts(GOOD, "load_path=a.ckpt")
    refused = 0
    for place in places({part: GOOD[part]}):
        for value in (ABSENT, *WRONG):
            try:
                if value is not ABSENT or len(place) > 1:  # `read` has looked whether all parts are there
                    check_parts(changed(GOOD, place, value), "load_path=a.ckpt")
            except UserError as error:
                refused += 1
                assert str(error).startswith("load_path=a.ckpt is not as this program writes a checkpoint: ")
                assert len(str(error)) < 400 and len(str(error).splitlines()) == 1
            else:
                assert may_stand(place, value), (place, value)
    assert refused >= len(WRONG) - 3


SENTENCES = [
    (("image", "mean"), [0.5], "image[mean] is [0.5], but has to be 3 numbers."),
    (("image", "std"), [0.5, 0.0, 0.5], "image[std] is [0.5, 0.0, 0.5], but has to be 3 numbers above 0."),
    (("labels", "vqa"), ["yes", "yes"], "labels['vqa'] has to name each answer once"),
    (("model", "tower.weight"), [1.0], "model['tower.weight'] is list, but has to be a tensor."),
    (("settings", "image_size"), "big", "image_size='big' is not allowed: give a whole number of at least 8"),
    (("settings", "image_size"), None, "settings lack image_size."),
    (("settings", "encoder"), None, "settings lack encoder."),
    (("training", "step"), -1, "training[step] is -1, but has to be at least 0."),
    (("tokenizer", "tokenizer.json"), 5, "tokenizer['tokenizer.json'] is 5, but has to be text."),
    (("towers",), {}, "towers are none, but have to be encoder."),
]


@pytest.mark.parametrize(("place", "value", "sentence"), SENTENCES, ids=lambda case: str(case)[:30])
def test_the_sentence_names_the_part(place, value, sentence):
    with pytest.raises(UserError) as error:
        check_parts(changed(GOOD, place, value), "load_path=a.ckpt")
    assert sentence in str(error.value)


def test_settings_of_a_later_version_pass_and_others_get_their_one_form():
    parts = changed(GOOD, ("settings", "later"), 5)
    parts["settings"]["batch_size"] = 8.0
    found = check_parts(parts, "load_path=a.ckpt")
    assert found["later"] == 5 and isinstance(found["batch_size"], int)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_no_number_is_refused(tmp_path: Path, value: float):
    weight = torch.zeros(2, 3)
    weight[1, 2] = value
    checkpoint.save(tmp_path / "a.ckpt", stored(weight=weight, other=torch.zeros(2)))
    with pytest.raises(UserError, match=r"a.ckpt holds NaN or infinite values in 1 of its 3 tensors \(weight\)"):
        checkpoint.read(tmp_path / "a.ckpt")


# Of the right type, and yet no model: found by whoever builds it.


@pytest.fixture(scope="module")
def good(hub_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    write_tokenizer(words := tmp_path_factory.mktemp("words"))
    given = small_run.values_of(*small_run.TOWERS, *small_run.FUSION, "image_size=32", f"tokenizer={words}")
    resolved = resolve(resolver(random_init_text_encoder=True, **given))
    return checkpoint_content(build(resolved), resolved)(TrainingState(step=3, best=0.5, best_step=3))._asdict()


def test_a_run_without_an_end_is_not_resumed(good, tmp_path):
    torch.save({"format": 1, **changed(good, ("settings", "max_steps"), None)}, path := tmp_path / "a.ckpt")
    resumed = ConfigResolver(defaults() | {"resume_from": str(path)}, {"resume_from": "given"})
    with pytest.raises(UserError, match="The run has no end: give max_steps= or max_epoch="):
        train.prepare_run(resumed, reads_data=False)


def test_settings_that_contradict_one_another_are_the_checkpoints_fault(good, tmp_path):
    torch.save({"format": 1, **changed(good, ("settings", "encoder"), "a")}, path := tmp_path / "a.ckpt")
    resumed = ConfigResolver(defaults() | {"resume_from": str(path), "max_steps": 9}, {"resume_from": "given"})
    with pytest.raises(UserError, match=r"resume_from=.*a\.ckpt: encoder= means one-tower"):
        train.prepare_run(resumed, reads_data=False)


NO_MODELS = [
    (("settings", "cross_layer_hidden_size"), 64000, "asks for more than 1.1 GB of weights, and the file holds 0.0 GB"),
    (("settings", "vocab_size"), 10, "its tokenizer numbers pieces up to"),
    (("settings", "max_text_len"), 5000, "max_text_len=5000 is more than"),
    (("towers", "text_encoder", "model_type"), "none", "which this version does not know"),
    (("towers", "text_encoder", "hidden_size"), -1, ""),
    (("towers", "text_encoder", "num_hidden_layers"), "x", ""),
    (("towers", "image_encoder", "num_attention_heads"), 0, ""),
    (("towers", "image_encoder", "patch_size"), 0, ""),
    (("tokenizer", "tokenizer.json"), "{", ""),
    (("tokenizer", "tokenizer.json"), "[]", ""),
    (("tokenizer", "evil.py"), "import os", "'evil.py', which is no file of a tokenizer"),
]


@pytest.mark.parametrize(("place", "value", "sentence"), NO_MODELS, ids=lambda case: str(case)[:40])
def test_what_cannot_be_built_is_a_sentence_of_every_command(good, place, value, sentence, tmp_path, monkeypatch):
    monkeypatch.setattr("renaissance.settings.bounds.memory_of_machine", lambda: 4 << 30)
    path = tmp_path / "a.ckpt"
    torch.save({"format": 1, **changed(good, place, value)}, path)
    resumed = ConfigResolver(defaults() | {"resume_from": str(path)}, {"resume_from": "given"})
    for name, load in (
        ("load_path", lambda: Loaded(path)),
        ("load_path", lambda: train.prepare_run(resolver(load_path=str(path)), reads_data=False)),
        ("resume_from", lambda: train.prepare_run(resumed, reads_data=False)),
    ):
        with pytest.raises(UserError) as error:
            load()
        assert f"{name}={path}" in str(error.value) and sentence in str(error.value)


def test_weights_that_are_not_there_are_no_random_ones(good, tmp_path):
    """Another width than the configuration's, or a part that is gone: a loaded model would answer with random weights."""
    head = next(name for name in good["heads"] if name.startswith("itm."))
    position = next(name for name in good["model"] if name.endswith("position_embeddings") and "image" in name)
    for place, value in (
        (("heads", head), ABSENT),
        (("model", position), ABSENT),
        (("model", position), torch.zeros(1, 5, 7)),
        (("model", position), torch.zeros(1, 0, 32)),
        (("model", position), torch.zeros(())),
    ):
        torch.save({"format": 1, **changed(good, place, value)}, tmp_path / "a.ckpt")
        with pytest.raises(
            UserError, match=r"a\.ckpt lacks 1 of the tensors of its own model|image_size: a position table"
        ):
            Loaded(tmp_path / "a.ckpt")


def test_the_command_says_it(good, tmp_path, capsys):
    torch.save({"format": 1, **changed(good, ("image", "mean"), [0.5])}, tmp_path / "a.ckpt")
    for command in (
        ["check", "with", "task_mlm", "max_steps=1"],
        ["with", "task_mlm", "max_steps=1"],
        ["predict", "with", "text=a"],
    ):
        assert main([*command, f"load_path={tmp_path / 'a.ckpt'}"]) == 1
        assert "image[mean] is [0.5]" in capsys.readouterr().err
