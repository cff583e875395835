"""From flat settings to a checked whole: what is refused, who answers for what nobody gave, how batches are cut."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from renaissance.settings.declared import defaults
from renaissance.settings.keys import TYPE_KEYS
from renaissance.settings.resolver import ConfigResolver, SettingsError, default_workers

DEFAULTS = defaults()
MLM = {"loss_names": {"mlm": 1, "itm": 0}, "max_steps": 1}
BOTH = {"loss_names": {"mlm": 1, "itm": 1}, "max_steps": 1}


def resolver(**given: Any) -> ConfigResolver:
    return ConfigResolver(DEFAULTS | MLM | given, dict.fromkeys(given, "given"))


def refusal(**given: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        resolver(**given)
    return str(caught.value)


def test_one_problem_is_a_sentence_several_are_a_list():
    assert (
        refusal(batch_size="x")
        == "batch_size='x' is not allowed: give a whole number of at least 1, at most 16,777,216."
    )
    several = refusal(batch_size="x", seed=-1, fusion="both").splitlines()
    assert several[0] == "3 settings are wrong:"
    assert [line.split("=")[0] for line in several[1:]] == ["  - seed", "  - batch_size", "  - fusion"]


@given(batch=st.integers(1, 300), micro=st.integers(1, 40), gpus=st.integers(1, 4), nodes=st.integers(1, 3))
def test_batches_that_do_not_divide_are_answered_with_what_would(batch: int, micro: int, gpus: int, nodes: int):
    sizes = {"batch_size": batch, "per_gpu_batchsize": micro, "num_gpus": gpus, "num_nodes": nodes}
    processes = gpus * nodes
    if batch % (micro * processes) == 0:
        assert resolver(**sizes)["eval_batch_size"] == micro
        return
    sentence = refusal(**sizes)
    assert sentence.startswith(
        f"batch_size={batch} is not a multiple of per_gpu_batchsize={micro} x {processes} process"
    )
    multiples = [size for size in range(1, batch + micro * processes + 1) if size % (micro * processes) == 0]
    near = [
        max((size for size in multiples if size < batch), default=0),
        min(size for size in multiples if size > batch),
    ]
    fitting = max((size for size in range(1, micro + 1) if batch % (size * processes) == 0), default=0)
    advice = f", or per_gpu_batchsize={fitting}, the largest up to {micro} that fits" if fitting else ""
    assert sentence.endswith(f"give batch_size={' or '.join(str(size) for size in near if size)}{advice}.")


def test_per_gpu_batchsize_0_is_the_share_of_a_process():
    resolved = resolver(batch_size=24, num_gpus=3, num_nodes=2)
    assert [resolved[key] for key in ("per_gpu_batchsize", "eval_batch_size", "negative_group")] == [4, 4, 4]
    assert refusal(batch_size=25, num_gpus=3, num_nodes=2) == (
        "batch_size=25 is not a multiple of the 6 processes; give batch_size=24 or 30."
    )
    assert refusal(batch_size=2**24 - 1, num_gpus=2).endswith("give batch_size=16777214 or 16777216.")  # at once


def test_groups_of_negatives_divide_what_they_are_taken_from():
    assert refusal(**BOTH, batch_size=12, per_gpu_batchsize=6, negative_group=4, eval_batch_size=9).splitlines()[
        1:
    ] == [
        f"  - negative_group=4 does not divide {key}; give a divisor of it, or leave negative_group out."
        for key in ("per_gpu_batchsize=6", "eval_batch_size=9")
    ]
    assert "of 2 or more" in refusal(**BOTH, batch_size=4, per_gpu_batchsize=1)
    assert (
        resolver(batch_size=4, per_gpu_batchsize=1)["negative_group"] == 1
    )  # without ITM there is nothing to exchange
    assert resolver(**BOTH, draw_false_image=1, batch_size=4, per_gpu_batchsize=1)["negative_group"] == 1


def test_given_counts_before_an_answer_and_an_answer_before_a_default():
    asked = resolver(image_size=320, max_text_len=None)
    asked.fill_defaults("model a", {"image_size": 224, "patch_size": 14, "drop_rate": None, "not_a_key": 1})
    assert asked["image_size"] == 320 and asked.sources["image_size"] == "given"  # the weights are adapted
    assert asked["patch_size"] == 14 and asked.sources["patch_size"] == "model a"
    assert asked["drop_rate"] is None and asked.sources["drop_rate"] == "default"


def test_every_contradiction_is_named():
    asked = resolver(hidden_size=64, patch_size=8, vocab_size=100)
    with pytest.raises(SettingsError) as caught:
        asked.fill_defaults("model a", {"hidden_size": 32, "patch_size": 16, "vocab_size": 100})
    assert caught.value.problems == [
        "hidden_size=64 contradicts the model a, which has hidden_size=32; leave hidden_size out or give 32, or set "
        "encoder_manual_configuration=True to train a model of other sizes from random weights.",
        "patch_size=8 contradicts the model a, which has patch_size=16; leave patch_size out or give 16.",
    ]


NAMED = [
    ({}, "two-tower", ("facebook/deit-tiny-patch16-224", "google/electra-small-discriminator")),
    ({"image_encoder": "a"}, "two-tower", ("a", "google/electra-small-discriminator")),
    ({"text_encoder": "a"}, "two-tower", ("facebook/deit-tiny-patch16-224", "a")),
    ({"encoder": "a"}, "one-tower", ("a",)),
]


@pytest.mark.parametrize(("given", "kind", "towers"), NAMED)
def test_the_model_type_follows_from_the_encoders(given, kind, towers):
    named = resolver(**given)
    named.name_towers()
    assert named["model_type"] == kind and tuple(named[key] for key in named.towers()) == towers


def test_one_tower_needs_its_encoder():
    with pytest.raises(SettingsError, match="needs encoder="):
        resolver(model_type="one-tower").name_towers()


@pytest.mark.parametrize("kind", TYPE_KEYS)
def test_a_key_of_the_other_type_of_model_is_not_ignored_in_silence(kind: str):
    others = TYPE_KEYS["one-tower" if kind == "two-tower" else "two-tower"]
    assert set(others) <= set(DEFAULTS)
    named = resolver(encoder="a" if kind == "one-tower" else None)
    named.fill_defaults("checkpoint", {"model_type": kind})
    named.values |= dict.fromkeys(others, 1)
    named.given |= set(others)
    with pytest.raises(SettingsError) as caught:
        named.name_towers()
    told = {problem.split()[0] for problem in caught.value.problems}
    assert told == set(others)


def test_widths_heads_and_patches_are_checked_once_everybody_has_answered():
    named = resolver(image_size=40)
    named.name_towers()
    named.fill_defaults("model a", {"patch_size": 16, "image_encoder_hidden_size": 30, "image_encoder_num_heads": 4})
    with pytest.raises(SettingsError) as caught:
        named.finalize()
    assert caught.value.problems == [
        "image_encoder_num_heads=4 does not divide image_encoder_hidden_size=30; give a number of heads that does.",
        "image_size=40 is not a multiple of patch_size=16; give 32 or 48.",
    ]


def test_the_checkpoint_says_whether_a_transform_can_be_read():
    for kind in ("one-tower", "two-tower"):
        named = resolver(load_path="a.ckpt", train_transform_keys=["pixelbert"])
        named.fill_defaults("checkpoint", {"model_type": kind, "encoder": "a" if kind == "one-tower" else None})
        named.name_towers()
        if kind == "one-tower":
            assert named.finalize().data.train_transform_keys == ["pixelbert"]
        else:
            with pytest.raises(SettingsError, match="keeps the aspect of images, which only one-tower can read"):
                named.finalize()


def test_fallbacks_and_their_sources():
    named = resolver(cross_layer_hidden_size=192)
    named.name_towers()
    settings = named.finalize()
    expected = {
        "num_cross_layers": 6,
        "num_cross_layer_heads": 3,
        "fusion": "shared",
        "max_text_len": 50,
        "num_gpus": 1,
    }
    assert {key: settings.flat[key] for key in expected} == expected
    assert {settings.sources[key] for key in expected} == {"fallback"}
    assert settings.flat["patch_size"] is None  # the image tower did not say that it has patches
    assert settings.model.fusion.num_heads == 3 and settings.model.encoder is None
    assert settings.objectives.loss_names == {"mlm": 1.0}
    assert settings.machine.processes == 1


@pytest.mark.parametrize(("cores", "processes", "workers"), [(1, 1, 1), (4, 1, 3), (64, 1, 8), (64, 8, 7), (2, 8, 1)])
def test_loader_processes_share_the_cores(monkeypatch, cores, processes, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    assert default_workers(processes) == workers
