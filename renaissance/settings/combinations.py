"""The rules between settings that need no model: each yields what is wrong with the values of several keys together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from renaissance.core.checks import RANDAUG

from .keys import AUTO, HEADS, TOWER_KEYS, TOWERS

# Settings of tasks without training -> these tasks.
_IMAGES, _FROZEN = ("zeroshot_images",), ("knn", "linear_probe")
_SCORED = ("probe", *_IMAGES)
_UNTRAINED = {
    "class_names": _IMAGES, "templates": _IMAGES, "probe_score": _SCORED,
    "frozen_features": _FROZEN, "shots_per_class": _FROZEN, "shot_draws": _FROZEN, "knn_neighbours": ("knn",),
}  # fmt: skip


def problems_between(values: Mapping[str, Any], given: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yields a sentence about each problem; `given` are the keys that the command names."""
    for rule in (_model_type, _training, _start, _sizes, _masking, _transforms, _decoding, _cache, _several_answers):
        yield from rule(values)
    if "lr_mult_random" in given:
        yield from _idle_random_rate(values)
    if values["resume_from"] in (None, AUTO):  # else the checkpoint fills in what the command does not say
        yield from _idle(values, given)


def _idle(values: Mapping[str, Any], given: frozenset[str]) -> Iterator[str]:
    """Settings of something that is off."""
    if "patch_drop_until" in given and not values["patch_drop"]:
        yield f"patch_drop_until={values['patch_drop_until']} would change nothing: patch_drop=0 leaves out no patch; give both."
    yield from _first_stage(values, given)
    on = {task for task, weight in values["loss_names"].items() if weight}
    for key, tasks in _UNTRAINED.items():
        if key in given and values[key] and not on & {*tasks}:
            yield f"{key}={values[key]} would change nothing: it is for {' and '.join(tasks)}; leave it out."
    if "shot_draws" in given and values["shot_draws"] > 1 and not values["shots_per_class"]:
        yield f"shot_draws={values['shot_draws']} would change nothing: shots_per_class=None takes all examples; give both."
    if values["early_stopping"]:
        yield from _early_stopping(values)
    if not values["cache_frozen"]:
        for key in sorted(given & {"cache_precision", *([] if on & {*_FROZEN} else ["cache_dir"])}):
            yield f"{key}={values[key]} would change nothing: it is for cache_frozen=True; give both."


def _first_stage(values: Mapping[str, Any], given: frozenset[str]) -> Iterator[str]:
    """First steps that show nothing else, or leave none for the others; `train` refuses the latter where steps come of epochs."""
    first, steps = values["first_datasets"], values["first_steps"]
    if not first:
        if "first_steps" in given:
            yield f"first_steps={steps} would change nothing without first_datasets; give both."
    elif sorted(first) == sorted(values["datasets"]):
        yield f"first_datasets={first} are all of datasets, so the first steps would show nothing else; leave it out."
    elif not steps:
        yield f"first_steps={steps} would show first_datasets={first} in no step; give more, or leave both out."
    elif isinstance(steps, int) and values["max_steps"] and steps >= values["max_steps"]:
        yield f"first_steps={steps} leaves none of max_steps={values['max_steps']} for datasets={values['datasets']}; give fewer."


def _early_stopping(values: Mapping[str, Any]) -> Iterator[str]:
    """Runs that end before so many validations; `train` refuses data without any."""
    patience, interval = values["early_stopping"], values["val_check_interval"]
    if values["test_only"]:
        yield f"early_stopping={patience} would change nothing: test_only=True trains nothing; leave it out."
    length = "max_steps" if isinstance(interval, int) else "max_epoch"  # in the unit of the interval
    if values[length] and patience * interval >= values[length]:
        yield (
            f"early_stopping={patience} would change nothing: {length}={values[length]} ends the run before, or with, its "
            f"validation number {patience} (val_check_interval={interval}); give a smaller val_check_interval, or leave it out."
        )


