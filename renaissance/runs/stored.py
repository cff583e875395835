"""What each part of a checkpoint has to be: held against the file's claims, before a tensor of it is read.

A checkpoint may come from anybody. What passes here has the types and the ranges that the program counts on wherever it uses
them, so nothing else needs to ask again; what a model's configuration means, transformers says when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from renaissance.core.errors import UserError, shortened
from renaissance.core.untrusted import MOST_DEPTH, expect, short
from renaissance.settings.declared import SETTINGS
from renaissance.settings.keys import FUSION_KEYS, PLACE_KEYS, START_KEYS

from .archive import Claim

_MOST_PARTS = 2_000_000  # of all values; one that is named a thousand times is a thousand
_TOWERS = {"one-tower": ("encoder",), "two-tower": ("image_encoder", "text_encoder")}
# Settings that are always resolved when a checkpoint is written, and those that may be None and are asked for.
_RESOLVED = ("model_type", "pooler_type", "tokenizer", "vocab_size", "max_text_len", "image_size", "datasets")
_ASKED = ("initializer_range", "max_steps", "max_epoch")
_SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}


def check_parts(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Checks the parts of a checkpoint (`checkpoint.Stored`), tensors as claims.

    Args:
        content: the parts by name. where: what sentences begin with, such as "load_path=a.ckpt".

    Returns:
        The settings, each in the one form that `rules` gives it; those that this version does not know as they are, and none of
        those that no checkpoint answers for.

    Raises:
        UserError: naming what is something else.
    """
    try:
        _refuse_unplain(content)
        settings = _settings(expect(content["settings"], dict[str, Any], "settings"))
        towers = expect(content["towers"], dict[str, dict[str, Any]], "towers")
        _towers(towers, settings)
        _tokenizer(expect(content["tokenizer"], dict[str, str], "tokenizer"))
        _image(expect(content["image"], dict[str, list[float]], "image"))
        _labels(expect(content["labels"], dict[str, list[str]], "labels"))
        for part in ("model", "heads"):
            _tensors(content[part], part)
        _training(expect(content["training"], dict[str, Any], "training"))
    except UserError as error:
        raise UserError(f"{where} is not as this program writes a checkpoint: {error}") from error
    return settings


def _refuse_unplain(content: Any) -> None:
    """A pickle may name one list a million times, in each other, and itself: what follows walks through them all."""
    left, waiting = _MOST_PARTS, [(content, 0)]
    while waiting:
        value, depth = waiting.pop()
        left -= 1
        if left < 0 or depth > MOST_DEPTH:
            raise UserError("its values are nested too deeply, or too many.")
        if isinstance(value, dict):
            waiting += [(each, depth + 1) for pair in value.items() for each in pair]
        elif isinstance(value, (list, tuple)) and not isinstance(value, Claim):
            waiting += [(each, depth + 1) for each in value]
        elif isinstance(value, int) and abs(value) >= 1 << 63:
            raise UserError("a whole number of it does not fit into 64 bits.")
        elif isinstance(value, str):
            _refuse_no_unicode(value)
        elif not isinstance(value, (Claim, int, float, type(None))):
            raise UserError(f"a value of it is {type(value).__name__}.")
        if len(waiting) > _MOST_PARTS:
            raise UserError("its values are too many.")


def _refuse_no_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"the text {short(text)} is no Unicode.") from None


def _settings(settings: dict[str, Any]) -> dict[str, Any]:
    settings = {key: value for key, value in settings.items() if key not in START_KEYS | PLACE_KEYS}
    absent = [key for key in (*_RESOLVED, *_ASKED) if key not in settings]
    if absent:
        raise UserError(f"settings lack {', '.join(absent)}.")
    for key, value in settings.items():
        if key not in SETTINGS:
            continue  # of another version
        if SETTINGS[key].problem(value):
            raise UserError(f"settings[{key}] is {short(value)}, but has to be {SETTINGS[key].check.allowed}.")
        if value is None and key in _RESOLVED:
            raise UserError(f"settings[{key}] is None.")
    kind = settings["model_type"]
    open_keys = [*_TOWERS[kind], *(FUSION_KEYS if kind == "two-tower" else ())]
    if absent := [key for key in open_keys if settings.get(key) is None]:
        raise UserError(f"settings lack {', '.join(absent)}, which a {kind} model has.")
    return {key: SETTINGS[key].convert(value) if key in SETTINGS else value for key, value in settings.items()}


def _towers(towers: dict[str, dict[str, Any]], settings: dict[str, Any]) -> None:
    wanted = _TOWERS[settings["model_type"]]
    if set(towers) != set(wanted):
        raise UserError(f"towers are {shortened(towers, 5) or 'none'}, but have to be {', '.join(wanted)}.")
    for key, values in towers.items():
        expect(values.get("model_type"), str, f"towers[{key}][model_type]")


def _tokenizer(files: dict[str, str]) -> None:
    if not files:
        raise UserError("tokenizer holds no files.")


def _image(image: dict[str, list[float]]) -> None:
    if not {"mean", "std"} <= set(image) <= {"mean", "std", "channels"}:
        raise UserError(f"image holds {shortened(image, 5) or 'none'}, but has to hold mean, std.")
    for name, numbers in image.items():
        fits = {"std": min(numbers, default=0) > 1e-6, "channels": sorted(numbers) == [0, 1, 2]}.get(name, True)
        if len(numbers) != 3 or not fits:
            kind = {"std": "3 numbers above 0", "channels": "an order of 0, 1, 2"}.get(name, "3 numbers")
            raise UserError(f"image[{name}] is {numbers[:4]}, but has to be {kind}.")


def _labels(labels: dict[str, list[str]]) -> None:
    for task, names in labels.items():
        if not names or len(set(names)) < len(names):
            raise UserError(f"labels[{short(task)}] has to name each answer once, and at least one.")


def _tensors(state: Any, part: str) -> None:
    expect(state, dict[str, Any], part)
    for name, tensor in state.items():
        if not isinstance(tensor, Claim):
            raise UserError(f"{part}[{short(name)}] is {short(tensor)}, but has to be a tensor.")


def _training(training: dict[str, Any]) -> None:
    hints: dict[str, Any] = {
        "step": int,
        "best": float | None,
        "best_step": int | None,
        "pending": bool,
        "optimizer": dict[str, Any] | None,
        "scaler": dict[str, float] | None,
    }
    for name, hint in hints.items():
        if name in training or name == "step":
            expect(training.get(name), hint, f"training[{name}]")
    for name in ("step", "best_step"):
        if (training.get(name) or 0) < 0:
            raise UserError(f"training[{name}] is {training[name]}, but has to be at least 0.")
    scaler = training.get("scaler")
    if scaler and (set(scaler) != _SCALER or min(scaler.values()) < 0):
        raise UserError("training[scaler] is not the state of a scaler of gradients.")
    if training.get("optimizer") is not None:
        _optimizer(training["optimizer"])


def _optimizer(state: dict[str, Any]) -> None:
    name = "training[optimizer]"
    hints = {"state": dict[int, dict[str, Any]], "param_groups": list[dict[str, Any]]}
    for part, hint in hints.items():
        expect(state.get(part), hint, f"{name}[{part}]")
    for group in state["param_groups"]:
        expect(group.get("params"), list[int], f"{name}[param_groups][params]")
        expect(group.get("lr"), float, f"{name}[param_groups][lr]")
    for number, kept in state["state"].items():
        for what, value in kept.items():
            if not isinstance(value, (Claim, type(None))):
                raise UserError(f"{name}[state][{number}][{short(what)}] is {short(value)}, but has to be a tensor.")
