"""What each setting may be: one row a key, and the sentences that refuse the rest."""

from __future__ import annotations

import importlib
import re

import pytest

from conftest import ROOT
from renaissance import config
from renaissance.cli.main import SUBCOMMANDS
from renaissance.core.checks import expanded, integer, no_losses
from renaissance.core.registry import NO_TASKS, with_names
from renaissance.settings.combinations import problems_between
from renaissance.settings.declared import SETTINGS, declared, defaults
from renaissance.settings.keys import marked

DEFAULTS = defaults()
# What a command line, a JSON file or a slip of the hand can bring.
STRANGE = (
    "1:30",
    None, True, False, 0, 1, -1, 2, 16, 10**400, 0.0, 0.5, 1.0, 1.5, 1e3, float("nan"), float("inf"), -0.1, "", " ", "0",
    "true", "cosine", "imagenet", "a/b", "..", "x" * 200, [], [1], ["imagenet"], ["imagenet", "clip"], {}, {"mlm": 1},
    {"mlm": "1"}, {"mlm": True}, {"mlm": -1}, {"vqa": 1}, {"mlm": float("inf")}, (1, 2), b"bytes", object(),
)  # fmt: skip


@pytest.mark.parametrize("key", SETTINGS)
def test_the_default_may_stand(key: str):
    assert SETTINGS[key].problem(DEFAULTS[key]) is None


@pytest.mark.parametrize("key", SETTINGS)
def test_any_value_is_taken_or_refused_in_a_sentence(key: str):
    """And what is taken has one form, which is taken again: checkpoints bring converted values back."""
    setting, check, taken = SETTINGS[key], SETTINGS[key].check, 0
    allowed = with_names(check.allowed)
    for value in (*STRANGE, allowed.split(" or ")[0], allowed.removeprefix("one of ").split(",")[0]):
        problem = setting.problem(value)
        if problem is not None:
            assert problem.startswith(f"{key}={value}" if value is None else f"{key}={value!r}") and allowed in problem
        elif value is not None:
            converted = check.convert(value)
            assert setting.problem(converted) is None and check.convert(converted) == converted
            assert type(check.convert(converted)) is type(converted)
            taken += 1
    assert 0 < taken < len(STRANGE)