def _model_type(values: Mapping[str, Any]) -> Iterator[str]:
    encoder, towers = values["encoder"], [key for key in TOWERS["two-tower"] if values[key]]
    if encoder and towers:
        yield f"encoder= means one-tower and {towers[0]}= means two-tower; give one of the two."
    elif encoder and values["model_type"] == "two-tower":
        yield "model_type=two-tower contradicts encoder=, which means one-tower; give image_encoder= and text_encoder=."
    elif towers and values["model_type"] == "one-tower":
        yield f"model_type=one-tower contradicts {towers[0]}=, which means two-tower; give encoder= alone."


def _training(values: Mapping[str, Any]) -> Iterator[str]:
    if values["resume_from"] not in (None, AUTO):
        return  # the checkpoint answers
    if not any(values["loss_names"].values()):
        yield "No objective is on: name a task (such as task_mlm_itm) or give loss_names a weight above 0."
    untrained = [task for task in (*_SCORED, *_FROZEN) if values["loss_names"].get(task)]
    if untrained and not values["test_only"]:
        yield (
            f"{', '.join(untrained)} trains no part of the model, so test_only=False has nothing to do; leave it out, and give "
            "a load_path."
        )
    elif not any(values[key] for key in ("max_steps", "max_epoch", "test_only", "fast_dev_run")):
        yield "The run has no end: give max_steps= or max_epoch=."


def _start(values: Mapping[str, Any]) -> Iterator[str]:
    if values["test_only"] and not values["load_path"]:
        yield "test_only=True needs load_path=<checkpoint> to evaluate."
    if values["fast_dev_run"] and (learning := [task for task in _FROZEN if values["loss_names"].get(task)]):
        yield f"fast_dev_run: {learning[0]} learns from all of train, not from some batches; leave it out, or give eval_limit=."
    if values["load_path"] and values["resume_from"] not in (None, AUTO):
        yield "load_path= starts a new run and resume_from= continues one; give one of the two."


def _sizes(values: Mapping[str, Any]) -> Iterator[str]:
    """Heads that do not divide their width, patches that do not divide their image. Sizes that are None are skipped."""
    for width, heads in HEADS.items():
        if values[width] and values[heads] and values[width] % values[heads]:
            yield f"{heads}={values[heads]} does not divide {width}={values[width]}; give a number of heads that does."
    side, patch = values["image_size"], values["patch_size"]
    if side and patch and side % patch:
        yield f"image_size={side} is not a multiple of patch_size={patch}; give {near_multiples(side, patch)}."


