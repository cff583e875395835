"""The rules between settings that need no model: each says what is wrong with the values of several keys together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .keys import AUTO, HEADS, TOWER_KEYS


def _model_kind(values: Mapping[str, Any]) -> list[str]:
    encoder, towers = values["encoder"], [key for key in ("image_encoder", "text_encoder") if values[key]]
    if encoder and towers:
        return [f"encoder= means one-tower and {towers[0]}= means two-tower; give one of the two."]
    if encoder and values["model_type"] == "two-tower":
        return [
            "model_type=two-tower contradicts encoder=, which means one-tower; give image_encoder= and text_encoder=."
        ]
    if towers and values["model_type"] == "one-tower":
        return [f"model_type=one-tower contradicts {towers[0]}=, which means two-tower; give encoder= alone."]
    return []


def _something_to_train(values: Mapping[str, Any]) -> list[str]:
    problems = []
    if values["resume_from"] not in (None, AUTO):
        return []  # the checkpoint answers
    if not any(values["loss_names"].values()):
        problems.append("No objective is on: name a task (such as task_mlm_itm) or give loss_names a weight above 0.")
    if (
        values["max_steps"] is None
        and values["max_epoch"] is None
        and not (values["test_only"] or values["fast_dev_run"])
    ):
        problems.append("The run has no end: give max_steps= or max_epoch=.")
    return problems


def _start(values: Mapping[str, Any]) -> list[str]:
    problems = []
    if values["test_only"] and not values["load_path"]:
        problems.append("test_only=True needs load_path=<checkpoint> to evaluate.")
    if values["test_only"] and values["resume_from"] == AUTO:
        problems.append("test_only=True evaluates a run and resume_from=auto goes on with one; give one of the two.")
    if values["load_path"] and values["resume_from"] not in (None, AUTO):
        problems.append("load_path= starts a new run and resume_from= continues one; give one of the two.")
    for key in ("load_path", "resume_from"):
        if values[key] and set(values[key]) == {"."}:
            problems.append(f"{key}={values[key]} is the placeholder of a README; give the path of a checkpoint.")
    return problems


def _pixelbert(values: Mapping[str, Any]) -> list[str]:
    two = values["image_encoder"] or values["text_encoder"] or not (values["encoder"] or values["load_path"])
    keys = [key for key in ("train_transform_keys", "val_transform_keys") if values[key][0].startswith("pixelbert")]
    if keys and two:
        return [
            f"{keys[0]}={values[keys[0]]} keeps the aspect of pictures, which only one-tower can read; give imagenet."
        ]
    return []


def _heads(values: Mapping[str, Any]) -> list[str]:
    return [sentence for width, heads in HEADS if (sentence := heads_problem(values, width, heads))]


def heads_problem(values: Mapping[str, Any], width: str, heads: str) -> str | None:
    """A sentence where the value of the key `heads` does not divide that of `width`; None where one of them is open."""
    if not (values[width] and values[heads]) or values[width] % values[heads] == 0:
        return None
    return f"{heads}={values[heads]} does not divide {width}={values[width]}; give a number of heads that does."


def idle_random_rate(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with a given lr_mult_random."""
    given = values["lr_mult_random"]
    if given == 1 or values["resume_from"] not in (None, AUTO):
        return []
    if values["load_path"]:
        return [
            f"lr_mult_random={given} would change nothing: load_path brings the weights of the towers; leave it out."
        ]
    switches = [each for tower, (_, key, _) in TOWER_KEYS.items() for each in (key, f"{tower}_manual_configuration")]
    if any(values[switch] for switch in switches):
        return []
    return [
        f"lr_mult_random={given} would change nothing: no tower starts from random weights; leave it out, or give one of "
        f"{', '.join(switches)}."
    ]


def _val_transform(values: Mapping[str, Any]) -> list[str]:
    key = values["val_transform_keys"][0]
    return (
        [f"val_transform_keys={[key]} would augment the evaluation; give {key[:-8]}."]
        if key.endswith("_randaug")
        else []
    )


SEVERAL = (_model_kind, _something_to_train, _start, _heads, _pixelbert, _val_transform)