TAKEN = [
    ("batch_size", 1e3, 1000),
    ("precision", 16, "16-mixed"),
    ("precision", "bf16", "bf16-mixed"),
    ("precision", 32, "32-true"),
    ("fast_dev_run", True, 1),
    ("fast_dev_run", False, 0),
    ("fast_dev_run", 7, 7),
    ("warmup_steps", 0.1, 0.1),
    ("warmup_steps", 0, 0),
    ("warmup_steps", 1e3, 1000),
    ("warmup_steps", 1.0, 1),
    ("val_check_interval", 1.0, 1.0),
    ("val_check_interval", 1, 1),
    ("val_check_interval", 0.25, 0.25),
    ("decay_power", "cosine", "cosine"),
    ("exp_name", 2024, "2024"),
    ("log_dir", 7, "7"),
    ("datasets", ("coco", "mine"), ["coco", "mine"]),
    ("seed", 2**63 - 1, 2**63 - 1),
]
REFUSED = [
    ("num_cross_layers", 1_000_000, "at most 1,024"),
    ("num_layers", 1_000_000, "at most 1,024"),
    ("vocab_size", 10**9, "at most 16,777,216"),
    ("max_text_len", 10**9, "at most 1,048,576"),
    ("image_size", 10**6, "at most 16,384"),
    ("batch_size", 10**12, "at most 16,777,216"),
    ("vqav2_label_size", 10**9, "at most 1,048,576"),
    ("num_workers", 10**6, "at most 4,096"),
    ("max_steps", 10**400, "a whole number of at least 1"),
    ("max_steps", 1e300, "a whole number of at least 1"),
    ("batch_size", 2.5, "a whole number of at least 1"),
    ("batch_size", True, "a whole number of at least 1"),
    ("batch_size", "256", "a whole number of at least 1"),
    ("seed", -1, "a whole number of at least 0"),
    ("mlm_prob", 0, "above 0 and at most 1"),
    ("mlm_prob", 1.5, "above 0 and at most 1"),
    ("mlm_stop_words", "the", "a list of words"),
    ("learning_rate", float("inf"), "a number above 0"),
    ("drop_rate", 1.0, "at most 0.999"),
    ("warmup_steps", 1.5, "steps, or a share"),
    ("warmup_steps", -1, "steps, or a share"),
    ("val_check_interval", 0, "share of an epoch"),
    ("val_check_interval", 0.0, "share of an epoch"),
    ("decay_power", "linear", "cosine"),
    ("precision", 8, "32, 16-mixed, bf16-mixed or 64"),
    ("optim_type", "lamb", "adamw or adam or sgd"),
    ("fusion", "co-attention", "one of shared, separate, merged"),
    ("train_transform_keys", ["imagenet", "clip"], "a list of one of imagenet"),
    ("train_transform_keys", "clip", "a list of one of imagenet"),
    ("datasets", "coco", "a list of data set names"),
    ("datasets", [], "a list of data set names"),
    ("loss_names", {"mlm": -1}, "weights of at least 0 for mlm, itm, itc, vqa, nlvr2, snli"),
    ("loss_names", {"vqa2": 1}, "weights of at least 0 for mlm, itm, itc, vqa, nlvr2, snli"),
    ("exp_name", "../elsewhere", "a name without /"),
    ("exp_name", "..", "a name without /"),
    ("exp_name", "x" * 101, "at most 100 characters and 255 bytes"),
    ("exp_name", "ü" * 128, "at most 100 characters and 255 bytes"),
    ("exp_name", "\N{GRINNING FACE}" * 64, "at most 100 characters and 255 bytes"),
    ("exp_name", ".hidden", "a dot at its start"),
    ("exp_name", "name ", "spaces at its ends"),
    ("exp_name", "two\nlines", "a name without /"),
    ("exp_name", "\x1b[31m", "a name without /"),
    ("datasets", ["a\0b"], "a list of data set names"),
    ("freeze_encoder", 1, "True or False"),
    ("freeze_encoder", "true", "True or False"),
    ("batch_size", None, "a whole number of at least 1"),
    ("accelerator", "tpu", "auto or gpu or cpu"),
    ("max_time", "99999999:00", "hours:minutes"),
    ("max_time", "0:00", "hours:minutes"),
    ("max_time", "1:75", "hours:minutes"),
]


@pytest.mark.parametrize(("key", "value", "converted"), TAKEN)
def test_taken(key, value, converted):
    assert SETTINGS[key].problem(value) is None
    found = SETTINGS[key].convert(value)
    assert found == converted and type(found) is type(converted)  # 1 is a step, 1.0 an epoch


@pytest.mark.parametrize(("key", "value", "allowed"), REFUSED)
def test_refused(key, value, allowed):
    problem = SETTINGS[key].problem(value)
    assert problem.startswith(f"{key}={value!r} is not allowed: give ") and allowed in problem


@pytest.mark.parametrize(
    "key", ["exp_name", "log_dir", "load_path", "resume_from", "data_root", "tokenizer", "blind_run"]
)
@pytest.mark.parametrize("value", ["a\0b", "a\udcffb"])
def test_what_no_path_holds_is_refused(key, value):
    problem = SETTINGS[key].problem(value)
    assert problem.startswith(f"{key}={value!r} is not allowed: it holds a NUL or bytes that are no UTF-8")
    assert problem.isprintable()