def near_multiples(size: int, unit: int) -> str:
    """The multiples of `unit` around a size, such as "96 or 112"."""
    return " or ".join(str(each) for each in (size // unit * unit, -(-size // unit) * unit) if each)


def _masking(values: Mapping[str, Any]) -> Iterator[str]:
    if values["mlm_stop_words"] and not values["whole_word_masking"]:
        yield "mlm_stop_words= are whole words, and whole_word_masking=False masks pieces; leave one of them out."


def _transforms(values: Mapping[str, Any]) -> Iterator[str]:
    stored = values["load_path"] or values["resume_from"] not in (None, AUTO)
    named = values["model_type"] == "two-tower" or any(values[key] for key in TOWERS["two-tower"])
    two = named or not (values["model_type"] or values["encoder"] or stored)
    # By its name, and not by its class, which imports torch.
    keys = [key for key in ("train_transform_keys", "val_transform_keys") if values[key][0].startswith("pixelbert")]
    if keys and two:
        yield f"{keys[0]}={values[keys[0]]} keeps the aspect of images, which only one-tower can read; give imagenet."
    name = values["train_transform_keys"][0]
    if values["patch_drop"] and name.startswith("pixelbert"):
        yield (
            f"patch_drop={values['patch_drop']} cannot leave out patches of train_transform_keys={[name]}, whose images "
            "differ in size and are padded; give imagenet, or leave patch_drop out."
        )
    name = values["val_transform_keys"][0]
    if name.endswith(RANDAUG):
        yield f"val_transform_keys={[name]} would augment the evaluation; give {name.removesuffix(RANDAUG)}."


def _decoding(values: Mapping[str, Any]) -> Iterator[str]:
    """What the GPU cannot do to an image that it decodes."""
    if not values["decode_on_gpu"]:
        return
    name = values["train_transform_keys"][0]
    key, end = f"decode_on_gpu=True: train_transform_keys={[name]}", "or leave decode_on_gpu out."
    if name.endswith(RANDAUG):
        yield f"{key} augments as loader processes do; give {name.removesuffix(RANDAUG)}, {end}"
    elif name.startswith("pixelbert"):
        yield f"{key} gives images of many sizes, which loader processes pad; give imagenet, {end}"
    if values["loss_names"].get("ref"):
        yield "decode_on_gpu=True: boxes (ref) are cut out where an image is loaded; leave decode_on_gpu out."
    if values["blind"]:
        yield "decode_on_gpu=True: with blind=True no image is decoded; leave decode_on_gpu out."


def _cache(values: Mapping[str, Any]) -> Iterator[str]:
    """What `cache_frozen` cannot keep. A checkpoint may say what is frozen, and what kind of model it is."""
    if not values["cache_frozen"] or values["resume_from"] not in (None, AUTO):
        return
    if values["encoder"] or values["model_type"] == "one-tower":
        yield "cache_frozen=True: a one-tower encodes text and image together, so nothing can be kept; leave it out."
    if values["blind"]:
        yield "cache_frozen=True: with blind=True all images are one colour, so there is nothing to keep; leave it out."
    if any(values["loss_names"].get(task) for task in _FROZEN):
        yield "cache_frozen=True: knn and linear_probe keep the features of all images already; leave it out."
    if values["test_only"]:
        return  # nothing is trained, whatever is frozen
    if not (values["encoder"] or values["model_type"] == "one-tower" or values["freeze_image_encoder"]):
        yield "cache_frozen=True keeps what a frozen image encoder gives; give freeze_image_encoder=True, or leave it out."
    name = values["train_transform_keys"][0]
    if name.endswith(RANDAUG):
        plain = f"train_transform_keys='[\"{name.removesuffix(RANDAUG)}\"]'"
        yield f'cache_frozen=True: train_transform_keys=["{name}"] shows an image anew in each epoch; give {plain}.'
    if values["patch_drop"]:
        yield "cache_frozen=True: patch_drop leaves out other patches in each epoch; leave one of them out."
    if values["decode_on_gpu"]:
        yield "cache_frozen=True: no image is left for the GPU to decode; leave decode_on_gpu out."


def _several_answers(values: Mapping[str, Any]) -> Iterator[str]:
    """Where the right answers of ECCV Caption, about COCO's test split, cannot be asked for."""
    if not values["eccv_caption"] or values["resume_from"] not in (None, AUTO):
        return
    if not values["loss_names"].get("irtr"):
        yield "eccv_caption=True would change nothing: it is for irtr (task_finetune_irtr_coco); leave it out."
    elif values["datasets"] != ["coco"]:
        yield f"eccv_caption=True has right answers of coco alone, and datasets={values['datasets']}; leave it out."
    elif values["eval_limit"]:
        yield (
            f"eccv_caption=True has right answers among the whole test split, and eval_limit={values['eval_limit']} ranks a part "
            "of it; leave one of them out."
        )
    elif not (values["final_test"] or values["test_only"]):
        yield "eccv_caption=True asks about the test split, which final_test=False leaves out; leave one of them out."
    elif not find_spec("eccv_caption"):
        yield "eccv_caption=True needs the package eccv_caption: pip install eccv_caption ujson."


def _idle_random_rate(values: Mapping[str, Any]) -> Iterator[str]:
    given = f"lr_mult_random={values['lr_mult_random']} would change nothing"
    switches = [each for tower, (_, key, _) in TOWER_KEYS.items() for each in (key, f"{tower}_manual_configuration")]
    if values["lr_mult_random"] == 1 or values["resume_from"] not in (None, AUTO):
        return
    if values["load_path"]:
        yield f"{given}: load_path brings the weights of the towers; leave it out."
    elif not any(values[switch] for switch in switches):
        yield f"{given}: no tower starts from random weights; leave it out, or give one of {', '.join(switches)}."
