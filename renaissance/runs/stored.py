"""What a checkpoint holds, and what each part of it has to be.

A checkpoint may come from anybody. What passes here has the types and the ranges that the program counts on wherever it uses
them, so nothing else needs to ask again; what a model's configuration means, transformers says when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypedDict, get_type_hints

from torch import Tensor

from renaissance.core.errors import UserError, require, shortened
from renaissance.core.plain_pickle import leaves
from renaissance.core.plugins import refuse_missing_plugins
from renaissance.core.untrusted import expect, short
from renaissance.settings.declared import SETTINGS, converted
from renaissance.settings.keys import FUSION, TOWERS, marked

_MOST = 1 << 27  # characters of all values (`leaves`); one that is named a thousand times is a thousand
# Settings that every version has stored with a value: without one, another model would be built.
_REQUIRED = ("model_type", "pooler_type", "tokenizer", "vocab_size", "max_text_len", "image_size", "datasets")
_SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}


class _StoredTower(TypedDict):
    model_type: str


class _ParamGroup(TypedDict):
    params: list[int]
    lr: float


class _Optimizer(TypedDict):
    state: dict[int, dict[str, Tensor | None]]
    param_groups: list[_ParamGroup]


class TrainingState(NamedTuple):
    """The part "training" of a checkpoint; the defaults are those of a run that has done no step.

    Attributes:
        step: optimizer steps done.
        optimizer, scaler: their state dictionaries; a scaler of gradients only in 16-mixed on a GPU.
        best, best_step: selecting metric and step of the best validation so far.
        without_gain: validations in a row that were not better than `best`.
        pending: whether the validation of this step is still to come.
    """

    step: int = 0
    optimizer: _Optimizer | None = None
    best: float | None = None
    best_step: int | None = None
    pending: bool | None = False
    scaler: dict[str, float] | None = None
    without_gain: int | None = 0

    def stops_early(self, patience: int) -> bool:
        """Whether training ends with this state; `patience` is early_stopping, 0 = never."""
        return not self.pending and 0 < patience <= (self.without_gain or 0)


NO_BEST = {"best": None, "best_step": None, "without_gain": 0}  # the state of a run without best.ckpt


class Stored(NamedTuple):
    """The content of a checkpoint.

    Attributes:
        settings: every flat setting, resolved.
        towers: the configuration of each tower as a dictionary, by its key (encoder, image_encoder, text_encoder).
        tokenizer: text of the tokenizer's files by name.
        image: {"mean", "std"} of the pixels that the model expects.
        labels: the vocabulary of answers of each task that has one, in the order of their numbers.
        model, heads: state dictionaries.
        training: the fields of a `TrainingState`.
    """

    settings: dict[str, Any]
    towers: dict[str, _StoredTower]
    tokenizer: dict[str, str]
    image: dict[str, list[float]]
    labels: dict[str, list[str]]
    model: dict[str, Tensor]
    heads: dict[str, Tensor]
    training: dict[str, Any]


def check_parts(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Checks the parts of a checkpoint.

    Args:
        content: the parts by name. where: what sentences begin with, such as "load_path=a.ckpt".

    Returns:
        The settings, converted; unknown ones as they are, without those that a checkpoint never sets.

    Raises:
        UserError: naming what is something else.
    """
    try:
        for value in leaves(content, _MOST):
            _check_leaf(value)
        for part, hint in get_type_hints(Stored).items():
            expect(content.get(part), TrainingState if part == "training" else hint, part)
        plugins = expect(content["settings"].get("plugins"), list[str] | None, "settings[plugins]")
        refuse_missing_plugins(plugins or (), where)
        settings = _settings(content["settings"])
        wanted = TOWERS[settings["model_type"]]
        found = shortened(content["towers"], 5) or "none"
        require({*content["towers"]} == {*wanted}, f"towers are {found}, but have to be {', '.join(wanted)}.")
        require(content["tokenizer"], "tokenizer holds no files.")
        _image(content["image"])
        for task, names in content["labels"].items():
            once = 0 < len(names) == len(set(names))
            require(once, f"labels[{short(task)}] has to name each answer once, and at least one.")
        _training(content["training"])
    except (UserError, ValueError) as error:
        if str(error).startswith(where):  # of a plugin that is missing
            raise
        raise UserError(f"{where} is not as this program writes a checkpoint: {error}") from error
    return settings


def _check_leaf(value: Any) -> None:
    require(isinstance(value, (Tensor, int, float, str, type(None))), f"a value of it is {type(value).__name__}.")
    require(not isinstance(value, int) or abs(value) < 1 << 63, "a whole number of it does not fit into 64 bits.")
    if isinstance(value, str):
        value.encode()  # UnicodeEncodeError is a ValueError


def _settings(settings: dict[str, Any]) -> dict[str, Any]:
    command_only = marked("command_only")
    settings = {key: value for key, value in settings.items() if key not in command_only}
    known = {key: value for key, value in settings.items() if key in SETTINGS}  # others are of another version
    forms, problems = converted(SETTINGS, known)
    require(not problems, " ".join(problems)[:200])
    kind = settings.get("model_type")
    required = (*_REQUIRED, *TOWERS.get(kind, ()), *(FUSION.values() if kind == "two-tower" else ()))
    absent = [key for key in required if settings.get(key) is None]
    require(not absent, f"settings lack {', '.join(absent)}.")
    return settings | forms


def _image(image: dict[str, list[float]]) -> None:
    keys = {"mean", "std"} <= set(image) <= {"mean", "std", "channels"}
    require(keys, f"image holds {shortened(image, 5) or 'none'}, but has to hold mean, std.")
    for name, numbers in image.items():
        fits = {"std": min(numbers, default=0) > 1e-6, "channels": sorted(numbers) == [0, 1, 2]}.get(name, True)
        kind = {"std": "3 numbers above 0", "channels": "an order of 0, 1, 2"}.get(name, "3 numbers")
        require(len(numbers) == 3 and fits, f"image[{name}] is {numbers[:4]}, but has to be {kind}.")


def _training(training: dict[str, Any]) -> None:
    for name in ("step", "best_step", "without_gain"):
        require((training.get(name) or 0) >= 0, f"training[{name}] is {training.get(name)}, but has to be at least 0.")
    scaler = training.get("scaler")
    of_scaler = not scaler or (set(scaler) == _SCALER and min(scaler.values()) >= 0)
    require(of_scaler, "training[scaler] is not the state of a scaler of gradients.")