GOOD = DEFAULTS | {"loss_names": {"mlm": 1, "itm": 0}, "max_steps": 1}
TOGETHER = [
    ({"encoder": "a", "image_encoder": "b"}, "encoder= means one-tower and image_encoder= means two-tower"),
    ({"encoder": "a", "text_encoder": "b"}, "text_encoder= means two-tower"),
    ({"encoder": "a", "model_type": "two-tower"}, "model_type=two-tower contradicts encoder="),
    ({"text_encoder": "a", "model_type": "one-tower"}, "model_type=one-tower contradicts text_encoder="),
    ({"loss_names": {"mlm": 0, "itm": 0}}, "No objective is on"),
    ({"max_steps": None}, "max_steps= or max_epoch="),
    ({"test_only": True}, "test_only=True needs load_path"),
    ({"load_path": "a", "resume_from": "b"}, "give one of the two"),
    ({"cross_layer_hidden_size": 96, "num_cross_layer_heads": 5}, "num_cross_layer_heads=5 does not divide"),
    (
        {"text_encoder_hidden_size": 96, "text_encoder_num_heads": 5},
        "text_encoder_num_heads=5 does not divide text_encoder_h",
    ),
    ({"mlm_stop_words": ["a"], "whole_word_masking": False}, "whole_word_masking=False masks pieces"),
    ({"train_transform_keys": ["pixelbert"]}, "which only one-tower can read"),
    ({"val_transform_keys": ["clip_randaug"]}, "would augment the evaluation; give clip."),
]


@pytest.mark.parametrize(("values", "sentence"), TOGETHER, ids=lambda case: str(case)[:40])
def test_keys_that_do_not_go_together(values, sentence):
    problems = [*problems_between(GOOD | values, frozenset())]
    assert len(problems) == 1 and sentence in problems[0]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"max_steps": None, "max_epoch": 1},
        {"max_steps": None, "fast_dev_run": 1},
        {"max_steps": None, "test_only": True, "load_path": "a"},
        {"max_steps": None, "resume_from": "a", "loss_names": {}},
        {"encoder": "a", "train_transform_keys": ["pixelbert_randaug"], "val_transform_keys": ["pixelbert"]},
        {"encoder": "a", "model_type": "one-tower", "hidden_size": 96, "num_heads": 4},
    ],
    ids=str,
)
def test_keys_that_go_together(values):
    assert [*problems_between(GOOD | values, frozenset())] == []


def test_a_declaration_says_where_a_value_may_come_from():
    check = integer(1).command_only.evaluation.or_fallback(3)
    assert check.marks == {"command_only", "changeable", "evaluation"} and check.fallback == 3
    assert integer(1).marks == frozenset() and integer(1).fallback is None
    assert {"log_dir", "plugins", "trust_remote_code", "resume_from"} <= marked("command_only") < marked("changeable")
    for setting in SETTINGS.values():
        fallback = setting.check.fallback
        assert fallback is None or (setting.problem(fallback) is None and setting.default is None)
        assert (fallback is not None) == setting.comment.endswith(f"; fallback {fallback}")


def test_tasks_are_found_by_their_files():
    files = {path.stem for path in (ROOT / "renaissance" / "tasks").glob("[a-z]*.py")}
    assert set(no_losses()) == set(DEFAULTS["loss_names"]) == files - NO_TASKS


def test_every_setting_that_names_a_file_or_folder_is_a_path(monkeypatch):
    modules = [config, *(importlib.import_module(module) for module in SUBCOMMANDS.values())]
    settings = [setting for module in modules for setting in declared(module).values()]
    comments = {setting.key: setting.comment for setting in settings}
    paths = {setting.key for setting in settings if setting.check.is_path}
    for long in ("x" * 300, "ü" * 130, f"a/{'x' * 256}/b"):
        assert all("of more than 255 bytes" in each.problem(long) for each in settings if each.check.is_path)
    assert SETTINGS["plugins"].problem(["my_lab.gqa"] * 50) is None
    named = {key for key, text in comments.items() if re.search(r"\b(folders?|file|checkpoint)\b", text)}
    no_paths = {
        "exp_name",
        "allow_download",
        "trust_remote_code",
        "max_unreadable",
        "datasets",
        "resize",
        "keep_last",
        "quality",
        "runs",  # each word of it: evaluation/compare/folders.py
    }
    assert named - no_paths <= paths
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded("log_dir", "~/a/b") == "/home/me/a/b"
    assert expanded("log_dir", "a/~") == "a/~" and expanded("log_dir", 7) == "7" and expanded("log_dir", None) is None
